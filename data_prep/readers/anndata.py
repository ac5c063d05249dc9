"""anndata: one .h5ad file, or a folder of them, as scanpy and squidpy keep spatial data.

    <section>.h5ad                   X, layers["counts"] or raw.X: raw counts; obsm["spatial"] = (x, y), full-resolution
                                     pixels, or a table whose columns say so
    <section>.tif|.jpg|...           the full-resolution image next to it, or --image FILE_OR_FOLDER
    patients.csv                     optional: section,patient

`var_names` are symbols, `var["gene_ids"]` Ensembl ids. A file of several samples, separated by a column of `obs` (such
as `library_id` or `sample`) or by what stands around the barcodes, holds a section for each.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import slide, unpack
from data_prep.errors import InputError
from data_prep.patients import USER
from data_prep.readers import _array_fit, _arrays, _h5ad, _h5ad_samples, _patients, _sections
from data_prep.readers._h5ad_file import as_text
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import DISC, SQUARE, Spots

_VISIUM_PITCH_UM, _VISIUM_RADIUS_UM = 100.0, 27.5
_LEGACY_PITCH_UM, _LEGACY_RADIUS_UM = 200.0, 50.0
# Pitch over spot_diameter_fullres: 1.54 of Visium (a theoretical 65 um), 1.8 where a tool wrote 55 um, 1 of bins
_VISIUM_PITCH_PER_DIAMETER, _PITCH_PER_DIAMETER = (1.2, 2.5), (0.8, 2.5)
_PATIENT_COLUMN = re.compile(r"^(patient|donor|subject|individual|participant|animal|mouse(?=id))(id|name|no|number)?$")
_NO_PATIENT = ("unknown", "pooled", "")  # as CELLxGENE writes where there is none to name


def detect(path: Path) -> str | None:
    """Why `path` holds AnnData files, or None."""
    files = _files(path)
    if path.is_file():
        return f"{path.name} is an .h5ad file" if files else None
    return f"it holds {len(files)} .h5ad file(s)" if files else None


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every section -> what it lacks, "" when complete."""
    found, image = {}, reading.image
    for name, (file, samples) in _places(path, image).items():
        if _is_packed(file):
            found[name] = f"{file.name} is gzipped: unpack it: {unpack.remedy(file)}"
            continue
        several = "" if samples.by is None else f", which holds {len(samples.names)} samples by {samples.describe()}"
        where = f"as {image}" if image else f"next to {file.name}{several} (expected {name}.tif|.jpg|.png, or --image)"
        found[name] = "" if _images(name, file, samples, image) else f"full-resolution image not found {where}"
    return found


check = _sections.check_one_image


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One section, its spots in file order; spots flagged as off tissue are left out."""
    file, samples = _places(path, reading.image)[name]
    table = _h5ad.read(file)
    rows, row_notes = _rows(table, name, samples)
    obs, spot_xy = table.obs.iloc[rows], table.spot_xy[rows]
    _h5ad_samples.check_one(file, name, obs, spot_xy, table.spot_z[rows])
    entry = table.spatial[samples.entry[name]] if name in samples.entry else {}
    factors = entry.get("scalefactors", {})
    image_path = _sections.only_image(name, _images(name, file, samples, reading.image))
    with slide.open_slide(image_path) as opened:
        size, image_um = (opened.width, opened.height), opened.um_per_px
    _check_size(name, image_path, size, entry)
    _check_order(name, file, spot_xy, size)

    array, array_notes = _arrays.of_table(obs, spot_xy, file)
    stated = reading.um_per_px or factors.get("microns_per_pixel")
    diameter_notes = _check_diameter(name, file, spot_xy, factors, array, stated=stated is not None)
    value, source, scale_notes = _sections.scale(
        name,
        user_um=reading.um_per_px,
        file_um=factors.get("microns_per_pixel"),
        pitch_um=_pitch_um(array, factors),
        image_um=image_um,
        remedy=_scale_remedy(array),
    )
    kind, size_px, shape_notes = _spot_shape(spot_xy, factors, array, value)
    turn_notes = _array_fit.turn_notes(array.turned_degrees) if array is not None and kind == SQUARE else ()
    patient = _patient(path, file, name, obs)
    named, counts, gene_notes = reading.name_genes(table.gene_id.tolist(), table.counts[rows], table.symbol.tolist())
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=image_path,
        genes=named,
        counts=counts,
        spots=Spots.alike(kind, spot_xy, np.float32(size_px), obs.index.astype(str).to_numpy(dtype=str)),
        um_per_px=value,
        um_per_px_source=source,
        layout="anndata",
        synthetic=_sections.is_synthetic(file),
        notes=(
            *patient.notes, *scale_notes, *array_notes, *diameter_notes, *shape_notes, *turn_notes,
            *row_notes, *table.notes, *gene_notes,
        ),
    )  # fmt: skip


def _rows(table: _h5ad.SpotTable, name: str, samples: _h5ad_samples.Samples) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows of the section under tissue."""
    kept, notes = samples.rows(table.obs, name, table.path), ()
    if samples.by is not None:
        nobody = len(table.obs) - sum(int(samples.rows(table.obs, each, table.path).sum()) for each in samples.names)
        notes = (f"{table.path.name} holds {len(samples.names)} samples by {samples.describe()}: this is "
                 f"{samples.names[name]!r}",)  # fmt: skip
        if table.spatial and name not in samples.entry:
            notes += (f"uns['spatial'] ({', '.join(table.spatial)}) has no entry of that name and is not used",)
        notes += (f"{nobody} spots are of no sample and were left out",) if nobody else ()
    kept, tissue_notes = _h5ad.under_tissue(table.obs, kept, table.path)
    if not kept.any():
        raise InputError(f"{table.path}: section {name!r} has no spot under tissue; check obs['in_tissue']")
    return np.flatnonzero(kept), notes + tissue_notes


