"""Intervals around single predictions that hold the measurement as often as they say: split conformal prediction.

How far predictions were off on patients that the model is not trained on says how far they will be off on others. A
patient's spots are no independent examples, so patients count the same however many spots they have: errors are pooled
patient by patient (Dunn, Wasserman and Ramdas, Distribution-free prediction sets for two-layer hierarchical models,
JASA 2022). The guarantee needs level / (1 - level) patients, 9 for 90 %; with fewer a lower level is guaranteed
(`intervals.guaranteed_level`), and the coverage measured on the scored sections says more. More patients come from the
folds of a cross-validation (`--calibrate-with`), each of which has not seen others.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import metrics
from stjax.data.tile_spots import rounded
from stjax.evaluation import ensemble, shifted
from stjax.evaluation.comparison import Task
from stjax.inference import prepared
from stjax.inference.prediction import DISTANCE
from stjax.inference.prepared import Found
from stjax.intervals import LEVEL, Intervals, Widening, guaranteed_level
from stjax.workdir import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Half-widths of intervals.

    Attributes:
        half_width: [M] in expression units; NaN for a gene without errors, infinite where the level asks for it.
        patients: on whose spots.
        guaranteed: whether there are patients enough for the level to be promised.
        spot_size_um: of those spots; None of several sizes.
        widening: for sections unlike those; None where there is none.
    """

    half_width: np.ndarray
    patients: tuple[str, ...]
    guaranteed: bool
    level: float = LEVEL
    spot_size_um: float | None = None
    widening: Widening | None = None

    @classmethod
    def of(
        cls, errors: Mapping[str, np.ndarray], *, level: float = LEVEL, spot_size_um: float | None = None
    ) -> "Calibration":
        """From the errors [S, M] made on the spots of each patient."""
        guaranteed = level <= len(errors) / (len(errors) + 1)
        every = np.abs(np.concatenate(list(errors.values())))
        weight = np.concatenate([np.full(len(each), 1 / len(each)) for each in errors.values()])
        weight /= len(errors) + guaranteed  # the patient to come may err by anything
        order = np.argsort(every, axis=0)
        reached = np.cumsum(weight[order], axis=0) >= level - 1e-12
        place = np.argmax(reached, axis=0)[None]
        width = np.take_along_axis(np.take_along_axis(every, order, axis=0), place, axis=0)[0]
        half_width = np.where(reached.any(axis=0), width, np.inf)
        half_width = np.where(np.isnan(every).any(axis=0), np.nan, half_width)
        return cls(half_width, tuple(errors), guaranteed, level, spot_size_um)

    @property
    def guaranteed_level(self) -> float:
        """How often they hold at least the measurements of a patient to come; see `intervals.guaranteed_level`."""
        return guaranteed_level(self.level, len(self.patients), reached=self.guaranteed)

    def covered(self, prediction: np.ndarray, truth: np.ndarray, factor: np.ndarray | float = 1.0) -> np.ndarray:
        """[M] share of spots [S, M] whose measurement lies in the interval.

        Args:
            factor: [S, 1] by which the half-widths of each are multiplied.
        """
        known = np.isfinite(truth) & np.isfinite(self.half_width)
        inside = np.abs(truth - prediction) <= factor * self.half_width
        count = known.sum(axis=0)
        return np.where(count > 0, (inside & known).sum(axis=0) / np.maximum(count, 1), np.nan)


