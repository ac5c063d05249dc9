"""xenium: cells as polygons, or transcripts pooled to squares and discs, placed on the H&E image by its alignment."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from data_prep import build, demo_aligned, demo_cells, demo_xenium, readers
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from tests.data_prep.readers.conftest import Source
from tests.data_prep.readers.molecules import check_cells, check_squares, in_order, truth

xenium = readers.reader("xenium")


def alignment_of(root: Path) -> Path:
    return root / "A1/A1_he_imagealignment.csv"


def write_alignment(root: Path, matrix: np.ndarray) -> None:
    rows = [",".join(map(repr, row)) for row in np.asarray(matrix, float).tolist()]
    alignment_of(root).write_text("\n".join(rows) + "\n")


def test_cells_have_their_own_counts_and_outlines(source: Source) -> None:
    check_cells(xenium.read_section(source("xenium"), "A1"), truth("xenium"))


def test_squares_hold_the_molecules_in_them(source: Source) -> None:
    section = xenium.read_section(source("xenium"), "A1", areas="squares:100")
    check_squares(section, truth("xenium"))
    assert any("quality under 20" in note for note in section.notes)


def test_discs_hold_the_molecules_in_them(source: Source) -> None:
    section, made = xenium.read_section(source("xenium"), "A1", areas="discs:55:100"), truth("xenium")
    distance = np.linalg.norm(made.molecule_xy_um[:, None] - section.spots.xy * 4.0, axis=2)
    nearest = np.argmin(distance, axis=1)
    at = np.where(distance.min(axis=1) <= 27.5, nearest, -1)
    expected = demo_cells.counts(at, made.molecule_gene, (len(section.spots), len(made.genes)))
    assert abs(in_order(section, made) - expected).sum() == 0
    assert np.bincount(at[at >= 0], minlength=len(section.spots)).min() > 0
    apart = np.linalg.norm(section.spots.xy[:, None] - section.spots.xy, axis=2)[
        ~np.eye(len(section.spots), dtype=bool)
    ]
    assert apart.min() * 4.0 == pytest.approx(100)


def test_an_image_that_was_mirrored_has_mirrored_cells(source: Source) -> None:
    root = source("xenium")
    before = xenium.read_section(root, "A1")
    width = truth("xenium").image.shape[1]
    mirror = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    write_alignment(root, demo_aligned.alignment(truth("xenium"), demo_xenium.PIXEL_UM) @ mirror)
    after = xenium.read_section(root, "A1")
    np.testing.assert_allclose(after.spots.xy, before.spots.xy * [-1, 1] + [width, 0], atol=1e-6)
    assert after.um_per_px == pytest.approx(before.um_per_px)


def test_the_stated_scale_wins_and_the_contradiction_is_said(source: Source) -> None:
    section = xenium.read_section(source("xenium"), "A1", um_per_px=3.0)
    assert (section.um_per_px, section.um_per_px_source) == (3.0, "user")
    assert any("the file says 4" in note for note in section.notes)


def test_a_build_keeps_cells_as_polygons_and_says_what_was_pooled(source: Source, tmp_path: Path) -> None:
    root = source("xenium")
    build.build(root, tmp_path / "cells", patch_size_px=32, min_counts=5)
    build.build(root, tmp_path / "pooled", areas="squares:100", patch_size_px=32, min_counts=5)
    cells, pooled = (PatchDataset.open(tmp_path / name) for name in ("cells", "pooled"))
    read = xenium.read_section(root, "A1")
    table = cells.table("A1")
    kept = [read.spots.id.tolist().index(spot) for spot in table.spots.id.tolist()]
    np.testing.assert_array_equal(table.spots.ring_xy, read.spots[kept].ring_xy)
    assert table.counts.sum() == read.counts[kept].sum()
    assert pooled.manifest["parameters"]["areas"] == "squares:100"
    np.testing.assert_allclose(pooled.table("A1").spots.across_um(4.0), 100)


def test_cells_of_several_outlines_and_whole_numbers_as_names(source: Source) -> None:
    """As older analysers name cells, and newer ones outline them."""
    root = source("xenium")
    path = root / "A1/outs/cell_boundaries.parquet"
    table = pyarrow.parquet.read_table(path)
    first = table["cell_id"][0]
    twice = table.slice(0, 13)
    label = pyarrow.array(np.append(np.zeros(len(table), int), np.ones(len(twice), int)))
    moved = pyarrow.array(np.asarray(twice["vertex_x"]) + 500.0)
    twice = twice.set_column(twice.column_names.index("vertex_x"), "vertex_x", moved)
    pyarrow.parquet.write_table(pyarrow.concat_tables([table, twice]).append_column("label_id", label), path)
    section = xenium.read_section(root, "A1")
    spot = section.spots.id.tolist().index(first.as_py())
    assert len(section.spots.rings(spot)) == 2
    assert len(section.spots.ring_spot) == len(section.spots) + 1


def test_cells_without_a_boundary_are_left_out_and_counted(source: Source) -> None:
    root = source("xenium")
    before = xenium.read_section(root, "A1")
    path = root / "A1/outs/cell_boundaries.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.slice(26), path)  # two cells of 13 points
    after = xenium.read_section(root, "A1")
    assert len(after.spots) == len(before.spots) - 2
    assert any(note.startswith("2 cells of cell_feature_matrix.h5 have no boundary") for note in after.notes)


def test_images_that_xenium_writes_are_no_slide(source: Source) -> None:
    root = source("xenium")
    Image.new("I;16", (30, 30)).save(root / "A1/outs/morphology_mip.ome.tif")
    Image.new("RGB", (30, 30)).save(root / "A1/overview.png")
    assert xenium.read_section(root, "A1").image_path.name == "A1_he_image.tif"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("outs/experiment.xenium", "experiment.xenium not found"),
        ("outs/cell_boundaries.parquet", "cell_boundaries.parquet not found"),
        ("A1_he_imagealignment.csv", "alignment of the H&E image not found"),
        ("A1_he_image.tif", "H&E image not found"),
    ],
)
def test_what_is_missing_is_named(source: Source, file: str, said: str) -> None:
    root = source("xenium")
    (root / "A1" / file).unlink()
    assert readers.find_layout(root)[0] is xenium
    with pytest.raises(InputError, match=said):
        xenium.list_sections(root)
    assert xenium.list_sections(root, skip_incomplete=True) == ["B1"]


def test_transcripts_are_needed_only_for_pooling(source: Source) -> None:
    root = source("xenium")
    (root / "A1/outs/transcripts.parquet").unlink()
    assert "A1" in xenium.list_sections(root)
    with pytest.raises(InputError, match=r"section 'A1': transcripts.parquet not found"):
        xenium.list_sections(root, areas="squares:100")


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.eye(3)[:2], "2 rows of 3 numbers"),
        (np.diag([1.0, 2.0, 1.0]), "no turned, moved and enlarged copy"),
        (np.zeros((3, 3)), "no turned, moved and enlarged copy"),
        (np.array([[1.0, 0, 0], [0, 1, 0], [0.001, 0, 1]]), "no turned, moved and enlarged copy"),
    ],
)
def test_alignments_that_are_none_are_refused(source: Source, matrix: np.ndarray, said: str) -> None:
    root = source("xenium")
    write_alignment(root, matrix)
    with pytest.raises(InputError, match=said):
        xenium.read_section(root, "A1")


def test_files_of_another_run_are_refused(source: Source) -> None:
    root = source("xenium")
    for name in ("cell_boundaries", "transcripts"):
        (root / f"B1/outs/{name}.parquet").replace(root / f"A1/outs/{name}.parquet")
    with pytest.raises(InputError, match="belong to different runs"):
        xenium.read_section(root, "A1")
    second = root / "A1/other_imagealignment.csv"
    second.write_text(alignment_of(root).read_text())
    with pytest.raises(InputError, match=r"2 alignments .*expected one"):
        xenium.read_section(root, "A1")


@pytest.mark.parametrize("name", ["cell_boundaries", "transcripts"])
def test_damaged_tables_are_refused_in_one_line(source: Source, name: str) -> None:
    root, areas = source("xenium"), "cells" if name == "cell_boundaries" else "squares:100"
    path = root / f"A1/outs/{name}.parquet"
    table = pyarrow.parquet.read_table(path)
    needed = "vertex_x" if name == "cell_boundaries" else "x_location"
    pyarrow.parquet.write_table(table.drop_columns([needed]), path)
    with pytest.raises(InputError, match=f"{needed} not found, check that this is the right file"):
        xenium.read_section(root, "A1", areas=areas)
    place = table.column_names.index(needed)
    holed = table.set_column(place, needed, pyarrow.nulls(len(table), pyarrow.float64()))
    pyarrow.parquet.write_table(holed, path)
    with pytest.raises(InputError, match=r"lacks \d+ values"):
        xenium.read_section(root, "A1", areas=areas)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated or not a parquet file") as caught:
        xenium.read_section(root, "A1", areas=areas)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("areas", "said"),
    [
        ("bins", "expected one of cells, squares:SIDE_UM, discs:DIAMETER_UM:PITCH_UM"),
        ("squares", "expected one of"),
        ("squares:wide", "expected numbers of um"),
        ("squares:0.2", "expected sizes from 1 to 1000 um"),
        ("discs:100:55", "overlap"),
        ("squares:nan", "expected sizes from"),
    ],
)
def test_areas_that_there_are_not_are_refused(source: Source, areas: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        xenium.list_sections(source("xenium"), areas=areas)


def test_layouts_without_a_choice_refuse_one(source: Source) -> None:
    with pytest.raises(InputError, match="layout her2st has one kind of areas"):
        readers.reader("her2st").list_sections(source("her2st"), areas="cells")
