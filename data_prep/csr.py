"""Sparse matrices from files: SciPy takes row pointers and column indices as they are, and writes where they lead.

Whatever came from outside is seen by `check` before SciPy computes anything with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from data_prep.errors import InputError

ARRAYS = {  # in a file: the kinds of their types, and dimensions
    "counts_data": ("iu", 1),
    "counts_indices": ("iu", 1),
    "counts_indptr": ("iu", 1),
    "counts_shape": ("iu", 1),
}


def to_arrays(counts: scipy.sparse.csr_array) -> dict[str, np.ndarray]:
    """`ARRAYS` of counts, these and their columns in the smallest type that holds them."""
    return {
        "counts_data": _smallest(counts.data),
        "counts_indices": _smallest(counts.indices),
        "counts_indptr": np.asarray(counts.indptr, np.int64),
        "counts_shape": np.array(counts.shape, np.int64),
    }


def from_arrays(arrays: Mapping[str, np.ndarray], *, origin: str, remedy: str) -> scipy.sparse.csr_array:
    """The int32 counts that `to_arrays` was given, read from a file.

    Args:
        origin, remedy: the file, and what to do when it is damaged, for messages.

    Raises:
        InputError: the arrays are no counts.
    """
    data, indices, indptr, shape = (arrays[name] for name in ARRAYS)
    if len(data) and not (data.min() >= 0 and data.max() < 2**31):
        raise InputError(f"{origin}: counts from {data.min()} to {data.max()}; {remedy}")
    return make(data.astype(np.int32), indices, indptr, shape, origin=origin)


def _smallest(values: np.ndarray) -> np.ndarray:
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def make(data: Any, indices: Any, indptr: Any, shape: Any, *, origin: str) -> scipy.sparse.csr_array:
    """The matrix that three arrays describe.

    Args:
        data, indices, indptr: what SciPy calls so: the entries, their columns, and where each row begins.
        shape: (rows, columns).
        origin: file and place, for the message.

    Raises:
        InputError: they describe none.
    """
    if fault := fault_of(data, indices, indptr, shape):
        raise InputError(f"{origin}: damaged sparse matrix ({fault}); copy or download it again")
    rows, columns = (int(side) for side in shape)
    index_type = np.int32 if max(len(data), rows, columns) < 2**31 else np.int64  # one for both, or SciPy copies
    parts = (data, indices.astype(index_type, copy=False), indptr.astype(index_type, copy=False))
    return scipy.sparse.csr_array(parts, shape=(rows, columns))


def check(matrix: Any, *, origin: str) -> None:
    """Looks at a SciPy matrix, of any format, that was made of a file's arrays without looking.

    Raises:
        InputError: its parts do not fit together.
    """
    format_ = getattr(matrix, "format", "")
    if format_ in ("csr", "csc"):
        shape = matrix.shape if format_ == "csr" else matrix.shape[::-1]
        fault = fault_of(matrix.data, matrix.indices, matrix.indptr, shape)
    elif format_ == "coo":
        fault = _fault_of_places(matrix)
    else:
        fault = f"its format is {format_ or type(matrix).__name__}, expected csr, csc or coo"
    if fault:
        raise InputError(f"{origin}: damaged sparse matrix ({fault}); copy or download it again")


def fault_of(data: Any, indices: Any, indptr: Any, shape: Any) -> str:
    """Why the arrays describe no matrix of rows and columns, "" if they do."""
    if fault := fault_of_rows(data, indices, indptr, shape):
        return fault
    columns = int(shape[1])
    if len(indices) and not (indices.min() >= 0 and indices.max() < columns):
        return f"columns from {indices.min()} to {indices.max()}, expected from 0 to {columns - 1}"
    return ""


def fault_of_rows(data: Any, indices: Any, indptr: Any, shape: Any) -> str:
    """The same, but that columns are not looked at: `data` and `indices` may be data sets of an open HDF5 file."""
    for name, array, kinds in (("data", data, "iufb"), ("indices", indices, "iu"), ("indptr", indptr, "iu")):
        sides_of = getattr(array, "shape", None) or ()
        if len(sides_of) != 1 or not isinstance(getattr(array, "dtype", None), np.dtype):
            return f"{name} is {len(sides_of)}-dimensional, expected a list of numbers"
        if array.dtype.kind not in kinds:
            return f"{name} holds {array.dtype}, expected {'numbers' if len(kinds) > 2 else 'whole numbers'}"
    sides = np.asarray(shape)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or not all(0 <= int(side) < 2**62 for side in sides):
        return f"its shape is {str(shape)[:40]}, expected rows and columns"
    rows = int(sides[0])
    if len(data) != len(indices):
        return f"{len(data)} entries, but {len(indices)} columns of entries"
    if len(indptr) != rows + 1:
        return f"{len(indptr)} row pointers for {rows} rows, expected {rows + 1}"
    if indptr[0] != 0 or indptr[-1] != len(data):
        return f"its row pointers lead from {indptr[0]} to {indptr[-1]}, expected from 0 to {len(data)}"
    if (indptr[1:] < indptr[:-1]).any():
        return "its row pointers go back"
    return ""


def _fault_of_places(matrix: Any) -> str:
    for axis, (places, side) in enumerate(zip(matrix.coords, matrix.shape, strict=False)):
        if places.ndim != 1 or len(places) != len(matrix.data) or places.dtype.kind not in "iu":
            return f"{len(matrix.data)} entries, but {places.size} places"
        if len(places) and not (places.min() >= 0 and places.max() < side):
            return f"places from {places.min()} to {places.max()} on axis {axis}, expected from 0 to {side - 1}"
    return "" if len(matrix.shape) == 2 else f"{len(matrix.shape)} dimensions, expected 2"


def stack(parts: Sequence[Any]) -> Any:
    """One CSR array of the rows of several; SciPy's own types stop short of saying so."""
    return scipy.sparse.csr_array(scipy.sparse.vstack(parts))


def take_columns(counts: Any, columns: np.ndarray) -> Any:
    """[N, genes of a data set] to [N, G] float32, CSR; no counts where a column is -1."""
    present = np.flatnonzero(columns >= 0)
    ones = np.ones(len(present), np.float32)
    to = scipy.sparse.csr_array((ones, (np.arange(len(present)), present)), shape=(len(present), len(columns)))
    return scipy.sparse.csr_array(counts[:, columns[present]] @ to, dtype=np.float32)
