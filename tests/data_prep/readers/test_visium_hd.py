"""visium_hd: a section per bin size, squares, scale from the file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout
from data_prep.spots import SQUARE
from tests.data_prep.readers.conftest import Source

visium_hd = readers.reader("visium_hd")

SHARED = Path(__file__).resolve().parents[3] / "../shared/data/visium_hd_tiny"


def bins(root: Path) -> Path:
    return root / "A1/binned_outputs/square_008um"


def test_every_bin_size_is_a_section_of_the_same_patient(source: Source) -> None:
    root = source("visium_hd")
    names = visium_hd.list_sections(root)
    assert names == [f"{sample}_{size}um" for sample in ("A1", "B1") for size in ("002", "008", "016")]
    section = visium_hd.read_section(root, "A1_016um")
    assert section.patient == "A"
    assert set(section.spots.kind) == {SQUARE}
    assert section.spots.size_px[0] == pytest.approx(16 / 4.0)
    assert (section.um_per_px, section.um_per_px_source) == (4.0, "file")


def test_bin_sizes_may_be_chosen(source: Source) -> None:
    root = source("visium_hd")
    assert visium_hd.list_sections(root, bin_um=(8,)) == ["A1_008um", "B1_008um"]
    with pytest.raises(InputError, match="no 4 um bins; --bin-um may name 2,8,16"):
        visium_hd.list_sections(root, bin_um=(4,))


def test_blocks_of_bins_are_read_one_every_so_many_um_of_the_array(source: Source) -> None:
    root = source("visium_hd")
    whole, blocks = (visium_hd.read_section(root, "A1_008um", bin_blocks=given) for given in (None, (2, 40.0)))
    place = {name: tuple(map(int, name.split("-")[0].split("_")[2:])) for name in whole.spots.id}
    expected = [name for name in whole.spots.id if all(number % 5 < 2 for number in place[name])]
    assert 0 < len(expected) < len(whole.spots)
    assert blocks.spots.id.tolist() == expected
    rows = np.flatnonzero(np.isin(whole.spots.id, expected))
    assert (blocks.counts != whole.counts[rows]).nnz == 0
    np.testing.assert_array_equal(blocks.spots.xy, whole.spots.xy[rows])
    left_out = f"{len(whole.spots) - len(expected)} bins between the blocks that --bin-blocks asks for were left out"
    assert left_out in blocks.notes
    odd = visium_hd.read_section(root, "A1_016um", bin_blocks=(1, 24.0))  # of bins 1.5 apart: 0, 2, 3, 5, ...
    numbers = sorted({int(name.split("_")[2]) for name in odd.spots.id})
    assert all(number % 3 in (0, 2) for number in numbers)
    with pytest.raises(InputError, match="--bin-blocks is 0/40, expected 1 bin or more"):
        visium_hd.read_section(root, "A1_008um", bin_blocks=(0, 40.0))
    with pytest.raises(InputError, match="--bin-blocks is for bins, and --areas asks for squares:100; leave one"):
        visium_hd.list_sections(root, areas="squares:100", bin_blocks=(2, 40.0))


def test_one_image_serves_all_bin_sizes(source: Source, tmp_path: Path) -> None:
    root = source("visium_hd")
    moved = (root / "A1/A1_tissue_image.jpg").rename(tmp_path / "slide.jpg")
    with pytest.raises(InputError, match="'A1_002um': full-resolution image not found"):
        visium_hd.list_sections(root)
    chosen = visium_hd.list_sections(root, image=moved, sections=["A1_008um", "A1_016um"])
    assert chosen == ["A1_008um", "A1_016um"]
    assert visium_hd.read_section(root, "A1_008um", image=moved).image_path == moved


@pytest.mark.parametrize("given", ["A1", "A1/binned_outputs", "A1/binned_outputs/square_008um"])
def test_a_sample_may_be_given_at_any_depth(source: Source, given: str) -> None:
    path = source("visium_hd") / given
    module, reason = find_layout(path)
    assert module is visium_hd
    assert "A1_008um" in reason
    assert visium_hd.read_section(path, "A1_008um").synthetic


def test_unused_outputs_may_be_there_or_not(source: Source) -> None:
    root = source("visium_hd")
    shutil.rmtree(root / "A1/segmented_outputs")
    (root / "A1/A1_nuclei.geojson").unlink()
    (root / "A1/feature_slice.h5").write_bytes(b"unread")
    (root / "A1/spatial").mkdir()
    assert find_layout(root)[0] is visium_hd
    assert len(visium_hd.list_sections(root)) == 6


def test_turned_array_is_noted(source: Source) -> None:
    root = source("visium_hd")
    path = bins(root) / "spatial/tissue_positions.parquet"
    table = pyarrow.parquet.read_table(path)
    x, y = (table[name].to_numpy() for name in ("pxl_col_in_fullres", "pxl_row_in_fullres"))
    angle = np.radians(10)
    columns = {name: table[name] for name in table.column_names}
    columns["pxl_col_in_fullres"] = pyarrow.array(x * np.cos(angle) - y * np.sin(angle))
    columns["pxl_row_in_fullres"] = pyarrow.array(x * np.sin(angle) + y * np.cos(angle))
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert any("turned by" in note for note in visium_hd.read_section(root, "A1_008um").notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"microns_per_pixel": None}, r"microns_per_pixel is None, expected a positive number"),
        ({"microns_per_pixel": -1}, r"microns_per_pixel is -1"),
        ({"bin_size_um": 2.0}, r"bin_size_um is 2.0, but the folder is square_008um"),
    ],
)
def test_wrong_scale_factors_are_refused(source: Source, change: dict[str, object], message: str) -> None:
    root = source("visium_hd")
    path = bins(root) / "spatial/scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message) as raised:
        visium_hd.read_section(root, "A1_008um")
    assert "scalefactors_json.json" in str(raised.value)


def test_missing_scale_factors_are_named(source: Source) -> None:
    root = source("visium_hd")
    (bins(root) / "spatial/scalefactors_json.json").unlink()
    with pytest.raises(InputError, match=r"'A1_008um': scalefactors_json.json not found in spatial/"):
        visium_hd.read_section(root, "A1_008um")


def test_scale_that_contradicts_the_bins_is_noted(source: Source) -> None:
    root = source("visium_hd")
    path = bins(root) / "spatial/scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"microns_per_pixel": 3.0}))
    notes = visium_hd.read_section(root, "A1_008um").notes
    assert any("um_per_px is 3 from the file; the spot pitch says 4" in note for note in notes)


@pytest.mark.parametrize("text", [b"in_tissue", b"s_008um_00089"])
def test_text_in_parquet_that_is_no_text_is_refused(source: Source, text: bytes) -> None:
    root = source("visium_hd")
    path = bins(root) / "spatial/tissue_positions.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), path, compression="none", use_dictionary=False)
    assert text in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(text, text[:-1] + b"\x80"))
    with pytest.raises(InputError, match=r"parquet: truncated or not a parquet \S+ \(.*(utf-8|Wrapping)"):
        visium_hd.read_section(root, "A1_008um")


@pytest.mark.parametrize("value", [b"x", [1], {"a": 1}])
def test_a_column_of_no_numbers_is_named(source: Source, value: object) -> None:
    root = source("visium_hd")
    path = bins(root) / "spatial/tissue_positions.parquet"
    table = pyarrow.parquet.read_table(path)
    values = pyarrow.array([value] * len(table))
    pyarrow.parquet.write_table(table.set_column(2, "array_row", values), path)
    with pytest.raises(InputError, match=r"column array_row is of type .*, expected numbers"):
        visium_hd.read_section(root, "A1_008um")


def test_damaged_parquet_is_refused(source: Source) -> None:
    root = source("visium_hd")
    path = bins(root) / "spatial/tissue_positions.parquet"
    table = pyarrow.parquet.read_table(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"tissue_positions.parquet: truncated or not a parquet file"):
        visium_hd.read_section(root, "A1_008um")
    pyarrow.parquet.write_table(table.drop_columns(["array_row"]), path)
    with pytest.raises(InputError, match=r"tissue_positions.parquet: columns are .* expected"):
        visium_hd.read_section(root, "A1_008um")
    values = table["pxl_row_in_fullres"].to_numpy().copy()
    values[3:] = np.nan
    pyarrow.parquet.write_table(table.set_column(4, "pxl_row_in_fullres", pyarrow.array(values)), path)
    with pytest.raises(InputError, match=r"barcode \S+, column pxl_row_in_fullres is nan"):
        visium_hd.read_section(root, "A1_008um")


def test_missing_matrix_is_named(source: Source) -> None:
    root = source("visium_hd")
    (bins(root) / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(InputError, match=r"'A1_008um': matrix not found"):
        visium_hd.list_sections(root)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_real_sample_loads(tmp_path: Path) -> None:
    assert find_layout(SHARED)[0] is visium_hd
    section = visium_hd.read_section(SHARED, "visium_hd_tiny_002um", image=Path("lowres"))
    assert section.counts.shape == (10, 10)
    assert section.spots.id[0] == "s_002um_02448_01644-1"
    assert section.spots.size_px[0] * section.um_per_px == pytest.approx(2.0)
    copy = Path(shutil.copytree(SHARED, tmp_path / "visium_hd_tiny"))
    square = copy / "binned_outputs/square_002um"
    for file in (square / "filtered_feature_bc_matrix").iterdir():
        assert file.name.endswith(".gz")  # in name only: the copies there are plain text
    square.chmod(0o755)
    (square / "filtered_feature_bc_matrix.h5").unlink()
    again = visium_hd.read_section(copy, "visium_hd_tiny_002um", image=Path("lowres"))
    assert again.counts.shape == (10, 10)
