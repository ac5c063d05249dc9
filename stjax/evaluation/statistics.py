"""Intervals and tests of metrics over spots that are no independent draws.

Neighbouring spots, and the spots of a patient, share much: what is drawn again, or permuted, is therefore the patient
or a compact block of spots, never a spot alone. `docs/evaluation.md` says how well the intervals cover.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse

from stjax import metrics
from stjax.intervals import LEVEL

BOOTSTRAPS = 1000
PERMUTATIONS = 9999  # Holm over 250 genes asks for p-values of 0.0002
_ENOUGH_SECTIONS = 3  # with two, each penalty would be judged by a model of one
MIN_PATIENTS = 4  # fewer are no sample of patients; spatial blocks are drawn instead
# A section is halved so many times: into 4 blocks to draw, and 16 to see what blocks of half the side would say.
COARSE, FINE = 2, 4
# Of the difference between the two, added to what the coarse ones say. 1 would do if blocks were far larger than what
# is alike in a map; with 3 intervals cover as they should where they are not (docs/evaluation.md).
EXTRAPOLATED = 3.0
MOVED = 3  # into 8 blocks to permute, and 32
BLOCK_SPOTS = 4  # at least, of a block
_CHUNK = 1 << 24  # values of spots and genes held at a time


def spatial_code(xy: np.ndarray) -> tuple[np.ndarray, int]:
    """Places of spots in an order in which halves, quarters, ... are compact patches of nearly as many spots.

    Args:
        xy: [S, 2].

    Returns:
        [S] int64 codes, all different, and their number of bits: `code >> (bits - k)` is one of 2^k patches.
    """
    count = len(xy)
    bits = max(int(np.ceil(np.log2(max(count, 1)))), 0)
    order, group = np.arange(count), np.zeros(count, np.int64)
    axis = int(np.argmax(np.ptp(xy, axis=0))) if count else 0
    for level in range(bits):
        order = order[np.lexsort((xy[order, (axis + level) % 2], group))]
        start = np.searchsorted(group, group)
        size = np.searchsorted(group, group, side="right") - start
        group = 2 * group + (np.arange(count) - start >= (size + 1) // 2)
    code = np.empty(count, np.int64)
    code[order] = group
    return code, bits


def _blocks(code: np.ndarray, bits: int, halvings: int) -> np.ndarray:
    """[S] the block of each spot, 0, 1, ..., after so many halvings, or as many as leave `BLOCK_SPOTS` in each."""
    most = int(np.floor(np.log2(max(len(code) / BLOCK_SPOTS, 1))))
    return code >> (bits - min(halvings, most))


def held_out(patient: np.ndarray, section: np.ndarray) -> str:
    """What a penalty is chosen on, which is as unlike the rest as what is scored: "patients"; "sections" of a single
    patient, where there are enough of them; else "spatial_blocks" of these.

    Args:
        patient, section: [N] whose each spot is.
    """
    if len(np.unique(patient)) > 1:
        return "patients"
    return "sections" if len(np.unique(section)) >= _ENOUGH_SECTIONS else "spatial_blocks"


def groups_to_hold_out(patient: np.ndarray, section: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """[N] int64 groups of spots that know little of one another, of the kind that `held_out` says.

    Args:
        patient, section: [N] whose each spot is; xy: [N, 2] where.
    """
    kind = held_out(patient, section)
    group = np.unique(section if kind == "sections" else patient, return_inverse=True)[1]
    if kind != "spatial_blocks":
        return group
    for name in np.unique(section):
        rows = np.flatnonzero(section == name)
        group[rows] = _blocks(*spatial_code(xy[rows]), COARSE) + group.max() + 1
    return group


@dataclasses.dataclass(frozen=True)
class Units:
    """What is drawn again.

    Attributes:
        kind: "patients" or "spatial_blocks".
        of_spot: [N] the unit of each spot.
        stratum: [U] units are drawn among those of their stratum: a section for blocks, one for all patients.
        finer: units of half the side, from which the share of the spread that neighbouring blocks have in common is
            extrapolated; None for patients.
    """

    kind: str
    of_spot: np.ndarray
    stratum: np.ndarray
    finer: "Units | None" = None

    @classmethod
    def of(cls, xy: Sequence[np.ndarray], patients: Sequence[str]) -> "Units":
        """Patients where there are several, blocks of the sections where not.

        Args:
            xy: [S, 2] of each section.
            patients: whose section each is.
        """
        names, patient = np.unique(np.array(patients), return_inverse=True)
        if len(names) >= MIN_PATIENTS:
            of_spot = np.repeat(patient, [len(each) for each in xy])
            return cls("patients", of_spot, np.zeros(len(names), np.int64))
        codes = [spatial_code(each) for each in xy]
        coarse, fine = (cls._of_blocks([_blocks(*code, halvings) for code in codes]) for halvings in (COARSE, FINE))
        return dataclasses.replace(coarse, finer=fine)

    @classmethod
    def _of_blocks(cls, blocks: Sequence[np.ndarray]) -> "Units":
        counts = [int(each.max(initial=-1)) + 1 for each in blocks]
        first = np.cumsum([0, *counts[:-1]])
        of_spot = np.concatenate([block + start for block, start in zip(blocks, first, strict=True)])
        return cls("spatial_blocks", of_spot, np.repeat(np.arange(len(blocks)), counts))

    @property
    def freedom(self) -> int:
        """How many more units than strata there are."""
        return len(self.stratum) - len(np.unique(self.stratum))


@dataclasses.dataclass(frozen=True)
class Draws:
    """Metrics of each gene over drawn spots: pcc, mae and rmse, [R, G] each; PCC is NaN where a draw is constant."""

    pcc: np.ndarray
    mae: np.ndarray
    rmse: np.ndarray


class Bootstrap:
    """Draws units with replacement, the same ones for every method: metrics of two methods are paired.

    Each unit's sums of values and products are taken once, about the genes' means so that nothing cancels; the sums
    of a draw are then a matrix product of how often each unit is drawn with the units' sums.
    """

    def __init__(self, units: Units, group: np.ndarray, *, resamples: int = BOOTSTRAPS, seed: int = 0):
        """
        Args:
            group: [N] PCCs are of the spots of a group; the median over groups counts.
        """
        self.units = units
        self._finer = None if units.finer is None else Bootstrap(units.finer, group, resamples=resamples, seed=seed)
        rng = np.random.default_rng(seed)
        self._times = np.zeros((resamples, len(units.stratum)))
        for stratum in np.unique(units.stratum):
            members = np.flatnonzero(units.stratum == stratum)
            self._times[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
        pairs, cell = np.unique(np.stack([group, units.of_spot]), axis=1, return_inverse=True)
        self._group, self._unit = pairs
        cells, spots = pairs.shape[1], len(group)
        self._sums = scipy.sparse.csr_array((np.ones(spots), (cell.ravel(), np.arange(spots))), shape=(cells, spots))

    def draw(self, prediction: np.ndarray, truth: np.ndarray) -> tuple[Draws, ...]:
        """Metrics of [N, G] predictions and truths over every draw; those of `units.finer` after those of `units`."""
        genes = max(1, _CHUNK // max(len(truth), 1))
        parts = [
            self._draw(prediction[:, start : start + genes], truth[:, start : start + genes])
            for start in range(0, truth.shape[1], genes)
        ]
        own = Draws(*(np.concatenate(each, axis=1) for each in zip(*parts, strict=True)))
        return (own,) if self._finer is None else (own, *self._finer.draw(prediction, truth))

    def _draw(self, prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
        error = prediction - truth
        means = prediction.mean(axis=0), truth.mean(axis=0)
        p, t = prediction - means[0], truth - means[1]
        genes = truth.shape[1]
        times, count = self._times[:, self._unit], self._sums.sum(axis=1)
        spots = times @ count
        absolute = times @ (self._sums @ np.abs(error)) / spots[:, None]
        square = times @ (self._sums @ np.square(error)) / spots[:, None]

        moments = np.concatenate([self._sums @ part for part in (p, t, p * p, t * t, p * t)], axis=1)  # [cells, 5 G]
        every = []
        groups = np.unique(self._group)
        for group in groups:
            cells = self._group == group
            n = (times[:, cells] @ count[cells])[:, None]
            sums = (times[:, cells] @ moments[cells]).reshape(len(n), 5, genes)
            every.append(_correlation(n, sums, means))
        # A patient drawn twice counts twice in the median over patients, or over sections.
        own = [np.unique(self._unit[self._group == group]) for group in groups]
        if len(groups) > 1 and all(len(units) == 1 for units in own) and self.units.kind == "patients":
            weights = self._times[:, [units[0] for units in own]].T
        else:
            weights = np.ones((len(groups), len(times)))
        pcc = every[0] if len(groups) == 1 else _weighted_median(np.stack(every), weights)
        return pcc, absolute, np.sqrt(square)


def _correlation(n: np.ndarray, sums: np.ndarray, means: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[R, G] PCC from a number of spots [R, 1] and sums [R, 5, G] of both values, both squares and products, all about
    `means` [G]."""
    p, t, pp, tt, pt = np.moveaxis(sums, 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        var_p, var_t = pp - p * p / n, tt - t * t / n
        # The squares of the values themselves are at most twice these. They count the digits lost in var_p, too: of
        # values that are the same in this draw and not in others.
        sizes = (pp / n + np.square(means[0]), tt / n + np.square(means[1]))
        known = metrics.varies(var_p / n, sizes[0]) & metrics.varies(var_t / n, sizes[1]) & (n > 1)
        return np.where(known, np.clip((pt - p * t / n) / np.sqrt(var_p * var_t), -1, 1), np.nan)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R, G] medians of [K, R, G] values that count [K, R] times; NaN does not count."""
    order = np.argsort(values, axis=0)  # NaN last
    ranked = np.take_along_axis(values, order, axis=0)
    times = np.take_along_axis(np.broadcast_to(weights[:, :, None], values.shape), order, axis=0)
    upto = np.cumsum(np.where(np.isnan(ranked), 0, times), axis=0)
    total = upto[-1]
    middle = [np.take_along_axis(ranked, np.argmax(upto > place, axis=0)[None], axis=0)[0]
              for place in (np.floor((total - 1) / 2), np.floor(total / 2))]  # fmt: skip
    return np.where(total > 0, (middle[0] + middle[1]) / 2, np.nan)


_SCALES = {  # metrics are normal on this scale rather than on their own
    "correlation": (lambda x: np.arctanh(np.clip(x, -1 + 1e-12, 1 - 1e-12)), np.tanh),
    "error": (lambda x: np.log(np.maximum(x, 1e-300)), np.exp),
    "difference": (lambda x: x, lambda x: x),
}


def intervals(
    estimate: np.ndarray | float, draws: Sequence[np.ndarray], units: Units, *, scale: str, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Where a metric lies with probability `level`, from its spread over draws: Student's t on the scale of `scale`.

    Percentiles of the draws are too narrow for a few units; here the spread is widened for the units lost, the quantile
    is that of as many degrees of freedom as there are units beyond one a stratum, and what neighbouring blocks share
    is extrapolated from blocks of half the side (batch means after Vats and Flegal, Biometrika 2022, "over-lugsail").

    Args:
        estimate: [...] over all spots.
        draws: [R, ...] of `units`, then of `units.finer` if there is one.
        scale: "correlation", "error" or "difference".

    Returns:
        Low and high, [...]; NaN where there is no estimate, or too few units or draws.
    """
    from scipy import stats  # which takes half a second; training needs the groups alone

    forward, inverse = _SCALES[scale]
    estimate = np.asarray(estimate, np.float64)
    variance = _variance(forward(np.asarray(draws[0], np.float64)), units)
    if units.finer is not None:
        finer = _variance(forward(np.asarray(draws[1], np.float64)), units.finer)
        variance = variance + EXTRAPOLATED * np.maximum(np.nan_to_num(variance - finer), 0)
    half = np.sqrt(variance) * stats.t.ppf((1 + level) / 2, max(units.freedom, 1))
    return inverse(forward(estimate) - half), inverse(forward(estimate) + half)


