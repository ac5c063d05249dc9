"""STP-Bench's gene panel: highly expressed and highly variable genes, from moments added section by section."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_prep.errors import InputError
from stjax.targets import Moments, by_variability

NAME = "hmhvg"  # as protocols call it
VARIABLE = 2000  # genes of a section: scanpy's highly_variable_genes
_CONTROLS = re.compile(r"NegControlCodeword|NegControlProbe|UnassignedCodeword")
_HOUSEKEEPING = re.compile(r"MT|mt|RPS|RPL")  # at the beginning of a symbol: as published, it takes MTOR too


def rank(sections: Iterable[Any], names: np.ndarray) -> np.ndarray:
    """[E] columns that may be chosen, best first: those that are variable in some section, by the sum of their ranks in
    mean and in deviation of the counts over all spots; then the others that are counted in every section.

    One section is in memory at a time, and beside it sums of a few numbers a gene.

    Args:
        sections: of each the counts [S, G], CSR.
        names: [G] symbols.

    Raises:
        InputError: no gene is counted in every section.
    """
    from scipy import stats  # which takes half a second, and no other protocol needs

    named = np.array([not _CONTROLS.match(name) for name in names.tolist()])
    everywhere, moments, kept = named.copy(), np.zeros((2, len(names))), []
    spots = 0
    for counts in sections:
        total = np.asarray(counts.sum(axis=0), np.float64).ravel()
        moments += total, np.asarray(counts.multiply(counts.astype(np.float64)).sum(axis=0)).ravel()
        everywhere &= total > 0
        spots += counts.shape[0]
        kept.append(_variable(counts, np.flatnonzero(named & (total > 0))))
    if not everywhere.any():
        raise InputError(
            "no gene has counts in every section, which protocol stp asks of its genes; leave sections out"
        )
    variable = np.zeros(len(names), bool)
    variable[np.concatenate(kept)] = True
    candidate = np.array([not _HOUSEKEEPING.match(name) for name in names.tolist()]) & variable & everywhere
    columns = np.flatnonzero(candidate)
    mean, square = moments[:, columns] / spots
    deviation = np.sqrt(np.maximum(square - mean**2, 0) * (spots / max(spots - 1, 1)))
    score = sum(stats.rankdata(-values, method="min") for values in (mean, deviation))
    best = columns[np.argsort(score, kind="stable")]
    return np.concatenate([best, np.flatnonzero(everywhere & ~candidate)])


def _variable(counts: Any, genes: np.ndarray) -> np.ndarray:
    """The most variable of some genes in a section, once each spot has the median of the spots' totals."""
    chosen = counts[:, genes].astype(np.float64)
    total = np.asarray(chosen.sum(axis=1)).ravel()
    chosen, total = chosen[total > 0], total[total > 0]
    chosen.data *= np.repeat(np.median(total) / total, np.diff(chosen.indptr))
    return genes[by_variability(Moments.of([chosen], chosen.shape[0]), np.arange(len(genes)))[:VARIABLE]]
