"""How well maps agree: structural similarity and correlation after smoothing, over spots wherever they lie.

Spots are on square or hexagonal lattices, or on parts of one: windows are sets of neighbouring spots instead of pixels.
"""

import dataclasses

import numpy as np
import scipy.sparse
from scipy.spatial import KDTree

from stjax import metrics

SSIM_WINDOW = 3.4  # pitches to each side: 7 x 7 spots of a square lattice, as scikit-image's window of 7 pixels
SMOOTHING_WINDOW = 1.6  # pitches around: 3 x 3 spots of a square lattice, 7 of a hexagonal one
MIN_SHARE = 0.5  # of a full window's spots: windows at the border of tissue with fewer do not count
_K1, _K2 = 0.01, 0.03  # of Wang et al., Image quality assessment, IEEE Trans. Image Process. 2004
_CHUNK = 1 << 22  # values of spots and genes held at a time


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Windows of a section's spots.

    Attributes:
        window: [S, S] CSR, 1 for the spots in the window around each, itself among them; for structural similarity.
        near: the same, for smoothing.
    """

    window: scipy.sparse.csr_array
    near: scipy.sparse.csr_array

    @classmethod
    def of(cls, xy: np.ndarray) -> "Neighbours":
        """Windows around spots at [S, 2], in pitches: medians of the distance to the nearest other spot."""
        count = len(xy)
        tree = KDTree(xy)
        distance = np.asarray(tree.query(xy, k=2)[0])[:, 1] if count > 1 else np.full(count, np.inf)
        pitch = float(np.median(distance)) if count else np.inf
        if not 0 < pitch < np.inf:  # one spot, or spots upon one another: none has neighbours
            alone = scipy.sparse.csr_array(scipy.sparse.eye_array(count))
            return cls(alone, alone)
        return cls(*(_within(tree, reach * pitch, p) for reach, p in ((SSIM_WINDOW, np.inf), (SMOOTHING_WINDOW, 2.0))))


def _within(tree: KDTree, reach: float, p: float) -> scipy.sparse.csr_array:
    pairs = tree.sparse_distance_matrix(tree, reach, p=p, output_type="ndarray")
    count = int(tree.n)
    return scipy.sparse.csr_array((np.ones(len(pairs)), (pairs["i"], pairs["j"])), shape=(count, count))


def smooth(values: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """[S, G] mean over each spot and its neighbours: what ST-Net calls smoothed."""
    near = neighbours.near
    return near @ np.asarray(values, np.float64) / near.sum(axis=1)[:, None]


def ssim(
    prediction: np.ndarray, truth: np.ndarray, neighbours: Neighbours, *, min_share: float = MIN_SHARE
) -> np.ndarray:
    """Mean structural similarity of each gene's maps of one section.

    Over the windows of spots that hold at least `min_share` of the spots of the fullest one, all weighing the same;
    variances are unbiased, and the dynamic range is that of the gene's truth. With full windows alone, on pixels, it is
    scikit-image's `structural_similarity`.

    Args:
        prediction, truth: [S, G].

    Returns:
        [G]; NaN where the truth does not vary, or with fewer than two spots in a window. A prediction that does not
        vary has one: how alike a blank map is.
    """
    spots = np.asarray(neighbours.window.sum(axis=1))
    full = (spots >= min_share * np.max(spots, initial=0)) & (spots > 1)
    result = np.full(truth.shape[1], np.nan)
    if not full.any():
        return result
    mean_of = scipy.sparse.csr_array(neighbours.window[full] / spots[full][:, None])
    unbiased = (spots[full] / (spots[full] - 1))[:, None]
    genes = max(1, _CHUNK // len(truth))
    for start in range(0, truth.shape[1], genes):
        p = np.asarray(prediction[:, start : start + genes], np.float64)
        t = np.asarray(truth[:, start : start + genes], np.float64)
        least, largest = t.min(axis=0), t.max(axis=0)
        centre = (least + largest) / 2  # products of values about it lose no digits
        high = largest - least
        p0, t0 = p - centre, t - centre
        mean_p, mean_t = mean_of @ p0, mean_of @ t0
        var_p = unbiased * (mean_of @ np.square(p0) - np.square(mean_p))
        var_t = unbiased * (mean_of @ np.square(t0) - np.square(mean_t))
        both = unbiased * (mean_of @ (p0 * t0) - mean_p * mean_t)
        mean_p, mean_t = mean_p + centre, mean_t + centre
        c1, c2 = (_K1 * high) ** 2, (_K2 * high) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            values = ((2 * mean_p * mean_t + c1) * (2 * both + c2)) / (
                (np.square(mean_p) + np.square(mean_t) + c1) * (var_p + var_t + c2)
            )
        result[start : start + genes] = np.where(metrics.varying(t), values.mean(axis=0), np.nan)
    return result
