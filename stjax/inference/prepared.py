"""A model, and what it is compared with, on the spots of prepared sections: patches or tiles of a data set."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_prep import cli
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import baselines, workdir
from stjax.config import numbers
from stjax.data import input_pipeline
from stjax.data.panel import usable_spots
from stjax.data.tile_records import TileRecords
from stjax.inference import dense, stream
from stjax.inference.prediction import SectionPrediction
from stjax.ops.spot_pool import Shapes

RIDGE_SPOTS = 3_000  # of a training section and size
SURROUNDINGS_PX = 64  # at least, of a spot of a tile


class Found(NamedTuple):
    """A section's spots.

    Attributes:
        prediction: as the model predicts them.
        colours: [S, D] statistics of their colour.
        counts: [S, M] measured raw counts; NaN for genes that the data lacks.
        depth: [S] reads that the counts are of: the spot's total.
        white: [S] how much of the patch is white; 0 of tiles.
        beside: [S, M] what a model of patches predicts.
    """

    prediction: SectionPrediction
    colours: np.ndarray
    counts: np.ndarray
    depth: np.ndarray
    white: np.ndarray
    beside: np.ndarray | None = None


def narrowed(found: Found, rows: np.ndarray, genes: np.ndarray) -> Found:
    """Some spots [S] bool and main genes [G] of a section."""
    prediction = found.prediction
    per_spot = {
        name: None if (values := getattr(prediction, name)) is None else values[rows]
        for name in ("spot_id", "spot_xy", "spot_size_um", "total", "predicted_total", "expression", "truth")
    }
    per_gene = {name: None if (v := per_spot[name]) is None else v[:, genes] for name in ("expression", "truth")}
    layers = {name: values[rows][:, genes] for name, values in prediction.layers.items()}
    return Found(
        dataclasses.replace(prediction, **per_spot | per_gene, layers=layers),
        found.colours[rows],
        found.counts[rows][:, genes],
        found.depth[rows],
        found.white[rows],
        None if found.beside is None else found.beside[rows][:, genes],
    )


class Training(NamedTuple):
    """What baselines learn from: colour statistics [N, D], raw counts of the main genes [N, M] and totals [N]."""

    colours: np.ndarray
    counts: np.ndarray
    total: np.ndarray


def training(run: workdir.Run) -> Training | None:
    """The training spots; None, and a note, if they are gone."""
    try:
        dataset = run.open_dataset()
    except InputError as error:
        print(f"note: ridge and total counts need the training patches: {error}")
        return None
    panel = run.data.panel
    if run.data.tiles is None:
        records = input_pipeline.PatchRecords(dataset, run.data.split.train, panel, run.protocol, train=True)
        colours = np.concatenate([baselines.colour_statistics(image[None]) for image in images(records, "ridge")])
    else:
        sizes = numbers(run.config.spot_sizes_um, "spot_sizes_um")
        records = TileRecords(dataset, run.data.split.train, panel, run.protocol, sizes_um=sizes, max_spots=RIDGE_SPOTS)
        colours = np.concatenate(
            [surroundings(records.images[tile], records.shapes[tile]) for tile in range(len(records))]
        )
    return Training(colours, records.main_counts(), records.total.astype(np.float64))


def images(records: input_pipeline.PatchRecords, description: str) -> Iterator[np.ndarray]:
    """Every patch in order, [H, W, 3] uint8, under a progress bar."""
    for index in cli.progress(range(len(records)), description=description, unit="spot"):
        yield records.images[index]


def surroundings(image: np.ndarray, shapes: Shapes) -> np.ndarray:
    """[S, D] colour statistics around each spot of a tile."""
    bounds = shapes.bounds()
    reach = np.maximum((bounds[:, 2:] - bounds[:, :2]).max(axis=1) / 2, SURROUNDINGS_PX / 2)
    middle = (bounds[:, :2] + bounds[:, 2:]) / 2
    low = np.clip(np.floor(middle - reach[:, None]), 0, np.array(image.shape[1::-1]) - SURROUNDINGS_PX // 2)
    low, high = low.astype(int), np.ceil(middle + reach[:, None]).astype(int)
    windows = (image[y0 : max(y1, y0 + 2), x0 : max(x1, x0 + 2)] for (x0, y0), (x1, y1) in zip(low, high, strict=True))
    return np.concatenate([baselines.colour_statistics(window[None]) for window in windows])


def predict_sections(
    run: workdir.Run,
    dataset: PatchDataset,
    names: Sequence[str],
    *,
    sizes_um: Sequence[float],
    max_spots: int,
    beside: workdir.Run | None = None,
    colours: bool = True,
) -> list[Found]:
    """The model on the spots of prepared sections.

    Args:
        colours: False leaves out the colour statistics.
    """
    if run.data.tiles is not None:
        options = {"sizes_um": sizes_um, "max_spots": max_spots, "beside": beside, "colours": colours}
        return predict_tile_sections(run, dataset, names, **options)
    found = []
    for name in names:
        records = input_pipeline.PatchRecords(dataset, (name,), run.data.panel, run.protocol, train=False)
        if not len(records):
            print(f"note: section {name} has no spot with {run.protocol.min_counts} reads; it is not scored")
            continue
        features: list[np.ndarray] = []

        def patches(records: Any = records, name: str = name, features: list[np.ndarray] = features) -> Any:
            for image in images(records, name):
                features.append(baselines.colour_statistics(image[None]) if colours else np.empty((1, 0)))
                yield image

        table = dataset.table(name)
        used = usable_spots(run.protocol, table, train=False)
        across = table.spots.across_px()
        expression = np.concatenate(list(stream.predict_patches(run, patches(), len(records))))
        prediction = SectionPrediction(
            section=name,
            spot_id=records.spot_id,
            spot_xy=records.spot_xy,
            spot_radius_px=float(np.median(across)) / 2,
            spot_size_um=across[used] * dataset.section(name)["um_per_px"],
            expression=expression,
            truth=records.main_expression(run.data.panel, run.protocol),
            total=records.total,
            **slide_facts(dataset, name),
        )
        white = table.white_fraction[table.record_of_spot][used]
        depth = records.total.astype(np.float64)
        found.append(Found(prediction, np.concatenate(features), records.main_counts(), depth, white))
    return found


def comparable(patch_model: workdir.Run, run: workdir.Run) -> workdir.Run:
    """A model of patches that may be scored beside `run`. Raises InputError for another kind, unit or preparation."""
    ours, theirs = run.data, patch_model.data
    if theirs.tiles is not None or patch_model.protocol.target != run.protocol.target:
        raise InputError(f"--beside {patch_model.workdir} is no model of patches that predicts {run.protocol.target}")
    same_stain = theirs.parameters["stain"] == ours.parameters["stain"]
    if not same_stain or abs(theirs.um_per_px / ours.um_per_px - 1) > dense.SCALE_TOLERANCE:
        raise InputError(
            f"--beside {patch_model.workdir} was trained on slides of another scale or stain normalisation"
        )
    return patch_model


def predict_patches_of(patch_model: workdir.Run, run: workdir.Run, records: TileRecords) -> np.ndarray:
    """[N, M] what a model of patches says of a patch around every spot of some tiles, NaN for genes it does not know.

    Raises:
        InputError: a spot is nearer to its tile's edge than half a patch.
    """
    side = patch_model.data.image_size_px

    def windows() -> Iterator[np.ndarray]:
        for tile in cli.progress(range(len(records)), description="patches", unit="tile"):
            image = records.images[tile]
            bounds = records.shapes[tile].bounds()
            middle = (bounds[:, :2] + bounds[:, 2:]) / 2 + 0.5
            corner = np.round(middle - side / 2).astype(int)
            if np.any(corner < 0) or np.any(corner + side > len(image)):
                raise InputError(
                    f"a patch of {side} px around a spot leaves its tile; build with --context-px {side // 2 + 1}"
                )
            for x, y in corner:
                yield image[y : y + side, x : x + side]

    theirs = np.concatenate(list(stream.predict_patches(patch_model, windows(), records.num_spots)))
    column = {gene: place for place, gene in enumerate(patch_model.data.panel.names[: theirs.shape[1]])}
    panel = run.data.panel
    result = np.full((len(theirs), panel.num_main), np.nan)
    for place, gene in enumerate(panel.names[: panel.num_main]):
        if gene in column:
            result[:, place] = theirs[:, column[gene]]
    return result


def predict_tile_sections(
    run: workdir.Run,
    dataset: PatchDataset,
    names: Sequence[str],
    *,
    sizes_um: Sequence[float],
    max_spots: int,
    beside: workdir.Run | None,
    colours: bool,
) -> list[Found]:
    """`predict_sections` of tiles: each tile goes through the model once, for its spots of all sizes."""
    panel = run.data.panel
    records = TileRecords(dataset, names, panel, run.protocol, sizes_um=sizes_um, max_spots=max_spots)
    features: list[np.ndarray] = []

    def image(tile: int) -> np.ndarray:
        pixels, shapes = records.images[tile], records.shapes[tile]
        features.append(surroundings(pixels, shapes) if colours else np.empty((len(shapes), 0)))
        return pixels

    tiles = list(stream.predict_tiles(run, records.tables, image, "tiles"))
    expression = np.concatenate([tile["expression"] for tile in tiles])
    total = np.concatenate([tile["total"] for tile in tiles]) if "total" in tiles[0] else None
    every, counts = records.main_expression(panel, run.protocol), records.main_counts()
    statistics = np.concatenate(features)
    patchwise = None if beside is None else predict_patches_of(beside, run, records)
    found = []
    for section in dict.fromkeys(records.section):
        which = records.section == section
        of = records.slide_section[int(np.argmax(which))]  # whose slide a made size is on
        size_um = records.size_um[which]
        prediction = SectionPrediction(
            section=str(section),
            spot_id=records.spot_id[which],
            spot_xy=records.spot_xy[which],
            spot_radius_px=float(np.median(size_um)) / 2 / dataset.section(of)["um_per_px"],
            spot_size_um=size_um,
            expression=expression[which],
            truth=every[which],
            total=records.total[which],
            predicted_total=None if total is None else total[which],
            **slide_facts(dataset, of),
        )
        depth = records.total[which].astype(np.float64)
        patch_model = None if patchwise is None else patchwise[which]
        found.append(Found(prediction, statistics[which], counts[which], depth, np.zeros(len(depth)), patch_model))
    return found


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
