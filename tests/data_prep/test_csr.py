import numpy as np
import pytest
import scipy.sparse

from data_prep import csr
from data_prep.errors import InputError
from data_prep.section import GeneTable, Section
from data_prep.spots import Spots

DATA, INDICES, INDPTR, SHAPE = np.array([1, 2, 3]), np.array([0, 2, 1]), np.array([0, 2, 2, 3]), (3, 3)


def test_arrays_that_fit_are_a_matrix():
    for kind in (np.int32, np.int64, np.uint8, np.uint64):
        made = csr.make(DATA, INDICES.astype(kind), INDPTR.astype(kind), SHAPE, origin="file")
        assert made.toarray().tolist() == [[1, 0, 2], [0, 0, 0], [0, 3, 0]]
    assert csr.make(DATA[:0], INDICES[:0], INDPTR[:1], (0, 5), origin="file").shape == (0, 5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": DATA[:, None]}, "data is 2-dimensional"),
        ({"indices": np.array(3)}, "indices is 0-dimensional"),
        ({"indptr": [0, 2, 2, 3]}, "indptr is 0-dimensional"),
        ({"data": np.array([b"1", b"2", b"3"])}, r"data holds \|S1"),
        ({"data": DATA * 1j}, "data holds complex128"),
        ({"indices": INDICES.astype(float)}, "indices holds float64, expected whole numbers"),
        ({"indptr": np.array([False, True, True, True])}, "indptr holds bool"),
        ({"shape": (3,)}, "its shape is"),
        ({"shape": (3, -3)}, "its shape is"),
        ({"shape": (3.0, 3.0)}, "its shape is"),
        ({"data": DATA[:2]}, "2 entries, but 3 columns"),
        ({"indptr": INDPTR[:3]}, "3 row pointers for 3 rows"),
        ({"indptr": np.array([1, 2, 2, 3])}, "lead from 1 to 3"),
        ({"indptr": np.array([0, 2, 2, -1])}, "lead from 0 to -1"),
        ({"indptr": np.array([0, 2, 2, 2])}, "lead from 0 to 2, expected from 0 to 3"),
        ({"indptr": np.array([0, 3, 2, 3])}, "go back"),
        ({"indptr": np.array([0, 2**62, 2, 3])}, "go back"),
        ({"indptr": np.array([0, 2**63, 2, 3], np.uint64)}, "go back"),
        ({"indices": np.array([0, 3, 1])}, "columns from 0 to 3, expected from 0 to 2"),
        ({"indices": np.array([0, -1, 1])}, "columns from -1"),
        ({"indices": np.array([0, 2**40, 1])}, "columns from 0 to 1099511627776"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, message):
    parts = {"data": DATA, "indices": INDICES, "indptr": INDPTR, "shape": SHAPE} | changed
    with pytest.raises(InputError, match=message):
        csr.make(**parts, origin="file")


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_a_matrix_made_without_looking_is_looked_at(kind):
    matrix = scipy.sparse.random(5, 8, 0.5, format=kind, rng=np.random.default_rng(0))
    csr.check(matrix, origin="file")
    matrix.indices[0] = 1_000_000  # computing with it writes outside its memory
    with pytest.raises(InputError, match=r"file: damaged sparse matrix \(columns from"):
        csr.check(matrix, origin="file")


def test_other_formats_are_refused():
    csr.check(scipy.sparse.coo_array(np.eye(3)), origin="file")
    with pytest.raises(InputError, match="its format is lil"):
        csr.check(scipy.sparse.lil_array((3, 3)), origin="file")


def test_a_section_is_not_made_of_a_damaged_matrix(tmp_path):
    counts = scipy.sparse.csr_array(np.eye(2, dtype=np.int32))
    values = {
        "name": "A1",
        "patient": "A",
        "image_path": tmp_path / "a.png",
        "genes": GeneTable(np.array(["", ""]), np.array(["X", "Y"])),
        "counts": counts,
        "spots": Spots.discs(np.zeros((2, 2)), 1),
        "um_per_px": 1.0,
        "um_per_px_source": "user",
        "layout": "memory",
    }
    Section(**values)
    counts.indices[1] = -1
    with pytest.raises(InputError, match="Section 'A1': damaged sparse matrix"):
        Section(**values)