def _pitch_um(array: _arrays.Array | None, factors: dict[str, float]) -> float | None:
    """um per pixel by the array's pitch: Visium's if it is hexagonal, the bin size if that is stated."""
    if array is None:
        return None
    if array.kind == "square":
        return factors["bin_size_um"] / array.pitch_px if factors.get("bin_size_um") else None
    return _VISIUM_PITCH_UM / array.pitch_px if array.kind == "hexagonal" and "bin_size_um" not in factors else None


def _scale_remedy(array: _arrays.Array | None) -> str:
    lacks = "the file has no microns_per_pixel"
    if array is None:
        return f"{lacks}, nor array_row and array_col that would show its pitch; give --source-um-per-px"
    kind = "no array known" if array.kind == "unknown" else f"a {array.kind} array"
    return (
        f"{lacks}, and array_row and array_col form {kind} (spots {array.pitch_px:.4g} px apart), whose pitch in um is "
        "not stated; give --source-um-per-px"
    )


def _check_diameter(
    name: str, path: Path, spot_xy: np.ndarray, factors: dict[str, float], array: _arrays.Array | None, *, stated: bool
) -> tuple[str, ...]:
    """Compare the distance between spots with `spot_diameter_fullres`; a note where they do not fit.

    Raises:
        InputError: they fit once a small picture's scale factor is taken off, or (Visium) not at all, and no scale is
            stated.
    """
    diameter = factors.get("spot_diameter_fullres", 0.0)
    visium = array is not None and array.kind == "hexagonal" and "bin_size_um" not in factors
    regular = array is not None or _arrays.is_regular(spot_xy)
    spacing = array.pitch_px if array is not None else _arrays.nearest_px(spot_xy)
    if not (diameter > 0 and spacing > 0 and regular):
        return ()
    low, high = _VISIUM_PITCH_PER_DIAMETER if visium else _PITCH_PER_DIAMETER
    if low <= spacing / diameter <= high:
        return ()
    found = f"spots are {spacing:.4g} px apart, but spot_diameter_fullres is {diameter:.4g} px"
    for key, factor in factors.items():
        if key.startswith("tissue_") and 0 < factor < 1 and low <= spacing / factor / diameter <= high:
            raise InputError(
                f"{path}: section {name!r}: {found}: the coordinates are in pixels of the {key.split('_')[1]} picture; "
                f"expected full-resolution pixels: divide obsm['spatial'] by {key}, {factor:.4g}"
            )
    if visium and not stated:
        raise InputError(
            f"{path}: section {name!r}: {found}; expected about 1.5 times as far, as Visium's: coordinates or scale "
            "factors are of another image; correct them, or give --source-um-per-px"
        )
    return (f"{found}: they may belong to different images",)


def _spot_shape(
    spot_xy: np.ndarray, factors: dict[str, float], array: _arrays.Array | None, um_per_px: float
) -> tuple[int, float, tuple[str, ...]]:
    """Spot kind, its size in pixels (disc radius or square side), and a note where it is a guess."""
    hexagonal = array is not None and array.kind == "hexagonal"
    if factors.get("bin_size_um"):
        note = "array_row and array_col are hexagonal, as Visium's, but bin_size_um is stated: taken as squares"
        return SQUARE, factors["bin_size_um"] / um_per_px, (note,) if hexagonal else ()
    if hexagonal:
        return DISC, _VISIUM_RADIUS_UM / um_per_px, ()
    diameter = factors.get("spot_diameter_fullres", 0.0)
    square = array is not None and array.kind == "square"
    pitch = array.pitch_px if array is not None else _arrays.nearest_px(spot_xy)
    if square and abs(diameter / pitch - 1) < 0.05:
        return SQUARE, pitch, ("spots are taken as squares: spot_diameter_fullres is the pitch of a square array",)
    if diameter > 0:
        return DISC, diameter / 2, ("spot size is spot_diameter_fullres, a theoretical value",)
    unstated = "spot size not stated: taken as"
    for known_um, radius_um, whose in (
        (_VISIUM_PITCH_UM, _VISIUM_RADIUS_UM, "Visium's 55 um"),
        (_LEGACY_PITCH_UM, _LEGACY_RADIUS_UM, "legacy ST's 100 um"),
    ):
        if pitch == 0 or abs(pitch * um_per_px / known_um - 1) < 0.1:
            return DISC, radius_um / um_per_px, (f"{unstated} {whose}",)
    note = f"{unstated} the distance between neighbours, {pitch * um_per_px:.4g} um"
    return (SQUARE, pitch, (note,)) if square else (DISC, pitch / 2, (note,))


