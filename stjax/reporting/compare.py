"""Paired tests between runs, at three levels that answer three questions.

genes     is one model better for most genes of this tissue? Wilcoxon's signed-rank test on the genes' PCCs. Genes are
          measured in the same spots and vary together, so its p-value is too small to speak of other tissue.
spots     would it be on spots drawn anew from these sections? Squares of neighbouring spots are resampled within each
          section, the same for both runs, and the difference of the median PCCs is read off anew.
patients  would it be on other patients? An exact sign test on the patients' median PCCs; with fewer than
          `FEWEST_PATIENTS` it cannot come out below 0.05, and is not made.

p-values of a level are Holm-corrected over the pairs of runs.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

from stjax import metrics
from stjax.reporting.read import RunResults, Section

FEWEST_PATIENTS = 6
LEVEL = 0.9
RESAMPLES = 1000
_BLOCKS_PER_SIDE, _FEWEST_BLOCKS = 5, 6
_SAME = 1e-4  # truths that differ by less are the same measurement


@dataclasses.dataclass
class Level:
    """One test. `p` is None, and `why` says why, where it was not made.

    Attributes:
        n: genes, blocks of spots or patients; wins: for how many the first run is better (not of blocks).
        difference: of the median PCCs (of genes: the median of the differences), first run minus second.
        low, high: its `LEVEL` bootstrap interval, of spots.
    """

    n: int = 0
    wins: int | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    why: str = ""


@dataclasses.dataclass
class Pair:
    """Two runs, by their labels, and the three tests between them."""

    first: str
    second: str
    genes: Level
    spots: Level
    patients: Level


# Of a section: its patient, [S, 2] places and [S, G] truth of spots, and two runs' [S, G] predictions.
Paired = tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def compare(runs: Sequence[RunResults]) -> list[Pair]:
    """Every pair of runs, tested where what they were scored on is the same."""
    pairs = [_pair(a, b) for a, b in itertools.combinations(runs, 2)]
    for get in (lambda pair: pair.genes, lambda pair: pair.spots, lambda pair: pair.patients):
        _holm([get(pair) for pair in pairs])
    return pairs


def _pair(a: RunResults, b: RunResults) -> Pair:
    if why := _differ(a, b):
        return Pair(a.label, b.label, Level(why=why), Level(why=why), Level(why=why))
    columns_a, columns_b = _common_genes(a, b)
    pcc_a, pcc_b = a.genes["pcc"].to_numpy()[columns_a], b.genes["pcc"].to_numpy()[columns_b]
    genes = _signed_rank(pcc_a - pcc_b)
    sections: list[Paired] = []
    if len(a.sections) < len(a.metrics["sections"]) or len(b.sections) < len(b.metrics["sections"]):
        why = "not tested: predictions of some sections are missing"
        return Pair(a.label, b.label, genes, Level(why=why), Level(why=why))
    for x, y in zip(a.sections, b.sections, strict=True):
        paired = _pair_spots(x, y, columns_a, columns_b)
        if isinstance(paired, str):
            return Pair(a.label, b.label, genes, Level(why=paired), Level(why=paired))
        sections.append(paired)
    spots = _resampled(sections, pooling=a.metrics.get("pcc_pooling", "pooled"))
    return Pair(a.label, b.label, genes, spots, _over_patients(sections))


def _differ(a: RunResults, b: RunResults) -> str:
    """Why two runs' figures cannot be compared at all; empty when they can."""
    for key, what in (("sections", "other sections"), ("units", "other targets"), ("truth", "another truth")):
        if a.metrics.get(key) != b.metrics.get(key):
            return f"not comparable: scored on {what}"
    if a.metrics.get("pcc_pooling") != b.metrics.get("pcc_pooling"):
        return "not comparable: PCC is pooled differently"
    return "" if len(_common_genes(a, b)[0]) else "not comparable: no gene in common"


