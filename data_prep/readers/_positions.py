"""Space Ranger's tissue positions, and the join of a matrix with them: by barcode, never by order."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import files, names, on_disk, unpack
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _matrix, _text

COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
FILES = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_MISSING = {"", "na", "nan", "n/a", "null", "none"}
_FLAGS = {"true": "1", "false": "0"}
_TRIFLE = 0.01  # of the rows or barcodes: what may be out of order without putting the whole file in doubt
_MOST_UNCOUNTED = 0.1  # of the spots under tissue: as many as somebody's quality control takes off a filtered matrix
_ROWS = 1 << 18  # read together
_SUFFIX = re.compile(r"-\d+$")


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where barcodes lie.

    Attributes:
        path: the file.
        barcode: [N] str, or bytes where there are many, see `data_prep.names`.
        in_tissue: [N] bool.
        array_xy: [N, 2] (column, row) on the array, int32 or float64.
        pixel_xy: [N, 2] float64 (x, y), full-resolution pixels; may lie outside the image.
        notes: what was left out.

    Long columns may lie on disk, see `data_prep.on_disk`.
    """

    path: Path
    barcode: np.ndarray
    in_tissue: np.ndarray
    array_xy: np.ndarray
    pixel_xy: np.ndarray
    notes: tuple[str, ...] = ()


def read_positions(path: Path, scratch: Path | None = None) -> Positions:
    """Tissue positions of any Space Ranger; a header is told by content.

    Rows without numbers are left out and counted: programs that take the header for a spot write one of them.

    Args:
        scratch: a folder to keep long columns in.

    Raises:
        InputError: malformed, or more such rows than one in a hundred.
    """
    is_parquet = path.name.removesuffix(".gz").endswith(".parquet")
    columns = [on_disk.Column(scratch, name) for name in ("barcode", "in_tissue", "array_xy", "pixel_xy")]
    lost, count = [], 0
    for table in _parquet(path) if is_parquet else [_csv(path)]:
        values = np.column_stack([table[name] for name in COLUMNS[1:]])
        whole = np.asarray(np.isfinite(values).all(axis=1))
        count += len(whole)
        lost += [(table["barcode"][row], values[row]) for row in np.flatnonzero(~whole)]
        in_tissue, *places = values[whole].T
        of_array, of_image = np.column_stack(places[1::-1]), np.column_stack(places[:1:-1])
        for column, part in zip(
            columns, (table["barcode"][whole], in_tissue != 0, _smallest(of_array), of_image), strict=True
        ):
            column.append(part)
    if len(lost) > _trifle(count):
        barcode, numbers = lost[0]
        column = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise InputError(
            f"{path}: barcode {names.texts(barcode)}, column {COLUMNS[1:][column]} is {numbers[column]}, "
            f"expected a number, as in {len(lost) - 1} more of {count} rows; copy or download the file again"
        )
    notes = (counted(len(lost), f"rows of {path.name} hold no numbers and were left out"),) if lost else ()
    barcode, in_tissue, array_xy, pixel_xy = (column.whole() for column in columns)
    return Positions(path, barcode, in_tissue, array_xy, pixel_xy, notes)


def _smallest(array_xy: np.ndarray) -> np.ndarray:
    """Places on the array as int32 where they are whole numbers, of which a slide has millions."""
    whole = array_xy.astype(np.int32) if (np.abs(array_xy) < 2**31).all() else array_xy
    return whole if (whole == array_xy).all() else array_xy


def _trifle(number: int) -> int:
    return max(1, int(_TRIFLE * number))


