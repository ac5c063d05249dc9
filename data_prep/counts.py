"""Sums and selections over count matrices with hundreds of millions of entries, a slab of rows at a time."""

import hashlib
import itertools
from collections.abc import Iterator

import numpy as np
import scipy.sparse

from data_prep.stored import StoredCounts

Counts = scipy.sparse.csr_array | StoredCounts  # in memory, or on disk: either gives rows in memory by their index

SLAB_ROWS = 16_384  # what is copied or widened at a time


def _slabs(counts: Counts, rows: np.ndarray | None = None) -> Iterator[tuple[slice, scipy.sparse.csr_array]]:
    """The rows given, or all."""
    length = shape_of(counts)[0] if rows is None else len(rows)
    for start in range(0, length, SLAB_ROWS):
        place = slice(start, min(start + SLAB_ROWS, length))
        yield place, counts[place if rows is None else rows[place]]


def shape_of(counts: Counts) -> tuple[int, int]:
    """(S, G)."""
    rows, columns = counts.shape  # pyright: ignore[reportAssignmentType, reportGeneralTypeIssues], which misreads SciPy
    return int(rows), int(columns)


def chosen(counts: Counts, rows: np.ndarray) -> Counts:
    """Some rows, where the others are: in memory or on disk."""
    return counts.chosen(rows) if isinstance(counts, StoredCounts) else counts[rows]


def gathered(counts: Counts, column_of: np.ndarray, columns: int) -> Counts:
    """Counts [S, columns] whose columns are sums: `column_of` [G] has the new one of each."""
    if isinstance(counts, StoredCounts):
        return counts.gathered(column_of, columns)
    places = (np.ones(len(column_of), counts.dtype), (np.arange(len(column_of)), column_of))
    return scipy.sparse.csr_array(counts @ scipy.sparse.csr_array(places, shape=(len(column_of), columns)))


def entries_before(counts: Counts, bounds: np.ndarray) -> np.ndarray:
    """[N] int64: how many entries there are in all rows above each of these, which begin with 0 and ascend."""
    if not isinstance(counts, StoredCounts):
        return counts.indptr[bounds].astype(np.int64)
    between = [counts.lengths(slice(start, stop)).sum() for start, stop in itertools.pairwise(bounds.tolist())]
    return np.cumsum([0, *between])


def any_found(counts: Counts) -> bool:
    """Whether a count is above 0."""
    return counts.any_found() if isinstance(counts, StoredCounts) else bool(counts.count_nonzero())


def digest(counts: Counts) -> str:
    """SHA-256 of counts; those on disk have another than the same in memory."""
    found = hashlib.sha256()
    for part in (slab for _, slab in _slabs(counts)) if isinstance(counts, StoredCounts) else [counts]:
        for array in (part.data, part.indices, part.indptr):
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def row_totals(counts: Counts, rows: np.ndarray | None = None) -> np.ndarray:
    """[S] int64: the sum of each row of [S, G], or of the `rows` given."""
    totals = np.zeros(shape_of(counts)[0] if rows is None else len(rows), np.int64)
    for place, slab in _slabs(counts, rows):
        totals[place] = np.asarray(slab.sum(axis=1, dtype=np.int64)).ravel()
    return totals


def column_totals(counts: Counts, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """[G], [G] int64: sum of each column over the rows given, or all, and how many of these have any count in it."""
    columns = shape_of(counts)[1]
    sums, found = np.zeros((2, columns), np.int64)
    for _, slab in _slabs(counts, rows):
        sums += np.asarray(slab.sum(axis=0, dtype=np.int64)).ravel()
        found += np.bincount(slab.indices[slab.data > 0], minlength=columns)
    return sums, found


def select(counts: Counts, rows: np.ndarray, *, column_of: np.ndarray, columns: int) -> scipy.sparse.csr_array:
    """[len(rows), columns] int32 in memory: some rows, their columns renamed; sorted columns, no stored zero.

    Args:
        column_of: [G] new column of each old one, -1 for those to leave out.
        columns: how many new columns there are.
    """
    lengths = counts.lengths(rows) if isinstance(counts, StoredCounts) else np.diff(counts.indptr)[rows]
    bound = int(lengths.sum(dtype=np.int64))
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
