"""Features of other tools onto the spots of a data set: joined by barcode, or by the tile that holds a centre."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import scipy.spatial

from data_prep import cli, files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax import encoders
from stjax.features import exchange
from stjax.features.embedder import check_scale
from stjax.features.exchange import FeatureFile
from stjax.features.store import FOLDER, MASK, VECTORS, Features, Writer, check_patches, patches_sha256

_NAMED = 3  # spots that a message names


@dataclasses.dataclass(frozen=True)
class Options:
    """What to import.

    Attributes:
        folder: where the feature files lie.
        coords: where the coords files lie, for tools that keep the size of patches there alone.
        encoder: that made them, where the files do not say it.
        allow_missing: take spots without features for spots without features, rather than for an error.
        any_scale: see `check_scale`.
    """

    folder: Path
    coords: Path | None = None
    encoder: str = ""
    allow_missing: bool = False
    any_scale: bool = False


def import_features(dataset: PatchDataset, name: str, options: Options) -> Features:
    """Keeps the features of other tools as features `name` of a data set; says how many spots have none.

    Args:
        name: of the folder; "" for the encoder's.

    Raises:
        InputError: no file of a section, a wrong one, features of something else, or spots without.
    """
    if dataset.kind != "patches":
        raise InputError(f"{dataset.path} holds tiles; features are imported onto the spots of patches")
    if not options.folder.is_dir():
        raise InputError(f"{options.folder}: no such folder; give the one with the feature files, one a section")
    found = {section["name"]: _read(section, options) for section in dataset.sections}
    present = [file for file in found.values() if file is not None]
    if not present:
        raise InputError(f"{options.folder}: no feature file of any section, such as {dataset.sections[0]['name']}.h5")
    key = _key(dataset, found, options)
    _check_alike(present)
    path = dataset.path / FOLDER / files.check_name(name or key["encoder"], "Features")
    joined = {name: _joined(dataset, name, file) for name, file in found.items()}
    _report_missing(dataset, joined, options)
    with Writer(path, key) as writer:
        if writer.finished:
            print(f"{path}: there already")
        for section in () if writer.finished else cli.progress(dataset.sections, description="import", unit="section"):
            rows, file = joined[section["name"]], found[section["name"]]
            arrays = _arrays(rows, file, like=present[0])
            shapes: dict[str, Any] = {kind: (values.shape[1:], values.dtype) for kind, values in arrays.items()}
            if not writer.begin(section, shapes, block=len(rows)):
                writer.write(arrays)
            writer.missing(section["name"], int(np.sum(rows < 0)))
        if not writer.finished:
            writer.finish()
    return Features.open(dataset, path.name)


def _arrays(rows: np.ndarray, file: FeatureFile | None, *, like: FeatureFile) -> dict[str, np.ndarray]:
    """{kind: [N, ...]} of the records of a section: NaN, and no window inside, where there is nothing."""
    known = rows >= 0
    arrays: dict[str, np.ndarray] = {VECTORS: np.full((len(rows), *like.vectors.shape[1:]), np.nan, like.vectors.dtype)}
    if like.mask is not None:
        arrays[MASK] = np.zeros((len(rows), *like.mask.shape[1:]), bool)
    if file is not None:
        arrays[VECTORS][known] = file.vectors[rows[known]]
        if file.mask is not None:
            arrays[MASK][known] = file.mask[rows[known]]
    return arrays


def _read(section: dict[str, Any], options: Options) -> FeatureFile | None:
    """The feature file of a section, called by its name or its image's; None where there is none."""
    names = (section["name"], Path(section["image"].get("file", "")).stem)
    path = exchange.find(options.folder, tuple(filter(None, names)))
    if path is None:
        return None
    coords = None if options.coords is None else exchange.find_coords(options.coords, tuple(filter(None, names)))
    file = exchange.read(path, coords)
    size = (section["image"]["width"], section["image"]["height"])
    if file.size_px not in (None, size) and not section["image"].get("patches"):  # whose slide's size is not known
        raise InputError(
            f"{path}: features of a slide of {file.size_px[0]} x {file.size_px[1]} px, that of section "
            f"{section['name']} has {size[0]} x {size[1]}: another slide, or one of another scale"
        )
    return file


def _check_alike(found: list[FeatureFile]) -> None:
    """Raises InputError unless the files hold the same kind of vectors."""

    def kind(file: FeatureFile) -> str:
        told = {name: value for name, value in file.told.items() if name != "patches"}
        return f"{file.vectors.dtype} {file.vectors.shape[1:]}" + "".join(f", {told[name]}" for name in sorted(told))

    for file in found[1:]:
        if kind(file) != kind(found[0]):
            raise InputError(
                f"{file.path}: {kind(file)[:100]}; {found[0].path.name} has {kind(found[0])[:100]}: give features that "
                "one encoder made"
            )


