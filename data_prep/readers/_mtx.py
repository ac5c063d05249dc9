"""Matrix Market files of counts, read by the table reader of pyarrow: every place and number is looked at."""

import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import scipy.sparse

from data_prep import budgets, unpack
from data_prep.errors import InputError

_KINDS = {b"integer": pyarrow.int64(), b"real": pyarrow.float64(), b"unsigned-integer": pyarrow.int64()}
_ANYTHING = re.compile(rb"\S")
_BLANKS = re.compile(rb"[ \t]+")
_ENTRY_BYTES, _LONGEST = 80, 48  # that an entry takes besides its text, and the longest text
_EDGES = re.compile(rb"^ | \r?$|\r$", re.MULTILINE)


def read(path: Path) -> scipy.sparse.coo_array:
    """The matrix of a Matrix Market file, gzipped or not, entries in their order.

    Raises:
        InputError: missing, damaged, or of another kind than a table of places and numbers.
    """
    pieces = unpack.pieces(path)
    data = bytearray(next(pieces, b""))  # more than all comments
    unpack.check_kind(path, data, "a Matrix Market file")
    kind, start = _kind(path, data)
    (rows, columns, entries), start = _sizes(path, data, start)
    lines, most = data.count(b"\n"), len(data) + _LONGEST * entries
    for piece in pieces:
        data += piece
        if len(data) > most:
            raise InputError(
                f"{path}: it goes on after the {entries} entries that its first lines announce; it is damaged, copy or "
                "download it again"
            )
        lines += piece.count(b"\n")
        budgets.MTX_ENTRIES.check(path, 3 * len(data) + _ENTRY_BYTES * lines)  # the text thrice where it is mended
    if kind not in _KINDS and entries:  # R calls an empty matrix what it likes
        raise InputError(_other_kind(path, data))
    table = _table(path, data, start, _KINDS[kind]) if kind in _KINDS and _ANYTHING.search(data, start) else None
    found = 0 if table is None else table.num_rows
    if found != entries:
        raise InputError(
            f"{path}: {found} entries, but its first lines announce {entries}; it is cut short or damaged, copy or "
            "download it again"
        )
    if table is None:
        return scipy.sparse.coo_array((rows, columns), dtype=np.int64)
    row, column, values = (_array(path, table.column(place)) for place in range(3))
    for places, side, name in ((row, rows, "row"), (column, columns, "column")):
        if places.min() < 1 or places.max() > side:
            odd = int(np.flatnonzero((places < 1) | (places > side))[0])
            raise InputError(
                f"{path}: entry {odd + 1} is in {name} {places[odd]} of {side}; the file is damaged, copy or "
                "download it again"
            )
    return scipy.sparse.coo_array((values, (row - 1, column - 1)), shape=(rows, columns))


def _kind(path: Path, data: bytes | bytearray) -> tuple[bytes, int]:
    """What its numbers are, b"" where they are not the entries of a table, and where the first line ends."""
    end = data.find(b"\n") + 1
    words = bytes(data[: min(end, 200)]).lower().split()
    if words[:3] != [b"%%matrixmarket", b"matrix", b"coordinate"] or len(words) != 5:
        raise InputError(_other_kind(path, data))
    return words[3] if words[4] == b"general" else b"", end


def _other_kind(path: Path, data: bytes | bytearray) -> str:
    found = data[: min(data.find(b"\n") + 1, 80)].decode("latin-1").strip()
    return (
        f"{path}: its first line is {found!r}, expected '%%MatrixMarket matrix coordinate integer general'; check that "
        "this is the matrix of counts, or copy it again"
    )


def _sizes(path: Path, data: bytes | bytearray, start: int) -> tuple[tuple[int, ...], int]:
    """Rows, columns and entries as they are announced, and where the entries begin."""
    while True:
        end = data.find(b"\n", start) + 1 or len(data)
        line = bytes(data[start:end]).strip()
        if line and not line.startswith(b"%"):
            break
        if end >= len(data):
            raise InputError(f"{path}: it ends before its size; copy or download it again")
        start = end
    words = line[:200].split()
    if len(words) != 3 or not all(re.fullmatch(rb"[0-9]{1,15}", word) for word in words):
        found = line[:60].decode("latin-1")
        raise InputError(
            f"{path}: its size is {found!r}, expected rows, columns and entries; copy or download it again"
        )
    return tuple(int(word) for word in words), end


def _table(path: Path, data: bytes | bytearray, start: int, kind: pyarrow.DataType) -> pyarrow.Table:
    options = {
        "read_options": pyarrow.csv.ReadOptions(column_names=["row", "column", "value"], use_threads=True),
        "parse_options": pyarrow.csv.ParseOptions(delimiter=" ", quote_char=False),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types={"row": pyarrow.int64(), "column": pyarrow.int64(), "value": kind}, null_values=[]
        ),
    }
    try:
        return pyarrow.csv.read_csv(pyarrow.BufferReader(pyarrow.py_buffer(data).slice(start)), **options)
    except (pyarrow.ArrowException, UnicodeDecodeError):
        even = _EDGES.sub(b"", _BLANKS.sub(b" ", data[start:]))  # tabs, several blanks, blanks at the ends of lines
    try:
        return pyarrow.csv.read_csv(pyarrow.BufferReader(even), **options)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:150]
        raise InputError(f"{path}: damaged Matrix Market file ({reason}); copy or download it again") from None


def _array(path: Path, column: pyarrow.ChunkedArray) -> np.ndarray:
    if column.null_count:
        raise InputError(f"{path}: an entry lacks a number; it is damaged, copy or download it again")
    return column.to_numpy()
