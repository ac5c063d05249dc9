"""What the Visium and Visium HD readers share: samples, positions, scale factors and the full-resolution image."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from data_prep import slide
from data_prep.errors import InputError
from data_prep.readers import _matrix, _sections, _text

POSITION_COLUMNS = (
    "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"
)  # fmt: skip
POSITION_FILES = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
BIN_FOLDER = re.compile(r"^square_(\d+)um$")
REDUCED = ("hires", "lowres")  # Space Ranger's own small images, as `image` may name them

_MATRIX = re.compile(r"^(.*_)?(filtered|raw)_feature_bc_matrix(\.h5)?$")
# Images Space Ranger writes beside the slide, none of them the slide
_NOT_SLIDES = re.compile(r"cytassist|aligned_|detected_tissue|tissue_(hires|lowres)|registered|qc", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where barcodes lie.

    Attributes:
        path: the file.
        barcode: [N] str.
        in_tissue: [N] bool.
        array_xy: [N, 2] float64 (column, row) on the array.
        pixel_xy: [N, 2] float64 (x, y), full-resolution pixels; may lie outside the image.
    """

    path: Path
    barcode: np.ndarray
    in_tissue: np.ndarray
    array_xy: np.ndarray
    pixel_xy: np.ndarray


def outputs(path: Path, marker: str) -> dict[str, Path]:
    """Sample name -> its Space Ranger output folder, one that holds `marker`.

    `path` is such a folder, holds it as `outs`, or holds several samples, each with or without `outs`.
    """
    path = path.resolve()
    single = next((folder for folder in (path, path / "outs") if (folder / marker).exists()), None)
    if single is not None:
        return {(single.parent if single.name == "outs" else single).name: single}
    below = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
    return {
        folder.name: out for folder in below for out in (folder, folder / "outs")
        if out.is_dir() and (out / marker).exists()
    }  # fmt: skip


def find_image(name: str, folder: Path, image: Path | None) -> list[Path]:
    """The full-resolution image: the `image` given, else image files beside the outputs.

    Looked for in the output folder and, where that is named `outs`, in the sample's folder above it; what Space Ranger
    itself writes there (CytAssist image, alignment and tissue pictures) is passed over.

    Args:
        name: the sample's.
        folder: its Space Ranger outputs.
        image: a file, or a folder of <sample>.<extension>.
    """
    if image is not None:
        return _sections.given_image(image, name)
    places = [folder, folder / "image", folder / "images"]
    if folder.name == "outs":
        places += [folder.parent, folder.parent / "image", folder.parent / "images"]
    return [file for place in places for file in _sections.images_in(place) if not _NOT_SLIDES.search(file.name)]


def reduced_image(spatial: Path, which: str) -> Path:
    """Space Ranger's `tissue_hires_image` or `tissue_lowres_image`."""
    for suffix in (".png", ".jpg", ".tiff", ".tif"):
        file = spatial / f"tissue_{which}_image{suffix}"
        if file.is_file():
            return file
    raise InputError(f"{spatial}: tissue_{which}_image.png not found; give the full-resolution slide with --image")


