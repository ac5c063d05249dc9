"""Count matrices of 10x in every form they were ever written in."""

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from data_prep.errors import InputError
from data_prep.readers import _matrix

COUNTS = scipy.sparse.csc_array(np.array([[1, 0], [0, 2], [3, 4]], np.int32))  # genes x barcodes, as 10x has them
BARCODES, IDS, SYMBOLS = (
    [b"AAAC-1", b"AAAG-1"],
    [b"ENSG00000141736", b"ENSG00000108821", b"IgG"],
    [b"ERBB2", b"COL1A1", b"IgG"],
)


def fill(group: h5py.Group, ids: str, symbols: str) -> None:
    values = {"data": COUNTS.data, "indices": COUNTS.indices, "indptr": COUNTS.indptr, "shape": COUNTS.shape}
    for key, value in (values | {"barcodes": BARCODES, ids: IDS, symbols: SYMBOLS}).items():
        group[key] = value


def write_mtx(folder: Path, matrix: object) -> Path:
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", matrix)
    (folder / "barcodes.tsv").write_text("AAAC-1\nAAAG-1\n")
    (folder / "genes.tsv").write_text("ENSG00000141736\tERBB2\nENSG00000108821\tCOL1A1\nIgG\tIgG\n")
    return folder


def test_matrix_of_cell_ranger_2_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        fill(file.create_group("GRCh38"), "genes", "gene_names")
    matrix = _matrix.read_h5(tmp_path / "old.h5")
    assert matrix.symbol.tolist() == ["ERBB2", "COL1A1", "IgG"]
    assert matrix.counts.toarray().tolist() == COUNTS.toarray().T.tolist()


def test_matrices_of_two_genomes_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for genome in ("hg19", "mm10"):
            fill(file.create_group(genome), "genes", "gene_names")
    with pytest.raises(InputError, match=r"old.h5: matrices of 2 genomes \(hg19, mm10\); expected one species"):
        _matrix.read_h5(tmp_path / "old.h5")


def test_gzipped_hdf5_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "new.h5", "w") as file:
        fill(file.create_group("matrix"), "features/id", "features/name")
    whole = _matrix.read_h5(tmp_path / "new.h5")
    (tmp_path / "new.h5.gz").write_bytes(gzip.compress((tmp_path / "new.h5").read_bytes()))
    packed = _matrix.read_h5(tmp_path / "new.h5.gz")
    assert packed.counts.toarray().tolist() == whole.counts.toarray().tolist()


def test_anndata_file_under_another_name_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "table.h5", "w") as file:
        for name in ("X", "obs", "var"):
            file.create_group(name)
    with pytest.raises(InputError, match=r"it is an AnnData file, name it \.h5ad"):
        _matrix.read_h5(tmp_path / "table.h5")


@pytest.mark.parametrize(
    ("genome", "ids"),
    [([b"GRCh38", b"GRCh38", b"mm10"], IDS), (None, [b"GRCh38_ERBB2", b"GRCh38_COL1A1", b"mm10___Erbb2"])],
)
def test_features_of_two_species_are_refused(tmp_path: Path, genome: list[bytes] | None, ids: list[bytes]) -> None:
    with h5py.File(tmp_path / "both.h5", "w") as file:
        group = file.create_group("matrix")
        fill(group, "features/id", "features/name")
        group["features/id"][...] = np.array(ids).astype(group["features/id"].dtype)
        if genome:
            group["features/genome"] = genome
        else:
            del group["features/id"]
            group["features/id"] = ids
    with pytest.raises(InputError, match=r"both.h5: features of 2 genomes .*GRCh38.*mm10.* expected one species"):
        _matrix.read_h5(tmp_path / "both.h5")


def test_features_of_other_types_are_counted_apart_and_never_alone(tmp_path: Path) -> None:
    path = tmp_path / "new.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        fill(group, "features/id", "features/name")
        group["features/feature_type"] = [b"Gene Expression", b"Gene Expression", b"Antibody Capture"]
    matrix = _matrix.read_h5(path)
    assert matrix.symbol.tolist() == ["ERBB2", "COL1A1"]
    assert matrix.notes == ("1 feature that is not gene expression was left out (1 Antibody Capture)",)
    with h5py.File(path, "a") as file:
        del file["matrix/features/feature_type"]
        file["matrix/features/feature_type"] = [b"Antibody Capture"] * 3
    with pytest.raises(InputError, match=r"no feature is of type Gene Expression \(3 Antibody Capture\)"):
        _matrix.read_h5(path)


def test_turned_matrix_market_is_told_by_its_lengths(tmp_path: Path) -> None:
    right = _matrix.read_mtx(write_mtx(tmp_path / "right", COUNTS))
    turned = _matrix.read_mtx(write_mtx(tmp_path / "turned", COUNTS.T))
    assert turned.counts.toarray().tolist() == right.counts.toarray().tolist() == COUNTS.toarray().T.tolist()
    assert turned.notes == ("matrix.mtx has barcodes as rows and genes as columns: turned",)
    assert right.notes == ()


def test_headers_of_matrix_market_names_are_told_by_the_lengths(tmp_path: Path) -> None:
    folder = write_mtx(tmp_path / "headed", COUNTS)
    for name, header in (("barcodes.tsv", "x\n"), ("genes.tsv", "gene_id\tgene_name\n")):
        (folder / name).write_text(header + (folder / name).read_text())
    matrix = _matrix.read_mtx(folder)
    assert matrix.barcode.tolist() == ["AAAC-1", "AAAG-1"]
    assert matrix.symbol.tolist() == ["ERBB2", "COL1A1", "IgG"]
