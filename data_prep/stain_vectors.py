"""Two stain vectors from the optical densities of a slide's tissue: Vahadane's and Macenko's, on weighted colours.

A stain is a unit row of RGB optical density (natural logarithm). The two rows are haematoxylin, then eosin.
"""

import numpy as np

from data_prep.colour import lab_from_rgb, percentile
from data_prep.errors import InputError

DICTIONARY_PENALTY, CONCENTRATION_PENALTY = 0.1, 0.01  # staintools' lambda of each
MIN_TISSUE_PIXELS = 500  # fewer cannot tell two stains apart
_TISSUE_LUMINOSITY = 0.8
_ANGLE_PERCENTILE = 99
# Haematoxylin and eosin of Ruifrok & Johnston 2001, table 1: one of the two starting points of the dictionary.
RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])

# Optical density of 8-bit values, natural logarithm; 0 counts as 1, so that it is finite (staintools).
DENSITY = np.maximum(-np.log(np.maximum(np.arange(256), 1) / 255.0), 1e-6)


def tissue_stains(colours: np.ndarray, counts: np.ndarray, origin: str) -> np.ndarray:
    """[2, 3] Macenko's stains of the tissue among colours uint8 [K, 3] as they are, of which there are `counts` [K].

    Args:
        origin: of the colours, for messages.

    Raises:
        InputError: too few of them are tissue.
    """
    tissue = tissue_of(colours, counts, origin, "choose another")
    return macenko_stains(DENSITY[colours[tissue]], counts[tissue].astype(np.float64))


def tissue_of(colours: np.ndarray, counts: np.ndarray, origin: str, remedy: str) -> np.ndarray:
    """[K] bool, which colours are of tissue. Raises InputError for too few pixels of it."""
    tissue = lab_from_rgb(colours)[:, 0] < 255 * _TISSUE_LUMINOSITY
    if (found := int(counts[tissue].sum())) < MIN_TISSUE_PIXELS:
        raise InputError(
            f"{origin}: found {found} tissue pixels (luminosity below {_TISSUE_LUMINOSITY}), expected at least "
            f"{MIN_TISSUE_PIXELS}; the slide is blank or too small: leave it out with --sections, or {remedy}"
        )
    return tissue


def vahadane_stains(density: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Two stains by sparse non-negative dictionary learning, minimised to convergence.

    Alternates the exact lasso with exact atom updates on the weighted colours. The cost is not convex: both Macenko's
    stains and Ruifrok's are tried as starting points, and the lower cost wins.

    Args:
        density: float64 [K, 3] optical densities of tissue colours.
        weight: float64 [K] pixels of each.

    Returns:
        float64 [2, 3], unit rows, haematoxylin (the redder absorber) first.
    """
    # Neighbouring colours merged (steps of 0.03) find the basin; all the colours then settle the digits.
    coarse, coarse_weight = _merge(density, weight, step=0.03)
    starts = [RUIFROK, np.maximum(macenko_stains(density, weight), 1e-3)]
    found = [_alternate(coarse, coarse_weight, s / np.linalg.norm(s, axis=1, keepdims=True)) for s in starts]
    best = min(found, key=lambda stains: dictionary_cost(coarse, coarse_weight, stains))
    return _haematoxylin_first(_alternate(density, weight, best))


def macenko_stains(density: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Two stains as the extreme directions within the plane of most variance (Macenko et al. 2009, as staintools).

    Args:
        density: float64 [K, 3] optical densities of tissue colours.
        weight: float64 [K] pixels of each.

    Returns:
        float64 [2, 3], unit rows, haematoxylin first.
    """
    total = weight.sum()
    centred = density - (density * weight[:, None]).sum(axis=0) / total
    covariance = (centred[:, :, None] * centred[:, None, :] * weight[:, None, None]).sum(axis=0) / total
    plane = np.linalg.eigh(covariance)[1][:, [2, 1]]  # [3, 2]
    plane = plane * np.where(plane[0] < 0, -1, 1)
    across, along = ((density * plane[:, i]).sum(axis=1) for i in (1, 0))
    angle = np.arctan2(across, along)
    extremes = [percentile(angle, weight, q) for q in (100 - _ANGLE_PERCENTILE, _ANGLE_PERCENTILE)]
    stains = np.stack([plane[:, 0] * np.cos(e) + plane[:, 1] * np.sin(e) for e in extremes])
    return _haematoxylin_first(stains / np.linalg.norm(stains, axis=1, keepdims=True))


def dictionary_cost(density: np.ndarray, weight: np.ndarray, stains: np.ndarray) -> float:
    """Weighted mean of 0.5 |x - c D|^2 + 0.1 |c|_1 at the best non-negative c: what dictionary learning minimises."""
    first, second = concentrations(density, stains, DICTIONARY_PENALTY)
    residual = density - first[:, None] * stains[0] - second[:, None] * stains[1]
    cost = 0.5 * np.square(residual).sum(axis=1) + DICTIONARY_PENALTY * (first + second)
    return float((cost * weight).sum() / weight.sum())


def _alternate(density: np.ndarray, weight: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Minimise `dictionary_cost` from `stains`: exact concentrations, then each atom exactly, until nothing moves."""
    for _ in range(2000):
        before = stains
        code = np.stack(concentrations(density, stains, DICTIONARY_PENALTY))  # [2, K]
        weighted = code * weight
        gram = (weighted[:, None] * code[None]).sum(axis=2)  # [2, 2]
        projection = (weighted[:, :, None] * density).sum(axis=1)  # [2, 3]
        stains = stains.copy()
        for atom in range(2):
            if gram[atom, atom] > 0:
                step = (projection[atom] - gram[atom, 0] * stains[0] - gram[atom, 1] * stains[1]) / gram[atom, atom]
                updated = np.maximum(stains[atom] + step, 0)
                stains[atom] = updated / max(1.0, np.sqrt((updated**2).sum()))
        if np.abs(stains - before).max() < 1e-7:
            break
    return stains / np.maximum(np.linalg.norm(stains, axis=1, keepdims=True), 1e-12)


def concentrations(density: np.ndarray, stains: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Exact argmin over c >= 0 of 0.5 |x - c D|^2 + penalty |c|_1, two unit stains: [K], [K].

    With two atoms the optimality conditions leave four cases (both, either, none), decided by signs.
    """
    a, b = (density[:, 0] * s[0] + density[:, 1] * s[1] + density[:, 2] * s[2] - penalty for s in stains)
    overlap = float((stains[0] * stains[1]).sum())
    a_given_b, b_given_a = a - overlap * b, b - overlap * a  # times (1 - overlap^2): with both stains present
    determinant = max(1 - overlap * overlap, 1e-12)
    first = np.where(b_given_a > 0, a_given_b / determinant, a)
    second = np.where(a_given_b > 0, b_given_a / determinant, b)
    return np.maximum(first, 0, out=first), np.maximum(second, 0, out=second)


def _haematoxylin_first(stains: np.ndarray) -> np.ndarray:
    return stains if stains[0, 0] >= stains[1, 0] else stains[::-1].copy()


def _merge(density: np.ndarray, weight: np.ndarray, *, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Colours within one cube of side `step` become their weighted mean: [k, 3], [k]."""
    cell = np.floor(density / step).astype(np.int64)
    _, group = np.unique((cell[:, 0] * 1000 + cell[:, 1]) * 1000 + cell[:, 2], return_inverse=True)
    total = np.bincount(group, weight)
    mean = np.stack([np.bincount(group, weight * density[:, i]) for i in range(3)], axis=1) / total[:, None]
    return mean, total
