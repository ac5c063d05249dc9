"""Figures of several methods over the spots of several sections."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from data_prep import demo, demo_tissue
from data_prep.errors import InputError
from stjax import metrics
from stjax.tile_spots import DISCS_FROM_UM, SAME_SIZE
from stjax.workdir import Run
from stjax.writer import SectionPrediction

_DEEP = 1e6  # reads


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


def without_noise(prediction: SectionPrediction, run: Run, demo_folder: Path) -> SectionPrediction:
    """A section of the demo with what its cells are expected to express as the truth, in place of counts; NaN where
    no cell is near.

    Raises:
        InputError: `demo_folder` holds no demo with this section.
    """
    name = prediction.section.split("_")[0]
    try:
        cells, life = demo.load_truth(demo_folder, name)
    except OSError:
        raise InputError(f"--demo-truth {demo_folder} has no truth/{name}.npz; give the raw demo folder") from None
    panel, places = run.data.panel, prediction.spot_xy * prediction.um_per_px
    size = float(np.median(prediction.spot_size_um))
    if size >= DISCS_FROM_UM:
        members = demo_tissue.cells_in_discs(cells, places, size / 2)
    else:
        members = demo_tissue.cells_in_squares(cells, places, size)
    expected = demo_tissue.expected_expression(cells, life, members)  # [S, genes of the demo]
    total = expected.sum(axis=1, keepdims=True)
    # Protocols transform counts: those of a spot so deep that they are shares.
    counts = np.divide(expected, total, out=np.full_like(expected, np.nan), where=total > 0) * _DEEP
    columns = panel.columns(life.genes)[: panel.num_main]
    chosen = np.where(columns >= 0, counts[:, columns], np.nan)
    truth = run.protocol.transform(chosen, np.full_like(total, _DEEP), panel.num_genes)
    return dataclasses.replace(prediction, truth=truth)


def total_ratio(predictions: Sequence[SectionPrediction], which: Sequence[np.ndarray]) -> float | None:
    """Expected over measured reads of all the spots chosen; None for models that do not predict reads."""
    expected = [each.predicted_total for each in predictions]
    if any(total is None for total in expected):
        return None
    measured = sum(float(each.total[chosen].sum()) for each, chosen in zip(predictions, which, strict=True))
    return sum(float(t[chosen].sum()) for t, chosen in zip(expected, which, strict=True)) / measured  # pyright: ignore