def _key(dataset: PatchDataset, found: dict[str, FeatureFile | None], options: Options) -> dict[str, Any]:
    """What is known of the features' making.

    Raises:
        InputError: the wrong encoder, features of other patches, or a scale that does not match.
    """
    present = {name: file for name, file in found.items() if file is not None}
    first = next(iter(present.values()))
    told, width = first.told, first.vectors.shape[-1]
    encoder = options.encoder or told.get("encoder", "")
    if not encoder:
        raise InputError(f"{first.path} does not say which encoder made it; give --encoder=NAME")
    if options.encoder and told.get("encoder", encoder) != encoder and told["encoder"] in encoders.ENCODERS:
        raise InputError(f"{first.path}: features of {told['encoder']}, not of --encoder={encoder}")
    known = encoders.ENCODERS.get(encoder)
    if known is not None and width not in (known.features, known.network.get("width")):
        raise InputError(f"{first.path}: vectors of {width} numbers, those of {known.title} have {known.features}")
    ours = patches_sha256(dataset)
    theirs = {name: file.told["patches"] for name, file in present.items() if "patches" in file.told}
    if theirs:
        remedy = "give files made of this data set, or embed it"
        check_patches(options.folder, theirs, {name: ours[name] for name in theirs}, remedy=remedy)
    scale = {}
    for name, file in present.items():
        if file.side_px and file.px:
            scale[name] = dataset.section(name)["um_per_px"] * file.side_px / file.px
    if known is not None and scale:
        remedy = "give features of patches of the right size"
        check_scale(encoder, scale, any_scale=options.any_scale, remedy=remedy)
    return {
        "encoder": encoder,
        "weights_sha256": told.get("weights_sha256", ""),
        "pooling": told.get("pooling", ""),
        "width": width,
        "compute": told.get("compute", ""),
        "px": first.px if known is None else known.px,
        "mean": [] if known is None else list(known.mean),
        "std": [] if known is None else list(known.std),
        "dtype": str(first.vectors.dtype),
        "um_per_px": scale,
        "context": 1 if first.mask is None else round(first.mask.shape[1] ** 0.5),
        "maps": False,
        "patches": ours,
        "imported": {name: files.sha256(file.path) for name, file in present.items()},
    }


# ---------------------------------------------------------------------------------------------------------- joining


def _joined(dataset: PatchDataset, name: str, file: FeatureFile | None) -> np.ndarray:
    """[N] int64: the row of the file that each record's spot has, -1 for none."""
    table = dataset.table(name)
    rows = np.full(len(table.white_fraction), -1)
    if file is not None:
        rows[table.record_of_spot] = rows_of(file, table.spots)
    return rows


def rows_of(file: FeatureFile, spots: Spots) -> np.ndarray:
    """[S] int64: the row of a feature file that is a spot's, by its barcode, or where the file has none of them by the
    tile that holds its centre: of several the one whose middle is nearest. -1 where there is none."""
    if file.barcodes is not None:
        place = {barcode: row for row, barcode in enumerate(file.barcodes.tolist())}
        rows = np.array([place.get(spot, -1) for spot in spots.id.tolist()], np.int64).reshape(len(spots))
        if (rows >= 0).any() or file.corner_xy is None or not file.side_px:
            return rows
    if file.corner_xy is None or not len(file.corner_xy):
        return np.full(len(spots), -1)
    tree = scipy.spatial.KDTree(file.corner_xy + file.side_px / 2)
    far, rows = tree.query(spots.xy, p=np.inf)
    return np.where(far <= file.side_px / 2, rows, -1)


def _report_missing(dataset: PatchDataset, joined: dict[str, np.ndarray], options: Options) -> None:
    """Says which spots have no features. Raises InputError where none may lack them."""
    named, count = [], 0
    for name, rows in joined.items():
        table = dataset.table(name)
        lacking = table.spots.id[rows[table.record_of_spot] < 0]
        count += len(lacking)
        named += [f"{name}/{spot}" for spot in lacking[: _NAMED - len(named)]]
    if not count:
        return
    total = sum(map(len, joined.values()))
    more = f" and {count - len(named)} more" if count > len(named) else ""
    text = f"{options.folder}: {count} of {total} spots have no features ({', '.join(named)}{more})"
    if not options.allow_missing:
        raise InputError(f"{text}; give files of all of them, or leave these out with --allow-missing")
    print(f"note: {text}; they are left out")