def calibrate(
    runs: Sequence[Run],
    *,
    sizes_um: Sequence[float],
    max_spots: int,
    folds: Sequence[Run] = (),
    scored: Collection[str] = (),
) -> tuple[Calibration | None, str]:
    """From the validation sections of every run, whose patients it is not trained on; or None and why there is none.

    With several runs, folds of a cross-validation, each is asked only about patients it was not trained on, and all
    their errors are pooled; half-widths are those of the first run's genes.

    Args:
        folds: further runs, whose held-out sections count too.
        scored: patients who are none of theirs, as the coverage is measured on them.
    """
    errors: dict[str, list[np.ndarray]] = {}
    copied: list[tuple[Run, PatchDataset, list[str]]] = []
    sizes: set[float] = set()
    if runs[0].view.any_size and len(sizes_um) > 1:
        return None, "errors differ between sizes of spots, and several are scored"
    for run, further in [*((run, False) for run in runs), *((run, True) for run in folds)]:
        held_out = (*run.fold.split.val, *(run.fold.split.test if further else ()))
        if not held_out:
            return None, "no validation sections, whose errors would be needed"
        if not further and set(run.fold.split.val) & set(run.fold.split.test):
            return None, "the validation sections are those of the test"
        try:
            dataset = run.open_dataset()
        except InputError as error:
            return None, str(error)
        known = {*run.fold.train_patients, *(scored if further else ())}
        unseen = [name for name in dict.fromkeys(held_out) if dataset.section(name)["patient"] not in known]
        if not unseen:
            continue
        if run is runs[0]:  # whose genes half-widths are of
            copied.append((run, dataset, unseen))
        options = {"sizes_um": sizes_um, "max_spots": max_spots, "colours": False}
        try:
            sections = prepared.predict_sections(run, dataset, unseen, **options)
        except InputError as error:  # it has no spots of the size that is scored
            return None, str(error)
        for found in sections:
            sizes.update(np.unique(rounded(found.prediction.size_um)))
            if run.view.any_size and len(sizes) > 1:
                return None, "errors differ between sizes of spots, and the validation sections have several"
            truth = Task.own(run, None).measured(found)
            error = ensemble.in_genes_of(runs[0].fold.panel, run.fold.panel, truth - found.prediction.expression)
            errors.setdefault(found.prediction.patient, []).append(error)
    if not errors:
        return None, "the patients of the validation sections are in training too: errors on them are too small"
    pooled = {patient: np.concatenate(parts) for patient, parts in errors.items()}
    found = Calibration.of(pooled, spot_size_um=float(sizes.pop()) if len(sizes) == 1 else None)
    widening, why = None, "the first run has validated on no patient that it has not seen"
    if copied:
        widening, why = shifted.widening(*copied[0], found.half_width, sizes_um=sizes_um)
    if why:
        print(f"note: intervals are not widened on slides unlike the training slides: {why}")
    return dataclasses.replace(found, widening=widening), ""


def travelling(calibration: Calibration, run: Run) -> Intervals:
    """Intervals as they go with the run's model."""
    known: dict[str, Any] = vars(calibration) | {"patients": len(calibration.patients)}
    return Intervals(**known, symmetries=run.protocol.test_symmetries, model_sha256=run.model_sha256)


def report(calibration: Calibration, task: Task, found: Sequence[Found]) -> tuple[dict[str, Any], np.ndarray]:
    """What metrics.json says of the intervals, and [M] the coverage of each gene on the scored sections."""
    predictions = [each.prediction for each in found]
    values = np.concatenate([each.expression for each in predictions])
    measured = np.concatenate([task.measured(each) for each in found])
    widening = calibration.widening
    factors = [1.0 if widening is None else widening.factor(each.facts[DISTANCE], each.depth) for each in predictions]
    coverage = calibration.covered(
        values, measured, np.repeat(factors, [len(each.spots) for each in predictions])[:, None]
    )
    finite = calibration.half_width[np.isfinite(calibration.half_width)]
    return {
        "level": calibration.level,
        "coverage": metrics.known(np.nanmean, coverage),
        "coverage_of_genes": [float(q) for q in np.nanquantile(coverage, (0.05, 0.5, 0.95))]
        if np.isfinite(coverage).any()
        else None,
        "calibrated_on": list(calibration.patients),
        "guaranteed": calibration.guaranteed,
        "guaranteed_level": calibration.guaranteed_level,
        "half_width_median": float(np.median(finite)) if len(finite) else None,
        "coverage_unwidened": metrics.known(np.nanmean, calibration.covered(values, measured)),
        "widened": {each.section: factor for each, factor in zip(predictions, factors, strict=True)},
        "widening": None if widening is None else dataclasses.asdict(widening),
    }, coverage
