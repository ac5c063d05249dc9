"""How well the best of predictors could do: counts are few, and no prediction correlates with their noise."""

from collections.abc import Callable, Sequence

import numpy as np

from stjax import metrics

SPLITS = 10
_VALUES = 1 << 24  # drawn in all: fewer splits of many spots are as sure
LEAST = 0.1  # ceilings below have no fraction

Transform = Callable[[np.ndarray, np.ndarray], np.ndarray]  # counts [S, M] and totals [S, 1] to expression [S, M]


def noise_ceiling(
    counts: Sequence[np.ndarray],
    totals: Sequence[np.ndarray],
    patients: Sequence[str],
    *,
    transform: Transform,
    pooling: str,
) -> tuple[np.ndarray, int]:
    """PCC of each gene between what was measured and what would be without counting noise, by count thinning.

    Every count goes to one of two halves by a coin: two measurements of the same tissue at half the depth, whose noise
    is independent if counts are Poisson. Their correlation, corrected to full depth (Spearman and Brown), is the
    reliability of the measurement; its square root is the ceiling. What varies beyond counting, from section to section
    or in how well a spot was permeated, counts as signal: the true ceiling is lower where there is such.

    Args:
        counts: [S, M] of each section; NaN for genes that the data lacks.
        totals: [S] of each section, all genes.
        patients: whose section each is.
        pooling: as PCCs are, see `metrics.pooled`.

    Returns:
        [M], NaN where halves are constant, and over how many splits.
    """
    rng = np.random.default_rng(0)
    size = sum(each.size for each in counts)
    splits = int(np.clip(_VALUES // max(size, 1), 2, SPLITS))
    found = []
    for _ in range(splits):
        halves = [thinned(rng, each, total) for each, total in zip(counts, totals, strict=True)]
        first, second = ([transform(*half) for half in side] for side in zip(*halves, strict=True))
        found.append(metrics.pooled_pcc(first, second, patients, pooling=pooling))
    half = metrics.median_of_known(np.stack(found))
    return np.sqrt(np.maximum(2 * half / (1 + half), 0.0)), splits


def fraction(pcc: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """[M] PCCs as fractions of their ceilings; NaN where the ceiling is so low that little but noise was measured."""
    return np.where(ceiling > LEAST, pcc / np.where(ceiling > LEAST, ceiling, 1), np.nan)


def thinned(
    rng: np.random.Generator, counts: np.ndarray, total: np.ndarray, share: float = 0.5
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts [S, M] and totals [S, 1] as if `share` of all counts had been caught, and those of the rest."""
    known = np.nan_to_num(counts).astype(np.int64)
    rest = np.maximum(np.round(total).astype(np.int64) - known.sum(axis=1), 0)  # counts of all other genes
    first, first_rest = rng.binomial(known, share), rng.binomial(rest, share)
    halves = ((first, first_rest), (known - first, rest - first_rest))
    unknown = np.where(np.isnan(counts), np.nan, 0.0)
    return [(half + unknown, (half.sum(axis=1) + other)[:, None].astype(np.float64)) for half, other in halves]
