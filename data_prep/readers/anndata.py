"""anndata: one .h5ad file, or a folder of them, as scanpy and squidpy keep spatial data.

    <section>.h5ad                   X or layers["counts"]: raw counts; obsm["spatial"] = (x, y), full-resolution pixels
    <section>.tif|.jpg|...           the full-resolution image beside it, or --image FILE_OR_FOLDER
    patients.csv                     optional: section,patient

`var_names` are symbols, `var["gene_ids"]` Ensembl ids. A file with several libraries in `uns["spatial"]` and an `obs`
column that names them (such as `library_id`) holds one section per library.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import genes, slide
from data_prep.errors import InputError
from data_prep.readers import _h5ad, _sections
from data_prep.section import DISC, SQUARE, Section

_VISIUM_PITCH_UM, _VISIUM_RADIUS_UM = 100.0, 27.5
_LIBRARY_COLUMNS = ("library_id", "library", "sample", "sample_id", "batch")
_PATIENT_COLUMNS = ("patient", "patient_id", "donor", "donor_id", "subject", "individual")


def detect(path: Path) -> str | None:
    """Why `path` holds AnnData files, or None."""
    path = Path(path)
    files = _files(path)
    if path.is_file():
        return f"{path.name} is an .h5ad file" if files else None
    return f"it holds {len(files)} .h5ad file(s)" if files else None


def find_sections(path: Path, *, image: Path | None = None, **_: Any) -> dict[str, str]:
    """Every section -> what it lacks, "" when complete."""
    path = Path(path)
    found = {}
    for name, (file, _library) in _places(path).items():
        where = f"as {image}" if image else f"beside {file.name} (expected {name}.tif|.jpg|.png, or --image)"
        found[name] = "" if _images(name, file, image) else f"full-resolution image not found {where}"
    return found


def list_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> list[str]:
    """Names of the sections to read; see `data_prep.readers._sections.choose`."""
    names = _sections.choose(find_sections(path, **options), Path(path), sections, skip_incomplete)
    _sections.check_one_image(options.get("image"), names)
    return names


def read_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> Iterator[Section]:
    """The sections one by one; the first is read when asked for."""
    for name in list_sections(path, sections=sections, skip_incomplete=skip_incomplete, **options):
        yield read_section(path, name, **options)


def read_section(
    path: Path,
    name: str,
    *,
    um_per_px: float | None = None,
    image: Path | None = None,
    gene_table: Path | None = None,
    resolve_aliases: bool = False,
    **_: Any,
) -> Section:
    """One section, its spots in file order; spots flagged as off tissue are left out.

    Raises:
        InputError: a missing, malformed or contradictory file, with its place and what to do.
    """
    path = Path(path)
    _sections.choose(find_sections(path, image=image), path, [name], False)
    file, library = _places(path)[name]
    table = _h5ad.read(file)
    rows, row_notes = _rows(table, library)
    obs, spot_xy = table.obs.iloc[rows], table.spot_xy[rows]
    entry = table.spatial.get(library or "") or next(iter(table.spatial.values()), {})
    factors = entry.get("scalefactors", {})
    image_path = _sections.only_image(name, _images(name, file, image))
    with slide.open_slide(image_path) as opened:
        size, image_um = (opened.width, opened.height), opened.um_per_px
    _check_size(name, image_path, size, entry)

    hexagonal = {"array_row", "array_col"} <= set(obs.columns) and "bin_size_um" not in factors
    pitch = None
    if hexagonal:
        array_xy = obs[["array_col", "array_row"]].to_numpy(dtype=np.float64)
        pitch = _sections.pitch_px(array_xy * np.array([0.5, np.sqrt(3) / 2]), spot_xy)
    value, source, scale_notes = _sections.scale(
        name,
        file_um=factors.get("microns_per_pixel") or (None if pitch else image_um),
        pitch_um=_VISIUM_PITCH_UM / pitch if pitch else None,
        user_um=um_per_px,
        remedy="the file has neither array_row and array_col nor microns_per_pixel; give --source-um-per-px",
    )
    kind, size_px, shape_notes = _spot_shape(factors, value, visium=pitch is not None)
    patient, patient_notes = _patient(path, name, obs)
    named, counts, gene_notes = genes.name_columns(
        table.gene_id.tolist(),
        table.counts[rows],
        symbols=table.symbol.tolist(),
        gene_table_path=gene_table,
        resolve_aliases=resolve_aliases,
    )
    return Section(
        name=name,
        patient=patient,
        image_path=image_path,
        genes=named,
        counts=counts,
        spot_id=obs.index.astype(str).to_numpy(dtype=str),
        spot_xy=spot_xy,
        spot_kind=np.full(len(rows), kind, np.uint8),
        spot_size_px=np.full(len(rows), size_px, np.float32),
        um_per_px=value,
        um_per_px_source=source,
        layout="anndata",
        synthetic=_sections.is_synthetic(file),
        notes=(*patient_notes, *scale_notes, *shape_notes, *row_notes, *table.notes, *gene_notes),
    )


def _rows(table: _h5ad.SpotTable, library: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows of the library under tissue."""
    kept = np.ones(len(table.obs), bool)
    if library is not None:
        column = _library_column(table.path, list(table.spatial))
        kept = table.obs[column].astype(str).to_numpy() == library if column else kept
    kept, notes = _h5ad.under_tissue(table.obs, kept)
    if not kept.any():
        raise InputError(f"{table.path}: no spot under tissue{f' in library {library}' if library else ''}")
    return np.flatnonzero(kept), notes


