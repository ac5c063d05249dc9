"""A model, and what it is compared with, on the spots of prepared sections: patches or tiles of a data set."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_prep import cli
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import workdir
from stjax.config import spot_sizes
from stjax.data.sections import middle
from stjax.data.selection import Selection
from stjax.features.store import Features, names
from stjax.inference import domain, matching, stream
from stjax.inference.prediction import DISTANCE, SectionPrediction
from stjax.trained import Trained
from stjax.views import Items, Windows

SAME = ("encoder", "weights_sha256", "pooling", "width", "px")  # of features made alike, of whatever data


class Found(NamedTuple):
    """A section's spots.

    Attributes:
        prediction: as the model predicts them.
        colours: [S, D] statistics of their colour.
        counts: [S, M] measured raw counts; NaN for genes that the data lacks.
        depth: [S] the spot's counts of all genes.
        white: [S] how much of the patch is white; 0 of tiles.
        beside: [S, M] what a model of patches predicts.
        features: [S, D] of their patches, of an encoder; None where the data set has none. NaN of a spot without.
        trained_size: what the model predicts for spots of a size that it was trained on, on the same slide in its own
            data, where the scored data has none.
    """

    prediction: SectionPrediction
    colours: np.ndarray
    counts: np.ndarray
    depth: np.ndarray
    white: np.ndarray
    beside: np.ndarray | None = None
    features: np.ndarray | None = None
    trained_size: tuple[SectionPrediction, ...] = ()


def narrowed(found: Found, rows: np.ndarray, genes: np.ndarray) -> Found:
    """Some spots [S] bool and main genes [G] of a section."""
    prediction = found.prediction
    per_spot = {
        name: None if (values := getattr(prediction, name)) is None else values[rows]
        for name in ("spots", "total", "predicted_total", "expression", "truth")
    }
    per_gene = {name: None if (v := per_spot[name]) is None else v[:, genes] for name in ("expression", "truth")}
    layers = {name: values[rows][:, genes] for name, values in prediction.layers.items()}
    known = {name: values[genes] for name, values in prediction.genes.items()}
    return Found(
        dataclasses.replace(prediction, **per_spot | per_gene, layers=layers, genes=known),
        found.colours[rows],
        found.counts[rows][:, genes],
        found.depth[rows],
        found.white[rows],
        None if found.beside is None else found.beside[rows][:, genes],
        None if found.features is None else found.features[rows],
        tuple(
            dataclasses.replace(each, expression=each.expression[:, genes], layers={}, genes={}, truth=None)
            for each in found.trained_size
        ),
    )


class Training(NamedTuple):
    """What baselines learn from: colour statistics [N, D], raw counts of the main genes [N, M] and totals [N], whose
    the spots are and where: patient and section [N], xy [N, 2]; and features [N, D] of an encoder, where there are."""

    colours: np.ndarray
    counts: np.ndarray
    total: np.ndarray
    patient: np.ndarray
    section: np.ndarray
    xy: np.ndarray
    features: np.ndarray | None = None


class FeaturesBeside(NamedTuple):
    """Those of the ridge on features: of the data that is scored, to predict from, and of the training data,
    to learn from. None where there are none, or the training data is gone."""

    scored: Features | None = None
    trained: Features | None = None


def training(run: workdir.Run, features: Features | None = None) -> Training | None:
    """The training spots; None, and a note, if they are gone.

    Args:
        features: of the training data, to learn from too.
    """
    try:
        dataset = run.open_dataset()
    except InputError as error:
        print(f"note: ridge and total counts need the training patches: {error}")
        return None
    view, sizes = run.view, spot_sizes(run.config)
    chosen = Selection(dataset, run.fold.split.train, run.protocol, True, sizes, view.ridge_spots)
    items = view.open(chosen, run.fold.panel)
    every = cli.progress(range(len(items)), description="ridge", unit=view.item)
    colours = np.concatenate([view.colours(items, item, items.images[item]) for item in every])
    patient = np.array([dataset.section(name)["patient"] for name in items.slide_section])
    known = features_of(items, chosen, features)
    totals, where = items.total.astype(np.float64), (patient, items.section, items.spots.xy)
    return Training(colours, items.main_counts(), totals, *where, known)


def check_preparation(run: Trained, dataset: PatchDataset) -> None:
    """Raises InputError unless a data set's patches were made as those the model was trained on."""
    data, view, there = run.fold, run.view, dataset.manifest["parameters"]
    if (dataset.kind, dataset.size_px) != (view.of_dataset, data.image_size_px):
        raise InputError(
            f"{dataset.path} has {dataset.kind} of {dataset.size_px} px, the model was trained on "
            f"{view.of_dataset} of {data.image_size_px} px; build it with {view.build_flag} {data.image_size_px}"
        )
    target = dataset.manifest["stain_target"]
    if (target or {}).get("image_sha256") != (data.stain_target or {}).get("image_sha256") or (
        there["stain"] != data.parameters["stain"]
    ):
        raise InputError(
            f"{dataset.path} was prepared with --stain {there['stain']}, the model's data with --stain "
            f"{data.parameters['stain']}, or to another target; build it as that was, with the same target slide"
        )
    for section in dataset.sections:
        scale = there["um_per_px"] or section["um_per_px"] * section["px_scale"]
        if abs(scale / data.um_per_px - 1) > matching.SCALE_TOLERANCE:
            raise InputError(
                f"{dataset.path}: section {section['name']} has {scale:.3f} um per px, the model was trained at "
                f"{data.um_per_px:.3f}; build it with --target-um-per-px {data.um_per_px:.3f}"
            )


