"""An .h5ad file: opened once it is seen to be one, and its parts read one by one; what cannot be read says why."""

import contextlib
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata.io
import h5py
import numpy as np
import pandas as pd

from data_prep import budgets, files, unpack
from data_prep.errors import InputError
from data_prep.readers import _hdf5_columns, _matrix

_UNKNOWN_ENCODING = re.compile(r"IOSpec\(encoding_type='([^']*)', encoding_version='([^']*)'\)")
_LETTER_BYTES = 4  # in an array of texts
_EXPECTED = "an .h5ad file (HDF5)"
# A group at the top -> what such an HDF5 file is
_NOT_ANNDATA = {
    "mod": "a MuData file; write its RNA modality, mdata.mod['rna'].write_h5ad(...)",
    "matrix": "a feature-barcode matrix or a loom file; read it with scanpy and write it as .h5ad with its positions",
    "cell.names": "a Seurat file (h5Seurat); convert it to .h5ad",
}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open file.

    Raises:
        InputError: another kind of file under this name, or damaged.
    """
    _check_kind(path)
    with _matrix.hdf5(path, "an .h5ad file") as file:
        yield file


def element(file: Any, key: str, path: Path) -> Any:
    """One part of the file, or of a Zarr group, as anndata reads it; tables with numbers in this machine's byte order
    and rows with names.

    Raises:
        InputError: it is not there, or it cannot be read; of a table, a column that is none, see `_hdf5_columns`; of a
            sparse matrix, a shape that its parts do not have.
    """
    if key not in file:
        what = next((f"; it is {kind}" for group, kind in _NOT_ANNDATA.items() if group in file), "")
        raise InputError(f"{path}: {key} not found (it holds {', '.join(file)}); expected an AnnData file{what}")
    thing: Any = file[key]
    if "_index" in thing.attrs and isinstance(thing, h5py.Group | h5py.Dataset):
        _hdf5_columns.check_table(thing, path)
    _check_shape(thing, key, path)
    try:
        found = anndata.io.read_elem(thing)
    except Exception as error:  # anndata wraps whatever h5py or numpy raise on damaged parts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if unknown := _UNKNOWN_ENCODING.search(str(error)):
            raise InputError(_newer(file, key, path, *unknown.groups())) from error
        raise InputError(f"{path}: {key} cannot be read ({reason}); copy or download it again") from error
    return _plain(found, key, path) if isinstance(found, pd.DataFrame) else found


def _check_shape(thing: Any, key: str, path: Path) -> None:
    """Raise `InputError` where a sparse matrix says that it has other rows, or columns if these are what it lists, than
    it has the beginnings of: memory for as many is taken before anything is read."""
    kind = str(thing.attrs.get("encoding-type", thing.attrs.get("h5sparse_format", "")))[:3]
    try:
        begins: Any = thing.get("indptr") if hasattr(thing, "keys") and kind in ("csr", "csc") else None
    except Exception:  # whatever Zarr's parsers raise on damaged metadata: reading it says so in one line
        return
    said = np.asarray(thing.attrs.get("shape", thing.attrs.get("h5sparse_shape", ())))
    if not getattr(begins, "shape", None) or said.shape != (2,) or said.dtype.kind not in "iu":
        return  # anndata says what is wrong
    if begins.shape != (int(said[int(kind == "csc")]) + 1,):
        lines = "columns" if kind == "csc" else "rows"
        raise InputError(
            f"{path}: {key} says that it is {said[0]} x {said[1]}, and has the beginnings of "
            f"{begins.shape[0] - 1} {lines}; copy or download it again"
        )


def _plain(found: pd.DataFrame, key: str, path: Path) -> pd.DataFrame:
    """A table as pandas computes with it: no column twice, native numbers, names of a name's length for its rows."""
    if not found.columns.is_unique:
        raise InputError(f"{path}: {key} has a column twice, expected names that differ; write the file again")
    swapped = {name: kind.newbyteorder("=") for name, kind in found.dtypes.items()
               if isinstance(kind, np.dtype) and not kind.isnative}  # fmt: skip
    found = found.astype(swapped) if swapped else found
    found.index = found.index.astype(str)
    files.check_lengths(found.index, f"{path}: {key}:")
    return found


def table(file: Any, key: str, path: Path) -> pd.DataFrame:
    """A part that must be a table.

    Raises:
        InputError: it is not there, cannot be read, or is something else.
    """
    found = element(file, key, path)
    if not isinstance(found, pd.DataFrame):
        raise InputError(f"{path}: {key} is a {type(found).__name__}, expected a table; write the file again")
    return found


def as_text(values: Any, path: Path) -> np.ndarray:
    """[S] str: missing values, and words for them, as "".

    Raises:
        InputError: so wide, by a long text among many, that they are over the budget for the file `path`.
    """
    codes, distinct = pd.factorize(values)  # of millions of spots, few values
    words = [str(value).strip() for value in distinct]
    known = ["" if word.lower() in ("nan", "none", "<na>", "na", "n/a") else word for word in words]
    widest = max(map(len, known), default=0)
    budgets.HDF5_TEXTS.check(path, _LETTER_BYTES * widest * (len(known) + len(codes)))
    return np.array([*known, ""], dtype=str)[codes]  # code -1, the last: missing


def _check_kind(path: Path) -> None:
    """Raise `InputError` where the first bytes say that the file is not HDF5 but something else."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return  # h5py says why
    if not head:
        raise InputError(f"{path}: the file is empty; copy or download it again")
    if head.startswith(unpack.GZIP):
        raise InputError(f"{path}: gzipped, expected {_EXPECTED}; unpack it: {unpack.remedy(path)}")
    if not head.startswith(b"\x89HDF"):
        unpack.check_kind(path, head, _EXPECTED)
        if _is_text(head):
            raise InputError(f"{path}: plain text, expected {_EXPECTED}; check its name, or download it again")


def _is_text(head: bytes) -> bool:
    return all(byte in b"\t\r\n" or byte >= 32 for byte in head)


def _newer(file: Any, key: str, path: Path, kind: str, version: str) -> str:
    """What is said of an encoding that the installed anndata does not know."""
    place = [key]

    def find(name: str, part: Any) -> None:
        found = (str(part.attrs.get("encoding-type", "")), str(part.attrs.get("encoding-version", "")))
        if found == (kind, version):
            place[0] = f"{key}/{name}"

    if isinstance(file[key], h5py.Group):
        file[key].visititems(find)
    return (
        f"{path}: {place[0]} is encoded as {kind!r} {version}, which the installed anndata "
        f"{importlib.metadata.version('anndata')} does not know: it was written by a newer one; upgrade it with "
        "pip install --upgrade anndata, or write the file without that part"
    )
