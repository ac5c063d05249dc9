"""Columns of a batch of a table, as pyarrow reads it, as what they must be."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from data_prep import files
from data_prep.errors import InputError


def texts(path: Path, name: str, column: Any) -> Any:
    """Strings of pyarrow. Raises InputError where one is missing, or longer than a name can be."""
    found = column.cast(pyarrow.string())
    _whole(path, name, found)
    lengths = pyarrow.compute.call_function("binary_length", [found]).to_numpy(zero_copy_only=False)
    longest = int(lengths.max(initial=0))
    if longest > files.MAX_NAME_BYTES:
        raise InputError(f"{path}: column {name} has a text of {longest} letters; copy or download it again")
    return found


def blobs(path: Path, name: str, column: Any) -> list[bytes]:
    """[N] bytes. Raises InputError where one is missing, or they are something else."""
    if not (pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type)):
        raise InputError(f"{path}: column {name} is of type {column.type}, expected bytes; write it again as these")
    _whole(path, name, column)
    return column.to_pylist()


def numbers(path: Path, name: str, column: Any) -> np.ndarray:
    """[N] float64. Raises InputError where one is missing, or they are something else."""
    if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)):
        raise InputError(f"{path}: column {name} is of type {column.type}, expected numbers; copy or download it again")
    _whole(path, name, column)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _whole(path: Path, name: str, column: Any) -> None:
    if column.null_count:
        raise InputError(f"{path}: column {name} lacks {column.null_count} values; copy or download it again")
