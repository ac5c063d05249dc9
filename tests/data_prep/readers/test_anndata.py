"""anndata: counts, coordinates and names wherever scanpy keeps them; several libraries in one file."""

import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout
from data_prep.spots import SQUARE
from tests.data_prep.readers.conftest import Source

reader = readers.reader("anndata")

Change = Callable[[anndata.AnnData], object]


def edit(root: Path, change: Change) -> Path:
    table = anndata.read_h5ad(root / "A1.h5ad")
    change(table)
    table.write_h5ad(root / "A1.h5ad")
    return root


def test_a_single_file_is_a_source(source: Source) -> None:
    path = source("anndata") / "A1.h5ad"
    module, reason = find_layout(path)
    assert module is reader
    assert reason == "A1.h5ad is an .h5ad file"
    assert reader.list_sections(path) == ["A1"]
    assert reader.read_section(path, "A1").patient == "A"


def test_both_gene_names_are_kept(source: Source) -> None:
    section = reader.read_section(source("anndata"), "A1")
    row = section.genes.symbol.tolist().index("ERBB2")
    assert section.genes.ensembl_id[row] == "ENSG00000141736"


def test_counts_layer_goes_before_normalised_x(source: Source) -> None:
    root = source("anndata")
    first = reader.read_section(root, "A1")

    def normalise(table: anndata.AnnData) -> None:
        table.layers["counts"] = table.X.copy()
        table.X = table.X * 0.5

    second = reader.read_section(edit(root, normalise), "A1")
    assert abs(first.counts - second.counts).sum() == 0
    assert "counts are layers['counts']" in second.notes


def test_raw_is_used_where_x_is_not_whole(source: Source) -> None:
    root = source("anndata")
    first = reader.read_section(root, "A1")

    def normalise(table: anndata.AnnData) -> None:
        table.raw = table.copy()
        table.X = table.X * 0.5

    second = reader.read_section(edit(root, normalise), "A1")
    assert abs(first.counts - second.counts).sum() == 0
    assert "counts are raw.X: X is not whole" in second.notes


def test_dense_counts_are_read(source: Source) -> None:
    root = source("anndata")
    first = reader.read_section(root, "A1")

    def densify(table: anndata.AnnData) -> None:
        table.X = table.X.toarray()

    assert abs(first.counts - reader.read_section(edit(root, densify), "A1").counts).sum() == 0


def test_spots_off_tissue_are_left_out_and_noted(source: Source) -> None:
    def lift(table: anndata.AnnData) -> None:
        table.obs["in_tissue"] = [0] + [1] * (table.n_obs - 1)

    section = reader.read_section(edit(source("anndata"), lift), "A1")
    assert "1 spot is not under tissue and was left out" in section.notes


def test_several_libraries_are_sections(source: Source) -> None:
    root = source("anndata")
    tables = [anndata.read_h5ad(root / f"{name}.h5ad") for name in ("A1", "B1")]
    joined = anndata.concat(tables, label="library_id", keys=["A1", "B1"], index_unique="-")
    joined.uns["spatial"] = {name: tables[row].uns["spatial"][name] for row, name in enumerate(("A1", "B1"))}
    joined.write_h5ad(root / "both.h5ad")
    for name in ("A1", "B1"):
        (root / f"{name}.h5ad").unlink()
    sections = list(reader.read_sections(root))
    assert [(section.name, section.patient) for section in sections] == [("A1", "A"), ("B1", "B")]
    assert [len(section.spots.id) for section in sections] == [table.n_obs for table in tables]
    np.testing.assert_array_equal(sections[1].spots.xy, tables[1].obsm["spatial"])


def test_squares_and_scale_from_the_files_own_factors(source: Source) -> None:
    def bins(table: anndata.AnnData) -> None:
        factors = table.uns["spatial"]["A1"]["scalefactors"]
        factors["bin_size_um"], factors["microns_per_pixel"] = 16.0, 4.0

    section = reader.read_section(edit(source("anndata"), bins), "A1")
    assert (section.um_per_px, section.um_per_px_source) == (4.0, "file")
    assert set(section.spots.kind) == {SQUARE}
    assert section.spots.size_px[0] == 4.0


def test_scale_from_the_user_where_nothing_states_it(source: Source) -> None:
    def forget(table: anndata.AnnData) -> None:
        del table.obs["array_row"]

    root = edit(source("anndata"), forget)
    with pytest.raises(InputError, match="--source-um-per-px"):
        reader.read_section(root, "A1")
    section = reader.read_section(root, "A1", um_per_px=4.0)
    assert (section.um_per_px, section.um_per_px_source) == (4.0, "user")
    assert any("spot_diameter_fullres" in note for note in section.notes)


