"""Patches: square crops centred on spots, at the slide's own scale or resampled to a target scale."""

import numpy as np
from PIL import Image

from data_prep.slide_base import Slide
from data_prep.tissue import BLUR_MARGIN_PX, Transform

_CACHE_BYTES = 24 << 20  # less than `data_prep.slide_tiff`, or OpenSlide, keeps of decoded tiles: 32 MB


def inside_mask(slide: Slide, spot_xy: np.ndarray, *, patch_size_px: int, px_scale: float = 1.0) -> np.ndarray:
    """[N] bool: whose whole window lies inside the image, as ST-Net and BrST-Net require; of stored patches all.

    Args:
        spot_xy: [N, 2] spot centres (x, y), full-resolution pixels.
        patch_size_px: side of the patch, patch pixels.
        px_scale: full-resolution pixels per patch pixel.
    """
    origin = patch_origins(spot_xy, patch_size_px=patch_size_px, px_scale=px_scale)
    if slide.patch_px:
        return np.ones(len(origin), bool)
    limit = np.array([slide.width, slide.height]) - patch_size_px * px_scale
    return np.all((origin >= 0) & (origin <= limit), axis=1)


def patch_origins(spot_xy: np.ndarray, *, patch_size_px: int, px_scale: float = 1.0) -> np.ndarray:
    """[N, 2] float64: top-left corners, full-resolution pixels; whole numbers where nothing is resampled."""
    origin = np.asarray(spot_xy, np.float64).reshape(-1, 2) - patch_size_px * px_scale / 2
    return np.floor(origin + 0.5) if px_scale == 1 else origin


def cut_window(
    slide: Slide, origin_xy: np.ndarray, *, size_px: int, px_scale: float = 1.0, transform: Transform | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One window, and what it is made of: the slide, or the coarsest stored level of it that is fine enough; of a slide
    that is stored as patches, that of the spot in the window's middle, which has to be of this size and scale.

    Preparation, embedding and prediction all cut with this function, so that a model is shown the pixels it has learnt.

    Args:
        origin_xy: [2] top-left corner, full-resolution pixels.
        size_px: P, side of the window, window pixels.

    Returns:
        uint8 [P, P, 3], and uint8 [h + 4, w + 4, 3]: the region of the level that was read, with the blur's margin.
    """
    if slide.patch_px:
        return _with_margin(slide.patch_around(origin_xy + size_px * px_scale / 2))
    resampled = px_scale != 1
    level, times = slide.coarser(px_scale)
    origin_xy, px_scale = origin_xy / times, px_scale / times  # in pixels of the level from here on
    first = np.floor(origin_xy).astype(int)
    last = np.ceil(origin_xy + size_px * px_scale).astype(int)
    x, y = (int(value) for value in first - BLUR_MARGIN_PX)
    width, height = (int(value) for value in last - first + 2 * BLUR_MARGIN_PX)
    region = slide.read_region(x, y, width, height, level=level)
    region = region if transform is None else transform(region)
    if not resampled:
        return region[BLUR_MARGIN_PX:-BLUR_MARGIN_PX, BLUR_MARGIN_PX:-BLUR_MARGIN_PX][:size_px, :size_px], region
    left, top = origin_xy - first + BLUR_MARGIN_PX
    box = (left, top, left + size_px * px_scale, top + size_px * px_scale)
    resized = Image.fromarray(region).resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized), region


def stored_window(slide: Slide, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The patch that a slide has of a spot, and the same with a margin for the blur, as `cut_window` gives them."""
    return _with_margin(slide.patch(name))


def _with_margin(window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    margin = (BLUR_MARGIN_PX, BLUR_MARGIN_PX)
    return window, np.pad(window, (margin, margin, (0, 0)), mode="edge")


def reading_order(slide: Slide, xy: np.ndarray, *, window_px: float, px_scale: float = 1.0) -> np.ndarray:
    """[N] the order of windows in which a slide's tiles or strips are each decoded about once.

    Strips, as wide as the slide, are gone through row by row. Tiles are gone through in bands, each from left to right,
    as high as still lets the tiles under a window, and those next to it, be kept while they are needed.

    Args:
        xy: [N, 2] centres of the windows; window_px: their side; both in full-resolution pixels.
        px_scale: full-resolution pixels per window pixel.
    """
    width, height = slide.segment_px
    times = slide.coarser(px_scale)[1]
    xy, window_px = xy / times, window_px / times  # in pixels of the level that is read
    if width * times >= slide.width:
        return np.lexsort((xy[:, 0], xy[:, 1]))
    across = window_px // width + 3  # tiles side by side that are in use
    band = max(height, _CACHE_BYTES / (3 * width * across) - window_px - height)
    return np.lexsort((xy[:, 1], xy[:, 0] // width, xy[:, 1] // band))
