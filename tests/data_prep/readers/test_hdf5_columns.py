"""Columns of HDF5 files that are none, numbers of another machine, and texts as long as no name is."""

import h5py
import numpy as np
import pandas as pd
import pytest

from data_prep import budgets, readers
from data_prep.errors import InputError
from data_prep.readers import _h5ad, _matrix
from tests.data_prep.readers.test_hostile import traced_memory
from tests.data_prep.readers.tiny_h5ad import visium, write

reader = readers.reader("anndata")

LISTS = ("barcodes", "features/id", "features/name", "features/feature_type", "features/genome")
# What a column is replaced by; where it is no text, that is none of names, but may be a column of a table.
NO_COLUMNS = {
    "an array of one column": lambda values: values[:, None],
    "records": lambda values: np.zeros(len(values), [("a", "i4"), ("b", "f8")]),
    "cells of several numbers": lambda values: np.zeros(len(values), np.dtype(("f4", (3,)))),
    "complex numbers": lambda values: np.zeros(len(values), "c8"),
    "one value": lambda values: values[0],
    "nothing": lambda _: h5py.Empty("S3"),
    "lists": None,
}


def replace(file, key, made):
    """Another data set under a name, with the attributes of the one there."""
    attributes, values = dict(file[key].attrs), file[key][()]
    del file[key]
    if made is None:
        lists = np.empty(len(values), object)
        lists[:] = [np.arange(2, dtype="i4")] * len(values)
        file.create_dataset(key, data=lists, dtype=h5py.vlen_dtype("i4"))
    else:
        file[key] = made(values)
    file[key].attrs.update(attributes)


# ------------------------------------------------------------------------------------------------ names of a matrix


