"""Counts on disk: those of a whole slide of 2 um bins take gigabytes, of which a few rows are wanted at a time."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from data_prep import json_files, on_disk
from data_prep.errors import InputError
from data_prep.spots import ranges

_REMEDY = "remove the folder that holds it and build again"
_ABOUT, _POINTERS = "about.json", "indptr.npy"
_ENTRIES = ("data", "indices")
_CONVERTED = 1 << 24  # entries made wider together
_TAKEN = 1 << 15  # entries read together: those of a few spots here and there touch most of the file
ARRAYS = {"counts_rows": ("iu", 1), "counts_columns": ("iu", 1)}  # of a view, as `StoredCounts.to_arrays` gives it
_FORM = {"columns": json_files.COUNT, "types": {name: json_files.one_of("u1", "u2", "u4") for name in _ENTRIES}}


@dataclasses.dataclass(frozen=True, eq=False)
class StoredCounts:
    """[S, G] int32 counts that lie in a folder: indexed by rows it gives these in memory, as a CSR array.

    Attributes:
        folder: where `Writer` wrote them.
        pointers: [N + 1] int64, where the entries of each stored row begin; on disk too.
        rows: [S] which of the stored rows these are, in this order.
        column_of: [columns stored] the column of each here; several of one are added up.
        columns: G.
        types: of the stored "data" and "indices".
    """

    folder: Path
    pointers: np.ndarray
    rows: np.ndarray
    column_of: np.ndarray
    columns: int
    types: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path) -> "StoredCounts":
        """All that lies in a folder.

        Raises:
            InputError: a file is missing, damaged or of another size.
        """
        about = json_files.read(folder / _ABOUT, remedy=_REMEDY)
        json_files.require(about, _FORM, f"{folder / _ABOUT}", remedy=_REMEDY)
        pointers = on_disk.load(folder / _POINTERS, remedy=_REMEDY)
        try:
            sizes = {name: (folder / name).stat().st_size for name in _ENTRIES}
        except OSError as error:
            raise InputError(f"{folder}: damaged counts ({error}); {_REMEDY}") from None
        wanted = {name: int(pointers[-1]) * np.dtype(kind).itemsize for name, kind in about["types"].items()}
        if sizes != wanted:
            raise InputError(f"{folder}: damaged counts ({sizes} bytes, expected {wanted}); {_REMEDY}")
        columns = about["columns"]
        rows = np.arange(len(pointers) - 1, dtype=np.min_scalar_type(len(pointers)))
        return cls(folder, pointers, rows, np.arange(columns, dtype=np.int32), columns, about["types"])

    @classmethod
    def from_arrays(cls, folder: Path, arrays: Mapping[str, np.ndarray]) -> "StoredCounts":
        """The view that `to_arrays` was given."""
        column_of = arrays["counts_columns"].astype(np.int32)
        whole = cls.open(folder)
        if len(column_of) != whole.columns or int(arrays["counts_rows"].max(initial=0)) >= max(1, whole.shape[0]):
            raise InputError(f"{folder}: other counts than it should hold; {_REMEDY}")
        columns = int(column_of.max(initial=-1)) + 1
        return dataclasses.replace(whole, rows=arrays["counts_rows"], column_of=column_of, columns=columns)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Which rows and columns these are of what lies in the folder."""
        return {"counts_rows": self.rows, "counts_columns": self.column_of}

    @property
    def shape(self) -> tuple[int, int]:
        """(S, G)."""
        return len(self.rows), self.columns

    def lengths(self, rows: Any = slice(None)) -> np.ndarray:
        """[rows] int64: how many entries each has."""
        first, stop = self._ends(rows)
        return stop - first

    def any_found(self) -> bool:
        """Whether a row has an entry."""
        return any(self.lengths(rows).any() for rows in on_disk.blocks(len(self.rows)))

    def chosen(self, rows: np.ndarray) -> "StoredCounts":
        """Some of the rows, still on disk."""
        return dataclasses.replace(self, rows=self.rows[rows])

    def gathered(self, column_of: np.ndarray, columns: int) -> "StoredCounts":
        """With other columns: [G] the new one of each, of which several are added up; still on disk."""
        return dataclasses.replace(self, column_of=column_of[self.column_of].astype(np.int32), columns=columns)

    def __getitem__(self, rows: Any) -> scipy.sparse.csr_array:
        first, stop = self._ends(rows)
        entries = ranges(first, stop)[1]
        data, indices = (self._read(name, entries) for name in _ENTRIES)
        pointers = np.append(0, np.cumsum(stop - first))
        kind = np.int32 if pointers[-1] < 2**31 else np.int64
        parts = (data.astype(np.int32), self.column_of[indices].astype(kind, copy=False), pointers.astype(kind))
        found = scipy.sparse.csr_array(parts, shape=(len(first), self.columns))
        found.sum_duplicates()  # sorts columns too, which new ones may not be
        return found

    def _ends(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """[rows], [rows] int64: where the entries of each begin and end."""
        stored = self.rows[rows].astype(np.int64)
        ends = self.pointers[stored], self.pointers[stored + 1]
        on_disk.release(self.pointers)
        return ends

    def _read(self, name: str, entries: np.ndarray) -> np.ndarray:
        """Some entries of a file, which leaves no page of it among the process's memory."""
        found = np.zeros(len(entries), self.types[name])
        if len(entries):  # an empty file cannot be mapped
            stored = np.memmap(self.folder / name, self.types[name], mode="r")
            for part in on_disk.blocks(len(entries), stored, size=_TAKEN):
                found[part] = stored[entries[part]]
        return found


class Writer:
    """Writes counts to a folder, some rows at a time, in the smallest types that hold them."""

    def __init__(self, folder: Path, columns: int):
        folder.mkdir(parents=True)
        self._folder, self._columns = folder, columns
        self._lengths = [np.zeros(1, np.int64)]
        self._types = {"data": np.dtype("u1"), "indices": np.min_scalar_type(max(columns - 1, 0))}

    def append(self, counts: scipy.sparse.csr_array) -> None:
        """Rows [N, columns] below those that were written."""
        for name in _ENTRIES:
            values = getattr(counts, name)
            needed = np.min_scalar_type(int(values.max(initial=0)))
            if needed.itemsize > self._types[name].itemsize:
                self._widen(name, needed)
            with (self._folder / name).open("ab") as file:
                values.astype(self._types[name]).tofile(file)
        self._lengths.append(np.diff(counts.indptr).astype(np.int64))

    def _widen(self, name: str, kind: np.dtype[Any]) -> None:
        path, wider = self._folder / name, self._folder / f"{name}.wider"
        if path.exists():
            with path.open("rb") as old, wider.open("wb") as new:
                while len(part := np.fromfile(old, self._types[name], _CONVERTED)):
                    part.astype(kind).tofile(new)
            wider.replace(path)
        self._types[name] = kind

    def finish(self) -> StoredCounts:
        """What was written."""
        for name in _ENTRIES:
            (self._folder / name).touch()
        np.save(self._folder / _POINTERS, np.cumsum(np.concatenate(self._lengths)))
        types = {name: kind.str[1:] for name, kind in self._types.items()}
        (self._folder / _ABOUT).write_text(json.dumps({"columns": self._columns, "types": types}))
        return StoredCounts.open(self._folder)