def _check_size(name: str, image: Path, size: tuple[int, int], entry: dict[str, Any]) -> None:
    """Compare the image with the size the file's own small picture and scale factor declare."""
    for which, shape in entry.get("images", {}).items():
        scale = entry.get("scalefactors", {}).get(f"tissue_{which}_scalef", 0.0)
        if not scale > 0 or len(shape) != 2:
            continue
        declared = (shape[1] / scale, shape[0] / scale)
        _sections.check_size(
            name, image, size, declared, f"the picture {which!r} and its scale factor", 1.5 / scale + 2
        )
        return


def _check_order(name: str, path: Path, spot_xy: np.ndarray, size: tuple[int, int]) -> None:
    """Raise `InputError` where the spots leave the image as they are and not once x and y change places."""
    outside, swapped = (
        float(np.mean((order < 0).any(axis=1) | (order >= np.array(size)).any(axis=1)))
        for order in (spot_xy, spot_xy[:, ::-1])
    )
    if outside > 0.05 and swapped < outside / 10:
        raise InputError(
            f"{path}: section {name!r}: {outside:.0%} of the spots lie outside the image ({size[0]} x {size[1]} px), "
            f"{swapped:.0%} with x and y swapped: obsm['spatial'] is (row, col), expected (x, y); swap its columns"
        )


def _patient(path: Path, file: Path, name: str, obs: pd.DataFrame) -> _patients.Patient:
    """By patients.csv, else by a column of `obs` that is the same for every spot.

    Raises:
        InputError: a column names several patients, and patients.csv none.
    """
    for column in (column for column in obs if _PATIENT_COLUMN.match(re.sub(r"[^a-z]", "", str(column).lower()))):
        texts = dict.fromkeys(as_text(obs[column], file).tolist())
        values = [value for value in texts if value.lower() not in _NO_PATIENT]
        listed = _patients.find(path, name)
        if len(values) > 1 and listed.source != USER:
            raise InputError(
                f"{file}: section {name!r}: obs[{column!r}] names {len(values)} patients ({', '.join(values[:4])}), "
                "expected one: name each spot's section in obs['library_id'], or list section,patient in patients.csv"
            )
        if values:
            return listed if len(values) > 1 else _patients.find(path, name, stated=values[0])
    return _patients.find(path, name)


def _files(path: Path) -> list[Path]:
    """.h5ad files, and those gzipped (.h5ad.gz) that do not lie there unpacked too."""
    if path.is_file():
        return [path] if path.name.lower().endswith((".h5ad", ".h5ad.gz")) else []
    if not path.is_dir():
        return []
    files = [file for file in path.iterdir() if file.name[0] != "." and file.is_file()]
    plain = [file for file in files if file.suffix.lower() == ".h5ad"]
    packed = [file for file in files if file.name.lower().endswith(".h5ad.gz") and file.with_suffix("") not in plain]
    return sorted(plain + packed, key=lambda file: _sections.natural(file.name))


def _is_packed(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


def _places(path: Path, image: Path | None) -> dict[str, tuple[Path, _h5ad_samples.Samples]]:
    """Section -> its file, and how that is divided into samples."""
    files = _files(path)
    if not files:
        raise InputError(f"{path}: no .h5ad file found; give one, or the folder that holds them")
    found: dict[str, tuple[Path, _h5ad_samples.Samples]] = {}
    for file in files:
        if _is_packed(file):
            samples = _h5ad_samples.Samples(None, {Path(file.stem).stem: ""}, {}, {})
        else:
            samples = _h5ad_samples.find(file, lambda names, at=file: _have_images(names, at, image))
        for name in samples.names:
            if name in found:
                raise InputError(f"{path}: section {name!r} is both in {found[name][0].name} and in {file.name}")
            found[name] = (file, samples)
    return found


def _have_images(names: Iterable[str], file: Path, image: Path | None) -> bool:
    folder = file.parent if image is None else image
    return all(_sections.images_in(folder, name) for name in names)


def _images(name: str, file: Path, samples: _h5ad_samples.Samples, image: Path | None) -> list[Path]:
    """The slide: the one given, else <section>.<extension> next to the file, else the one its entry in `uns` names."""
    if image is not None:
        return _sections.given_image(image, name)
    named = file.parent / samples.slide.get(name, "")
    return _sections.images_in(file.parent, name) or ([named] if named in _sections.images_in(file.parent) else [])
