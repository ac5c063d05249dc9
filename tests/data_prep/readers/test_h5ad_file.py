"""anndata: what a file that cannot be read is, and what to do with it."""

import gzip
import io
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout
from tests.data_prep.readers.tiny_h5ad import visium, write

reader = readers.reader("anndata")


def tar(data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("A.h5ad")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gzip.compress, "gzipped, expected an .h5ad file .*unpack it: gunzip"),
        (tar, "a tar archive, expected an .h5ad file .*tar -xf"),
        (lambda _: b"spot\tx\ty\nA\t1\t2\n", "plain text, expected an .h5ad file"),
        (lambda _: b"<!DOCTYPE html><html>Sign in</html>", "a web page, expected an .h5ad file .*the download failed"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull"),
        (lambda _: b"PK\x03\x04 and so on", "a zip archive"),
        (lambda _: b"", "the file is empty"),
        (lambda data: data[:3000], "truncated, damaged or not an .h5ad file"),
        (lambda _: b"\x00\x01\x02" * 1000, "truncated, damaged or not an .h5ad file"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, change, message: str) -> None:
    root = write(tmp_path, "A", visium())
    path = root / "A.h5ad"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"A.h5ad: {message}"):
        reader.read_section(root, "A")


def test_gzipped_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    root = write(tmp_path, "A", visium())
    (root / "B.h5ad.gz").write_bytes(gzip.compress((root / "A.h5ad").read_bytes()))
    with pytest.raises(InputError, match=r"'B': B.h5ad.gz is gzipped: unpack it: gunzip .*B.h5ad.gz"):
        reader.list_sections(root)
    assert reader.list_sections(root, skip_incomplete=True) == ["A"]
    assert find_layout(root / "B.h5ad.gz")[0] is reader
    (root / "A.h5ad.gz").write_bytes(b"")  # beside the unpacked one
    assert list(reader.find_sections(root)) == ["A", "B"]


def test_an_ending_in_capitals_is_an_h5ad_file_too(tmp_path: Path) -> None:
    root = write(tmp_path, "A", visium())
    (root / "A.h5ad").rename(root / "A.H5AD")
    assert reader.list_sections(root) == ["A"]


@pytest.mark.parametrize("place", ["obs/in_tissue", "X", "obs"])
def test_an_encoding_of_a_newer_anndata_is_named(tmp_path: Path, place: str) -> None:
    root = write(tmp_path, "A", visium())
    with h5py.File(root / "A.h5ad", "a") as file:
        file[place].attrs["encoding-type"] = "shiny-array"
        file[place].attrs["encoding-version"] = "9.1.0"
    with pytest.raises(
        InputError, match=rf"{place} is encoded as 'shiny-array' 9.1.0, .* anndata \d.*written by a newer"
    ):
        reader.read_section(root, "A")


@pytest.mark.parametrize(
    ("group", "message"), [("mod", "a MuData file"), ("matrix", "feature-barcode matrix"), ("cell.names", "Seurat")]
)
def test_other_hdf5_files_are_named(tmp_path: Path, group: str, message: str) -> None:
    root = write(tmp_path, "A", visium())
    with h5py.File(root / "A.h5ad", "w") as file:
        file.create_group(group)
    with pytest.raises(InputError, match=rf"A.h5ad: obs not found \(it holds {group}\).*{message}"):
        reader.read_section(root, "A")


@pytest.mark.parametrize("place", ["obs", "var", "obsm/spatial", "X"])
@pytest.mark.parametrize("value", [3, "text", np.arange(4.0)])
def test_parts_of_another_kind_are_refused(tmp_path: Path, place: str, value: object) -> None:
    root = write(tmp_path, "A", visium())
    with h5py.File(root / "A.h5ad", "a") as file:
        del file[place]
        file[place] = value
    with pytest.raises(InputError, match=r"A\.h5ad: "):
        reader.read_section(root, "A")


@pytest.mark.parametrize(
    "place", ["uns/spatial/L/scalefactors", "uns/spatial/L/images", "uns/spatial/L", "uns/spatial"]
)
def test_parts_that_are_not_needed_may_be_of_another_kind(tmp_path: Path, place: str) -> None:
    root = write(tmp_path, "A", visium())
    with h5py.File(root / "A.h5ad", "a") as file:
        file.pop(place, None)
        file[place] = 3
    assert reader.read_section(root, "A").um_per_px == pytest.approx(2.0)


@pytest.mark.parametrize(("kind", "lines"), [("csr", "rows"), ("csc", "columns")])
def test_a_sparse_matrix_of_a_shape_that_its_parts_do_not_have_is_refused(
    tmp_path: Path, kind: str, lines: str
) -> None:
    table = visium()
    table.X = scipy.sparse.csr_matrix(table.X).asformat(kind)
    root = write(tmp_path, "A", table)
    assert reader.read_section(root, "A").counts.shape[0] == len(table)
    with h5py.File(root / "A.h5ad", "a") as file:
        file["X"].attrs["shape"] = np.array([2**56 - 1, 2**56 - 1])
    with pytest.raises(InputError, match=rf"A.h5ad: X says that it is 7\d+ x 7\d+, and .* beginnings of \d+ {lines}"):
        reader.read_section(root, "A")