def test_missing_image_is_named_and_may_be_given(source: Source, tmp_path: Path) -> None:
    root = source("anndata")
    moved = (root / "A1.jpg").rename(tmp_path / "slide.jpg")
    with pytest.raises(InputError, match=r"'A1': full-resolution image not found next to A1.h5ad"):
        reader.list_sections(root)
    assert reader.read_section(root / "A1.h5ad", "A1", image=moved).image_path == moved
    with pytest.raises(InputError, match="is one image, but there are several sections"):
        reader.list_sections(root, image=moved)


def test_image_of_another_size_than_declared_is_refused(source: Source) -> None:
    root = source("anndata")
    Image.new("RGB", (30, 20)).save(root / "A1.jpg")
    with pytest.raises(InputError, match=r"A1.jpg is 30 x 20 px, but the picture 'lowres' .* declares"):
        reader.read_section(root, "A1")


def negative(table: anndata.AnnData) -> None:
    table.X = scipy.sparse.csr_matrix(-table.X.toarray())


def not_a_number(table: anndata.AnnData) -> None:
    dense = table.X.toarray()
    dense[1, 2] = np.nan
    table.X = dense


def halves(table: anndata.AnnData) -> None:
    table.X = table.X * 0.5


def volume(table: anndata.AnnData) -> None:
    table.obsm["spatial"] = np.zeros((table.n_obs, 3))


def unplaced(table: anndata.AnnData) -> None:
    del table.obsm["spatial"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (negative, r"count is -\d+.0, expected a non-negative whole number; give the raw counts"),
        (not_a_number, r"spot \S+, gene \S+: count is nan"),
        (halves, r"count is \d*.5, expected"),
        (volume, r"obsm\['spatial'\] is \(\d+, 3\), expected"),
        (unplaced, r"obsm\['spatial'\] not found"),
    ],
)
def test_malformed_tables_are_refused(source: Source, change: Change, message: str) -> None:
    root = edit(source("anndata"), change)
    with pytest.raises(InputError, match=message) as raised:
        reader.read_section(root, "A1")
    assert "A1.h5ad" in str(raised.value)


def test_duplicate_spots_are_refused(source: Source) -> None:
    root = source("anndata")
    with h5py.File(root / "A1.h5ad", "a") as file:
        file["obs/_index"][1] = file["obs/_index"][0]
    with pytest.raises(InputError, match=r"A1.h5ad: spot \S+ appears 2 times"):
        reader.read_section(root, "A1")


def test_texts_are_read_whichever_way_anndata_writes_them(source: Source) -> None:
    """By itself version 0.13 with pandas 3 writes groups of values and masks; what stjax writes, all versions read."""
    root = source("anndata")
    before = reader.read_section(root, "A1")
    with h5py.File(root / "A1.h5ad") as file:
        assert {file[key].attrs["encoding-type"] for key in ("obs/_index", "var/_index")} == {"string-array"}
    table = anndata.read_h5ad(root / "A1.h5ad")
    for part in (table.obs, table.var):
        for name in part.select_dtypes("object"):
            part[name] = part[name].astype("string")
        part.index = part.index.astype("string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        table.write_h5ad(root / "A1.h5ad")
    with h5py.File(root / "A1.h5ad") as file:
        assert file["var/_index"].attrs["encoding-type"] == "nullable-string-array"
    after = reader.read_section(root, "A1")
    assert after.genes.ensembl_id.tolist() == before.genes.ensembl_id.tolist()
    assert after.genes.symbol.tolist() == before.genes.symbol.tolist()
    assert after.spots.names.tolist() == before.spots.names.tolist()
    assert abs(after.counts - before.counts).sum() == 0


def test_damaged_files_are_refused(source: Source) -> None:
    root = source("anndata")
    path = root / "A1.h5ad"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"A1.h5ad: truncated, damaged or not an .h5ad file"):
        reader.read_section(root, "A1")
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((2, 2))
    with pytest.raises(InputError, match=r"A1.h5ad: obs not found \(it holds X\)"):
        reader.read_section(root, "A1")


def test_duplicate_symbols_without_ids_are_summed_and_noted(source: Source) -> None:
    def merge(table: anndata.AnnData) -> None:
        del table.var["gene_ids"]
        names = table.var_names.to_list()
        names[1] = names[0]
        table.var_names = names

    root = source("anndata")
    total = reader.read_section(root, "A1").counts.sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scanpy says that names are not unique
        edit(root, merge)
    section = reader.read_section(root, "A1")
    assert section.counts.sum() == total
    assert "1 duplicate gene columns summed into their first" in section.notes
