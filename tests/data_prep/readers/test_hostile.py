"""What readers share, given files that are damaged on purpose."""

import contextlib
import gzip
import os
import tracemalloc

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from data_prep import unpack
from data_prep.errors import InputError
from data_prep.readers import _count_table, _matrix, _mtx, _text

HEAD = "%%MatrixMarket matrix coordinate integer general\n"


@contextlib.contextmanager
def traced_memory(most_mib):
    """What is done here never takes more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_mib << 20
    finally:
        tracemalloc.stop()


def mtx(tmp_path, text):
    path = tmp_path / "matrix.mtx"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --------------------------------------------------------------------------------------------------- Matrix Market


@pytest.mark.parametrize("kind", ["integer", "real"])
def test_a_matrix_is_read_as_scipy_reads_it(tmp_path, kind):
    counts = scipy.sparse.random(30, 20, 0.3, rng=np.random.default_rng(0))
    counts.data[:] = 3
    scipy.io.mmwrite(tmp_path / "m.mtx", counts.astype(np.int64 if kind == "integer" else float), comment="a\nb")
    found = _mtx.read(tmp_path / "m.mtx")
    np.testing.assert_array_equal(found.toarray(), counts.toarray())
    assert found.dtype.kind == ("i" if kind == "integer" else "f")


def test_blanks_tabs_and_line_ends_are_no_matter(tmp_path):
    text = HEAD + "% made by hand\n\n 2 3   2 \r\n1\t1   5\r\n 2   3\t7  \r\n"
    assert _mtx.read(mtx(tmp_path, text)).toarray().tolist() == [[5, 0, 0], [0, 0, 7]]


def test_a_matrix_without_entries_is_read(tmp_path):
    assert _mtx.read(mtx(tmp_path, HEAD + "2 3 0\n")).shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "2 2 1\n1 1 \0\n", "damaged Matrix Market file"),
        (HEAD.encode() + b"2 2 1\n1 1 1\0\0\0\n", "damaged Matrix Market file"),
        (HEAD + "2 2 1\n1 1 1_000\n", "damaged Matrix Market file"),
        (HEAD + "2 2 1\n1 1 ٣\n", "damaged Matrix Market file"),
        (HEAD + "2 2 1\n1 1 99999999999999999999\n", "damaged Matrix Market file"),
        (HEAD + "2 2 1\n1 1\n", "damaged Matrix Market file"),
        (HEAD + "2 2 1\n1 1 1 1\n", "damaged Matrix Market file"),
        (HEAD + "2 2 1\n0 1 1\n", "entry 1 is in row 0 of 2"),
        (HEAD + "2 2 1\n1 3 1\n", "entry 1 is in column 3 of 2"),
        (HEAD + "2 2 1\n-1 1 1\n", "entry 1 is in row -1"),
        (HEAD + "2 2 9999999999\n1 1 1\n", "1 entries, but its first lines announce 9999999999"),
        (HEAD + "2 2 2\n1 1 1\n", "1 entries"),
        (HEAD + "2 2 " + "9" * 5000 + "\n1 1 1\n", "its size is"),
        (HEAD + "2 -2 1\n1 1 1\n", "its size is"),
        (HEAD + "%\n", "it ends before its size"),
        ("%%MatrixMarket matrix array integer general\n2 2\n1\n1\n1\n1\n", "its first line is"),
        ("%%MatrixMarket matrix coordinate pattern general\n2 2 1\n1 1\n", "its first line is"),
        ("%%MatrixMarket matrix coordinate integer symmetric\n2 2 1\n1 1 1\n", "its first line is"),
        ("x" * 100_000, "its first line is"),
    ],
)
def test_matrices_that_are_damaged_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        _mtx.read(mtx(tmp_path, text))
    assert len(str(caught.value)) < 450 + len(str(tmp_path))


# ------------------------------------------------------------------------------------------------------- counts


def as_counts(matrix, tmp_path):
    return _matrix.as_counts(matrix, tmp_path, lambda row, column: f"spot {row}, gene {column}")


def test_entries_of_one_place_are_added_up_without_overflow(tmp_path):
    twice = scipy.sparse.csr_array((np.array([2**30, 2**30], np.int32), np.array([1, 1]), np.array([0, 2])), (1, 3))
    with pytest.raises(InputError, match="spot 0, gene 1: count is 2147483648"):
        as_counts(twice, tmp_path)
    few = scipy.sparse.csr_array((np.array([200, 100], np.uint8), np.array([1, 1]), np.array([0, 2])), (1, 3))
    assert as_counts(few, tmp_path).toarray().tolist() == [[0, 300, 0]]


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_a_matrix_that_leads_outside_is_refused_before_it_is_used(tmp_path, kind):
    matrix = scipy.sparse.random(50, 50, 0.2, format=kind, rng=np.random.default_rng(0))
    matrix.data[:] = 1
    matrix.indices[5] = 2**31 - 1
    with pytest.raises(InputError, match="damaged sparse matrix"):
        as_counts(matrix, tmp_path)


@pytest.mark.parametrize("matrix", [np.zeros(3), np.zeros((2, 2, 2)), np.array([["1"]]), np.zeros((2, 2)) * 1j, None])
def test_what_is_no_matrix_of_numbers_is_refused(tmp_path, matrix):
    with pytest.raises(InputError, match="-dimensional, of type"):
        as_counts(matrix, tmp_path)


@pytest.mark.parametrize("cell", ["1_000", "٣", "\uff11", "1e400", "0x10", "2147483648", "-0.5", ""])
def test_what_is_no_count_is_named_with_its_line(tmp_path, cell):
    path = tmp_path / "counts.tsv"
    path.write_text(f"\tA\tB\n1x1\t1\t2\n1x2\t3\t{cell}\n")
    with pytest.raises(InputError, match="line 3, gene B: count is"):
        _count_table.read(path)


def test_a_table_that_has_lost_its_line_of_genes_is_refused(tmp_path):
    path = tmp_path / "counts.tsv"
    path.write_text("\tA\tB\t7\n1x1\t1\t2\t0\n1x2\t3\t4\t0\n")
    assert _count_table.read(path)[1] == ["A", "B", "7"]  # one odd name is one odd name
    path.write_text("1x1\t1\t2\t0\n1x2\t3\t4\t0\n")
    with pytest.raises(InputError, match=r"tsv: its first line names genes '1', '2', '0', numbers .* is missing"):
        _count_table.read(path)


# ---------------------------------------------------------------------------------------------------------- gzip


def test_members_one_after_the_other_are_one_text(tmp_path):
    parts = [os.urandom(70_000), b"", b"text\n" * 50_000, b"", b"end"]
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts)) + bytes(1000))
    assert unpack.read_bytes(path) == b"".join(parts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:-1],
        lambda d: d[:20],
        lambda d: d[:-8] + bytes(8),
        lambda d: d + b"x",
        lambda d: d[:2],
        lambda d: d + d[:9],
    ],
)
def test_gzip_cut_or_changed_is_refused(tmp_path, damage):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(os.urandom(200_000))))
    with pytest.raises(InputError, match="truncated or corrupt gzip"):
        unpack.read_bytes(path)


def test_a_gzip_bomb_is_refused_within_the_budget(tmp_path, monkeypatch):
    monkeypatch.setenv("STJAX_BUDGET", "0.02")
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(bytes(1 << 20)) * 64)
    message = r"what it unpacks to would take .* over the budget of 5,.*STJAX_BUDGET="
    with traced_memory(16), pytest.raises(InputError, match=message):
        unpack.read_bytes(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"x\tG1\n", "count is 'G1'"),
        (b"1x1\t1\n", "its counts would take .* over the budget of"),
        (b"1x1\t0\t0\t0\n", "line 2 has 4 fields"),
        (b"\n", "its second line has 0 fields"),
        (b"x", "one of its lines would take .* over the budget of"),
        (b"1x1\t", "one of its lines would take .* over the budget of"),
    ],
)
def test_a_bomb_of_a_count_table_takes_little_memory(tmp_path, monkeypatch, line, message):
    monkeypatch.setenv("STJAX_BUDGET", "0.01")
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"\tG1\n", 1) + gzip.compress(line * (1_000_000 // len(line)), 6) * 50)
    with traced_memory(60), pytest.raises(InputError, match=message):
        _count_table.read(path)


@pytest.mark.parametrize("line", [b"\n", b"a,b\n", b"," * 999 + b"\n", b"\r"])
def test_a_bomb_of_a_table_is_refused_before_it_becomes_fields(tmp_path, monkeypatch, line):
    monkeypatch.setenv("STJAX_BUDGET", "0.1")
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n", 1) + gzip.compress(line * (1_000_000 // len(line)), 6) * 2)
    with traced_memory(16), pytest.raises(InputError, match=r"its table would take .* over the budget of"):
        _text.read_rows(path, ",")


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"1 1 1\n", "it goes on after the 1 entries"), (b"\n", "it goes on after"), (b"%", "it ends before")],
)
def test_a_bomb_of_a_matrix_is_refused_by_what_it_announces(tmp_path, monkeypatch, line, message):
    monkeypatch.setenv("STJAX_BUDGET", "0.1")
    path = tmp_path / "matrix.mtx.gz"
    head = b"%%MatrixMarket matrix coordinate integer general\n" + (b"" if line == b"%" else b"2 2 1\n")
    path.write_bytes(gzip.compress(head) + gzip.compress(line * (1_000_000 // len(line)), 6) * 50)
    with traced_memory(16), pytest.raises(InputError, match=message):
        _mtx.read(path)


# ---------------------------------------------------------------------------------------------------------- HDF5


@pytest.fixture
def hdf5(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/data"] = np.arange(5)
        file["soft"] = h5py.SoftLink("/group/data")
        file["group/hard"] = file["group/data"]
    return path


def names(path):
    with _matrix.hdf5(path, "a file") as file:
        return sorted(file)


def test_links_within_the_file_are_followed(hdf5):
    assert names(hdf5) == ["group", "soft"]


@pytest.mark.parametrize("link", [lambda file: file["group"], lambda _: h5py.SoftLink("/")])
def test_links_in_a_circle_are_not_followed(hdf5, link):
    with h5py.File(hdf5, "r+") as file:
        file["group/again"] = link(file)
    with pytest.raises(InputError, match="contains itself, by a link"):
        names(hdf5)


def test_links_to_the_same_over_and_over_are_not_followed(hdf5):
    with h5py.File(hdf5, "r+") as file:
        inner = file["group"]
        for depth in range(40):
            outer = file.create_group(f"depth{depth}")
            outer["a"] = outer["b"] = inner
            inner = outer
    with pytest.raises(InputError, match="ways to its groups and data sets"):
        names(hdf5)


def test_another_file_is_never_read(hdf5, tmp_path):
    (tmp_path / "secret").write_text("secret text of forty letters and more, for sure")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.arange(5)
    layout = h5py.VirtualLayout(shape=(5,), dtype="i8")
    layout[:] = h5py.VirtualSource(str(other), "x", shape=(5,))
    made = {
        "a link to another file": lambda file: file.__setitem__("group/odd", h5py.ExternalLink(str(other), "/x")),
        "a virtual data set": lambda file: file.create_virtual_dataset("group/odd", layout),
        "kept in a file of its own": lambda file: file.create_dataset(
            "group/odd", (40,), "S1", external=[(str(tmp_path / "secret"), 0, 40)]
        ),
    }
    for what, make in made.items():
        with h5py.File(hdf5, "r+") as file:
            make(file)
        with pytest.raises(InputError, match=f"'group/odd' is {what}") as caught:
            names(hdf5)
        assert "secret text" not in str(caught.value)
        with h5py.File(hdf5, "r+") as file:
            del file["group/odd"]


@pytest.mark.parametrize(
    "settings", [{"chunks": (1024,)}, {}, {"chunks": (2**26,), "maxshape": (None,), "shape": (1,)}]
)
def test_sizes_that_are_declared_alone_are_over_the_budget(hdf5, settings):
    with h5py.File(hdf5, "r+") as file:
        file.create_dataset("huge", **{"shape": (4 * 10**9,), "dtype": "f8", **settings})
    with pytest.raises(InputError, match="a data set it declares would take"):
        names(hdf5)