def features_beside(run: workdir.Run, dataset: PatchDataset, asked: str) -> FeaturesBeside:
    """The features of a data set, and of the training data, of the ridge on features: in the folder asked
    for; else the model's own; else the only ones that both have. Each is opened once. That none of several are taken
    is said.

    Raises:
        InputError: those asked for are not there, or of other spots than the model's.
    """
    of_patches = dataset.kind == "patches"
    if asked and not of_patches:
        raise InputError(f"--features is for models of patches; the spots of {run.view.items} have no features")
    trained_on = Path(run.fold.data_dir)
    there = [name for name in names(dataset.path) if name in names(trained_on)] if of_patches else []
    own = run.fold.facts.get("features", "")
    name = asked or own or (there[0] if len(there) == 1 else "")
    if not name:
        if there:
            print(f"note: stjax evaluate --features=NAME compares with a ridge on features, one of {', '.join(there)}")
        return FeaturesBeside()

    def opened(of: PatchDataset) -> Features:
        return (run.view.features(of) if name == own else None) or Features.open(of, name)

    found = opened(dataset)
    if dataset.content_hash == run.fold.content_hash:
        return FeaturesBeside(found, found)
    try:
        trained = run.open_dataset()
    except InputError:  # `training` says so
        return FeaturesBeside(found)
    ours = opened(trained)
    if other := [key for key in SAME if ours.key[key] != found.key[key]]:
        raise InputError(f"{found.path}: of another {other[0]} than the features of {trained_on}; embed it alike")
    return FeaturesBeside(found, ours)


def features_of(items: Items, chosen: Selection, found: Features | None) -> np.ndarray | None:
    """[N, D] of the spots chosen, which items of patches hold; of features with context the middle window's."""
    if found is None:
        return None
    record = items.images.record  # counted through all sections
    parts = [middle(found.sections[name]) for name in chosen.sections]
    first = np.cumsum([0, *(len(part) for part in parts)])
    vectors = np.empty((len(record), found.width), found.key["dtype"])
    for part, start in zip(parts, first, strict=False):
        here = (record >= start) & (record < start + len(part))
        vectors[here] = part[record[here] - start]
    return vectors


def predict_sections(
    run: workdir.Run,
    dataset: PatchDataset,
    names: Sequence[str],
    *,
    sizes_um: Sequence[float],
    max_spots: int,
    beside: workdir.Run | None = None,
    colours: bool = True,
    features: Features | None = None,
) -> list[Found]:
    """The model on the spots of prepared sections.

    Args:
        sizes_um, max_spots: of spots that may be of any size, which, and how many of a section.
        beside: a model of single patches to ask about the same spots.
        colours: False leaves out the colour statistics.
        features: of the data set, to go with the spots.
    """
    found, view = [], run.view
    for group in view.groups(names):
        chosen = Selection(dataset, group, run.protocol, False, sizes_um, max_spots)
        items = view.open(chosen, run.fold.panel)
        if not len(items):
            print(f"note: section {group[0]} has no spot with {run.protocol.min_counts} counts; it is not scored")
            continue
        known = features_of(items, chosen, features)
        found += _predict_items(run, dataset, items, beside, known, colours=colours)
    return found