def _variance(draws: np.ndarray, units: Units) -> np.ndarray:
    """[...] variance of a metric over draws [R, ...] of units, NaN where most draws have none."""
    known = np.isfinite(draws)
    count = known.sum(axis=0)
    usable = (count > len(draws) / 2) & (units.freedom > 0)
    values = np.where(known, draws, 0.0)
    middle = values.sum(axis=0) / np.maximum(count, 1)
    squares = np.where(known, np.square(values - middle), 0.0).sum(axis=0)
    lost = len(units.stratum) / max(units.freedom, 1)
    return np.where(usable, squares / np.maximum(count - 1, 1) * lost, np.nan)


def permutation_p(
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    xy: Sequence[np.ndarray],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> np.ndarray:
    """One-sided p-value of each gene: how often the prediction of other places fits a section as well as its own.

    The prediction's spatial blocks are permuted within each section, their spots kept in order: both maps stay nearly
    as smooth as they are, so that two smooth maps do not pass for related; what blocks cut off is extrapolated from
    blocks of half the side. The metric compared is the sum over sections of spots times the PCC within the section.

    Args:
        predictions, truths: [S, G] of each section; xy: [S, 2].

    Returns:
        [G]; NaN for a gene that varies in no section.
    """
    rng = np.random.default_rng(seed)
    genes = truths[0].shape[1]
    found, middle, variance, finer = np.zeros((4, genes))
    drawn = np.zeros((permutations, genes), np.float32)
    for prediction, truth, places in zip(predictions, truths, xy, strict=True):
        p, t, code = _standardised(prediction), _standardised(truth), spatial_code(places)
        fit = _fit_of_blocks(p, t, *code, MOVED)
        blocks = len(fit)
        moved = rng.permuted(np.tile(np.arange(blocks), (permutations, 1)), axis=1) + blocks * np.arange(blocks)
        chosen = scipy.sparse.csr_array(
            (np.ones(moved.size, np.float32), moved.ravel(), np.arange(permutations + 1) * blocks),
            shape=(permutations, blocks * blocks),
        )
        drawn += chosen @ fit.reshape(-1, genes).astype(np.float32)
        found += np.einsum("iig->g", fit)
        middle += fit.sum(axis=(0, 1)) / blocks
        variance += _permutation_variance(fit)
        finer += _permutation_variance(_fit_of_blocks(p, t, *code, MOVED + 2))
    varies = variance > 0
    wider = np.sqrt(1 + np.maximum(1 - finer / np.where(varies, variance, 1), 0))
    reached = np.sum(drawn - middle >= (found - middle) / wider - 1e-5 * np.sqrt(variance), axis=0)
    return np.where(varies, (1 + reached) / (1 + permutations), np.nan)


def _fit_of_blocks(p: np.ndarray, t: np.ndarray, code: np.ndarray, bits: int, halvings: int) -> np.ndarray:
    """[B, B, G] sums of products of every block of `t` [S, G] with every block of `p`, spot by spot in order; at most
    one spot a block is left out, so that all are of one size."""
    order = np.argsort(code)
    block = _blocks(code, bits, halvings)[order]
    blocks = int(block.max(initial=-1)) + 1
    size = len(code) // max(blocks, 1)
    kept = order[np.arange(len(order)) - np.searchsorted(block, block) < size]
    ours, theirs = (np.moveaxis(each[kept].reshape(blocks, size, -1), 2, 0) for each in (t, p))
    return np.moveaxis(ours @ theirs.swapaxes(1, 2), 0, 2)


def _permutation_variance(fit: np.ndarray) -> np.ndarray:
    """[G] variance of the sum over i of fit[i, permuted(i)], exactly."""
    if len(fit) < 2:
        return np.zeros(fit.shape[2])
    centred = fit - fit.mean(axis=0) - fit.mean(axis=1)[:, None] + fit.mean(axis=(0, 1))
    return np.square(centred).sum(axis=(0, 1)) / (len(fit) - 1)


def _standardised(values: np.ndarray) -> np.ndarray:
    """[S, G] of mean 0 and mean square 1; a gene that does not vary, or holds NaN, is 0."""
    values, known = np.asarray(values, np.float64), metrics.varying(values)
    centred = values - values.mean(axis=0)
    square = np.square(centred).mean(axis=0)
    return np.where(known, centred / np.sqrt(np.where(known, square, 1)), 0.0)


def holm(p: np.ndarray) -> np.ndarray:
    """[G] p-values corrected for their number after Holm (1979); NaN stays, and is not counted."""
    result = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    result[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return result


def sign_test(pcc: np.ndarray) -> np.ndarray:
    """[G] p-values of ST-Net's test: that a gene's PCC is positive in as many patients, if its sign were a coin's.

    Args:
        pcc: [P, G] of each patient; NaN and 0 are no sign.
    """
    from scipy import stats

    positive, signs = np.sum(pcc > 0, axis=0), np.sum(np.abs(pcc) > 0, axis=0)
    return np.where(signs > 0, stats.binom.sf(positive - 1, signs, 0.5), np.nan)


def patients_needed(genes: int, alpha: float = 0.05) -> int:
    """How many patients the sign test needs before Holm over so many genes can leave one below `alpha`."""
    return int(np.ceil(np.log2(max(genes, 1) / alpha)))
