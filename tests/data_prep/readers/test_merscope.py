"""merscope: cells as polygons, or transcripts pooled to squares and discs, placed on the H&E image by its alignment."""

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
import pytest
import scipy.sparse
import scipy.spatial
from PIL import Image

from data_prep import demo_aligned, demo_cells, demo_merscope, readers
from data_prep.demo_layouts import DemoSection
from data_prep.errors import InputError
from data_prep.readers import _delimited
from tests.data_prep.readers import molecules
from tests.data_prep.readers.conftest import Source
from tests.data_prep.readers.molecules import check_cells, check_squares, in_order

merscope = readers.reader("merscope")
BLANKS = 6


@pytest.fixture(scope="module")
def truth() -> DemoSection:
    return molecules.truth("merscope")


@pytest.fixture
def small(source: Source) -> Path:
    """A1 alone, with 40 of its cells and 300 of its transcripts."""
    root = source("merscope")
    shutil.rmtree(root / "B1")
    for name, lines in (("cell_by_gene.csv", 41), ("detected_transcripts.csv", 301)):
        with (root / "A1" / name).open() as file:
            kept = [next(file) for _ in range(lines)]
        (root / "A1" / name).write_text("".join(kept))
    return root


def boundaries(root: Path) -> pyarrow.Table:
    return pyarrow.parquet.read_table(root / "A1/cell_boundaries.parquet")


def write_boundaries(root: Path, table: pyarrow.Table) -> None:
    pyarrow.parquet.write_table(table, root / "A1/cell_boundaries.parquet")


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def polygon(*rings: np.ndarray, kind: int = 3) -> bytes:
    """A polygon in Well-Known Binary."""
    parts = [struct.pack("<I", len(ring)) + np.asarray(ring, "<f8").tobytes() for ring in rings]
    return struct.pack("<BII", 1, kind, len(rings)) + b"".join(parts)


def test_cells_have_their_own_counts_and_the_outlines_of_their_middle_plane(source: Source, truth: DemoSection) -> None:
    section = merscope.read_section(source("merscope"), "A1")
    check_cells(section, truth)
    assert all(int(spot) > 2**53 for spot in section.spots.id.tolist())
    (note,) = [note for note in section.notes if "Blank" in note]
    assert note.startswith(f"{BLANKS} Blank control columns of cell_by_gene.csv were left out, with ")


def test_squares_hold_the_molecules_in_them(source: Source, truth: DemoSection) -> None:
    section = merscope.read_section(source("merscope"), "A1", areas="squares:100")
    check_squares(section, truth)
    assert f"{len(truth.molecule_gene) // 100} transcripts of Blank controls were left out" in section.notes


def test_discs_hold_the_molecules_in_them(source: Source, truth: DemoSection) -> None:
    section = merscope.read_section(source("merscope"), "A1", areas="discs:55:100")
    distance, nearest = scipy.spatial.KDTree(section.spots.xy * 4.0).query(truth.molecule_xy_um)
    at = np.where(distance <= 27.5, nearest, -1)
    expected = demo_cells.counts(at, truth.molecule_gene, (len(section.spots), len(truth.genes)))
    assert abs(in_order(section, truth) - expected).sum() == 0


def test_transcripts_in_other_files_are_the_same(small: Path) -> None:
    path = small / "A1/detected_transcripts.csv"
    expected = merscope.read_section(small, "A1", areas="squares:50")
    table = pyarrow.csv.read_csv(path)
    text = path.read_bytes()
    path.unlink()
    others = {
        "detected_transcripts.parquet": lambda file: pyarrow.parquet.write_table(table, file),
        "detected_transcripts.csv.gz": lambda file: file.write_bytes(gzip.compress(text)),
        "detected_transcripts.csv": lambda file: file.write_bytes(text.replace(b",", b"\t").decode().encode("utf-16")),
    }
    for name, write in others.items():
        write(small / "A1" / name)
        found = merscope.read_section(small, "A1", areas="squares:50")
        assert found.spots.id.tolist() == expected.spots.id.tolist()
        assert abs(found.counts - expected.counts).sum() == 0
        (small / "A1" / name).unlink()


def test_a_matrix_from_um_takes_the_place_of_the_alignment(small: Path, truth: DemoSection) -> None:
    expected = merscope.read_section(small, "A1")
    direct = np.linalg.inv(demo_aligned.alignment(truth, demo_merscope.PIXEL_UM)) @ demo_merscope.mosaic()
    demo_aligned.write_matrix(small / "A1/A1_micron_to_he_pixel_transform.csv", direct, " ")
    with pytest.raises(InputError, match=r"2 alignments .*expected one"):
        merscope.read_section(small, "A1")
    (small / "A1/A1_he_imagealignment.csv").unlink()
    shutil.rmtree(small / "A1/images")
    found = merscope.read_section(small, "A1")
    np.testing.assert_allclose(found.spots.ring_xy, expected.spots.ring_xy, atol=1e-6)
    assert found.um_per_px == pytest.approx(expected.um_per_px)


