"""Arrays of an open HDF5 file, read as what they must be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep import files
from data_prep.errors import InputError

_LARGEST = 1 << 20  # number that an attribute may be, all of which are of pixels


def array(file: Any, name: str, path: Path) -> np.ndarray:
    """All of a data set. Raises InputError where the file has a group of that name."""
    if not isinstance(file[name], h5py.Dataset):
        raise InputError(f"{path}: {name} is a group, expected an array")
    return np.asarray(file[name][()])


def texts(values: np.ndarray, path: Path, name: str) -> np.ndarray:
    """[N] str of barcodes [N] or [N, 1].

    Raises:
        InputError: no text, one too long for a name, or one that appears twice.
    """
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1 or flat.dtype.kind not in "SOU":
        raise InputError(f"{path}: {name} is {values.dtype} {values.shape}, expected text [N] or [N, 1]")
    try:
        found = [each.decode() if isinstance(each, bytes) else str(each) for each in flat.tolist()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: {name} holds what is no text") from None
    files.check_lengths(found, f"{path}: {name}:")
    if len(set(found)) < len(found):
        twice = next(text for text, count in zip(*np.unique(found, return_counts=True), strict=True) if count > 1)
        raise InputError(
            f"{path}: barcode {files.shown(str(twice))} appears twice; which row is that spot's is not known"
        )
    return np.array(found, dtype=str)


def number(attributes: Mapping[str, Any], name: str, path: Path) -> float | None:
    """An attribute that is a positive number, or the first of several; None where there is none."""
    if name not in attributes:
        return None
    values = np.ravel(attributes[name])
    if values.dtype.kind not in "iuf" or not len(values) or not 0 < values[0] <= _LARGEST:
        found = files.shown(values[:4].tolist())
        raise InputError(f"{path}: attribute {name} is {found}, expected a number from 0 to {_LARGEST}")
    return float(values[0])
