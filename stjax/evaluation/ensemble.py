"""The mean of several runs' predictions: seeds, or folds of a cross-validation."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax.data.panel import Panel
from stjax.evaluation import scoring
from stjax.features.store import Features
from stjax.inference import prepared
from stjax.inference.prepared import Found
from stjax.workdir import Run


def load(folders: Sequence[Path], run: Run, *, option: str = "--ensemble") -> list[Run]:
    """`run` and others that predict the same. Raises InputError for another kind, protocol or preparation."""
    others = [Run.load(folder) for folder in folders]
    for other in others:
        for what, ours, theirs in (
            ("protocol", run.fold.protocol, other.fold.protocol),
            ("image size", run.fold.image_size_px, other.fold.image_size_px),
            ("stain normalisation", run.fold.parameters["stain"], other.fold.parameters["stain"]),
            ("view", run.fold.view, other.fold.view),
        ):
            if ours != theirs:
                raise InputError(
                    f"{option} {other.folder} has another {what} than {run.folder}; name runs that differ in seed "
                    "or fold alone"
                )
    return [run, *others]


def describe(run: Run) -> dict[str, str]:
    """One of the runs, for results: the name of its folder, wherever that is, and what tells its model from others."""
    return {"name": run.folder.resolve().name, "model_sha256": run.model_sha256, "trained": str(run.progress)}


def in_genes_of(panel: Panel, other: Panel, values: np.ndarray) -> np.ndarray:
    """[S, M] of another run's main genes [S, M'], for the genes of `panel`; NaN for those it does not predict."""
    main = slice(other.num_main)
    place = {gene: row for row, gene in enumerate(zip(other.ensembl_id[main], other.symbol[main], strict=True))}
    columns = np.array(
        [place.get(gene, -1) for gene in zip(panel.ensembl_id, panel.symbol, strict=True)][: panel.num_main], np.int64
    )
    return np.where(columns >= 0, values[:, columns], np.nan)


def predict_sections(
    runs: Sequence[Run],
    dataset: PatchDataset,
    names: Sequence[str],
    *,
    sizes_um: Sequence[float],
    max_spots: int,
    beside: Run | None = None,
    features: Features | None = None,
) -> list[Found]:
    """`prepared.predict_sections` of the mean of the runs that know a gene, with their spread as the layer "std"."""
    for run in runs[1:]:
        if dataset.content_hash == runs[0].fold.content_hash and run.fold.blocks != runs[0].fold.blocks:
            raise InputError(
                f"--ensemble {run.folder} was trained on other spatial blocks of these sections than "
                f"{runs[0].folder}, and may know the spots that are scored; name runs of the same fold"
            )
    options = {"sizes_um": sizes_um, "max_spots": max_spots}
    first = prepared.predict_sections(runs[0], dataset, names, **options, beside=beside, features=features)
    if len(runs) == 1:
        return first
    every = [[found.prediction.expression.astype(np.float64)] for found in first]
    for run in runs[1:]:
        others = prepared.predict_sections(run, dataset, names, **options, colours=False)
        for members, found in zip(every, others, strict=True):
            members.append(in_genes_of(runs[0].fold.panel, run.fold.panel, found.prediction.expression))
    result = []
    for found, members in zip(first, every, strict=True):
        mean, spread = np.nanmean(members, axis=0), np.nanstd(members, axis=0)
        prediction = dataclasses.replace(found.prediction, expression=mean, layers={"std": spread})
        result.append(found._replace(prediction=prediction))
    return result


def with_trained_size(
    runs: Sequence[Run], found: Sequence[Found], opened: Callable[[], PatchDataset | None]
) -> list[Found]:
    """The sections; and where their data has no spots of a size that the model was trained on, what it predicts for
    such spots of the same slide in its own data.

    Args:
        opened: what the first run was trained on, None where that is gone; called where it is needed, as opening checks
            every file.
    """
    run, predictions = runs[0], [each.prediction for each in found]
    sizes = run.view.trained_sizes_um(run.fold)
    lacking = {each.slide for each in predictions if not scoring.of_sizes(predictions, each.slide, sizes)}
    own = opened() if sizes and lacking else None
    names = [] if own is None else [each["name"] for each in own.sections if each["image"]["sha256"] in lacking]
    if own is None or not names:
        return list(found)
    try:
        every = [each.prediction for each in predict_sections(runs, own, names, sizes_um=sizes, max_spots=0)]
    except InputError as error:
        print(f"note: not compared with the nearest spot of the trained size: {error}")
        return list(found)
    of_slide = {slide: tuple(scoring.of_sizes(every, slide, sizes)) for slide in lacking}
    return [each._replace(trained_size=of_slide.get(each.prediction.slide, ())) for each in found]