def test_regions_of_experiments_are_named_after_both(source: Source) -> None:
    root = source("merscope")
    for name, place in (("A1", "run_1/region_0"), ("B1", "run_2/region_0")):
        (root / place).parent.mkdir()
        (root / name).rename(root / place)
    edit(root / "patients.csv", lambda text: text.replace("A1", "run_1_region_0").replace("B1", "run_2_region_0"))
    assert readers.find_layout(root)[0] is merscope
    assert merscope.list_sections(root) == ["run_1_region_0", "run_2_region_0"]
    assert merscope.list_sections(root / "run_1") == merscope.list_sections(root / "run_1/region_0") == ["region_0"]
    (root / "run_2/region_0").rename(root / "run_1_region_0")
    with pytest.raises(InputError, match=r"run_1_region_0 and .*run_1/region_0 would both be section run_1_region_0"):
        merscope.list_sections(root)


def test_a_cell_that_is_not_on_all_planes_has_the_middle_one_of_its_own(small: Path) -> None:
    (first,) = merscope.read_section(small, "A1").spots[:1].id.tolist()
    square = np.array([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]]) + demo_merscope.ORIGIN_UM
    rest = boundaries(small).select(["EntityID", "ZIndex", "Geometry"])
    rest = rest.filter(pyarrow.compute.field("EntityID") != int(first))
    planes = [7, 2, 4, 4, 5]  # of 2, 4, 5 and 7 the lower middle one, twice
    shapes = [polygon(square * [1, size]) for size in (1, 2)] + [polygon(square + 3), polygon(square + 50, square + 70)]
    shapes.append(polygon(square[:2]))
    own = {"EntityID": [int(first)] * 5, "ZIndex": planes, "Geometry": shapes}
    write_boundaries(small, pyarrow.concat_tables([rest, pyarrow.table(own, rest.schema)]))
    section = merscope.read_section(small, "A1")
    rings = section.spots[:1].rings(0)
    assert section.spots.id[0] == first
    assert len(rings) == 3
    np.testing.assert_allclose([np.ptp(ring, axis=0).max() * 4 for ring in rings], 9 * 1.03, rtol=0.02)


def test_cells_without_a_boundary_and_boundaries_without_counts_are_counted(small: Path) -> None:
    table = boundaries(small)
    counted = merscope.read_section(small, "A1").spots.id.tolist()
    write_boundaries(small, table.filter(pyarrow.compute.field("EntityID") != int(counted[3])))
    section = merscope.read_section(small, "A1")
    assert section.spots.id.tolist() == counted[:3] + counted[4:]
    others = len(table) // 3 - len(counted)
    assert "1 cell of cell_by_gene.csv has no boundary and was left out" in section.notes
    assert f"{others} cells of cell_boundaries.parquet are not in cell_by_gene.csv and were left out" in section.notes


def test_images_that_merscope_writes_are_no_slide(small: Path) -> None:
    Image.new("I;16", (30, 30)).save(small / "A1/images/mosaic_DAPI_z3.tif")
    Image.new("RGB", (30, 30)).save(small / "A1/summary.png")
    (small / "A1/A1_he_image.tif").rename(small / "A1/images/slide.tif")
    assert merscope.read_section(small, "A1").image_path.name == "slide.tif"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("cell_by_gene.csv", "cell_by_gene.csv not found"),
        ("cell_boundaries.parquet", "cell_boundaries.parquet not found"),
        ("A1_he_imagealignment.csv", "alignment of the H&E image not found .*_micron_to_he_pixel_transform.csv, 3 x 3"),
        ("images/micron_to_mosaic_pixel_transform.csv", "images/micron_to_mosaic_pixel_transform.csv not found"),
        ("A1_he_image.tif", "H&E image not found .MERSCOPE takes none; expected .*or --image"),
    ],
)
def test_what_is_missing_is_named(small: Path, file: str, said: str) -> None:
    (small / "A1" / file).unlink()
    assert readers.find_layout(small)[0] is merscope
    with pytest.raises(InputError, match=f"section 'A1': {said}"):
        merscope.list_sections(small)


def test_boundaries_are_needed_for_cells_alone_and_transcripts_for_pooling(small: Path) -> None:
    (small / "A1/cell_boundaries.parquet").unlink()
    (small / "A1/cell_boundaries").mkdir()
    with pytest.raises(InputError, match=r"HDF5 files in cell_boundaries/ are not read; --areas squares:100 needs no"):
        merscope.list_sections(small)
    assert merscope.list_sections(small, areas="squares:100") == ["A1"]
    (small / "A1/detected_transcripts.csv").unlink()
    with pytest.raises(InputError, match=r"detected_transcripts.csv or detected_transcripts.parquet not found"):
        merscope.list_sections(small, areas="squares:100")