def _parquet(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """The columns [N], some rows at a time; NaN where a number is missing. Barcodes are bytes (`data_prep.names`) where
    there are many."""
    import pyarrow
    import pyarrow.parquet

    try:
        source = io.BytesIO(unpack.read_bytes(path)) if path.suffix == ".gz" else path
        with pyarrow.parquet.ParquetFile(source) as file:
            there = file.schema_arrow.names
            if not set(COLUMNS) <= set(there):
                raise InputError(
                    f"{path}: columns are {files.shown(', '.join(there), most=200)}, expected {', '.join(COLUMNS)}; "
                    "check that this is Space Ranger's tissue_positions.parquet"
                )
            many = file.metadata.num_rows > on_disk.MANY
            empty = file.schema_arrow.empty_table().select(list(COLUMNS))
            batches = file.iter_batches(batch_size=_ROWS, columns=list(COLUMNS))
            yield _numbered(path, empty, as_bytes=many)
            for batch in batches:
                yield _numbered(path, pyarrow.Table.from_batches([batch]), as_bytes=many)
        if many:
            pyarrow.default_memory_pool().release_unused()  # a hundred megabytes and more
    except (pyarrow.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: truncated or not a parquet file ({error}); copy or download it again") from error


def _numbered(path: Path, table: Any, *, as_bytes: bool) -> dict[str, np.ndarray]:
    columns = {"barcode": _barcodes(table["barcode"], as_bytes=as_bytes)}
    for name in COLUMNS[1:]:
        try:
            columns[name] = np.asarray(table[name].to_numpy(), dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}: column {name} is of type {table.schema.field(name).type}, expected numbers; copy or download "
                "it again"
            ) from error
    return columns


def _barcodes(column: Any, *, as_bytes: bool) -> np.ndarray:
    """[N] str, or bytes where these are asked for and all are ASCII."""
    barcode = column.to_numpy()
    if as_bytes:
        with contextlib.suppress(UnicodeEncodeError):
            return barcode.astype("S")
    return barcode.astype(str)


def _csv(path: Path) -> dict[str, np.ndarray]:
    """The columns [N]; NaN where a number is missing, and in a row that repeats the header."""
    rows = _text.read_rows(path, ",")
    header = _header(rows[0])
    if header:
        texts = _text.columns(path, rows[0], rows[1:], COLUMNS)
    elif len(rows[0]) != len(COLUMNS):
        raise InputError(
            f"{path}: {len(rows[0])} columns without a header, expected {', '.join(COLUMNS)}; "
            "check that this is Space Ranger's tissue positions file"
        )
    else:
        texts = [list(column) for column in zip(*rows, strict=True)]
    repeated = np.array([barcode == COLUMNS[0] for barcode in texts[0]])
    columns = {"barcode": np.array(texts[0], dtype=str)}
    for name, column in zip(COLUMNS[1:], texts[1:], strict=True):
        columns[name] = _numbers(path, name, column, repeated, first_line=2 if header else 1)
    return columns


def _header(row: Sequence[str]) -> bool:
    """Whether a first row names columns: its second field is no value of `in_tissue`."""
    return len(row) < 2 or (
        np.isnan(_text.number(row[1])) and row[1].strip().casefold() not in _MISSING | _FLAGS.keys()
    )


def _numbers(path: Path, name: str, texts: Sequence[str], repeated: np.ndarray, *, first_line: int) -> np.ndarray:
    """[N] float64, NaN where the file says that there is none."""
    plain = [_FLAGS.get(key := text.strip().casefold(), key) if name == COLUMNS[1] else text.strip() for text in texts]
    there = np.flatnonzero(~repeated & np.array([text.casefold() not in _MISSING for text in plain]))
    values = np.full(len(texts), np.nan)
    values[there] = _text.numbers(path, name, [plain[row] for row in there], lines=(there + first_line).tolist())
    return values


def join(
    matrix: _matrix.CountMatrix, positions: Positions, *, every_spot: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows of the matrix under tissue, their places among the positions, and what was left out.

    A filtered matrix holds exactly the spots under tissue. All slides of a kind share one list of barcodes, so that the
    positions of another sample would place most of them, wrongly: where the two disagree, they are refused.

    Args:
        matrix: the counts.
        positions: of the same sample.
        every_spot: a filtered matrix lists spots without any count too, as Visium's does and Visium HD's does not.

    Raises:
        InputError: a duplicate barcode, several libraries, no tissue, or files of different samples.
    """
    _matrix.check_unique(positions.barcode, positions.path, "barcode")
    barcode, placed, notes = _one_spelling(matrix, positions)
    places = names.places_of(barcode, placed)
    known = places >= 0
    if not positions.in_tissue.any():
        raise InputError(
            f"{positions.path}: in_tissue is 0 in all {len(placed)} rows, so that no spot is under tissue; give Space "
            "Ranger's own file, or set in_tissue to 1 for the spots under tissue"
        )
    kept = known & positions.in_tissue[places]
    if not kept.any():
        raise InputError(
            f"{matrix.path}: none of its {len(places)} barcodes is under tissue in {positions.path} (e.g. "
            f"{next(iter(names.texts(matrix.barcode[:1])), 'nothing')} against "
            f"{next(iter(names.texts(positions.barcode[:1])), 'nothing')}); "
            "matrix and positions belong to different samples"
        )
    off, inside = int((~kept).sum()), int(positions.in_tissue.sum())
    uncounted = inside - len(kept) + off
    _check_sample(matrix, positions, off, uncounted, every_spot=every_spot)
    texts = (
        (int((~known).sum()), "barcodes of the matrix have no position and were left out"),
        (int((known & ~kept).sum()), "barcodes of the matrix are not under tissue and were left out"),
        (uncounted, "positions under tissue have no counts"),
    )
    notes = (*positions.notes, *notes, *(counted(number, text) for number, text in texts if number))
    return np.flatnonzero(kept), places[kept], notes


def _check_sample(
    matrix: _matrix.CountMatrix, positions: Positions, off: int, uncounted: int, *, every_spot: bool
) -> None:
    """Refuse a matrix whose barcodes are not those under tissue: the positions are another sample's."""
    barcodes, inside = len(matrix.barcode), int(positions.in_tissue.sum())
    strays = off > _trifle(barcodes)
    if matrix.kind == "filtered":
        refused = strays or (every_spot and uncounted > max(1, _MOST_UNCOUNTED * inside))
    else:  # a raw matrix holds all barcodes; one that says neither is either, or part of one
        refused = matrix.kind != "raw" and strays and uncounted > _trifle(inside)
    if refused:
        raise InputError(
            f"{matrix.path}: {off} of its {barcodes} barcodes are not under tissue in {positions.path}, and "
            f"{uncounted} of the {inside} spots under tissue there are not in it; a filtered matrix holds just the "
            "spots under tissue, so the two belong to different samples or in_tissue was changed: give both files of "
            "one sample"
        )


def _one_spelling(matrix: _matrix.CountMatrix, positions: Positions) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Barcodes of both with the library's number (-1) on both or neither, and a note where one lacked it."""
    suffixes = []
    for path, listed in ((matrix.path, matrix.barcode), (positions.path, positions.barcode)):
        suffixes.append(_suffixes(listed))
        libraries = sorted(suffixes[-1] - {""}, key=lambda suffix: (len(suffix), suffix))
        if len(libraries) > 1:
            raise InputError(
                f"{path}: barcodes of {len(libraries)} libraries ({', '.join(libraries[:6])}), as spaceranger aggr "
                "writes them; expected one sample: give each sample's own outputs"
            )
    if {""} not in suffixes or suffixes[0] == suffixes[1]:
        return matrix.barcode, positions.barcode, ()
    bare, other = (matrix, positions) if suffixes[0] == {""} else (positions, matrix)
    note = f"barcodes of {bare.path.name} lack the {max(_suffixes(other.barcode))} of {other.path.name}; joined without"
    return _without_suffix(matrix.barcode), _without_suffix(positions.barcode), (note,)


def _suffixes(listed: np.ndarray) -> set[str]:
    """The numbers of libraries at the barcodes' ends, such as {"-1"}; "" for none. Millions take a second."""
    if not len(listed):
        return set()
    first = match.group() if (match := _SUFFIX.search(str(names.texts(listed[0])))) else ""
    end = np.asarray(first, listed.dtype.kind)
    if first and all(np.strings.endswith(listed[rows], end).all() for rows in on_disk.blocks(len(listed), listed)):
        return {first}
    return {match.group() if (match := _SUFFIX.search(name)) else "" for name in names.texts(listed).tolist()}


def _without_suffix(listed: np.ndarray) -> np.ndarray:
    return np.array([_SUFFIX.sub("", name) for name in names.texts(listed).tolist()], dtype=str)
