"""Paired tests between runs, at three levels that answer three questions.

genes     is one model better for most genes of this tissue? Wilcoxon's signed-rank test on the genes' PCCs. Genes are
          measured in the same spots and vary together, so its p-value is too small to speak of other tissue.
spots     would it be on spots drawn anew? The bootstrap of `stjax.evaluation.statistics`: patients where there are
          enough, blocks of neighbouring spots of these sections where not; the same draws for both runs.
patients  would it be on other patients? An exact sign test on the patients' median PCCs; with fewer than
          `FEWEST_PATIENTS` it cannot come out below 0.05, and is not made.

p-values of a level are Holm-corrected over the pairs of runs.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from stjax import metrics
from stjax.evaluation import statistics
from stjax.reporting.read import RunResults
from stjax.reporting.sections import DrawnSection

FEWEST_PATIENTS = 6
RESAMPLES = 1000
LEVELS = ("genes", "spots", "patients")
_SAME = 1e-4  # truths that differ by less are the same measurement


@dataclasses.dataclass
class Level:
    """One test. `p` is None, and `why` says why, where it was not made.

    Attributes:
        unit: what is paired, and how many: n; wins: for how many the first run is better.
        difference: of the median PCCs (of genes: the median of the differences), first run minus second.
        low, high: its interval, where units are drawn anew.
    """

    unit: str = ""
    n: int = 0
    wins: int | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    why: str = ""


@dataclasses.dataclass
class Pair:
    """Two runs, by their labels, and the tests between them over "genes", "spots" and "patients"."""

    first: str
    second: str
    levels: dict[str, Level]


# Of a section: its patient, [S, 2] places and [S, G] truth of spots, and two runs' [S, G] predictions.
Paired = tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def compare(runs: Sequence[RunResults]) -> list[Pair]:
    """Every pair of runs, tested where what they were scored on is the same."""
    return tested(itertools.combinations(runs, 2))


def tested(pairs: Iterable[tuple[RunResults, RunResults]]) -> list[Pair]:
    """Some pairs of runs, as `compare` tests them."""
    found = [_pair(a, b) for a, b in pairs]
    for name in LEVELS:
        _holm([pair.levels[name] for pair in found])
    return found


def _pair(a: RunResults, b: RunResults) -> Pair:
    pair = Pair(a.label, b.label, {})
    if why := _differ(a, b):
        return dataclasses.replace(pair, levels={name: Level(why=why) for name in LEVELS})
    columns_a, columns_b = _common_genes(a, b)
    pcc_a, pcc_b = a.genes["pcc"].to_numpy()[columns_a], b.genes["pcc"].to_numpy()[columns_b]
    pair.levels["genes"] = _signed_rank(pcc_a - pcc_b)
    why, sections = "", []
    if len(a.sections) < len(a.metrics["sections"]) or len(b.sections) < len(b.metrics["sections"]):
        why = "not tested: predictions of some sections are missing"
    for x, y in () if why else zip(a.sections, b.sections, strict=True):
        paired = _pair_spots(x, y, columns_a, columns_b)
        if isinstance(paired, str):
            why = paired
            break
        sections.append(paired)
    pair.levels["spots"] = Level(why=why) if why else _resampled(sections, pooling=a.metrics["pcc_pooling"])
    pair.levels["patients"] = Level(why=why) if why else _over_patients(sections)
    return pair


def _differ(a: RunResults, b: RunResults) -> str:
    """Why two runs' results cannot be compared at all; empty when they can."""
    for key, what in (
        ("sections", "other sections"),
        ("protocol", "another protocol"),
        ("target", "another target"),
        ("truth", "another truth"),
    ):
        if a.metrics.get(key) != b.metrics.get(key):
            return f"not comparable: scored on {what}"
    if a.metrics["pcc_pooling"] != b.metrics["pcc_pooling"]:
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