def _predict_items(
    run: workdir.Run,
    dataset: PatchDataset,
    items: Items,
    beside: workdir.Run | None,
    known: np.ndarray | None,
    *,
    colours: bool,
) -> list[Found]:
    """The model on some items: what it says of the spots of each section."""
    view, features = run.view, []

    def image(item: int) -> np.ndarray:
        pixels, rows = items.images[item], items.windows.rows(item)
        features.append(view.colours(items, item, pixels) if colours else np.empty((rows.stop - rows.start, 0)))
        return pixels

    sections = list(dict.fromkeys(items.section))
    parts = list(stream.predict(run, items.windows, image, sections[0] if len(sections) == 1 else view.items))
    of_spots = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    truth, counts, statistics = items.main_expression(run.protocol), items.main_counts(), np.concatenate(features)
    patchwise = None if beside is None else predict_patches_of(beside, run, items)
    found = []
    for section in sections:
        which = (items.section == section) & (items.weight > 0)  # each once, in its own place
        of = items.slide_section[int(np.argmax(which))]  # whose slide a made size is on
        spots = items.spots[which]
        prediction = SectionPrediction(
            section=str(section),
            spots=dataclasses.replace(spots, id=spots.names),
            expression=of_spots["expression"][which],
            truth=truth[which],
            total=items.total[which],
            predicted_total=of_spots["total"][which] if "total" in of_spots else None,
            facts={DISTANCE: domain.distance(dataset.image_moments(of)[0].mean(axis=0), run.fold)},
            **slide_facts(dataset, of),
        )
        depth = items.total[which].astype(np.float64)
        patch_model, encoded = (None if part is None else part[which] for part in (patchwise, known))
        figures = statistics[which], counts[which], depth, items.white[which]
        found.append(Found(prediction, *figures, patch_model, encoded))
    return found


def comparable(patch_model: workdir.Run, run: workdir.Run) -> workdir.Run:
    """A model of single patches that may be compared with `run`. Raises InputError for another kind, unit or
    preparation."""
    ours, theirs = run.fold, patch_model.fold
    if not patch_model.view.one_spot or patch_model.protocol.target != run.protocol.target:
        raise InputError(f"--beside {patch_model.folder} is no model of patches that predicts {run.protocol.target}")
    same_stain = theirs.parameters["stain"] == ours.parameters["stain"]
    if not same_stain or abs(theirs.um_per_px / ours.um_per_px - 1) > matching.SCALE_TOLERANCE:
        raise InputError(f"--beside {patch_model.folder} was trained on slides of another scale or stain normalisation")
    return patch_model.on_slides


def predict_patches_of(patch_model: workdir.Run, run: workdir.Run, items: Items) -> np.ndarray:
    """[N, M] what a model of single patches says of a patch around every spot of some tiles, NaN for genes it does not
    know.

    Raises:
        InputError: a spot is nearer to its tile's edge than half a patch.
    """
    side = patch_model.fold.image_size_px

    def patches() -> Iterator[np.ndarray]:
        for item in range(len(items)):
            image = items.images[item]
            corner = np.round(run.view.centres(items, item) - side / 2).astype(int)
            if np.any(corner < 0) or np.any(corner + side > len(image)):
                raise InputError(
                    f"a patch of {side} px around a spot leaves its tile; build with --context-px {side // 2 + 1}"
                )
            for x, y in corner:
                yield image[y : y + side, x : x + side]

    stream_of, windows = patches(), Windows(np.arange(items.num_spots + 1))
    parts = stream.predict(patch_model, windows, lambda _: next(stream_of), "patches")
    theirs = np.concatenate([part["expression"] for part in parts])
    column = {gene: place for place, gene in enumerate(patch_model.fold.panel.main.names)}
    result = np.full((len(theirs), run.fold.panel.num_main), np.nan)
    for place, gene in enumerate(run.fold.panel.main.names):
        if gene in column:
            result[:, place] = theirs[:, column[gene]]
    return result


def slide_facts(dataset: PatchDataset, name: str) -> dict[str, Any]:
    """What a prediction says of the slide of a prepared section."""
    entry = dataset.section(name)
    with Image.open(dataset.path / entry["thumbnail"]) as picture:
        thumbnail = np.asarray(picture.convert("RGB"))
    return {
        "patient": entry["patient"],
        "slide": entry["image"]["sha256"],
        "um_per_px": entry["um_per_px"],
        "synthetic": bool(dataset.manifest["synthetic"]),
        "data_sha256": dataset.content_hash,
        "thumbnail": thumbnail,
        "thumbnail_scale": thumbnail.shape[1] / entry["image"]["width"],
    }
