"""Paint synthetic tissue as an H&E slide: maps of stain amount, then colours by the Beer-Lambert law."""

import dataclasses

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike

from data_prep import demo_tissue
from data_prep.demo_tissue import FAT, IMMUNE, STROMA, TUMOUR, Tissue

# Optical densities of pure stains in (R, G, B), Macenko et al. 2009
HAEMATOXYLIN, EOSIN = np.array([0.5626, 0.7201, 0.4062]), np.array([0.2159, 0.8012, 0.5581])


@dataclasses.dataclass(frozen=True)
class Staining:
    """How one section was stained.

    Attributes:
        stains: [2, 3] optical densities of haematoxylin and eosin.
        background: [3] grey levels of empty glass.
    """

    stains: np.ndarray
    background: np.ndarray


def patient_staining(rng: np.random.Generator) -> Staining:
    """A laboratory's stains: direction and strength vary around the standard ones."""
    stains = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.04, (2, 3))
    stains = np.clip(stains, 0.02, None) / np.linalg.norm(stains, axis=1, keepdims=True)
    return Staining(stains * rng.lognormal(0, 0.20, (2, 1)), np.clip(rng.normal(243, 2.5, 3), 232, 250))


def shifted(rng: np.random.Generator, staining: Staining, shift: float) -> Staining:
    """A laboratory whose stains are otherwise: turned, and stronger or weaker, by `shift` times about three standard
    deviations of those of `patient_staining`."""
    turn = rng.normal(size=(2, 3))
    turn *= 0.2 * shift / np.linalg.norm(turn, axis=1, keepdims=True)
    strength = np.linalg.norm(staining.stains, axis=1, keepdims=True)
    stains = np.clip(staining.stains / strength + turn, 0.02, None)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return Staining(stains * strength * np.exp(0.5 * shift * rng.choice([-1, 1], (2, 1))), staining.background)


def section_staining(rng: np.random.Generator, patient: Staining) -> Staining:
    """The same laboratory on another day."""
    return Staining(patient.stains * rng.lognormal(0, 0.06, (2, 1)), patient.background)


