"""Paint synthetic tissue as an H&E slide: maps of stain amount, then colours by the Beer-Lambert law."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike

from data_prep import demo_tissue
from data_prep.demo_tissue import FAT, IMMUNE, STROMA, TUMOUR, Tissue

# Optical densities of pure stains in (R, G, B), Macenko et al. 2009
HAEMATOXYLIN, EOSIN = np.array([0.5626, 0.7201, 0.4062]), np.array([0.2159, 0.8012, 0.5581])

_BLUR_UM = 0.45  # the microscope's
_FIBRES_UM = 4.0  # grid of what varies slowly, in `paint_strips`
_HALO_UM = 3.0  # around a strip, so that it is blurred as if the slide went on


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
    height, width = shape = (round(tissue.height_um / um_per_px), round(tissue.width_um / um_per_px))
    fibres = _fibres(rng, (height // 4 + 1, width // 4 + 1), 4 * um_per_px)
    window = _Window(shape, 0, height)
    amounts = _ground(rng, tissue, fibres, window, um_per_px)
    _stamp(_nuclei(rng, tissue), *amounts, window, um_per_px)
    return _developed(rng, amounts, _unevenness(rng, tissue.state.shape), window, staining, um_per_px)


def paint_strips(
    rng: np.random.Generator, tissue: Tissue, staining: Staining, *, um_per_px: float, strip_px: int
) -> Iterator[np.ndarray]:
    """The slide from top to bottom, uint8 [`strip_px` or what is left, W, 3] each, in the memory of one strip.

    Only grain and noise are drawn strip by strip, which no seam shows; so the pixels are not those of `paint`.

    Args:
        strip_px: rows of pixels painted at a time; other arguments as `paint` takes them.
    """
    shape = (round(tissue.height_um / um_per_px), round(tissue.width_um / um_per_px))
    coarse = (round(tissue.height_um / _FIBRES_UM) + 1, round(tissue.width_um / _FIBRES_UM) + 1)
    fibres, nuclei = _fibres(rng, coarse, _FIBRES_UM), _nuclei(rng, tissue)
    unevenness = _unevenness(rng, tissue.state.shape)
    halo = int(np.ceil(_HALO_UM / um_per_px))
    for top in range(0, shape[0], strip_px):
        bottom = min(top + strip_px, shape[0])
        window = _Window(shape, max(top - halo, 0), min(bottom + halo, shape[0]))
        amounts = _ground(rng, tissue, fibres, window, um_per_px)
        row, reach = nuclei.xy_um[:, 1] / um_per_px, 2 * nuclei.minor_um * nuclei.aspect / um_per_px + 2
        touched = (row + reach > window.top) & (row - reach < window.bottom)
        _stamp(nuclei[touched], *amounts, window, um_per_px)
        strip = _developed(rng, amounts, unevenness, window, staining, um_per_px)
        yield strip[top - window.top : bottom - window.top]


class _Window(NamedTuple):
    """Rows `top` to `bottom` of a slide of `shape` pixels, which are painted together."""

    shape: tuple[int, int]
    top: int
    bottom: int

    def enlarged(self, field: np.ndarray) -> np.ndarray:
        """[h, W] float32 of a field [., .] over the whole slide: bilinear, one axis at a time (a tenth of `zoom`'s
        time)."""
        for axis, wanted in ((0, np.arange(self.top, self.bottom)), (1, np.arange(self.shape[1]))):
            size = field.shape[axis]
            place = np.clip((wanted + 0.5) * size / self.shape[axis] - 0.5, 0, size - 1)
            low = np.minimum(place.astype(int), size - 2)
            weight = (place - low).astype(np.float32)
            weight = weight[:, None] if axis == 0 else weight
            field = np.take(field, low, axis) * (1 - weight) + np.take(field, low + 1, axis) * weight
        return field


def _fibres(rng: np.random.Generator, shape: tuple[int, int], step_um: float) -> tuple[np.ndarray, np.ndarray]:
    """Direction of the fibres, and how they wind, on a grid over the slide of `shape`, `step_um` apart."""
    direction = demo_tissue.smooth_noise(rng, shape, 60 / step_um)
    return direction, demo_tissue.smooth_noise(rng, shape, 14 / step_um)


def _unevenness(rng: np.random.Generator, grid: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """How thick the section is and how well each stain took, from place to place: [h, w] of each stain."""
    thickness, *stains = (demo_tissue.smooth_noise(rng, grid, 25) for _ in range(3))
    return tuple(np.exp(0.14 * thickness + 0.10 * stain) for stain in stains)


def _developed(
    rng: np.random.Generator,
    amounts: tuple[np.ndarray, np.ndarray],
    unevenness: tuple[np.ndarray, ...],
    window: _Window,
    staining: Staining,
    um_per_px: float,
) -> np.ndarray:
    """[h, W, 3] uint8: the colours of amounts of both stains, under a microscope."""
    blur = _BLUR_UM / um_per_px
    stained = np.stack([scipy.ndimage.gaussian_filter(amount, blur) for amount in amounts], axis=-1)
    stained *= np.stack([window.enlarged(field) for field in unevenness], axis=-1)
    image = staining.background.astype(np.float32) * np.exp(-stained @ staining.stains.astype(np.float32))
    image += 2.0 * rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None]
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _ground(
    rng: np.random.Generator,
    tissue: Tissue,
    fibres: tuple[np.ndarray, np.ndarray],
    window: _Window,
    um_per_px: float,
) -> tuple[np.ndarray, np.ndarray]:
    """[h, W] haematoxylin and eosin between the nuclei: cytoplasm, collagen fibres, fat's emptiness."""
    region = np.stack([window.enlarged(weight) for weight in tissue.region])
    state = window.enlarged(tissue.state)
    shape = state.shape
    angle = np.pi * window.enlarged(fibres[0])
    warp = window.enlarged(fibres[1])
    grain = demo_tissue.smooth_noise(rng, shape, 1.6 / um_per_px)
    y, x = np.ogrid[window.top : window.bottom, : shape[1]]
    # Fibres: stripes across a slowly turning direction; a fibrotic (high) state makes them finer and wavier.
    drift = 6.0 * angle + (2.2 + 1.2 * state) * warp
    stripes = np.sin((0.45 * um_per_px) * (x + 0.6 * y) + drift) + 0.9 * grain
    gaps = np.clip(demo_tissue.smooth_noise(rng, shape, 4.0 / um_per_px) - 1.5, 0, 0.5) * 2
    eosin = region[TUMOUR] * (0.42 + 0.05 * grain) + region[STROMA] * (0.62 + 0.15 * stripes) * (1 - gaps)
    eosin += region[IMMUNE] * (0.26 + 0.05 * grain)
    haematoxylin = region[TUMOUR] * (0.20 + 0.03 * grain) + region[STROMA] * 0.04 + region[IMMUNE] * 0.14
    eosin = np.clip(eosin, 0, None)
    _adipocytes(tissue, region[FAT], haematoxylin, eosin, window.top, um_per_px)
    return haematoxylin, eosin