def read_scale_factors(spatial: Path, *needed: str) -> dict[str, float]:
    """`scalefactors_json.json`.

    Raises:
        InputError: missing, not JSON, or without a `needed` positive number.
    """
    path = spatial / "scalefactors_json.json"
    try:
        values = json.loads(_text.read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON (line {error.lineno}: {error.msg}); copy or download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, expected named numbers; copy or download it again")
    for name in needed:
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
            raise InputError(f"{path}: {name} is {value}, expected a positive number; copy or download the file again")
    return values


def positions_path(spatial: Path) -> Path | None:
    """The tissue positions file in a `spatial` folder, the newest kind first, gzipped or not."""
    names = [f"{name}{suffix}" for name in POSITION_FILES for suffix in ("", ".gz")]
    return next((spatial / name for name in names if (spatial / name).is_file()), None)


def read_positions(spatial: Path) -> Positions:
    """Tissue positions, whichever of the three files there is; a header is told by content.

    Raises:
        InputError: no such file, malformed, or a duplicate barcode.
    """
    path = next((spatial / name for name in POSITION_FILES if (spatial / name).is_file()), None)
    if path is None:
        zipped = next((spatial / f"{name}.gz" for name in POSITION_FILES if (spatial / f"{name}.gz").is_file()), None)
        if zipped is None:
            raise InputError(
                f"{spatial}: none of {', '.join(POSITION_FILES)} found; copy Space Ranger's spatial folder"
            )
        path = zipped
    table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    for column, values in table.items():
        if column != "barcode" and not np.all(np.isfinite(values)):
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(
                f"{path}: barcode {table['barcode'][row]}, column {column} is {values[row]}, expected a number; "
                "copy or download the file again"
            )
    return Positions(
        path=path,
        barcode=table["barcode"],
        in_tissue=table["in_tissue"] != 0,
        array_xy=np.column_stack([table["array_col"], table["array_row"]]),
        pixel_xy=np.column_stack([table["pxl_col_in_fullres"], table["pxl_row_in_fullres"]]),
    )


def check_image(name: str, image: Path, spatial: Path, factors: Mapping[str, Any]) -> None:
    """Compare the image with the size its reduced copy and scale factor declare.

    Raises:
        InputError: another size, so that positions would not fit it.
    """
    for which in REDUCED:
        scale = factors.get(f"tissue_{which}_scalef")
        if not isinstance(scale, int | float) or not scale > 0:
            continue
        try:
            small_path = reduced_image(spatial, which)
        except InputError:
            continue
        with slide.open_slide(small_path) as small, slide.open_slide(image) as full:
            declared = (small.width / scale, small.height / scale)
            found = (full.width, full.height)
        _sections.check_size(name, image, found, declared, f"{small_path.name} and its scale factor", 1.5 / scale + 2)
        return


def _parquet(path: Path) -> dict[str, np.ndarray]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: truncated or not a parquet file ({error}); copy or download it again") from error
    missing = [name for name in POSITION_COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(
            f"{path}: columns are {', '.join(table.column_names)}, expected {', '.join(POSITION_COLUMNS)}; "
            "check that this is Space Ranger's tissue_positions.parquet"
        )
    columns = {"barcode": np.asarray(table["barcode"].to_numpy().astype(str))}
    for name in POSITION_COLUMNS[1:]:
        columns[name] = np.asarray(table[name].to_numpy(), dtype=np.float64)
    return columns


def _csv(path: Path) -> dict[str, np.ndarray]:
    rows = _text.read_rows(path, ",")
    has_header = not _is_number(rows[0][1]) if len(rows[0]) > 1 else True
    if has_header:
        header, *rows = rows
        values = _text.columns(path, header, rows, POSITION_COLUMNS)
    elif len(rows[0]) != len(POSITION_COLUMNS):
        raise InputError(
            f"{path}: {len(rows[0])} columns without a header, expected {', '.join(POSITION_COLUMNS)}; "
            "check that this is Space Ranger's tissue positions file"
        )
    else:
        values = [list(column) for column in zip(*rows, strict=True)]
    first = 2 if has_header else 1
    columns = {"barcode": np.array(values[0], dtype=str)}
    for name, texts in zip(POSITION_COLUMNS[1:], values[1:], strict=True):
        columns[name] = _text.numbers(path, name, texts, lines=range(first, first + len(texts)))
    return columns


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def join(matrix: _matrix.CountMatrix, positions: Positions) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows of the matrix under tissue, their places among the positions, and what was left out.

    Raises:
        InputError: a duplicate barcode, or none in common.
    """
    _matrix.check_unique(positions.barcode, positions.path, "barcode")
    places = _matrix.places_of(matrix.barcode, positions.barcode)
    known = places >= 0
    kept = known & positions.in_tissue[places]
    if not kept.any():
        raise InputError(
            f"{matrix.path}: none of its {len(places)} barcodes is under tissue in {positions.path} (e.g. "
            f"{next(iter(matrix.barcode), 'nothing')} against {next(iter(positions.barcode), 'nothing')}); "
            "matrix and positions belong to different samples"
        )
    uncounted = int(positions.in_tissue.sum() - kept.sum())
    texts = (
        (int((~known).sum()), "barcodes of the matrix have no position and were left out"),
        (int((known & ~kept).sum()), "barcodes of the matrix are not under tissue and were left out"),
        (uncounted, "positions under tissue have no counts"),
    )
    return np.flatnonzero(kept), places[kept], tuple(f"{number} {text}" for number, text in texts if number)


def place_image(
    name: str, folder: Path, spatial: Path, image: Path | None, factors: Mapping[str, float]
) -> tuple[Path, float, tuple[str, ...]]:
    """The image to read, its pixels per full-resolution pixel, and notes.

    Args:
        name: the sample's.
        folder: its Space Ranger outputs.
        spatial: the folder of its small images.
        image: a file, a folder of <sample>.<extension>, or "hires" or "lowres" for Space Ranger's reduced image.
        factors: scale factors.

    Raises:
        InputError: several images, or one of another size than declared.
    """
    if image is not None and str(image) in REDUCED:
        key = f"tissue_{image}_scalef"
        scale = read_scale_factors(spatial, key)[key]
        note = f"Space Ranger's reduced {image} image is used, {scale:.4g} of full resolution"
        return reduced_image(spatial, str(image)), scale, (note,)
    found = _sections.only_image(name, find_image(name, folder, image))
    check_image(name, found, spatial, factors)
    return found, 1.0, ()


def missing_image(name: str, folder: Path, image: Path | None) -> str:
    """What is said of a sample without its full-resolution image, "" where there is one."""
    if (image is not None and str(image) in REDUCED) or find_image(name, folder, image):
        return ""
    if image is not None:
        return f"image not found as {image}/{name}.<extension>"
    return (
        f"full-resolution image not found in {folder.name}/ (expected *.tif|*.jpg|*.png, or --image FILE_OR_FOLDER; "
        "--image hires takes Space Ranger's reduced one)"
    )


def matrices(folder: Path) -> list[Path]:
    """Matrix files and folders, the one to read first: filtered before raw, HDF5 before Matrix Market.

    Raises:
        InputError: matrices of several samples side by side.
    """
    matches = [(match, entry) for entry in sorted(folder.iterdir()) if (match := _MATRIX.match(entry.name))]
    found = [(match[2] == "raw", match[3] is None, match[1] or "", entry) for match, entry in matches
             if entry.is_dir() == (match[3] is None)]  # fmt: skip
    samples = sorted({sample.rstrip("_") or "no prefix" for *_, sample, _ in found})
    if len(samples) > 1:
        raise InputError(f"{folder}: matrices of several samples ({', '.join(samples)}); give each a folder of its own")
    return [entry for *_, entry in sorted(found)]


def read_matrix(folder: Path) -> _matrix.CountMatrix:
    """The best matrix in `folder`."""
    path = matrices(folder)[0]
    return _matrix.read_h5(path) if path.suffix == ".h5" else _matrix.read_mtx(path)