def _common_genes(a: RunResults, b: RunResults) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the genes of both in each table."""
    rows = [
        {
            key: row
            for row, key in reversed(list(enumerate(zip(run.genes["gene"], run.genes["ensembl_id"], strict=True))))
        }
        for run in (a, b)
    ]
    both = [key for key in rows[0] if key in rows[1]]
    first, second = (np.array([of[key] for key in both], np.int64) for of in rows)
    return first, second


def _pair_spots(x: Section, y: Section, columns_x: np.ndarray, columns_y: np.ndarray) -> Paired | str:
    """The spots of a section that both runs were scored on, or why there are none to pair."""
    if x.truth is None or y.truth is None:
        return "not tested: nothing is measured in the spots"
    place = {spot: row for row, spot in enumerate(y.spot_id.tolist())}
    rows_x = np.array([row for row, spot in enumerate(x.spot_id.tolist()) if spot in place], np.int64)
    if len(place) < len(y.spot_id) or 2 * len(rows_x) < len(x.spot_id):
        return "not tested: the runs were scored on other spots"
    rows_y = np.array([place[spot] for spot in x.spot_id[rows_x].tolist()])
    truth = x.truth[np.ix_(rows_x, columns_x)]
    if not np.allclose(truth, y.truth[np.ix_(rows_y, columns_y)], atol=_SAME, equal_nan=True):
        return "not tested: the measured expression of the spots differs"
    predictions = x.prediction[np.ix_(rows_x, columns_x)], y.prediction[np.ix_(rows_y, columns_y)]
    return x.patient, x.spot_xy[rows_x], truth, *predictions


def _signed_rank(difference: np.ndarray) -> Level:
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return Level(why="not tested: no gene has a PCC in both")
    level = Level(len(difference), int(np.sum(difference > 0)), float(np.median(difference)))
    if not difference.any():
        return dataclasses.replace(level, p=1.0)
    return dataclasses.replace(level, p=float(stats.wilcoxon(difference).pvalue))  # pyright: ignore[reportAttributeAccessIssue]


def _resampled(sections: Sequence[Paired], *, pooling: str) -> Level:
    """The difference of the median PCCs, with squares of spots resampled within sections."""
    rng = np.random.default_rng(0)
    groups: dict[str | int, list[np.ndarray]] = {}  # what a PCC is over -> [2, R, 6, G] sums of its sections
    blocks = 0
    for place, (patient, xy, truth, *predictions) in enumerate(sections):
        block, count = _blocks(xy)
        blocks += count
        weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
        weights[0] = 1  # the first is the sample itself
        sums = [np.tensordot(weights, _moments(truth, each, block, count), 1) for each in predictions]
        group = {"pooled": 0, "section_median": place}.get(pooling, patient)
        groups.setdefault(group, []).append(np.stack(sums))
    pcc = np.stack([_pcc(np.sum(members, axis=0)) for members in groups.values()])  # [groups, 2, R, G]
    medians = _median(_median(pcc, axis=0), axis=-1)  # [2, R]
    difference = medians[0] - medians[1]
    known = difference[np.isfinite(difference)]
    if blocks < _FEWEST_BLOCKS or len(known) < RESAMPLES / 2 or not np.isfinite(difference[0]):
        return Level(why="not tested: too few spots, or constant ones")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = float(min(np.sum(known <= 0), np.sum(known >= 0)))
    p = min(1.0, 2 * (tail + 1) / (len(known) + 1))
    return Level(blocks, None, float(difference[0]), float(low), float(high), p)


def _blocks(xy: np.ndarray) -> tuple[np.ndarray, int]:
    """[S] square of each spot, `_BLOCKS_PER_SIDE` along the section's longer side, and how many have spots."""
    low = xy.min(axis=0)
    side = max(float(np.ptp(xy, axis=0).max()), 1e-9) / _BLOCKS_PER_SIDE
    cell = np.minimum(((xy - low) / side).astype(np.int64), _BLOCKS_PER_SIDE - 1)
    _, block = np.unique(cell @ [_BLOCKS_PER_SIDE, 1], return_inverse=True)
    return block, int(block.max()) + 1


def _moments(truth: np.ndarray, prediction: np.ndarray, block: np.ndarray, count: int) -> np.ndarray:
    """[blocks, 6, G] sums over each block's spots: 1, t, p, t², p², tp; spots without truth add none."""
    known = np.isfinite(truth) & np.isfinite(prediction)
    t, p = (np.where(known, values, 0).astype(np.float64) for values in (truth, prediction))
    each = np.stack([known.astype(np.float64), t, p, t * t, p * p, t * p], axis=1)  # [S, 6, G]
    sums = np.zeros((count, *each.shape[1:]))
    np.add.at(sums, block, each)
    return sums


def _pcc(sums: np.ndarray) -> np.ndarray:
    """Correlation from sums, [..., 6, G] to [..., G]; NaN where one is constant."""
    n, t, p, tt, pp, tp = np.moveaxis(sums, -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        var_t, var_p = tt - t * t / n, pp - p * p / n
        # Rounding leaves a constant gene a variance of about 1e-16 of its squares.
        varies = (var_t > 1e-12 * tt) & (var_p > 1e-12 * pp)
        return np.where(varies, (tp - t * p / n) / np.sqrt(np.where(varies, var_t * var_p, 1)), np.nan)


def _median(values: np.ndarray, *, axis: int) -> np.ndarray:
    """The median of what is known, NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of slices that are all NaN
        return np.nanmedian(values, axis=axis)


def _over_patients(sections: Sequence[Paired]) -> Level:
    """An exact sign test on the patients' median PCCs."""
    patients = sorted({patient for patient, *_ in sections})
    if len(patients) < FEWEST_PATIENTS:
        why = f"not tested: scored patients are {len(patients)}, at least {FEWEST_PATIENTS} are needed"
        return Level(len(patients), why=why)
    differences = []
    for patient in patients:
        members = [arrays for each, _, *arrays in sections if each == patient]
        truth, *predictions = (np.concatenate(part) for part in zip(*members, strict=True))
        pcc = [metrics.pearson_per_gene(each, truth) for each in predictions]
        differences.append(float(_median(pcc[0], axis=0) - _median(pcc[1], axis=0)))
    differing = [value for value in differences if value]
    wins = sum(value > 0 for value in differing)
    p = float(stats.binomtest(wins, len(differing)).pvalue) if differing else 1.0
    return Level(len(patients), wins, float(np.median(differences)), p=p)


def _holm(levels: Sequence[Level]) -> None:
    """Replaces p-values by Holm's."""
    made = sorted((level for level in levels if level.p is not None), key=lambda level: level.p or 0)
    largest = 0.0
    for rank, level in enumerate(made):
        largest = max(largest, min(1.0, (level.p or 0) * (len(made) - rank)))
        level.p = largest
