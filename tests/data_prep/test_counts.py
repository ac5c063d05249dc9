import numpy as np
import pytest
import scipy.sparse

from data_prep import counts


@pytest.fixture
def matrix(monkeypatch) -> scipy.sparse.csr_array:
    monkeypatch.setattr(counts, "SLAB_ROWS", 7)
    dense = np.random.default_rng(0).poisson(0.3, (40, 12)).astype(np.int32)
    dense[5] = 0
    dense[6, 3] = 2**31 - 1
    dense[8, 3] = 2**31 - 1
    matrix = scipy.sparse.csr_array(dense)
    matrix.data[2] = 0  # a stored zero
    return matrix


def test_row_totals_do_not_overflow(matrix):
    np.testing.assert_array_equal(counts.row_totals(matrix), matrix.toarray().astype(np.int64).sum(axis=1))


def test_column_totals_are_those_of_the_rows_asked_for(matrix):
    rows = np.array([8, 6, 0, 1, 30, 31, 32, 33, 2])
    dense = matrix.toarray().astype(np.int64)[rows]
    sums, found = counts.column_totals(matrix, rows)
    np.testing.assert_array_equal(sums, dense.sum(axis=0))
    np.testing.assert_array_equal(found, (dense > 0).sum(axis=0))


def test_select_renames_columns_and_keeps_the_order_of_rows(matrix):
    rows = np.random.default_rng(1).permutation(40)[:31]
    column_of = np.array([9, -1, 0, 4, 2, -1, 1, 3, 8, 7, 6, 5], np.int32)
    selected = counts.select(matrix, rows, column_of=column_of, columns=11)
    expected = np.zeros((31, 11), np.int32)
    kept = column_of >= 0
    expected[:, column_of[kept]] = matrix.toarray()[rows][:, kept]
    np.testing.assert_array_equal(selected.toarray(), expected)
    assert selected.has_canonical_format
    assert np.all(selected.data > 0)
    assert selected.indices.dtype == selected.indptr.dtype == np.int32


def test_select_of_no_row_is_empty(matrix):
    empty = counts.select(matrix, np.zeros(0, np.int64), column_of=np.zeros(12, np.int32), columns=3)
    assert empty.shape == (0, 3)
