"""Do the spots fit the tissue as they lie, or only once flipped or transposed?"""

import numpy as np
import scipy.ndimage
import scipy.spatial

from data_prep import tissue
from data_prep.counts import row_totals
from data_prep.section import Section

_SAMPLE = 20_000  # spots are plenty to see how they lie
_FEW = 20  # spots say nothing about orientation
_ORIENTATIONS = {
    (False, False, False): "as they are",
    (False, True, False): "mirrored left to right",
    (False, False, True): "mirrored top to bottom",
    (False, True, True): "turned by 180 degrees",
    (True, False, False): "with x and y swapped",
    (True, True, False): "turned by 90 degrees",
    (True, False, True): "turned by 270 degrees",
    (True, True, True): "with x and y swapped and turned by 180 degrees",
}


def check(section: Section, small: np.ndarray, scale: float) -> tuple[float, list[tuple[str, str]]]:
    """How well spots fit the tissue as the coordinates are, and in the seven other orientations.

    Args:
        small: uint8 [h, w, 3], a thumbnail of the slide.
        scale: its pixels per full-resolution pixel.

    Returns:
        The share of spots on tissue, and what is wrong: ("error" or "warning", text).

    The score of an orientation is the share of spots on tissue plus 0.3 times the correlation of a spot's counts (log)
    with how dark the slide is around it: the share alone cannot tell the orientations of round tissue apart.
    """
    step = -(-len(section.spots.xy) // _SAMPLE)
    xy = section.spots.xy[::step] * scale
    depth = np.log1p(row_totals(section.counts, np.arange(0, len(section.spots), step)).astype(np.float64))
    grey = tissue.to_grey(small)
    dark = (grey <= tissue.otsu_threshold(np.bincount(grey.ravel(), minlength=256))).astype(np.float32)
    pitch = scipy.spatial.KDTree(xy).query(xy, k=2)[0][:, 1] if len(xy) > 1 else np.zeros(1)
    width = int(np.clip(np.median(pitch), 5, min(grey.shape)))
    near = scipy.ndimage.uniform_filter(dark, width) > 0.25
    mask = np.asarray(scipy.ndimage.binary_fill_holes(near), dtype=bool)  # fat is tissue too
    density = scipy.ndimage.uniform_filter(255 - grey.astype(np.float32), max(3, width // 2))
    fits = {turned: _fit(mask, density, xy, depth, turned) for turned in _ORIENTATIONS}
    share, score = fits.pop((False, False, False))
    best = max(fits, key=lambda turned: fits[turned][1])
    text = f"{share:.0%} of the spots lie on tissue, {fits[best][0]:.0%} {_ORIENTATIONS[best]}"
    margin = fits[best][1] - score
    chance = 0.3 / np.sqrt(len(xy))  # how far the correlation's part of the score goes astray of itself
    if share >= 0.3 and len(xy) < _FEW:
        return share, []
    if margin > 0.12 + chance and fits[best][0] >= share and len(xy) >= _FEW:
        text = f"flipped or transposed coordinates? {text}, where counts follow the staining better"
        return share, [("error", text)]
    if share < 0.3:
        return share, [("warning", f"few spots on tissue ({text}): do image and spots belong together?")]
    return share, [("warning", f"the orientation is doubtful: {text}")] if margin > 0.05 else []


def _fit(
    mask: np.ndarray, density: np.ndarray, xy: np.ndarray, depth: np.ndarray, turned: tuple[bool, bool, bool]
) -> tuple[float, float]:
    """Share on tissue and score of points (x, y) [N, 2] once swapped and mirrored; outside is no tissue.

    Args:
        mask, density: [h, w] where tissue is, and how dark.
        xy: [N, 2] in their pixels.
        depth: [N] log counts.
        turned: swap x and y, mirror x, mirror y.
    """
    swap, mirror_x, mirror_y = turned
    x, y = (xy[:, ::-1] if swap else xy).T
    column = np.floor(mask.shape[1] - 1 - x if mirror_x else x).astype(int)
    row = np.floor(mask.shape[0] - 1 - y if mirror_y else y).astype(int)
    inside = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    share = float(mask[row[inside], column[inside]].sum() / len(xy))
    around, depth = density[row[inside], column[inside]], depth[inside]
    known = inside.sum() > 10 and np.std(around) > 0 and np.std(depth) > 0
    return share, share + 0.3 * (float(np.corrcoef(around, depth)[0, 1]) if known else 0.0)
