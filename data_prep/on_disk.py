"""Columns on disk: the names and positions of a whole slide's millions of bins, as files mapped into memory.

Such a column is an array like any other. What was looked at of it stays in memory until it is released.
"""

import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import InputError

MANY = 1 << 20  # rows: a column of fewer stays in memory
_ROWS = 1 << 18  # looked at together


class Column:
    """A column [N, ...] that grows part by part: in memory until it is long, then in a file if a folder is given.

    Its type is the smallest that holds those of all parts. The file's name begins with the name given.
    """

    def __init__(self, folder: Path | None, name: str):
        self._folder, self._name = folder, name
        self._parts: list[np.ndarray] = []  # in memory
        self._path: Path | None = None
        self._dtype, self._rows = np.dtype(np.uint8), 0  # of the file

    def append(self, part: np.ndarray) -> None:
        """Rows [n, ...] below those that are there."""
        path = self._path
        if path is None:
            self._parts.append(part)
            if self._folder is None or sum(map(len, self._parts)) < MANY:
                return
            part = np.concatenate(self._parts)
            self._parts.clear()
            path = self._begin(self._folder, part.dtype)
        if (dtype := np.promote_types(self._dtype, part.dtype)) != self._dtype:
            narrow = np.load(path, mmap_mode="r")
            path.unlink()  # stays as long as it is mapped
            path = self._begin(path.parent, dtype)
            for rows in blocks(len(narrow), narrow):
                self._write(path, narrow[rows])
        self._write(path, part)

    def whole(self) -> np.ndarray:
        """All rows; of at least one part."""
        return np.concatenate(self._parts) if self._path is None else np.load(self._path, mmap_mode="r")

    def _begin(self, folder: Path, dtype: np.dtype) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{self._name}.", suffix=".npy", delete=False) as file:
            self._path, self._dtype, self._rows = Path(file.name), dtype, 0
        return self._path

    def _write(self, path: Path, part: np.ndarray) -> None:
        self._rows += len(part)
        shape = (self._rows, *part.shape[1:])
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        with path.open("r+b") as file:
            np.lib.format.write_array_header_1_0(file, header)  # as long for any number of rows
            file.seek(0, 2)
            file.write(np.ascontiguousarray(part, self._dtype).data)


def keep(folder: Path | None, name: str, column: np.ndarray) -> np.ndarray:
    """A column [N, ...]; if it is long and a folder is given, in a file of it."""
    if folder is None or len(column) < MANY:
        return column
    return _filed(folder, name, (column[rows] for rows in blocks(len(column))))


def take(column: np.ndarray, rows: np.ndarray, *, times: float | None = None) -> np.ndarray:
    """Rows [M] of a column, which is released, multiplied by a number if one is given.

    They lie next to the column if that lies on disk and they are many, else in memory.
    """

    def taken(these: np.ndarray) -> np.ndarray:
        found = column[these] if times is None else column[these] * times
        release(column)
        return found

    path = file_of(column)
    if path is None or len(rows) < MANY:
        return taken(rows)
    return _filed(path.parent, path.name.split(".")[0], (taken(rows[part]) for part in blocks(len(rows))))


def blocks(length: int, *columns: np.ndarray, size: int | None = None) -> Iterator[slice]:
    """Slices of some rows each (`size`), which cover all; after each, these columns are released."""
    size = size or _ROWS
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
        release(*columns)


def release(*columns: np.ndarray) -> None:
    """Lets go of the memory that columns on disk take; whoever still looks at them reads them again."""
    for column in columns:
        if (mapped := _mapped(column)) is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped._mmap.madvise(mmap.MADV_DONTNEED)  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]


def file_of(column: np.ndarray) -> Path | None:
    """The file that holds just this column; None if it is in memory, or part of one on disk."""
    mapped = _mapped(column)
    return None if mapped is None or mapped.shape != column.shape else Path(str(mapped.filename))


def load(path: Path, *, remedy: str) -> np.ndarray:
    """The column of a file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged column ({error}); {remedy}") from None


def _filed(folder: Path, name: str, parts: Iterator[np.ndarray]) -> np.ndarray:
    column = Column(folder, name)
    for part in parts:
        column.append(part)
    return column.whole()


def _mapped(column: np.ndarray) -> np.memmap | None:
    """The array of a whole file that this one is, or shows a part of."""
    found, base = None, column
    while isinstance(base, np.ndarray):
        found, base = base if isinstance(base, np.memmap) else found, base.base
    return found
