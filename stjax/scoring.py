"""Figures of several methods over the spots of several sections."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from stjax import metrics
from stjax.tile_spots import SAME_SIZE
from stjax.workdir import Run
from stjax.writer import SectionPrediction


def score(
    run: Run,
    methods: Mapping[str, Sequence[np.ndarray | None]],
    truths: Sequence[np.ndarray],
    patients: Sequence[str],
    which: Sequence[np.ndarray],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Figures of every method over some spots of some sections.

    Args:
        methods: of each a [S, M] prediction a section, None where it has none; it is then left out.
        truths: one [S, M] a section.
        which: one [S] bool a section.

    Returns:
        {method: summary}, and a row a gene.
    """
    panel = run.data.panel
    std = panel.target_std[: panel.num_main]
    used = [place for place, chosen in enumerate(which) if chosen.any()]
    of = [patients[place] for place in used]
    truth = [truths[place][which[place]] for place in used]
    every = np.concatenate(truth) / std
    per_gene = pd.DataFrame({"gene": panel.names[: panel.num_main], "ensembl_id": panel.ensembl_id[: panel.num_main]})
    summaries = {}
    for method, each in methods.items():
        parts = [None if (of_section := each[place]) is None else of_section[which[place]] for place in used]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            continue
        pcc = metrics.pooled_pcc(known, truth, of, pooling=run.protocol.pooling)
        predicted = np.concatenate(known) / std
        mae, rmse = metrics.mae_per_gene(predicted, every), metrics.rmse_per_gene(predicted, every)
        summaries[method] = metrics.summarise(pcc, mae, rmse)
        suffix = "" if method == "model" else f"_{method.split()[0]}"
        per_gene[f"pcc{suffix}"], per_gene[f"mae{suffix}"], per_gene[f"rmse{suffix}"] = pcc, mae, rmse
    per_gene.insert(5, "mean_expression", np.concatenate(truth).mean(axis=0))
    return summaries, per_gene


def is_size(size_um: float, sizes_um: Sequence[float]) -> bool:
    """Whether a size is one of several."""
    return any(abs(size_um / other - 1) < SAME_SIZE for other in sizes_um)


def nearest_spots(predictions: Sequence[SectionPrediction], trained_um: Sequence[float]) -> list[np.ndarray | None]:
    """For spots of sizes the model was not trained at, what it predicts for the nearest spot of one that it was: all
    that a model without a dense map could say. None for a section of a training size, or of a slide without one."""
    result: list[np.ndarray | None] = []
    for prediction in predictions:
        sources = [
            other
            for other in predictions
            if other.slide == prediction.slide and is_size(float(np.median(other.spot_size_um)), trained_um)
        ]
        if not sources or prediction in sources:
            result.append(None)
            continue
        places = np.concatenate([source.spot_xy for source in sources])
        nearest = KDTree(places).query(prediction.spot_xy)[1]
        result.append(np.concatenate([source.expression for source in sources])[nearest])
    return result


def total_ratio(predictions: Sequence[SectionPrediction], which: Sequence[np.ndarray]) -> float | None:
    """Expected over measured reads of all the spots chosen; None for models that do not predict reads."""
    expected = [each.predicted_total for each in predictions]
    if any(total is None for total in expected):
        return None
    measured = sum(float(each.total[chosen].sum()) for each, chosen in zip(predictions, which, strict=True))
    return sum(float(t[chosen].sum()) for t, chosen in zip(expected, which, strict=True)) / measured  # pyright: ignore