def _adipocytes(
    tissue: Tissue, fat: np.ndarray, haematoxylin: np.ndarray, eosin: np.ndarray, top: int, um_per_px: float
) -> None:
    """Thin membranes around empty vacuoles: where the two nearest adipocytes are equally far."""
    row, column = np.nonzero(fat > 0.5)
    centres = tissue.cells.xy_um[tissue.cells.type == FAT]
    if len(centres) < 2:
        return
    distance = demo_tissue.rim_distance(centres, np.column_stack([column, row + top]) * um_per_px)
    membrane = np.exp(-((distance / 3.5) ** 2)).astype(np.float32)
    eosin[row, column] += 0.55 * membrane
    haematoxylin[row, column] += 0.06 * membrane


@dataclasses.dataclass(frozen=True)
class _Nuclei:
    """How every nucleus looks; [N] each.

    Attributes:
        xy_um: [N, 2] centres.
        minor_um, aspect, angle: of its ellipse: the shorter half axis, how many times longer the other is, its turn.
        depth, hollow, nucleolus: of its chromatin.
    """

    xy_um: np.ndarray
    minor_um: np.ndarray
    aspect: np.ndarray
    angle: np.ndarray
    depth: np.ndarray
    hollow: np.ndarray
    nucleolus: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "_Nuclei":
        return _Nuclei(**{name: column[rows] for name, column in vars(self).items()})


def _nuclei(rng: np.random.Generator, tissue: Tissue) -> _Nuclei:
    """Ellipses whose size, shape and chromatin follow the cells' types and states."""
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
    return _Nuclei(xy, minor, aspect, angle, depth, hollow, nucleolus)


def _stamp(nuclei: _Nuclei, haematoxylin: np.ndarray, eosin: np.ndarray, window: _Window, um_per_px: float) -> None:
    """Stamp nuclei on the amounts [h, W] of both stains in a window."""
    major = nuclei.minor_um * nuclei.aspect
    order = np.argsort(major)
    for batch in np.array_split(order, max(1, len(order) // 4000)):  # like sizes together: small stamps stay small
        half = int(np.ceil(major[batch].max(initial=0) * 1.25 / um_per_px)) + 1
        offset = np.arange(-half, half + 1)
        these = nuclei[batch]
        centre = np.round(these.xy_um / um_per_px).astype(int)  # [N, 2]
        dx = (centre[:, :1] + offset) * um_per_px - these.xy_um[:, :1]  # [N, K]
        dy = (centre[:, 1:] + offset) * um_per_px - these.xy_um[:, 1:]
        cos, sin = np.cos(these.angle)[:, None, None], np.sin(these.angle)[:, None, None]
        x, y = dx[:, None, :].astype(np.float32), dy[:, :, None].astype(np.float32)
        short = these.minor_um[:, None, None]
        u, v = (x * cos + y * sin) / (short * these.aspect[:, None, None]), (y * cos - x * sin) / short
        radius = np.hypot(u, v).astype(np.float32)  # [N, K, K], 1 on the nucleus's edge
        inside = np.clip((1.0 - radius) * short / (0.8 * um_per_px) + 0.5, 0, 1)
        amount = 1 - these.hollow[:, None, None] * np.clip(1.15 - radius, 0, 1) * 1.2
        nucleolus = these.nucleolus[:, None, None] * np.exp(-((radius / 0.3) ** 2))
        amount = these.depth[:, None, None] * amount + nucleolus
        rows, columns = centre[:, 1:] + offset - window.top, centre[:, :1] + offset
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