def paint(rng: np.random.Generator, tissue: Tissue, staining: Staining, *, um_per_px: float) -> np.ndarray:
    """[H, W, 3] uint8: the slide.

    Args:
        rng: decides textures and noise.
        tissue: what to paint.
        staining: its colours.
        um_per_px: size of a pixel.
    """
    shape = (round(tissue.height_um / um_per_px), round(tissue.width_um / um_per_px))
    region = np.stack([_enlarge(weight, shape) for weight in tissue.region])
    state = _enlarge(tissue.state, shape)
    haematoxylin, eosin = _ground(rng, region, state, um_per_px)
    _adipocytes(tissue, region[FAT], haematoxylin, eosin, um_per_px)
    _nuclei(rng, tissue, haematoxylin, eosin, um_per_px)
    blur = 0.45 / um_per_px  # the microscope's
    amounts = np.stack([scipy.ndimage.gaussian_filter(amount, blur) for amount in (haematoxylin, eosin)], axis=-1)
    amounts *= _unevenness(rng, tissue.state.shape, shape)
    image = staining.background.astype(np.float32) * np.exp(-amounts @ staining.stains.astype(np.float32))
    image += 2.0 * rng.standard_normal(shape, dtype=np.float32)[..., None]
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _unevenness(rng: np.random.Generator, grid: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """[H, W, 2] how thick the section is and how well each stain took, from place to place."""
    thickness, *stains = (demo_tissue.smooth_noise(rng, grid, 25) for _ in range(3))
    return np.stack([_enlarge(np.exp(0.14 * thickness + 0.10 * stain), shape) for stain in stains], axis=-1)


def _enlarge(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[H, W] float32: bilinear, one axis at a time (a tenth of `zoom`'s time)."""
    for axis in (0, 1):
        size = field.shape[axis]
        place = np.clip((np.arange(shape[axis]) + 0.5) * size / shape[axis] - 0.5, 0, size - 1)
        low = np.minimum(place.astype(int), size - 2)
        weight = (place - low).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight
        field = np.take(field, low, axis) * (1 - weight) + np.take(field, low + 1, axis) * weight
    return field


def _ground(
    rng: np.random.Generator, region: np.ndarray, state: np.ndarray, um_per_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """[H, W] haematoxylin and eosin between the nuclei: cytoplasm, collagen fibres, fat's emptiness."""
    shape = state.shape
    coarse = (shape[0] // 4 + 1, shape[1] // 4 + 1)
    step = 4 * um_per_px
    angle = np.pi * _enlarge(demo_tissue.smooth_noise(rng, coarse, 60 / step), shape)
    warp = _enlarge(demo_tissue.smooth_noise(rng, coarse, 14 / step), shape)
    grain = demo_tissue.smooth_noise(rng, shape, 1.6 / um_per_px)
    y, x = np.ogrid[: shape[0], : shape[1]]
    # Fibres: stripes across a slowly turning direction; a fibrotic (high) state makes them finer and wavier.
    drift = 6.0 * angle + (2.2 + 1.2 * state) * warp
    fibres = np.sin((0.45 * um_per_px) * (x + 0.6 * y) + drift) + 0.9 * grain
    gaps = np.clip(demo_tissue.smooth_noise(rng, shape, 4.0 / um_per_px) - 1.5, 0, 0.5) * 2
    eosin = region[TUMOUR] * (0.42 + 0.05 * grain) + region[STROMA] * (0.62 + 0.15 * fibres) * (1 - gaps)
    eosin += region[IMMUNE] * (0.26 + 0.05 * grain)
    haematoxylin = region[TUMOUR] * (0.20 + 0.03 * grain) + region[STROMA] * 0.04 + region[IMMUNE] * 0.14
    return haematoxylin, np.clip(eosin, 0, None)


def _adipocytes(tissue: Tissue, fat: np.ndarray, haematoxylin: np.ndarray, eosin: np.ndarray, um_per_px: float) -> None:
    """Thin membranes around empty vacuoles: where the two nearest adipocytes are equally far."""
    row, column = np.nonzero(fat > 0.5)
    centres = tissue.cells.xy_um[tissue.cells.type == FAT]
    if len(centres) < 2:
        return
    distance = demo_tissue.rim_distance(centres, np.column_stack([column, row]) * um_per_px)
    membrane = np.exp(-((distance / 3.5) ** 2)).astype(np.float32)
    eosin[row, column] += 0.55 * membrane
    haematoxylin[row, column] += 0.06 * membrane


def _nuclei(
    rng: np.random.Generator, tissue: Tissue, haematoxylin: np.ndarray, eosin: np.ndarray, um_per_px: float
) -> None:
    """Stamp every nucleus: an ellipse whose size, shape and chromatin follow the cell's type and state."""
    cells, kind, count = tissue.cells, tissue.cells.type, len(tissue.cells.type)
    state = demo_tissue.states()[cells.level]

    def by_type(tumour: ArrayLike, stroma: ArrayLike, immune: ArrayLike, fat: ArrayLike) -> np.ndarray:
        return np.select([kind == TUMOUR, kind == STROMA, kind == IMMUNE], [tumour, stroma, immune], fat)

    spread = by_type(0.12 + 0.08 * (1 + state), 0.15, 0.08, 0.15)  # pleomorphism grows with the tumour's state
    minor = by_type(4.0 + 1.3 * state, 1.9, 2.8 + 0.5 * state, 1.6) * rng.lognormal(0, spread)
    aspect = by_type(1.25, 3.2 - 1.2 * state, 1.1, 3.0) * rng.lognormal(0, 0.12, count)
    # Larger tumour nuclei are paler and hollow, so that mean colour tells little about the state.
    depth = by_type(1.25 - 0.45 * state, 1.15, 1.5 - 0.25 * state, 1.1) * rng.lognormal(0, 0.12, count)
    hollow = by_type(0.30 + 0.30 * state, 0.1, 0.05 + 0.10 * (1 + state), 0.0)
    nucleolus = by_type(0.9 * np.clip(state + 0.2, 0, None), 0.0, 0.0, 0.0)
    angle = rng.uniform(0, np.pi, count)
    turn = rng.uniform(0, 2 * np.pi, count)
    xy = cells.xy_um + by_type(0, 0, 0, 27)[:, None] * np.column_stack([np.cos(turn), np.sin(turn)])  # at the rim
    order = np.argsort(minor * aspect)
    for batch in np.array_split(order, max(1, count // 4000)):  # like sizes together: small stamps stay small
        half = int(np.ceil((minor * aspect)[batch].max() * 1.25 / um_per_px)) + 1
        offset = np.arange(-half, half + 1)
        centre = np.round(xy[batch] / um_per_px).astype(int)  # [N, 2]
        dx = (centre[:, :1] + offset) * um_per_px - xy[batch, :1]  # [N, K]
        dy = (centre[:, 1:] + offset) * um_per_px - xy[batch, 1:]
        cos, sin = np.cos(angle[batch])[:, None, None], np.sin(angle[batch])[:, None, None]
        x, y = dx[:, None, :].astype(np.float32), dy[:, :, None].astype(np.float32)
        short = minor[batch, None, None]
        u, v = (x * cos + y * sin) / (short * aspect[batch, None, None]), (y * cos - x * sin) / short
        radius = np.hypot(u, v).astype(np.float32)  # [N, K, K], 1 on the nucleus's edge
        inside = np.clip((1.0 - radius) * short / (0.8 * um_per_px) + 0.5, 0, 1)
        amount = 1 - hollow[batch, None, None] * np.clip(1.15 - radius, 0, 1) * 1.2
        amount = depth[batch, None, None] * amount + nucleolus[batch, None, None] * np.exp(-((radius / 0.3) ** 2))
        rows, columns = centre[:, 1:] + offset, centre[:, :1] + offset
        valid = (
            (rows[:, :, None] >= 0)
            & (rows[:, :, None] < eosin.shape[0])
            & (columns[:, None] >= 0)
            & (columns[:, None] < eosin.shape[1])
            & (inside > 0.01)
        )
        flat = (rows[:, :, None] * eosin.shape[1] + columns[:, None])[valid]
        np.maximum.at(haematoxylin.reshape(-1), flat, (inside * amount)[valid].astype(np.float32))
        np.minimum.at(eosin.reshape(-1), flat, (0.55 - 0.3 * inside)[valid].astype(np.float32))
