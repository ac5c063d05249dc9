"""Model and baselines in the units of one protocol, on the spots of scored sections."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from stjax import baselines, metrics
from stjax.data.section_spots import sizes_um
from stjax.data.tile_spots import rounded
from stjax.evaluation import scoring, statistics
from stjax.evaluation.methods import MODEL
from stjax.evaluation.scoring import ScoredSection, Scores
from stjax.features.store import Features
from stjax.inference.prepared import Found, Training
from stjax.models.standardised import BOUND
from stjax.ops import ridge
from stjax.protocols import Protocol
from stjax.targets import INVERSES
from stjax.workdir import Run

TARGETS = {"raw": "log1p_counts", "library": "log1p_library"}  # what else every model is scored against


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a protocol asks of the model's main genes, as the training spots have it.

    Attributes:
        protocol: whose target it is.
        num_genes: of the data set, over which totals are.
        mean, std: [M] of the targets where the protocol standardises them, 0 and 1 where not.
        train_mean: [M] of the targets: the mean predictor.
        training: None where the training spots are gone.
    """

    protocol: Protocol
    num_genes: int
    mean: np.ndarray
    std: np.ndarray
    train_mean: np.ndarray
    training: Training | None

    @classmethod
    def own(cls, run: Run, training: Training | None) -> "Task":
        """What the model was trained for."""
        main = run.fold.main
        own = (main.target_mean, main.target_std, main.train_mean)
        return cls(run.protocol, run.fold.panel.num_genes, *own, training)

    @classmethod
    def of(cls, protocol: Protocol, run: Run, training: Training) -> "Task":
        """Another protocol's, for the same genes and training spots."""
        num_genes = run.fold.panel.num_genes
        targets = protocol.transform(training.counts, training.total[:, None], num_genes)
        mean = targets.mean(axis=0)
        std = metrics.scale_of(targets) if protocol.standardise_main else np.ones_like(mean)
        return cls(protocol, num_genes, mean if protocol.standardise_main else 0 * mean, std, mean, training)

    def targets(self, training: Training) -> np.ndarray:
        """[N, M] what was measured in the training spots, in the protocol's units."""
        return self.protocol.transform(training.counts, training.total[:, None], self.num_genes)

    @functools.cached_property
    def ridge_features(self) -> ridge.Ridge | None:
        """From features to standardised targets; None without features, or with too few spots to choose a penalty."""
        training = self.training
        if training is None or training.features is None:
            return None
        known = np.isfinite(training.features).all(axis=1)
        groups = statistics.groups_to_hold_out(training.patient[known], training.section[known], training.xy[known])
        if len(np.unique(groups)) < 2:
            return None
        targets = (self.targets(training)[known] - self.mean) / self.std
        return ridge.fit(self._bounded(training.features[known]), targets, groups)

    @functools.cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[D] the least and largest that features are taken for: so many deviations about the training spots' mean."""
        features = self.training.features if self.training is not None else None
        assert features is not None
        known = np.asarray(features[np.isfinite(features).all(axis=1)], np.float64)
        mean, reach = known.mean(axis=0), BOUND * metrics.scale_of(known)
        return mean - reach, mean + reach

    def _bounded(self, features: np.ndarray) -> np.ndarray:
        """Features [N, D] as probes see them: one that hardly varied in training may be a thousand deviations off."""
        return np.clip(np.asarray(features, np.float64), *self._bounds)

    def about_features(self, features: Features | None) -> dict[str, Any] | None:
        """What metrics.json says of the ridge on features; None where there is none."""
        if features is None or self.training is None or (fitted := self.ridge_features) is None:
            return None
        held_out = statistics.held_out(self.training.patient, self.training.section)
        about = {"features": features.path.name, "encoder": features.encoder, "penalty": fitted.penalty}
        return about | {"held_out": held_out, "remark": fitted.remark}

    def by_features(self, found: Found) -> np.ndarray | None:
        """[S, M] what the ridge on features predicts: the mean where a spot has none."""
        if self.ridge_features is None or found.features is None:
            return None
        known = np.isfinite(found.features).all(axis=1, keepdims=True)  # [S, 1]
        features = self._bounded(np.where(known, found.features, 0))
        predicted = self.ridge_features.predict(features) * self.std + self.mean
        return np.where(known, predicted, self.train_mean)

    def measured(self, found: Found) -> np.ndarray:
        """[S, M] what was measured, in the protocol's units."""
        return self.protocol.transform(found.counts, found.depth[:, None], self.num_genes)

    def converted(self, run: Run, found: Found) -> tuple[np.ndarray, bool]:
        """[S, M] the model's prediction, and whether it is in the protocol's units. It is where the model was trained
        for the same target, or predicts how many counts a spot has: no test spot's measured total is ever used."""
        expression, total = found.prediction.expression, found.prediction.predicted_total
        if self.protocol.target == run.protocol.target:
            return expression, True
        if total is None:
            return expression, False
        depth = np.asarray(total, np.float64)[:, None]
        counts = INVERSES[run.protocol.target](np.asarray(expression, np.float64), depth, self.num_genes)
        return self.protocol.transform(np.maximum(counts, 0), depth, self.num_genes), True


