"""Per-gene metrics and their summaries, float64. A gene that does not vary has no correlation: NaN, counted, never
zeroed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# A standard deviation of less than this share of the root mean square is rounding: 16 times what float32 rounds a value
# by, 2^-24. A prediction is a sum over a thousand features, each rounded on its way. Of linear layers over 64 to 2,048
# features that are the same but for one rounding each, the deviation is 0.9 roundings (median), at most 4.7 for 90 % of
# the outputs; of a trained network whose weights are each one rounding off, 0.1 to 0.8. What is left are genes whose
# parts cancel. Twice the limit may be real: predictions of a first epoch vary by 1e-6, sixty times rounding. It is
# relative, so that units do not matter: a share of 1e-5 that varies by 1e-6 does vary.
ROUNDING = 2.0**-20


def varies(variance: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Whether values differ by more than float32 rounds values of their size: the one limit for "does not vary".

    Args:
        variance: [...] mean of squares about the mean.
        mean_square: [...] mean of the squares themselves, or another bound on how large values are, squared.

    Returns:
        [...] bool; False where NaN.
    """
    return np.asarray(variance) > ROUNDING**2 * np.asarray(mean_square)


def varying(values: np.ndarray) -> np.ndarray:
    """[G] bool: which genes of [S, G] values vary over the spots, see `varies`; False for one that holds NaN."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return np.zeros(values.shape[1], bool)
    mean = values.mean(axis=0)
    return _vary(mean, np.square(values - mean).sum(axis=0), len(values))


def _vary(mean: np.ndarray, squares: np.ndarray, count: int) -> np.ndarray:
    """`varies` of values of a mean and a sum of squares about it."""
    return varies(squares / count, np.square(mean) + squares / count)


def constant(values: np.ndarray) -> np.ndarray:
    """[G] bool: which genes of [S, G] values are known and the same at every spot, up to rounding; none of one spot."""
    return ~varying(values) & ~np.isnan(values).any(axis=0) & (len(values) > 1)


def constant_genes(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], patients: Sequence[str], *, pooling: str
) -> dict[str, int]:
    """How many genes have no PCC for want of variation, and whose.

    Args:
        predictions, truths, patients, pooling: see `pooled`.

    Returns:
        "genes_constant_prediction" and "genes_constant_truth": the same at all spots that are pooled, wherever that is;
        "genes_constant_in_a_section": predicted the same within some section, though not everywhere.
    """
    predicted, measured = (constant_everywhere(each, patients, pooling=pooling) for each in (predictions, truths))
    somewhere = np.any([constant(each) for each in predictions], axis=0)
    return {
        "genes_constant_prediction": int(predicted.sum()),
        "genes_constant_truth": int(measured.sum()),
        "genes_constant_in_a_section": int(np.sum(somewhere & ~predicted)),
    }


def constant_everywhere(values: Sequence[np.ndarray], patients: Sequence[str], *, pooling: str) -> np.ndarray:
    """[G] bool: `constant` in every group of sections whose spots are pooled."""
    groups = _sections_of_groups(patients, pooling)
    return np.all([constant(np.concatenate([values[i] for i in group])) for group in groups], axis=0)


def scale_of(values: np.ndarray) -> np.ndarray:
    """[G] what to divide [S, G] values by: their standard deviations, 1 for a gene that does not vary, which so stays
    constant in place of becoming its own rounding errors."""
    return np.where(varying(values), np.std(values, axis=0, dtype=np.float64), 1.0)


def pearson_per_gene(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of each gene over spots.

    Args:
        prediction, truth: [S, G].

    Returns:
        [G] float64; NaN where prediction or truth does not vary (see `varies`), or with fewer than two spots.
    """
    if len(truth) < 2:
        return np.full(truth.shape[1], np.nan)
    both = (np.asarray(prediction, np.float64), np.asarray(truth, np.float64))
    means = [values.mean(axis=0) for values in both]
    centred = [values - mean for values, mean in zip(both, means, strict=True)]
    squares = [np.square(values).sum(axis=0) for values in centred]
    known = np.all([_vary(mean, square, len(truth)) for mean, square in zip(means, squares, strict=True)], axis=0)
    dot = np.sum(centred[0] * centred[1], axis=0)
    result = np.full(truth.shape[1], np.nan)
    result[known] = np.clip(dot[known] / np.sqrt(squares[0][known] * squares[1][known]), -1.0, 1.0)
    return result


def ranks(values: np.ndarray) -> np.ndarray:
    """[S, G] rank of each value among its gene's, from 1; equal values share their mean rank, as do all of a gene that
    does not vary; NaN where a gene has any."""
    by_gene = np.ascontiguousarray(np.asarray(values, np.float64).T)  # sorts a gene's values where they lie together
    from scipy import stats  # which takes a second, and predicting needs nothing of it

    ranked = stats.rankdata(by_gene, axis=1, nan_policy="propagate").T
    constant = ~varying(values) & ~np.isnan(ranked).any(axis=0)
    ranked[:, constant] = (len(ranked) + 1) / 2  # the order of rounding errors says nothing
    return ranked


