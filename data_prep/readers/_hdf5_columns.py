"""Columns of HDF5 files, as tables and lists of names have them: one-dimensional, of plain numbers or of texts.

Whatever else HDF5 can hold (records, lists in a cell, arrays as cells) is refused before it is read; and so are texts
longer than names are, before they become an array of texts, which is as wide as its longest.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep import files
from data_prep.errors import InputError


def check_table(group: Any, path: Path) -> None:
    """Looks at all data sets of a table, those in groups within it too, as categories are; nothing is read.

    Args:
        group: an open group, looked over by `_hdf5_structure.walk`.
        path: for messages.

    Raises:
        InputError: it is a data set itself, or one in it is no column of numbers, truth values or texts.
    """
    if not isinstance(group, h5py.Group):
        raise InputError(_other(group, path, "a table"))
    for thing in map(group.get, group):
        if isinstance(thing, h5py.Group):
            check_table(thing, path)
        elif isinstance(thing, h5py.Dataset) and not (
            _is_list(thing) and (_is_text(thing) or thing.dtype.kind in "biuf")
        ):
            raise InputError(_other(thing, path, "a column of numbers or texts"))


def names(group: Any, key: str, path: Path, *, as_bytes: bool = False) -> np.ndarray:
    """[N] str: the texts of a data set, each of a name's length.

    Args:
        as_bytes: give bytes (dtype S) where the file has ASCII of one width, see `data_prep.names`.

    Raises:
        InputError: it is something else, or one of them is longer.
    """
    thing = group[key]
    if not (isinstance(thing, h5py.Dataset) and _is_list(thing) and _is_text(thing)):
        raise InputError(_other(thing, path, "a list of texts"))
    values, what = thing[:], f"{path}: {files.shown(thing.name)}:"
    if values.dtype.kind == "O":
        files.check_lengths(values, what)
    elif values.dtype.itemsize > files.MAX_NAME_BYTES:  # as declared: some writers declare more than they need
        long = np.flatnonzero(np.char.str_len(values) > files.MAX_NAME_BYTES)
        files.check_lengths(values[long[:1]].tolist(), what)
        values = values.astype(f"S{files.MAX_NAME_BYTES}")
    if values.dtype.kind == "S":
        if as_bytes and values.view(np.uint8).max(initial=0) < 0x80:
            return values.view(f"S{values.dtype.itemsize}")  # without what h5py notes of its type
        try:
            return values.astype(str)  # ASCII, as nearly always: in C
        except UnicodeDecodeError:
            pass
    return np.array([value.decode() for value in values], dtype=str)


def _is_list(thing: Any) -> bool:
    return thing.shape is not None and len(thing.shape) == 1


def _is_text(thing: Any) -> bool:
    return h5py.check_string_dtype(thing.dtype) is not None


def _other(thing: Any, path: Path, expected: str) -> str:
    found = f"{thing.dtype} {thing.shape}" if isinstance(thing, h5py.Dataset) else "a group"
    what = f"{files.shown(thing.name)} is {files.shown(found)[1:-1]}"
    return f"{path}: {what}, expected {expected}; copy or download it again"
