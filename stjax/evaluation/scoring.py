"""Metrics of several methods over the spots of several sections."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from stjax import metrics
from stjax.data import arrays
from stjax.data.tile_spots import same_size
from stjax.evaluation import map_metrics, statistics
from stjax.evaluation.methods import MODEL, column
from stjax.evaluation.statistics import Bootstrap, Draws, Units
from stjax.inference.prediction import SectionPrediction

# Metrics over genes that get an interval: of Draws, whose last axis is the genes, and on which scale.
_SUMMARIES: dict[str, tuple[Callable[[Draws], np.ndarray], str]] = {
    "pcc_median": (lambda draws: _quantile(draws.pcc, 0.5), "correlation"),
    "pcc_mean": (lambda draws: metrics.mean_of_known(draws.pcc), "correlation"),
    "pcc_first_quartile": (lambda draws: _quantile(draws.pcc, 0.25), "correlation"),
    "amae": (lambda draws: metrics.mean_of_known(draws.mae), "error"),
    "armse": (lambda draws: metrics.mean_of_known(draws.rmse), "error"),
    "mse": (lambda draws: metrics.mean_of_known(np.square(draws.rmse)), "error"),
}
_COUNTS = {"genes_pcc_above_0": 0.0, "genes_pcc_above_0.5": 0.5}


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """[...] quantile over the genes [..., G] that are known, as `np.nanquantile`, which is slow; NaN where none is."""
    ranked = np.sort(values, axis=-1)  # NaN last
    last = np.sum(~np.isnan(ranked), axis=-1, keepdims=True) - 1
    place = np.maximum(share * last, 0)
    low, high = (np.take_along_axis(ranked, round_(place).astype(np.int64), axis=-1) for round_ in (np.floor, np.ceil))
    return (low + (high - low) * (place - np.floor(place)))[..., 0]


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredSection:
    """What is scored of a section.

    Attributes:
        patient: whose it is.
        xy: [S, 2] places of its spots, in any unit.
        truth: [S, M] measured; NaN for genes that the data lacks.
        predictions: [S, M] of each method, by its identifier (`methods.METHODS`).
    """

    patient: str
    xy: np.ndarray
    truth: np.ndarray
    predictions: Mapping[str, np.ndarray]

    @functools.cached_property
    def neighbours(self) -> map_metrics.Neighbours:
        """Windows of its spots."""
        return map_metrics.Neighbours.of(self.xy)

    def __getitem__(self, rows: Any) -> "ScoredSection":
        """Some of its spots, by mask or positions."""
        predictions = {method: values[rows] for method, values in self.predictions.items()}
        return ScoredSection(self.patient, self.xy[rows], self.truth[rows], predictions)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Metrics of methods.

    Attributes:
        sections: what was scored.
        summaries: {method: metrics over genes}.
        per_gene: {method: {metric: [M]}}; errors in standard deviations of the training targets.
        draws: {method: the bootstrap's}; empty where none was asked for.
        units: what was drawn; None where nothing was.
    """

    sections: Sequence[ScoredSection]
    summaries: dict[str, dict[str, Any]]
    per_gene: dict[str, dict[str, np.ndarray]]
    draws: dict[str, tuple[Draws, ...]]
    units: Units | None

    def table(self, names: np.ndarray, ensembl_id: np.ndarray) -> pd.DataFrame:
        """A row a gene."""
        table = pd.DataFrame({"gene": names, "ensembl_id": ensembl_id})
        for method, figures in self.per_gene.items():
            for name, values in figures.items():
                table[column(name, method)] = values
        table.insert(5, "mean_expression", np.concatenate([each.truth for each in self.sections]).mean(axis=0))
        return table


