"""What protocols name: transforms of counts to the targets of training, their inverses, and rankings of genes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

COUNTS_PER_SPOT = 1e4  # library size after normalisation, scanpy's convention


# A target transform takes counts [..., G], the spots' totals [..., 1] and the number of genes those totals are over.


def log1p_counts(counts: Any, total: Any, num_genes: int) -> Any:
    """log(1 + counts); BrST-Net's target, with no library-size normalisation."""
    del total, num_genes
    return _array_module(counts).log1p(counts)


def log1p_library(counts: Any, total: Any, num_genes: int) -> Any:
    """log(1 + 10,000 counts / total counts of the spot)."""
    del num_genes
    xp = _array_module(counts)
    return xp.log1p(counts * (COUNTS_PER_SPOT / xp.maximum(total, 1)))


def log_smoothed_share(counts: Any, total: Any, num_genes: int) -> Any:
    """log((1 + counts) / (number of genes + total counts of the spot)); ST-Net's target."""
    return _array_module(counts).log((1 + counts) / (num_genes + total))


def _array_module(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return np
    import jax.numpy as jnp  # where arrays are JAX's, it is imported already

    return jnp


TRANSFORMS = {
    "log1p_counts": log1p_counts,
    "log1p_library": log1p_library,
    "log_smoothed_share": log_smoothed_share,
}
FORMULAS = {  # for whoever reads a table
    "log1p_counts": "log(1 + counts)",
    "log1p_library": "log(1 + 10,000 counts / total)",
    "log_smoothed_share": "log((1 + counts) / (genes + total))",
}


class Moments(NamedTuple):
    """Of counts over some spots: mean and mean square [G] of each gene."""

    spots: int
    mean: np.ndarray
    square: np.ndarray

    @classmethod
    def of(cls, blocks: Iterable[Any], spots: int) -> "Moments":
        """Of counts in blocks of rows [n, G], CSR, of so many spots together."""
        mean, square = 0.0, 0.0
        for block in blocks:
            counts = block.astype(np.float64)
            mean += np.asarray((counts * (1.0 / spots)).sum(axis=0)).ravel()
            square += np.asarray((counts.multiply(counts) * (1.0 / spots)).sum(axis=0)).ravel()
        return cls(spots, np.asarray(mean), np.asarray(square))


# A ranking takes the counts' moments and the columns that may be chosen, and returns those, best first.


def by_mean_count(moments: Moments, eligible: np.ndarray) -> np.ndarray:
    """By mean raw count; BrST-Net's and ST-Net's panels."""
    return eligible[np.argsort(-moments.mean[eligible], kind="stable")]


def by_variability(moments: Moments, eligible: np.ndarray) -> np.ndarray:
    """By dispersion among genes of similar mean: scanpy's `highly_variable_genes(flavor="seurat")` of log counts."""
    mean, square, spots = moments.mean[eligible], moments.square[eligible], moments.spots
    variance = (square - mean**2) * (spots / max(spots - 1, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = np.log(np.where(variance > 0, variance / mean, np.nan))
    level = np.log1p(mean)
    edges = np.linspace(level.min(), level.max(), 21)[1:-1]
    place = np.searchsorted(edges, level)
    result = np.full(len(eligible), -np.inf)
    for bin_ in np.unique(place):
        members = np.flatnonzero((place == bin_) & np.isfinite(dispersion))
        if len(members) > 1:
            centred = dispersion[members] - dispersion[members].mean()
            result[members] = centred / max(float(np.std(dispersion[members], ddof=1)), 1e-12)
        else:
            result[members] = 1.0
    return eligible[np.argsort(-result, kind="stable")]


RANKINGS = {"mean_count": by_mean_count, "variability": by_variability}

# What counts a value of a target stands for, given the spots' totals; by the targets' names.
INVERSES = {
    "log1p_counts": lambda values, total, num_genes: np.expm1(values),  # noqa: ARG005
    "log1p_library": lambda values, total, num_genes: np.expm1(values) * (total / COUNTS_PER_SPOT),  # noqa: ARG005
    "log_smoothed_share": lambda values, total, num_genes: np.exp(values) * (num_genes + total) - 1,
}