@pytest.fixture
def matrix(tmp_path):
    """Of two features and three barcodes."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        parts = {"data": [1, 2, 3], "indices": [0, 1, 1], "indptr": [0, 1, 2, 3], "shape": [2, 3]}
        parts |= {"barcodes": [b"AAAC-1", b"AAAG-1", b"AAAT-1"], "features/id": [b"ENSG00000141736", b"IgG"]}
        parts |= {"features/name": [b"ERBB2", b"IgG"], "features/genome": [b"GRCh38", b""]}
        parts["features/feature_type"] = [b"Gene Expression", b"Antibody Capture"]
        for key, values in parts.items():
            group[key] = values
    return path


def refused_matrix(path, message):
    with pytest.raises(InputError, match=message) as caught:
        _matrix.read_h5(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("key", LISTS)
@pytest.mark.parametrize("kind", [*NO_COLUMNS, "numbers"])
def test_what_is_no_list_of_names_is_refused(matrix, key, kind):
    with h5py.File(matrix, "r+") as file:
        replace(file, f"matrix/{key}", NO_COLUMNS.get(kind, lambda values: np.arange(len(values))))
    refused_matrix(matrix, rf"'/matrix/{key}' is .*, expected a list of texts; copy or download it again")


def test_a_group_is_no_list_of_names(matrix):
    with h5py.File(matrix, "r+") as file:
        del file["matrix/barcodes"]
        file.create_group("matrix/barcodes")
    refused_matrix(matrix, "'/matrix/barcodes' is a group, expected a list of texts")


@pytest.mark.parametrize("key", LISTS)
@pytest.mark.parametrize("fixed", [True, False])
def test_names_are_refused_before_they_are_as_wide_as_one_long_text(matrix, key, fixed):
    with h5py.File(matrix, "r+") as file:
        values = np.array([b"a"] * 999 + [b"x" * 20_000], dtype="S" if fixed else object)
        del file[f"matrix/{key}"]
        file.create_dataset(f"matrix/{key}", data=values, dtype=None if fixed else h5py.string_dtype())
    with traced_memory(30):  # an array of these takes 80 MB
        refused_matrix(matrix, rf"'/matrix/{key}': b'xxx.* is longer than 200 bytes; correct the file")


@pytest.mark.parametrize("width", ["S300", "O"])
@pytest.mark.parametrize("name", [b"HER2", "HÉR2".encode(), b"a" * 200])
def test_names_are_read_however_they_are_kept(matrix, width, name):
    with h5py.File(matrix, "r+") as file:
        del file["matrix/features/name"]
        kind = h5py.string_dtype() if width == "O" else width
        file.create_dataset("matrix/features/name", data=np.array([name, b"IgG"], width), dtype=kind)
    assert _matrix.read_h5(matrix).symbol.tolist() == [name.decode()]


@pytest.mark.parametrize("key", [key for key in LISTS if key != "barcodes"])
def test_lists_of_features_are_of_one_length(matrix, key):
    with h5py.File(matrix, "r+") as file:
        replace(file, f"matrix/{key}", lambda values: np.concatenate([values, values[:1]]))
    refused_matrix(matrix, r"matrix is \(2, 3\) but there are .*3 features and 3 barcodes")


@pytest.mark.parametrize(("name", "line"), [("barcodes.tsv", "{}-1"), ("genes.tsv", "{}\tA"), ("genes.tsv", "A\t{}")])
def test_long_names_of_matrix_market_are_refused(tmp_path, name, line):
    (tmp_path / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 1\n")
    (tmp_path / "barcodes.tsv").write_text("AAAC-1\n")
    (tmp_path / "genes.tsv").write_text("ENSG00000141736\tERBB2\n")
    assert _matrix.read_mtx(tmp_path).symbol.tolist() == ["ERBB2"]
    (tmp_path / name).write_text(line.format("x" * 201))
    with pytest.raises(InputError, match=rf"{name}: .*'xxx.* is longer than 200 bytes"):
        _matrix.read_mtx(tmp_path)


# ---------------------------------------------------------------------------------------------------- tables of .h5ad


@pytest.fixture
def source(tmp_path):
    table = visium()
    table.obs["patient"] = pd.Categorical(["P1"] * len(table))
    return write(tmp_path, "A", table)


def refused(root, message):
    """By the reader, as also whoever asks for sections alone is told."""
    for ask in (reader.list_sections, lambda root: reader.read_section(root, "A")):
        with pytest.raises(InputError, match=message) as caught:
            ask(root)
        assert str(caught.value).startswith(f"{root / 'A.h5ad'}: ")
        assert len(str(caught.value)) < 300 + len(str(root))


@pytest.mark.parametrize(
    "key", ["_index", "array_row", "array_col", "in_tissue", "patient/codes", "patient/categories"]
)
@pytest.mark.parametrize("kind", NO_COLUMNS)
def test_what_is_no_column_of_a_table_is_refused(source, key, kind):
    with h5py.File(source / "A.h5ad", "r+") as file:
        replace(file, f"obs/{key}", NO_COLUMNS[kind])
    refused(source, rf"'/obs/{key}' is .*, expected a column of numbers or texts; copy or download it again")


@pytest.mark.parametrize("key", ["obs", "var"])
def test_a_data_set_in_place_of_a_table_is_refused(source, key):
    with h5py.File(source / "A.h5ad", "r+") as file:
        attributes = dict(file[key].attrs)
        del file[key]
        file[key] = np.zeros(3)
        file[key].attrs.update(attributes)
    with pytest.raises(InputError, match=rf"A.h5ad: '/{key}' is float64 \(3,\), expected a table; copy or"):
        reader.read_section(source, "A")


@pytest.mark.parametrize("key", ["_index", "gene_ids"])
@pytest.mark.parametrize("kind", NO_COLUMNS)
def test_what_is_no_column_of_genes_is_refused(source, key, kind):
    with h5py.File(source / "A.h5ad", "r+") as file:
        replace(file, f"var/{key}", NO_COLUMNS[kind])
    with pytest.raises(InputError, match=rf"A.h5ad: '/var/{key}' is .*, expected a column of numbers or texts"):
        reader.read_section(source, "A")


def test_places_in_a_table_are_columns_too(tmp_path):
    table = visium()
    table.obsm["spatial"] = pd.DataFrame(table.obsm["spatial"], table.obs_names, ["x", "y"])
    root = write(tmp_path, "A", table)
    with h5py.File(root / "A.h5ad", "r+") as file:
        replace(file, "obsm/spatial/x", NO_COLUMNS["an array of one column"])
    with pytest.raises(InputError, match=r"A.h5ad: '/obsm/spatial/x' is float64 \(36, 1\), expected a column"):
        reader.read_section(root, "A")


@pytest.mark.parametrize("kind", [">i4", ">f8", ">u2"])
def test_numbers_of_another_machine_are_the_same_numbers(source, kind):
    expected = reader.read_section(source, "A")
    with h5py.File(source / "A.h5ad", "r+") as file:
        for key in ("array_row", "array_col", "in_tissue"):
            replace(file, f"obs/{key}", lambda values: values.astype(kind))
        replace(file, "obs/patient/codes", lambda values: values.astype(">i2"))
    found = reader.read_section(source, "A")
    assert (found.um_per_px, found.patient, found.notes) == (expected.um_per_px, "P1", expected.notes)
    np.testing.assert_array_equal(found.spots.xy, expected.spots.xy)
    assert found.counts.toarray().tolist() == expected.counts.toarray().tolist()


def test_a_column_twice_is_refused(source):
    with h5py.File(source / "A.h5ad", "r+") as file:
        file["obs"].attrs["column-order"] = ["array_row", "array_row"]
    refused(source, "obs has a column twice")


@pytest.mark.parametrize(("key", "table"), [("var/_index", "var"), ("var/gene_ids", r"var\['gene_ids'\]")])
def test_long_names_of_genes_are_refused_before_all_are_as_wide(source, key, table):
    with h5py.File(source / "A.h5ad", "r+") as file:
        replace(file, key, lambda values: np.array([*values[:-1], b"x" * 1_000_000], object))
    with traced_memory(30), pytest.raises(InputError, match=rf"A.h5ad: {table}: 'xxx.* is longer than 200 bytes"):
        _h5ad.read(source / "A.h5ad")


def test_long_names_of_spots_are_refused_before_all_are_as_wide(source):
    with h5py.File(source / "A.h5ad", "r+") as file:
        replace(file, "obs/_index", lambda values: np.array([*values[:-1], b"x" * 1_000_000], object))
    with traced_memory(60):
        refused(source, r"obs: 'xxx.* is longer than 200 bytes; correct the file")


def test_a_long_text_among_those_of_samples_is_weighed_as_often_as_it_makes_an_array_wide(source, monkeypatch):
    remarks = ["x" * 5_000, *"abcdefgh"] * 4
    with h5py.File(source / "A.h5ad", "r+") as file:
        file["obs/sample"] = remarks
        file["obs/sample"].attrs.update(file["obs/_index"].attrs)
        file["obs"].attrs["column-order"] = [*file["obs"].attrs["column-order"], "sample"]
    monkeypatch.setattr(budgets, "HDF5_TEXTS", budgets.Budget("all texts in it", 700_000))
    refused(source, r"all texts in it would take 900,000 bytes, over the budget of 700,000")