def test_cells_of_another_region_and_cells_listed_twice_are_refused(small: Path) -> None:
    path = small / "A1/cell_by_gene.csv"
    text = path.read_text()
    path.write_text(text.replace("\n1997", "\n2997"))
    with pytest.raises(
        InputError, match=r"none of its cells is in cell_by_gene.csv \(e.g. '1997.* belong to different"
    ):
        merscope.read_section(small, "A1")
    path.write_text(text + text.splitlines()[3] + "\n")
    with pytest.raises(InputError, match=r"cell_by_gene.csv: cell 1997\d+ appears 2 times"):
        merscope.read_section(small, "A1")


def test_a_line_of_genes_that_lacks_one_is_refused(small: Path) -> None:
    edit(small / "A1/cell_by_gene.csv", lambda text: text.replace(",FASN,", ",", 1))
    for areas in ("cells", "squares:100"):
        with pytest.raises(
            InputError, match=r"has 1206 fields, 'cell' and 1205 genes, but the second has 1207; .*ragged"
        ):
            merscope.read_section(small, "A1", areas=areas)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (struct.pack("<BIdd", 1, 1, 2.0, 3.0), "boundaries are points, expected polygons"),
        (polygon(np.zeros((4, 2)), kind=1003), "boundaries are geometries of types 1003, expected polygons"),
        (polygon(np.zeros((4, 2)))[:-4], "boundaries are a polygon that ends too soon"),
        (polygon(np.zeros((2, 2))), "holds no outline of 3 points or more"),
        ("POLYGON ((0 0, 1 0, 1 1, 0 0))", "column Geometry is of type string, expected bytes"),
    ],
)
def test_boundaries_in_another_form_are_refused(small: Path, shape: bytes | str, said: str) -> None:
    table = boundaries(small)
    write_boundaries(small, table.set_column(5, "Geometry", pyarrow.array([shape] * len(table))))
    with pytest.raises(InputError, match=f"cell_boundaries.parquet: {said}") as caught:
        merscope.read_section(small, "A1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["EntityID", "ZIndex", "Geometry"])
def test_boundaries_without_a_column_are_refused(small: Path, column: str) -> None:
    write_boundaries(small, boundaries(small).drop_columns([column]))
    with pytest.raises(InputError, match=f"{column} not found, check that this is the right file"):
        merscope.read_section(small, "A1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("global_y", "y_um"), "global_y not found, check that this is the right file"),
        (lambda text: text[:-40], "damaged or cut short .*Expected 8 columns"),
        (lambda text: text.replace(",2", ",two", 3), "damaged or cut short .*invalid value"),
        (lambda text: text.splitlines()[0] + "\n0,1,,5.0,1,2,A,-1\n", "column global_x lacks 1 values"),
        (lambda text: text.splitlines()[0] + "\n0,1,inf,5.0,1,2,FTL,-1\n", "a molecule lies at no finite place"),
        (lambda text: text.splitlines()[0] + "\n0,1,1.5,5.0,1,2,A,-1\n", "no transcript of a gene of cell_by_gene.csv"),
        (lambda text: text.splitlines()[0] + "\n", "damaged or cut short|no transcript of a gene"),
        (lambda _: "", "the file is empty"),
        (lambda text: "PK\x03\x04" + text, "a zip archive, expected a table"),
    ],
)
def test_damaged_transcripts_are_refused_in_one_line(small: Path, change: Callable[[str], str], said: str) -> None:
    edit(small / "A1/detected_transcripts.csv", change)
    with pytest.raises(InputError, match=rf"detected_transcripts.csv: .*({said})") as caught:
        merscope.read_section(small, "A1", areas="squares:100")
    assert "\n" not in str(caught.value)


def test_transcripts_of_genes_that_the_counts_do_not_name_are_counted(small: Path) -> None:
    edit(small / "A1/detected_transcripts.csv", lambda text: text + "0,1,2990.5,420.5,1,2,NOGENE,-1\n" * 3)
    section = merscope.read_section(small, "A1", areas="squares:100")
    assert "3 transcripts of no gene of cell_by_gene.csv were left out" in section.notes


def test_a_matrix_that_is_none_is_refused(small: Path) -> None:
    path = small / "A1/images/micron_to_mosaic_pixel_transform.csv"
    path.write_text("9.26 0 100\n0 9.26 100\n")
    with pytest.raises(InputError, match=r"micron_to_mosaic_pixel_transform.csv: 2 rows of 3 numbers, expected 3 of 3"):
        merscope.read_section(small, "A1")
    path.write_text("9.26 0 100\n0 wide 100\n0 0 1\n")
    with pytest.raises(InputError, match="line 2, column 2 is 'wide', expected a number"):
        merscope.read_section(small, "A1")


def test_transcripts_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_delimited, "_BLOCK_BYTES", 1 << 16)
    path, lines = tmp_path / "detected_transcripts.csv", 200_000
    path.write_bytes(gzip.compress(b"gene,global_x,fov\n" + b"FTL,12.5,3\n" * lines, 1))
    before, rows, most = pyarrow.total_allocated_bytes(), 0, 0
    for part in _delimited.batches(path, texts=["gene"], numbers=["global_x"]):
        rows += len(part["gene"])
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert rows == lines
    assert most < 1 << 20  # of the 6 MB that they take together
