"""Training images as other laboratories, scanners and files would have shown them; part of the jitted step.

Each image of a batch is changed by a draw of its own, in the order in which an image comes to be: the tissue lies
otherwise (`rotate`, `scale`), is stained otherwise (`stain`), seen through other optics (`blur_px`), sharpened and
exposed by another camera (`sharpen`, `brightness`, `gamma`) and compressed (`jpeg`). The result is 8 bits a channel
again, as images of evaluation are. A setting of 0 leaves its step out. What the settings mean, and what others took:

`stain`: H, E and residual each times U(1 - s, 1 + s) plus U(-s, s). Tellez et al. 2019 (Medical Image Analysis 58,
    arXiv 1902.06543): s = .05 ("HED-light") and .2 ("HED-strong"). differs from the paper: the third stain is what is
    orthogonal to the two, where the paper has DAB, and densities are natural logarithms of x / 255.
`brightness`: times U(1 - s, 1 + s). Tellez et al. 2019 ("BC"): s = .35.
`gamma`: x^U(1 - s, 1 + s). albumentations' RandomGamma: s = .2.
`blur_px`: Gaussian of a deviation U(0, s). SimCLR (Chen et al. 2020, appendix A) and DINOv2: up to s = 2.
`sharpen`: unsharp mask over 1 px, of an amount U(0, s). RandAugment (Cubuk et al. 2020), used on histology by Faryna et
    al. 2021: a sharpness of up to 1.9, which is s = .9.
`jpeg`: quantisation of the discrete cosine transform of 8 x 8 blocks, at a quality drawn from s to 100. Aperio's
    slides say Q=30 (many of TCGA) or Q=70. differs from JPEG files: colour is not subsampled.
`scale`: U(1 - s, 1 + s). Tellez et al. 2019 ("morphology"): s = .2.
`rotate`: any angle. What lies beyond the window is its mirror image, as in Tellez et al. 2019.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_prep.stain_vectors import RUIFROK

STEPS = ("rotate", "scale", "stain", "blur_px", "sharpen", "brightness", "gamma", "jpeg")
MOVES = ("rotate", "scale")  # of which places in the image change
Drawn = dict[str, jax.Array]


def with_residual(pair: np.ndarray) -> np.ndarray:
    """[3, 3] haematoxylin and eosin [2, 3], and what is orthogonal to both: unit rows of RGB optical density."""
    rows = np.concatenate([pair, np.cross(*pair)[None]])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


STAINS = with_residual(RUIFROK)
_UNMIX = np.linalg.inv(STAINS)

# ITU-T T.81, tables K.1 and K.2: steps of brightness and of colour at quality 50.
LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TABLES = np.stack([LUMINANCE, CHROMINANCE, CHROMINANCE], axis=-1)  # [8, 8, 3]
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # JFIF
_TO_RGB = np.linalg.inv(_TO_YCC)
_PLACE = np.arange(8)
_COSINES = np.sqrt(np.where(_PLACE == 0, 1, 2) / 8)[:, None] * np.cos(
    np.pi * (2 * _PLACE[None] + 1) * _PLACE[:, None] / 16
)


def active(settings: Mapping[str, Any]) -> bool:
    """Whether `augment` changes anything."""
    return any(settings[name] for name in STEPS)


def augment(images: jax.Array, settings: Mapping[str, Any], key: jax.Array) -> jax.Array:
    """uint8 [..., H, W, 3], a batch of images or of stacks of them, to the same, each image changed by its own draw.

    Args:
        settings: `config.augmentation`.
    """
    flat = images.reshape(-1, *images.shape[-3:])  # [B, H, W, 3]
    return changed(flat, draw(settings, len(flat), key), most_blur_px=settings["blur_px"]).reshape(images.shape)


def draw(settings: Mapping[str, Any], count: int, key: jax.Array) -> Drawn:
    """How each of `count` images is changed: {step: [B]}, of the steps that are on; of "stain" [B, 2, 3], factors and
    shifts. What one step draws does not depend on which others are on."""
    drawn = {}
    for number, name in enumerate(STEPS):
        strength, own = settings[name], jax.random.fold_in(key, number)
        if not strength:
            continue
        if name == "stain":
            either = jax.random.uniform(own, (count, 2, 3), minval=-strength, maxval=strength)
            drawn[name] = either + jnp.array([1.0, 0.0])[None, :, None]
        elif name == "rotate":
            drawn[name] = jax.random.uniform(own, (count,), minval=-math.pi, maxval=math.pi)
        elif name == "jpeg":
            drawn[name] = jax.random.randint(own, (count,), strength, 101).astype(jnp.float32)
        else:
            low, high = (0, strength) if name in ("blur_px", "sharpen") else (1 - strength, 1 + strength)
            drawn[name] = jax.random.uniform(own, (count,), minval=low, maxval=high)
    return drawn


def changed(images: jax.Array, drawn: Drawn, *, most_blur_px: float = 0) -> jax.Array:
    """uint8 [B, H, W, 3] to the same, as `draw` says.

    Args:
        most_blur_px: that any image is blurred by.
    """
    each = {name: value.reshape(-1, 1, 1, 1) for name, value in drawn.items() if name != "stain"}
    x = images.astype(jnp.float32)
    if "rotate" in drawn or "scale" in drawn:
        still = jnp.zeros(len(images))
        x = jax.vmap(_moved)(x, drawn.get("rotate", still), drawn.get("scale", still + 1))
    if "stain" in drawn:
        factor, shift = drawn["stain"][:, 0], drawn["stain"][:, 1]
        x = restained(x, _UNMIX, STAINS, factor[:, None, None], shift[:, None, None])
    if "blur_px" in drawn:
        x = _blurred(x, each["blur_px"], math.ceil(3 * most_blur_px))
    if "sharpen" in drawn:
        x = x + each["sharpen"] * (x - _blurred(x, jnp.ones((1, 1, 1, 1)), 3))
    if "brightness" in drawn:
        x = x * each["brightness"]
    if "gamma" in drawn:
        x = 255 * (jnp.clip(x, 0, 255) / 255) ** each["gamma"]
    if "jpeg" in drawn:
        x = _compressed(x, drawn["jpeg"])
    return eight_bits(x)


def restained(x: jax.Array, unmix: Any, stains: Any, factor: Any = 1.0, shift: Any = 0.0) -> jax.Array:
    """Images [B, H, W, 3] of 0 to 255, taken apart into amounts of stains, each times `factor` plus `shift`, and put
    together again.

    Args:
        unmix: [3, 3] the inverse of the stains that they have.
        stains: [3, 3] rows of RGB optical density, natural logarithm, that they get.
    """
    density = -jnp.log(jnp.maximum(x, 1) / 255)
    amounts = _colours(density, unmix) * factor + shift
    return 255 * jnp.exp(-_colours(amounts, stains))


def eight_bits(x: jax.Array) -> jax.Array:
    """Values rounded to uint8."""
    return _whole(x).astype(jnp.uint8)


def _whole(x: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(x), 0, 255)


def _colours(x: jax.Array, matrix: Any) -> jax.Array:
    """[B, H, W, 3] times a matrix [3, 3], in float32 on every device."""
    return jnp.matmul(x, jnp.asarray(matrix, jnp.float32), precision="highest")


def _moved(image: jax.Array, angle: jax.Array, scale: jax.Array) -> jax.Array:
    """[H, W, 3] enlarged by `scale` and turned by `angle` about its middle: bilinear, mirrored at its edges."""
    height, width = image.shape[:2]
    row, column = ((jnp.arange(size) - (size - 1) / 2) / scale for size in (height, width))
    row, column = row[:, None], column[None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    from_row, from_column = cos * row + sin * column + (height - 1) / 2, cos * column - sin * row + (width - 1) / 2
    first = jnp.floor(from_row).astype(jnp.int32), jnp.floor(from_column).astype(jnp.int32)
    part = (from_row - first[0])[..., None], (from_column - first[1])[..., None]
    total = jnp.zeros_like(image)
    for down in (0, 1):
        for right in (0, 1):
            weight = (part[0] if down else 1 - part[0]) * (part[1] if right else 1 - part[1])
            total += weight * image[_mirrored(first[0] + down, height), _mirrored(first[1] + right, width)]
    return total


def _mirrored(place: jax.Array, size: int) -> jax.Array:
    """Places along an axis, those beyond its ends mirrored at the first and last pixel."""
    period = max(2 * (size - 1), 1)
    place = place % period
    return jnp.minimum(place, period - place)


def _blurred(x: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """[B, H, W, 3] through a Gaussian of `sigma` [B or 1, 1, 1, 1] px, cut off beyond `radius`; edges are repeated."""
    away = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    weight = jnp.exp(-0.5 * jnp.square(away[None] / jnp.maximum(sigma[:, 0, 0], 1e-3)))  # [B or 1, 2 radius + 1]
    weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    for axis in (1, 2):
        size, wide = x.shape[axis], [(0, 0)] * 4
        wide[axis] = (radius, radius)
        padded = jnp.pad(x, wide, mode="edge")
        shifted = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1))
        x = sum((weight[:, i].reshape(-1, 1, 1, 1) * part for i, part in enumerate(shifted)), jnp.zeros_like(x))
    return x


def _compressed(x: jax.Array, quality: jax.Array) -> jax.Array:
    """[B, H, W, 3] as JPEG at `quality` [B] of 1 to 100 gives it back, by the Independent JPEG Group's scale of it."""
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)[:, None, None, None]
    step = jnp.clip(jnp.floor((jnp.asarray(_TABLES, jnp.float32)[None] * percent + 50) / 100), 1, 255)
    step = step[:, None, :, None]  # [B, 1, 8, 1, 8, 3]
    height, width = x.shape[1:3]
    x = jnp.round(_colours(_whole(x), _TO_YCC.T)) - jnp.array([128.0, 0, 0])[None, None, None]
    x = jnp.pad(x, [(0, 0), (0, -height % 8), (0, -width % 8), (0, 0)], mode="edge")
    blocks = x.reshape(len(x), x.shape[1] // 8, 8, x.shape[2] // 8, 8, 3)
    cosines = jnp.asarray(_COSINES, jnp.float32)
    found = jnp.einsum("ui,bhiwjc,vj->bhuwvc", cosines, blocks, cosines, precision="highest")
    kept = jnp.round(found / step) * step
    blocks = jnp.einsum("ui,bhuwvc,vj->bhiwjc", cosines, kept, cosines, precision="highest")
    x = jnp.round(blocks.reshape(x.shape)[:, :height, :width]) + jnp.array([128.0, 0, 0])[None, None, None]
    return _colours(x, _TO_RGB.T)