def _spot_shape(factors: dict[str, float], um_per_px: float, *, visium: bool) -> tuple[int, float, tuple[str, ...]]:
    """Spot kind, its size in pixels (disc radius or square side), and a note where it is a guess."""
    if factors.get("bin_size_um"):
        return SQUARE, factors["bin_size_um"] / um_per_px, ()
    if visium:
        return DISC, _VISIUM_RADIUS_UM / um_per_px, ()
    if factors.get("spot_diameter_fullres"):
        return DISC, factors["spot_diameter_fullres"] / 2, ("spot size is spot_diameter_fullres, a theoretical figure",)
    return DISC, _VISIUM_RADIUS_UM / um_per_px, ("spot size not stated: taken as Visium's 55 um",)


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


def _patient(path: Path, name: str, obs: Any) -> tuple[str, tuple[str, ...]]:
    """By patients.csv, else by a column of `obs` that is the same for every spot."""
    listed, unlisted = _sections.patient_from_table(path, name)
    if unlisted:
        for column in _PATIENT_COLUMNS:
            values = obs[column].astype(str).unique() if column in obs else ()
            if len(values) == 1 and values[0] not in ("", "nan"):
                return str(values[0]), ()
    return listed, unlisted


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".h5ad" else []
    if not path.is_dir():
        return []
    return sorted(
        (file for file in path.glob("*.h5ad") if file.name[0] != "."), key=lambda x: _sections.natural(x.stem)
    )


def _places(path: Path) -> dict[str, tuple[Path, str | None]]:
    """Section -> its file, and its library where the file holds several."""
    files = _files(path)
    if not files:
        raise InputError(f"{path}: no .h5ad file found; give one, or the folder that holds them")
    found: dict[str, tuple[Path, str | None]] = {}
    for file in files:
        libraries = _h5ad.libraries(file)
        several = len(libraries) > 1 and _library_column(file, libraries) is not None
        for name, library in ((key, key) for key in libraries) if several else ((file.stem, None),):
            if name in found:
                raise InputError(f"{path}: section {name!r} is both in {found[name][0].name} and in {file.name}")
            found[name] = (file, library)
    return found


def _library_column(path: Path, libraries: Sequence[str]) -> str | None:
    """The column of `obs` whose values are the libraries."""
    for column in _LIBRARY_COLUMNS:
        values = _h5ad.text_column(path, column)
        if values is not None and set(values) <= set(libraries):
            return column
    return None


def _images(name: str, file: Path, image: Path | None) -> list[Path]:
    return _sections.images_in(file.parent, name) if image is None else _sections.given_image(image, name)