def score(
    sections: Sequence[ScoredSection],
    *,
    std: np.ndarray,
    pooling: str,
    correlation_only: Collection[str] = (),
    thorough: bool = True,
) -> Scores:
    """Metrics of every method that predicts all sections.

    Args:
        std: [M] errors are in units of it.
        pooling: of PCCs, see `metrics.pooled`.
        correlation_only: methods whose predictions are in other units than the truth.
        thorough: besides PCC and errors, rank correlation, agreement of maps, and intervals.
    """
    sections = [section for section in sections if len(section.truth)]
    patients, truths = [section.patient for section in sections], [section.truth for section in sections]
    every = np.concatenate(truths) / std
    maps = _Maps(sections, pooling) if thorough else None
    found = Scores(sections, {}, {}, {}, None if maps is None else maps.units)
    for method in sections[0].predictions:
        if any(method not in section.predictions for section in sections):
            continue
        known = [section.predictions[method] for section in sections]
        predicted, in_units = np.concatenate(known) / std, method not in correlation_only
        pcc = metrics.pooled_pcc(known, truths, patients, pooling=pooling)
        unknown = np.full(len(pcc), np.nan)
        mae = metrics.mae_per_gene(predicted, every) if in_units else unknown
        rmse = metrics.rmse_per_gene(predicted, every) if in_units else unknown
        per_gene, summary = {"pcc": pcc, "mae": mae, "rmse": rmse}, metrics.summarise(pcc, mae, rmse)
        summary |= metrics.constant_genes(known, truths, patients, pooling=pooling)
        if maps is not None:
            further = maps.figures(known, in_units=in_units)
            summary |= {f"{name}_median": metrics.known(np.nanmedian, values) for name, values in further.items()}
            found.draws[method] = draws = maps.bootstrap.draw(predicted, every)
            low, high = statistics.intervals(pcc, [each.pcc for each in draws], maps.units, scale="correlation")
            summary["intervals"] = _intervals(Draws(pcc, mae, rmse), draws, maps.units)
            if method == MODEL:
                per_gene |= {"pcc_low": low, "pcc_high": high}
                per_gene |= {name: further[name] for name in ("spearman", "ssim", "pcc_smoothed")}
                for name, values in (("prediction_constant", known), ("truth_constant", truths)):
                    per_gene[name] = metrics.constant_everywhere(values, patients, pooling=pooling)
        found.summaries[method], found.per_gene[method] = summary, per_gene
    return found


class _Maps:
    """Sections as maps: what all methods share of the thorough metrics."""

    def __init__(self, sections: Sequence[ScoredSection], pooling: str):
        self._sections, self._pooling = sections, pooling
        self._patients, self._truths = [each.patient for each in sections], [each.truth for each in sections]
        self._ranks = metrics.pooled_ranks(self._truths, self._patients, pooling=pooling)
        self._smooth = [map_metrics.smooth(each.truth, each.neighbours) for each in sections]
        self.units = Units.of([each.xy for each in sections], self._patients)
        group = metrics.group_of_section(self._patients, pooling)
        self.bootstrap = Bootstrap(self.units, np.repeat(group, [len(truth) for truth in self._truths]))

    def figures(self, predictions: Sequence[np.ndarray], *, in_units: bool) -> dict[str, np.ndarray]:
        """{metric: [M]} of [S, M] predictions a section."""
        truths, patients, pooling = self._truths, self._patients, self._pooling
        smooth = [map_metrics.smooth(p, each.neighbours) for p, each in zip(predictions, self._sections, strict=True)]
        ranks = metrics.pooled_ranks(predictions, patients, pooling=pooling)
        unknown = np.full(truths[0].shape[1], np.nan)
        return {
            "spearman": metrics.pooled_pcc(ranks, self._ranks, patients, pooling=pooling),
            "ssim": _ssim(self._sections, predictions) if in_units else unknown,
            "pcc_smoothed": metrics.pooled_pcc(smooth, self._smooth, patients, pooling=pooling),
            "pcc_section": metrics.pooled_pcc(predictions, truths, patients, pooling="section_median"),
            "pcc_patient": metrics.pooled_pcc(predictions, truths, patients, pooling="patient_median"),
        }


