"""Per-gene metrics and their summaries, float64. A constant gene has no correlation: NaN, counted, never zeroed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.stats

POOLINGS = ("pooled", "section_median", "patient_median")


def pearson_per_gene(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of each gene over spots.

    Args:
        prediction, truth: [S, G].

    Returns:
        [G] float64; NaN where prediction or truth is constant, or with fewer than two spots.
    """
    if len(truth) < 2:
        return np.full(truth.shape[1], np.nan)
    prediction = np.asarray(prediction, np.float64)
    truth = np.asarray(truth, np.float64)
    centred_p, centred_t = prediction - prediction.mean(axis=0), truth - truth.mean(axis=0)
    norm_p, norm_t = np.sqrt(np.sum(centred_p**2, axis=0)), np.sqrt(np.sum(centred_t**2, axis=0))
    varies = _varies(prediction.min(axis=0), prediction.max(axis=0)) & _varies(truth.min(axis=0), truth.max(axis=0))
    result = np.full(truth.shape[1], np.nan)
    dot = np.sum(centred_p * centred_t, axis=0)
    result[varies] = np.clip(dot[varies] / (norm_p[varies] * norm_t[varies]), -1.0, 1.0)
    return result


def _varies(least: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Whether values between these differ by more than rounding; not NaN."""
    return largest - least > 8 * np.finfo(np.float64).eps * np.maximum(np.abs(least), np.abs(largest))


def spearman_per_gene(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Spearman correlation of each gene over spots, as `pearson_per_gene`; ties share their mean rank."""
    if len(truth) < 2:
        return np.full(truth.shape[1], np.nan)
    return pearson_per_gene(ranks(prediction), ranks(truth))


def ranks(values: np.ndarray) -> np.ndarray:
    """[S, G] rank of each value among its gene's, from 1; equal values share their mean rank; NaN where a gene has
    any."""
    by_gene = np.ascontiguousarray(np.asarray(values, np.float64).T)  # sorts a gene's values where they lie together
    return scipy.stats.rankdata(by_gene, axis=1, nan_policy="propagate").T


class Moments:
    """Pearson correlation of each gene over spots that come a batch at a time; float64, exact for any number of them.

    Batches are merged by their means and centred sums (Chan, Golub and LeVeque 1983), so that nothing cancels.
    """

    def __init__(self, genes: int):
        self.count = 0
        self._mean = np.zeros((2, genes))  # of predictions and truths
        self._least, self._largest = np.full((2, genes), np.inf), np.full((2, genes), -np.inf)
        self._squares = np.zeros((2, genes))
        self._products = np.zeros(genes)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Adds [S, G] of each."""
        if not len(truth):
            return
        both = np.stack([np.asarray(prediction, np.float64), np.asarray(truth, np.float64)])
        mean = both.mean(axis=1)
        centred = both - mean[:, None]
        squares, products = np.square(centred).sum(axis=1), (centred[0] * centred[1]).sum(axis=0)
        self.merge(mean, squares, both.min(axis=1), both.max(axis=1), products, count=len(truth))

    def merge(
        self,
        mean: np.ndarray,
        squares: np.ndarray,
        least: np.ndarray,
        largest: np.ndarray,
        products: np.ndarray,
        *,
        count: int,
    ) -> None:
        """Adds a batch by its sums: of predictions and truths, [2, G] each, means, centred squares, least and largest;
        and [G] centred products."""
        total = self.count + count
        shift, weight = mean - self._mean, self.count * count / total
        self._squares += squares + np.square(shift) * weight
        self._products += products + shift[0] * shift[1] * weight
        self._mean += shift * (count / total)
        self._least, self._largest = np.minimum(self._least, least), np.maximum(self._largest, largest)
        self.count = total

    def pearson(self) -> np.ndarray:
        """[G]; NaN as in `pearson_per_gene`."""
        norm = np.sqrt(self._squares)
        varies = np.all(_varies(self._least, self._largest), axis=0) if self.count else np.zeros(norm.shape[1], bool)
        result = np.full(self._products.shape, np.nan)
        result[varies] = np.clip(self._products[varies] / (norm[0] * norm[1])[varies], -1.0, 1.0)
        return result


def mae_per_gene(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error of each gene over spots, [S, G] to [G], in the units given."""
    return np.abs(np.asarray(prediction, np.float64) - truth).mean(axis=0)


def rmse_per_gene(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root mean squared error of each gene over spots, [S, G] to [G], in the units given."""
    return np.sqrt(np.square(np.asarray(prediction, np.float64) - truth).mean(axis=0))


def pooled(
    figure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    patients: Sequence[str],
    *,
    pooling: str,
) -> np.ndarray:
    """A figure of each gene over sections, pooled the protocol's way.

    Args:
        figure: of [S, G] predictions and truths, [G].
        predictions, truths: one [S, G] a section.
        patients: whose section each is.
        pooling: "pooled" (all spots together), "section_median" (median of the sections' figures) or "patient_median"
            (each patient's sections pooled, median of the patients' figures).
    """
    groups: dict[int, list[int]] = {}
    for section, group in enumerate(group_of_section(patients, pooling).tolist()):
        groups.setdefault(group, []).append(section)
    each = np.stack(
        [
            figure(np.concatenate([predictions[i] for i in group]), np.concatenate([truths[i] for i in group]))
            for group in groups.values()
        ]
    )  # [groups, G]
    return median_of_known(each)


def pooled_pcc(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], patients: Sequence[str], *, pooling: str
) -> np.ndarray:
    """`pooled` Pearson correlation."""
    return pooled(pearson_per_gene, predictions, truths, patients, pooling=pooling)


def pooled_ranks(values: Sequence[np.ndarray], patients: Sequence[str], *, pooling: str) -> list[np.ndarray]:
    """Ranks of [S, G] values a section among all that are pooled with it: their `pooled_pcc` is Spearman's."""
    group = group_of_section(patients, pooling)
    result = list(values)
    for number in range(len(np.unique(group))):
        members = np.flatnonzero(group == number).tolist()
        parts = ranks(np.concatenate([values[i] for i in members]))
        for i, part in zip(members, np.split(parts, np.cumsum([len(values[i]) for i in members])[:-1]), strict=True):
            result[i] = part
    return result


def group_of_section(patients: Sequence[str], pooling: str) -> np.ndarray:
    """Which sections' spots a figure is taken over together: a number from 0 for each section."""
    if pooling == "patient_median":
        return np.unique(np.array(patients), return_inverse=True)[1]
    return np.arange(len(patients)) if pooling == "section_median" else np.zeros(len(patients), np.int64)


def median_of_known(values: np.ndarray) -> np.ndarray:
    """[...] median over the first axis of what is not NaN; NaN where nothing is known."""
    result = np.full(values.shape[1:], np.nan)
    known = ~np.all(np.isnan(values), axis=0)
    result[known] = np.nanmedian(values[:, known], axis=0)
    return result


def known(figure: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    """A figure, such as `np.nanmedian`, over what is not NaN; None where nothing is."""
    return None if np.all(np.isnan(values)) else float(figure(values))


def summarise(pcc: np.ndarray, mae: np.ndarray, rmse: np.ndarray) -> dict[str, Any]:
    """Figures over genes: mean, median and quartile PCC, BrST-Net's bands (Table 1), aMAE, aRMSE and MSE.

    Returns:
        None stands for a figure that does not exist (no gene has a PCC).
    """
    with_pcc = pcc[~np.isnan(pcc)]
    return {
        "genes": len(pcc),
        "genes_without_pcc": len(pcc) - len(with_pcc),
        "pcc_mean": known(np.nanmean, pcc),
        "pcc_median": known(np.nanmedian, pcc),
        "pcc_first_quartile": known(lambda values: np.nanquantile(values, 0.25), pcc),
        "genes_pcc_above_0": int(np.sum(with_pcc > 0)),
        "genes_pcc_0.1_to_0.3": int(np.sum((with_pcc > 0.1) & (with_pcc <= 0.3))),
        "genes_pcc_0.3_to_0.5": int(np.sum((with_pcc > 0.3) & (with_pcc <= 0.5))),
        "genes_pcc_above_0.5": int(np.sum(with_pcc > 0.5)),
        "amae": known(np.nanmean, mae),
        "armse": known(np.nanmean, rmse),
        "mse": known(np.nanmean, rmse**2),
    }
