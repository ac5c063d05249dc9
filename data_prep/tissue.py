"""Tissue against bare glass: Otsu's threshold on the blurred grey slide, and how much of a window is brighter.

BrST-Net's published code thresholds the 5 x 5 Gaussian-blurred grey, stain-normalised slide with OpenCV and drops
training patches that are at least half bright; the integer arithmetic here is OpenCV's.
"""

from collections.abc import Callable

import numpy as np

from data_prep.slide_base import Slide

Transform = Callable[[np.ndarray], np.ndarray]  # stain normalisation: uint8 [h, w, 3] -> uint8 [h, w, 3]

BLUR_MARGIN_PX = 2
STRIP_PIXELS = 4_000_000  # what one strip may hold, so that memory does not grow with the slide
MAX_HISTOGRAM_PIXELS = 250_000_000  # larger slides are sampled in evenly spaced strips


def to_grey(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] RGB to uint8 [h, w] luma, rounded as OpenCV rounds it (15-bit weights)."""
    red, green, blue = (np.uint32(weight) for weight in (9798, 19235, 3735))  # 0.299, 0.587, 0.114 times 2^15
    total = image[..., 0] * red + image[..., 1] * green + image[..., 2] * blue
    return ((total + np.uint32(1 << 14)) >> np.uint32(15)).astype(np.uint8)


def blur(grey: np.ndarray) -> np.ndarray:
    """uint8 [h, w] to uint8 [h - 4, w - 4]: OpenCV's 5 x 5 Gaussian (1 4 6 4 1) / 16, where it fits whole."""
    wide = grey.astype(np.uint16)
    rows = wide[:-4] + wide[4:] + 4 * (wide[1:-3] + wide[3:-1]) + 6 * wide[2:-2]
    both = rows[:, :-4] + rows[:, 4:] + 4 * (rows[:, 1:-3] + rows[:, 3:-1]) + 6 * rows[:, 2:-2]
    return ((both + 128) >> 8).astype(np.uint8)  # at most 255 * 256 + 128, which uint16 holds


def grey_histogram(slide: Slide, *, transform: Transform | None = None) -> np.ndarray:
    """[256] int64: how many pixels of the blurred grey slide have each level.

    Args:
        transform: stain normalisation, applied first.
    """
    histogram = np.zeros(256, np.int64)
    rows = max(1, STRIP_PIXELS // slide.width)
    every = -(-slide.width * slide.height // MAX_HISTOGRAM_PIXELS)
    for top in range(0, slide.height, rows * every):
        bottom = min(top + rows, slide.height)
        first, last = max(top - BLUR_MARGIN_PX, 0), min(bottom + BLUR_MARGIN_PX, slide.height)
        strip = slide.read_region(0, first, slide.width, last - first)
        grey = to_grey(strip if transform is None else transform(strip))
        above, below = BLUR_MARGIN_PX - (top - first), BLUR_MARGIN_PX - (last - bottom)
        padding = ((above, below), (BLUR_MARGIN_PX, BLUR_MARGIN_PX))
        mode = "reflect" if min(grey.shape) > BLUR_MARGIN_PX else "edge"
        histogram += np.bincount(blur(np.pad(grey, padding, mode=mode)).ravel(), minlength=256)
    return histogram


def otsu_threshold(histogram: np.ndarray) -> int:
    """The level that splits a histogram into the two classes furthest apart (Otsu 1979); bright is above it.

    Args:
        histogram: [256] counts.
    """
    levels = np.arange(len(histogram))
    below = np.cumsum(histogram, dtype=np.float64)
    above = below[-1] - below
    weighted = np.cumsum(histogram * levels, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (weighted / below - (weighted[-1] - weighted) / above) ** 2
    return int(np.argmax(np.nan_to_num(between)))


def white_fraction(window: np.ndarray, threshold: int) -> float:
    """Share of a window's pixels that are brighter than `threshold` once grey and blurred.

    Args:
        window: uint8 [h + 4, w + 4, 3]: the window and the two pixels around it that the blur needs.
    """
    return float(np.mean(blur(to_grey(window)) > threshold))