def _ssim(sections: Sequence[ScoredSection], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """[M] mean over the sections that have one, weighted by spots."""
    values = np.stack(
        [
            map_metrics.ssim(prediction, section.truth, section.neighbours)
            for section, prediction in zip(sections, predictions, strict=True)
        ]
    )
    weights = np.array([len(section.truth) for section in sections], np.float64)[:, None] * ~np.isnan(values)
    total = weights.sum(axis=0)
    return np.where(total > 0, np.nansum(values * weights, axis=0) / np.where(total > 0, total, 1), np.nan)


def _intervals(own: Draws, draws: Sequence[Draws], units: Units) -> dict[str, list[float] | None]:
    """[low, high] of metrics over genes; None for a metric that has none."""
    result = {}
    for name, (figure, scale) in _SUMMARIES.items():
        low, high = statistics.intervals(figure(own), [figure(each) for each in draws], units, scale=scale)
        result[name] = ends(low, high)
    for name, threshold in _COUNTS.items():  # whole numbers: their percentiles
        counts = np.sum(draws[0].pcc > threshold, axis=1)
        enough = units.freedom > 0 and np.isfinite(own.pcc).any()
        outside = (1 - statistics.LEVEL) / 2
        low, high = np.quantile(counts, (outside, 1 - outside), method="nearest") if enough else (np.nan, np.nan)
        result[name] = ends(low, high)
    return result


def ends(low: Any, high: Any) -> list[float] | None:
    """An interval as JSON takes it."""
    return [float(low), float(high)] if np.isfinite(low) and np.isfinite(high) else None


def differences(scores: Scores) -> dict[str, dict[str, Any]]:
    """How far the model is above every other method: differences of median PCC, mean PCC and aMAE, paired over the same
    draws.

    Returns:
        {other: {"pcc_median": {"difference", "interval"}, ...}}, without what does not exist.
    """
    result: dict[str, dict[str, Any]] = {}
    for other in scores.draws:
        if other == MODEL or scores.units is None:
            continue
        found = {}
        for name in ("pcc_median", "pcc_mean", "amae"):
            ours, theirs = scores.summaries[MODEL][name], scores.summaries[other][name]
            if ours is None or theirs is None:
                continue
            figure = _SUMMARIES[name][0]
            drawn = [figure(a) - figure(b) for a, b in zip(scores.draws[MODEL], scores.draws[other], strict=True)]
            low, high = statistics.intervals(ours - theirs, drawn, scores.units, scale="difference")
            found[name] = {"difference": ours - theirs, "interval": ends(low, high)}
        result[other] = found
    return result


def is_size(size_um: float, sizes_um: Sequence[float]) -> bool:
    """Whether a size is one of several."""
    return any(same_size(size_um, other) for other in sizes_um)


def nearest_spots(
    predictions: Sequence[SectionPrediction],
    trained_um: Sequence[float],
    trained_on: Sequence[Mapping[str, Any]],
    elsewhere: Sequence[Sequence[SectionPrediction]],
) -> list[np.ndarray | None]:
    """For spots of sizes the model was not trained at, what it predicts for the nearest spot of one that it was: all
    that a model without a dense map could say. On a slide without such spots, the nearest of those that lie where its
    training's array would have some. None for a section of a training size, or of no finer spots than the training's.

    Args:
        trained_on: the arrays that the model was trained on, as `arrays.of_sections` has them.
        elsewhere: of each prediction, spots of a training size on the same slide that are not among `predictions`.
    """
    result: list[np.ndarray | None] = []
    for prediction, others in zip(predictions, elsewhere, strict=True):
        sources = [*others, *of_sizes(predictions, prediction.slide, trained_um)]
        if not sources:
            rows = arrays.looked_up(prediction.spots.xy, prediction.um_per_px, trained_on)
            result.append(None if rows is None else prediction.expression[rows])
            continue
        if prediction in sources:
            result.append(None)
            continue
        places = np.concatenate([source.spots.xy for source in sources])
        nearest = KDTree(places).query(prediction.spots.xy)[1]
        result.append(np.concatenate([source.expression for source in sources])[nearest])
    return result


def of_sizes(
    predictions: Sequence[SectionPrediction], slide: str, sizes_um: Sequence[float]
) -> list[SectionPrediction]:
    """Those of a slide whose spots are of one of the sizes."""
    return [each for each in predictions if each.slide == slide and is_size(float(np.median(each.size_um)), sizes_um)]


def total_ratio(predictions: Sequence[SectionPrediction], which: Sequence[np.ndarray]) -> float | None:
    """Expected over measured counts of all the spots chosen; None for models that do not predict counts."""
    expected = [each.predicted_total for each in predictions]
    if any(total is None for total in expected):
        return None
    measured = sum(float(each.total[chosen].sum()) for each, chosen in zip(predictions, which, strict=True))
    return sum(float(t[chosen].sum()) for t, chosen in zip(expected, which, strict=True)) / measured  # pyright: ignore