class Moments:
    """Pearson correlation of each gene over spots that come a batch at a time; float64, exact for any number of them.

    Batches are merged by their means and centred sums (Chan, Golub and LeVeque 1983), so that nothing cancels.
    """

    def __init__(self, genes: int):
        self.count = 0
        self._mean = np.zeros((2, genes))  # of predictions and truths
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
        self.merge(mean, squares, products, count=len(truth))

    def merge(self, mean: np.ndarray, squares: np.ndarray, products: np.ndarray, *, count: int) -> None:
        """Adds a batch by its sums: of predictions and truths, [2, G] each, means and centred squares; and [G] centred
        products."""
        total = self.count + count
        shift, weight = mean - self._mean, self.count * count / total
        self._squares += squares + np.square(shift) * weight
        self._products += products + shift[0] * shift[1] * weight
        self._mean += shift * (count / total)
        self.count = total

    def varying(self) -> np.ndarray:
        """[2, G] bool: whether predictions, and truths, vary, as `varying`."""
        return _vary(self._mean, self._squares, max(self.count, 1))

    def pearson(self) -> np.ndarray:
        """[G]; NaN as in `pearson_per_gene`."""
        norm = np.sqrt(self._squares)
        known = self.varying().all(axis=0)
        result = np.full(self._products.shape, np.nan)
        result[known] = np.clip(self._products[known] / (norm[0] * norm[1])[known], -1.0, 1.0)
        return result


def mae_per_gene(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error of each gene over spots, [S, G] to [G], in the units given."""
    return np.abs(np.asarray(prediction, np.float64) - truth).mean(axis=0)


def rmse_per_gene(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root mean squared error of each gene over spots, [S, G] to [G], in the units given."""
    return np.sqrt(np.square(np.asarray(prediction, np.float64) - truth).mean(axis=0))


Maps = Sequence[np.ndarray]  # one [S, G] a section
Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of [S, G] predictions and truths, [G]


def pooled(figure: Figure, predictions: Maps, truths: Maps, patients: Sequence[str], *, pooling: str) -> np.ndarray:
    """A metric of each gene over sections, pooled the protocol's way.

    Args:
        predictions, truths: one [S, G] a section.
        patients: whose section each is.
        pooling: "pooled" (all spots together), "section_median" (median of the sections' metrics) or "patient_median"
            (each patient's sections pooled, median of the patients' metrics).
    """
    return median_of_known(of_groups(figure, predictions, truths, patients, pooling=pooling))


def of_groups(figure: Figure, predictions: Maps, truths: Maps, patients: Sequence[str], *, pooling: str) -> np.ndarray:
    """[groups, G] a metric of each gene over every group of sections whose spots are pooled; as `pooled` takes them."""
    groups = _sections_of_groups(patients, pooling)
    joined = [[np.concatenate([each[i] for i in group]) for each in (predictions, truths)] for group in groups]
    return np.stack([figure(prediction, truth) for prediction, truth in joined])


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


def _sections_of_groups(patients: Sequence[str], pooling: str) -> list[list[int]]:
    """The sections of each group that `group_of_section` numbers."""
    groups: dict[int, list[int]] = {}
    for section, group in enumerate(group_of_section(patients, pooling).tolist()):
        groups.setdefault(group, []).append(section)
    return list(groups.values())


def group_of_section(patients: Sequence[str], pooling: str) -> np.ndarray:
    """Which sections' spots a metric is taken over together: a number from 0 for each section."""
    if pooling == "patient_median":
        return np.unique(np.array(patients), return_inverse=True)[1]
    return np.arange(len(patients)) if pooling == "section_median" else np.zeros(len(patients), np.int64)


def median_of_known(values: np.ndarray) -> np.ndarray:
    """[...] median over the first axis of what is not NaN; NaN where nothing is known."""
    result = np.full(values.shape[1:], np.nan)
    known = ~np.all(np.isnan(values), axis=0)
    result[known] = np.nanmedian(values[:, known], axis=0)
    return result


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """[...] mean over the genes [..., G] that are known; NaN where none is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def known(figure: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    """A metric, such as `np.nanmedian`, over what is not NaN; None where nothing is."""
    return None if np.all(np.isnan(values)) else float(figure(values))


def summarise(pcc: np.ndarray, mae: np.ndarray, rmse: np.ndarray) -> dict[str, Any]:
    """Metrics over genes: mean, median and quartile PCC, BrST-Net's bands (Table 1), aMAE, aRMSE and MSE.

    Returns:
        None stands for a number that does not exist (no gene has a PCC).
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