def sections_of(run: Run, task: Task, found: Sequence[Found]) -> tuple[list[ScoredSection], set[str]]:
    """The sections as `scoring.score` takes them, with model and baselines fitted to the task.

    Returns:
        The sections, in the order of `found`, and the methods of which correlations alone can be compared.
    """
    colour = totals = None
    if task.training is not None:
        targets = task.targets(task.training)
        colour = baselines.Ridge.fit(task.training.colours, (targets - task.mean) / task.std)
        totals = baselines.TotalCounts.fit(task.training.total, targets)
    own_units = task.protocol.target == run.protocol.target
    trained_on = run.view.trained_sizes_um(run.fold), run.fold.facts.get("arrays", ())
    elsewhere = [each.trained_size for each in found]
    lookup = scoring.nearest_spots([each.prediction for each in found], *trained_on, elsewhere)
    result, in_units = [], True
    for each, of_nearest in zip(found, lookup, strict=True):
        truth, xy = task.measured(each), each.prediction.spots.xy
        predicted, in_units = task.converted(run, each)
        predictions = {MODEL: predicted}
        if colour is not None and totals is not None:
            predictions["ridge_colour"] = colour.predict(each.colours) * task.std + task.mean
            if (by_features := task.by_features(each)) is not None:
                predictions["ridge_features"] = by_features
            predictions["total_counts"] = totals.predict(each.prediction.total)
        predictions["mean"] = np.broadcast_to(task.train_mean, truth.shape)
        predictions["nearest_measured"] = baselines.nearest_measured(truth, xy)
        if own_units and each.beside is not None:
            predictions["patch_model"] = each.beside
        if own_units and of_nearest is not None:
            predictions["nearest_spot"] = of_nearest
        result.append(ScoredSection(each.prediction.patient, xy, truth, predictions))
    return result, set() if in_units else {MODEL}


def score(run: Run, task: Task, found: Sequence[Found], *, pooling: str, thorough: bool = True) -> Scores:
    """Metrics of model and baselines under a task, over all spots with something measured."""
    sections, correlation_only = sections_of(run, task, found)
    known = [section[np.isfinite(section.truth).any(axis=1)] for section in sections]
    return scoring.score(known, std=task.std, pooling=pooling, correlation_only=correlation_only, thorough=thorough)


def targets(run: Run, found: Sequence[Found], training: Training | None, own: Scores) -> dict[str, Scores]:
    """{"raw": ..., "library": ...}: the protocol's rules, with log counts and with library-normalised ones.

    Args:
        own: under the protocol's own target.
    """
    if training is None:
        return {}
    result = {}
    for name, target in TARGETS.items():
        protocol = dataclasses.replace(run.protocol, target=target)
        same = target == run.protocol.target
        result[name] = own if same else score(run, Task.of(protocol, run, training), found, pooling=protocol.pooling)
    return result


def sizes_of(run: Run, task: Task, found: Sequence[Found]) -> dict[str, Any]:
    """Metrics for each size of spots, of a model that can be asked for any, or is asked for others than it was trained
    on: of these a section is of its median size, as cells are of many; and so are cells of a model for any size."""
    predictions, trained = [each.prediction for each in found], run.view.trained_sizes_um(run.fold)
    sizes = [rounded(sizes_um(prediction.spots, prediction.um_per_px)) for prediction in predictions]
    if not run.view.any_size:
        sizes = [np.full(len(each), rounded(np.median(each))) for each in sizes]
        if not trained or all(scoring.is_size(float(each[0]), trained) for each in sizes):
            return {}
    sections, correlation_only = sections_of(run, task, found)
    result = {}
    for size in np.unique(np.concatenate(sizes)):
        which = [each == size for each in sizes]
        known = [
            section[there & np.isfinite(section.truth).any(axis=1)]
            for section, there in zip(sections, which, strict=True)
        ]
        scores = scoring.score(
            known, std=task.std, pooling=run.protocol.pooling, correlation_only=correlation_only, thorough=False
        )
        result[f"{size:g}"] = {
            "spots": sum(len(section.truth) for section in known),
            "trained_on": scoring.is_size(size, trained),
            "total_ratio": scoring.total_ratio(predictions, which),
            "methods": scores.summaries,
        }
    return result