def _pair_spots(x: DrawnSection, y: DrawnSection, columns_x: np.ndarray, columns_y: np.ndarray) -> Paired | str:
    """The spots of a section that both runs were scored on, or why there are none to pair."""
    if x.truth is None or y.truth is None:
        return "not tested: nothing is measured in the spots"
    place = {spot: row for row, spot in enumerate(y.spots.id.tolist())}
    rows_x = np.array([row for row, spot in enumerate(x.spots.id.tolist()) if spot in place], np.int64)
    if len(place) < len(y.spots) or 2 * len(rows_x) < len(x.spots):
        return "not tested: the runs were scored on other spots"
    rows_y = np.array([place[spot] for spot in x.spots.id[rows_x].tolist()])
    truth = x.truth[np.ix_(rows_x, columns_x)]
    if not np.allclose(truth, y.truth[np.ix_(rows_y, columns_y)], atol=_SAME, equal_nan=True):
        return "not tested: the measured expression of the spots differs"
    predictions = x.prediction[np.ix_(rows_x, columns_x)], y.prediction[np.ix_(rows_y, columns_y)]
    return x.patient, x.spots.xy[rows_x], truth, *predictions


def _signed_rank(difference: np.ndarray) -> Level:
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return Level(why="not tested: no gene has a PCC in both")
    level = Level("genes", len(difference), int(np.sum(difference > 0)), float(np.median(difference)))
    p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0  # pyright: ignore[reportAttributeAccessIssue]
    return dataclasses.replace(level, p=p)


def _resampled(sections: Sequence[Paired], *, pooling: str) -> Level:
    """The difference of the median PCCs, with patients or blocks of spots drawn anew, the same for both runs."""
    patients, xy, truths, *predictions = (list(part) for part in zip(*sections, strict=True))
    units = statistics.Units.of(xy, patients)
    group = metrics.group_of_section(patients, pooling)
    bootstrap = statistics.Bootstrap(units, np.repeat(group, [len(truth) for truth in truths]), resamples=RESAMPLES)
    truth = np.concatenate(truths)
    drawn = [bootstrap.draw(np.concatenate(each), truth) for each in predictions]
    own = [_median(metrics.pooled_pcc(each, truths, patients, pooling=pooling)) for each in predictions]
    estimate = float(own[0] - own[1])
    differences = [_median(first.pcc) - _median(second.pcc) for first, second in zip(*drawn, strict=True)]
    low, high = (float(end) for end in statistics.intervals(estimate, differences, units, scale="difference"))
    count, unit = len(units.stratum), units.kind.replace("_", " ")
    if not np.isfinite(low):
        return Level(unit, count, why="not tested: too few spots, or constant predictions")
    # The interval is Student's t: its p-value follows from its width.
    quantile = float(stats.t.ppf((1 + statistics.LEVEL) / 2, max(units.freedom, 1)))
    error = (high - low) / 2 / quantile
    p = 2 * float(stats.t.sf(abs(estimate) / error, max(units.freedom, 1))) if error > 0 else float(estimate == 0)
    return Level(unit, count, None, estimate, low, high, p)


def _median(pcc: np.ndarray) -> np.ndarray:
    """[...] median over the genes [..., G] that have a PCC, NaN where none has."""
    return metrics.median_of_known(np.moveaxis(pcc, -1, 0))


def _over_patients(sections: Sequence[Paired]) -> Level:
    """An exact sign test on the patients' median PCCs."""
    patients, _, truths, *predictions = (list(part) for part in zip(*sections, strict=True))
    if (count := len(set(patients))) < FEWEST_PATIENTS:
        why = f"not tested: scored patients are {count}, at least {FEWEST_PATIENTS} are needed"
        return Level("patients", count, why=why)
    rule = {"pooling": "patient_median"}
    pcc = [metrics.of_groups(metrics.pearson_per_gene, each, truths, patients, **rule) for each in predictions]
    differences = (_median(pcc[0]) - _median(pcc[1])).tolist()
    differing = [value for value in differences if value]
    wins = sum(value > 0 for value in differing)
    p = float(stats.binomtest(wins, len(differing)).pvalue) if differing else 1.0
    return Level("patients", count, wins, float(np.median(differences)), p=p)


def _holm(levels: Sequence[Level]) -> None:
    """Replaces p-values by Holm's."""
    corrected = statistics.holm(np.array([np.nan if level.p is None else level.p for level in levels]))
    for level, p in zip(levels, corrected, strict=True):
        level.p = None if np.isnan(p) else float(p)
