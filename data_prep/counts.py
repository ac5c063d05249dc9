"""Sums and selections over count matrices with hundreds of millions of entries, a slab of rows at a time."""

from collections.abc import Iterator

import numpy as np
import scipy.sparse

SLAB_ROWS = 16_384  # what is copied or widened at a time


def _slabs(counts: scipy.sparse.csr_array, rows: np.ndarray) -> Iterator[tuple[slice, scipy.sparse.csr_array]]:
    for start in range(0, len(rows), SLAB_ROWS):
        yield slice(start, min(start + SLAB_ROWS, len(rows))), counts[rows[start : start + SLAB_ROWS]]


def row_totals(counts: scipy.sparse.csr_array) -> np.ndarray:
    """[S] int64: the sum of each row of [S, G]."""
    totals = np.zeros(len(counts.indptr) - 1, np.int64)
    for place, slab in _slabs(counts, np.arange(len(totals))):
        totals[place] = np.asarray(slab.sum(axis=1, dtype=np.int64)).ravel()
    return totals


def column_totals(counts: scipy.sparse.csr_array, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[G], [G] int64: sum of each column over some rows, and how many of these rows have any count in it."""
    columns = int(counts.shape[1])  # pyright: ignore[reportOptionalSubscript], which misreads SciPy
    sums, found = np.zeros((2, columns), np.int64)
    for _, slab in _slabs(counts, rows):
        sums += np.asarray(slab.sum(axis=0, dtype=np.int64)).ravel()
        found += np.bincount(slab.indices[slab.data > 0], minlength=columns)
    return sums, found


def select(
    counts: scipy.sparse.csr_array, rows: np.ndarray, *, column_of: np.ndarray, columns: int
) -> scipy.sparse.csr_array:
    """[len(rows), columns] int32: some rows, their columns renamed; sorted columns, no stored zero.

    Args:
        column_of: [G] new column of each old one, -1 for those to leave out.
        columns: how many new columns there are.
    """
    bound = int(np.diff(counts.indptr)[rows].sum(dtype=np.int64))
    data, indices = np.empty(bound, np.int32), np.empty(bound, np.int32)
    indptr = np.zeros(len(rows) + 1, np.int64)
    end = 0
    for place, slab in _slabs(counts, rows):
        renamed = column_of[slab.indices]
        keep = (renamed >= 0) & (slab.data != 0)
        bounds = np.concatenate([[0], np.cumsum(keep)])[slab.indptr]
        part = scipy.sparse.csr_array((slab.data[keep], renamed[keep], bounds), shape=(len(slab.indptr) - 1, columns))
        part.sort_indices()
        data[end : end + part.nnz], indices[end : end + part.nnz] = part.data, part.indices
        indptr[place.start + 1 : place.stop + 1] = end + bounds[1:]
        end += part.nnz
    pointers = indptr.astype(np.int32) if end < 2**31 else indptr  # one type for both, or SciPy copies the indices
    return scipy.sparse.csr_array((data[:end], indices[:end], pointers), shape=(len(rows), columns))
