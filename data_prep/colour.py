"""Colours of a slide: how many pixels have each, their weighted percentiles, and 8-bit CIE L*a*b*."""

from collections.abc import Iterable

import numpy as np

from data_prep.slide import Slide

CHUNK = 1 << 19  # pixels handled at a time: the temporaries stay in the processor's cache
_BLOCK_PX = 2048
MAX_PIXELS = 200_000_000  # beyond it, evenly spaced blocks of the slide stand for all of it

# CIE L*a*b* under D65 from sRGB, in 8 bits as OpenCV stores it: L* x 255 / 100, a* + 128, b* + 128.
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.950456, 1.0, 1.088754])
_FROM_XYZ = np.linalg.inv(_TO_XYZ)
_LEVEL = np.arange(256) / 255
_LINEAR = np.where(_LEVEL <= 0.04045, _LEVEL / 12.92, ((_LEVEL + 0.055) / 1.055) ** 2.4)


def colour_counts(slide: Slide, *, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """The slide's distinct colours.

    Args:
        slide: read whole up to `max_pixels`, and in evenly spaced blocks of 2048 px beyond.
        max_pixels: bounds the time on whole-slide pyramids.

    Returns:
        uint8 [K, 3] colours in ascending order, and int64 [K] how many pixels have each.
    """
    corners = [(x, y) for y in range(0, slide.height, _BLOCK_PX) for x in range(0, slide.width, _BLOCK_PX)]
    blocks = min(len(corners), max(1, max_pixels // _BLOCK_PX**2))
    if slide.width * slide.height > max_pixels:
        corners = [corners[i] for i in np.linspace(0, len(corners) - 1, blocks).astype(int)]
    return count_colours(
        slide.read_region(x, y, min(_BLOCK_PX, slide.width - x), min(_BLOCK_PX, slide.height - y)) for x, y in corners
    )


def count_colours(images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct colours of images uint8 [..., 3], as `colour_counts` gives them."""
    histogram = np.zeros(1 << 24, np.uint32)
    for image in images:
        flat = image.reshape(-1, 3)
        for start in range(0, len(flat), CHUNK):
            np.add.at(histogram, pack(flat[start : start + CHUNK]), np.uint32(1))
    present = np.flatnonzero(histogram)
    return unpack(present), histogram[present].astype(np.int64)


def percentile(values: np.ndarray, weight: np.ndarray, q: float) -> float:
    """`np.percentile` (linear) of `values`, each repeated `weight` times (whole numbers), without repeating them."""
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(weight[order])
    place = (ends[-1] - 1) * (q / 100)
    low, high = (
        values[order][np.searchsorted(ends, p, side="right").clip(max=len(values) - 1)]
        for p in (np.floor(place), np.ceil(place))
    )
    return float(low + (high - low) * (place - np.floor(place)))


def lab_from_rgb(colours: np.ndarray) -> np.ndarray:
    """uint8 [N, 3] RGB -> float64 [N, 3] whole numbers 0..255.

    Rounds where OpenCV's 8-bit conversion does (linear light in 1/2040, the roots in 1/32768, 296 for 295.8): the
    tissue threshold and the luminosity percentile act on these whole numbers, and staintools' come from there.
    """
    linear = np.rint(2040 * _LINEAR)[colours]
    weight = np.rint(4096 * _TO_XYZ / _WHITE[:, None])
    xyz = [np.floor((linear * row).sum(axis=1) / 4096 + 0.5) / 2040 for row in weight]
    fx, fy, fz = (np.rint(32768 * np.where(v < 216 / 24389, v * 841 / 108 + 16 / 116, np.cbrt(v))) / 32768 for v in xyz)
    lab = np.stack([296 * fy - 40.8, 500 * (fx - fy) + 128, 200 * (fy - fz) + 128], axis=1)
    return np.floor(np.clip(lab, 0, 255) + 0.5)


def rgb_from_lab(lab: np.ndarray) -> np.ndarray:
    """float64 [N, 3] as `lab_from_rgb` gives -> uint8 [N, 3] RGB."""
    light = lab[:, 0] / 2.55
    fy = np.where(light <= 903.3 * 0.008856, 7.787 * light / 903.3 + 16 / 116, (light + 16) / 116)
    fx, fz = fy + (lab[:, 1] - 128) / 500, fy - (lab[:, 2] - 128) / 200
    xyz = [w * np.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787) for f, w in zip((fx, fy, fz), _WHITE, strict=True)]
    linear = np.stack([sum(xyz[j] * _FROM_XYZ[i, j] for j in range(3)) for i in range(3)], axis=1)
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def pack(colours: np.ndarray) -> np.ndarray:
    """uint8 [N, 3] -> uint32 [N], red in the high bits."""
    packed = colours[:, 0].astype(np.uint32)
    for channel in (1, 2):
        packed <<= np.uint32(8)
        packed |= colours[:, channel]
    return packed


def unpack(packed: np.ndarray) -> np.ndarray:
    """Integers [N] -> uint8 [N, 3], the inverse of `pack`."""
    return np.stack([packed >> 16, packed >> 8, packed], axis=1).astype(np.uint8)
