"""Visium HD by cells, nuclei, squares and discs: counts are those of the demo's truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from data_prep import build, demo, demo_cells, demo_space_ranger, demo_tissue, readers
from data_prep.dataset import PatchDataset
from data_prep.demo_layouts import DemoSection
from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.spots import POLYGON
from tests.data_prep.readers.conftest import Source

visium_hd = readers.reader("visium_hd")
NUMBERS = {"A1": (0, 0), "B1": (1, 0)}


def truth(name: str) -> DemoSection:
    """A section of the demo sources of this folder's tests."""
    recipe = demo.Recipe("visium_hd", 2, 1, 4, 4.0, seed=1)
    return demo.make_section(recipe, demo_tissue.biology(), *NUMBERS[name])


def in_order(section: Section, made: DemoSection) -> scipy.sparse.csr_array:
    """Counts over the demo's genes."""
    column = {key: index for index, key in enumerate(section.genes.ensembl_id.tolist())}
    return section.counts[:, [column[key] for key in made.genes.ensembl_id.tolist()]]


@pytest.mark.parametrize("name", ["A1", "B1"])
@pytest.mark.parametrize("areas", ["cells", "nuclei"])
def test_cells_and_nuclei_have_the_counts_of_the_bins_in_them(source: Source, areas: str, name: str) -> None:
    """Of nuclei, A1 has outlines and B1 a label image."""
    share = demo_cells.NUCLEUS if areas == "nuclei" else 1.0
    section, made = visium_hd.read_section(source("visium_hd"), name, areas=areas), truth(name)
    number = [int(spot.removeprefix("cellid_").removesuffix("-1")) - 1 for spot in section.spots.id.tolist()]
    expected = demo_space_ranger.area_counts(made, share=share)
    traced = areas == "nuclei" and name == "B1"
    if traced:  # pixels, not outlines, decide which bins a nucleus holds
        _, centre_um, inside, counts = demo_space_ranger.bin_counts(made, 2)
        pixel_um = (np.floor(centre_um[inside] / 4.0) + 0.5) * 4.0
        owner = demo_cells.owner(made.tissue.cells, pixel_um, share=share)
        held = np.flatnonzero(owner >= 0)
        entries = (np.ones(len(held), np.int32), (owner[held], held))
        expected = scipy.sparse.csr_array(entries, shape=(len(made.tissue.cells.type), len(owner))) @ counts
    assert abs(in_order(section, made) - expected[number]).sum() == 0
    assert section.counts.sum() == expected.sum() > 500
    assert set(section.spots.kind) == {POLYGON}
    outlines = demo_cells.outlines_um(made.tissue.cells, share=share)
    for spot in (0, len(number) - 1):
        (ring,) = section.spots.rings(spot)
        if traced:
            assert np.abs(ring.mean(axis=0) * 4.0 - outlines[number[spot]].mean(axis=0)).max() < 4.0
        else:
            np.testing.assert_allclose(ring * 4.0, outlines[number[spot]], atol=1e-9)
    assert (section.um_per_px, section.patient) == (4.0, name[0])


@pytest.mark.parametrize("areas", ["squares:100", "discs:55:100"])
def test_squares_and_discs_hold_the_bins_whose_centres_are_in_them(source: Source, areas: str) -> None:
    section, made = visium_hd.read_section(source("visium_hd"), "A1", areas=areas), truth("A1")
    _, centre_um, inside, counts = demo_space_ranger.bin_counts(made, 2)
    offset = np.abs(centre_um[inside][:, None] - section.spots.xy * 4.0)  # [bins, S, 2]
    holds = offset.max(axis=2) < 50 if areas.startswith("squares") else np.linalg.norm(offset, axis=2) <= 27.5
    expected = scipy.sparse.csr_array(holds.T.astype(np.int32)) @ counts
    assert abs(in_order(section, made) - expected).sum() == 0
    if areas.startswith("squares"):
        assert section.counts.sum() == counts.sum()


def test_a_sample_of_cells_alone_is_found(source: Source) -> None:
    root = source("visium_hd")
    (root / "A1/binned_outputs").rename(root / "elsewhere")
    module, reason = readers.find_layout(root / "A1")
    assert (module, reason) == (visium_hd, "it holds segmented outputs of A1")
    with pytest.raises(InputError, match="section 'A1': no bins found; --areas cells reads its cells"):
        module.list_sections(root / "A1")
    for folder in (root / "A1", root / "A1/segmented_outputs"):
        assert module.list_sections(folder, areas="cells") == ["A1"]
    with pytest.raises(InputError, match="section 'A1': no bins of 2 um, of which nuclei are made, found"):
        module.list_sections(root / "A1", areas="nuclei")


def test_bin_sizes_beside_other_areas_are_refused(source: Source) -> None:
    with pytest.raises(InputError, match="--bin-um is for bins, and --areas asks for nuclei; leave one of the two out"):
        visium_hd.list_sections(source("visium_hd"), areas="nuclei", bin_um=(2,))


def test_cells_on_a_reduced_image_lie_on_it(source: Source) -> None:
    root = source("visium_hd")
    full = visium_hd.read_section(root, "A1", areas="cells")
    for areas in ("cells", "nuclei", "squares:100"):
        small = visium_hd.read_section(root, "A1", areas=areas, image=Path("lowres"))
        with Image.open(small.image_path) as image, Image.open(full.image_path) as slide:
            scale = image.width / slide.width
        assert small.um_per_px == pytest.approx(4.0 / scale, rel=0.01)
        whole = visium_hd.read_section(root, "A1", areas=areas)
        np.testing.assert_allclose(small.spots.across_um(small.um_per_px), whole.spots.across_um(4.0), rtol=1e-6)


def test_a_build_of_nuclei_keeps_their_outlines(source: Source, tmp_path: Path) -> None:
    root = source("visium_hd")
    build.build(root, tmp_path / "data", areas="nuclei", tile_size_px=64, min_counts=1)
    dataset, read = PatchDataset.open(tmp_path / "data"), visium_hd.read_section(root, "A1", areas="nuclei")
    table = dataset.table("A1")
    kept = [read.spots.id.tolist().index(spot) for spot in table.spots.id.tolist()]
    np.testing.assert_array_equal(table.spots.ring_xy, read.spots[kept].ring_xy)
    assert table.counts.sum() == read.counts[kept].sum()


@pytest.mark.parametrize(
    ("file", "areas", "said"),
    [
        ("segmented_outputs/cell_segmentations.geojson", "cells", "cell_segmentations.geojson not found in segm"),
        ("segmented_outputs/filtered_feature_cell_matrix.h5", "cells", "filtered_feature_cell_matrix.h5 not found"),
        ("segmented_outputs/spatial/scalefactors_json.json", "cells", "scalefactors_json.json not found"),
        ("A1_nuclei.geojson", "nuclei", r"nuclei not found \(expected A1_nuclei.geojson"),
        ("A1_tissue_image.jpg", "cells", "full-resolution image not found"),
        ("A1_tissue_image.jpg", "nuclei", "full-resolution image not found"),
        ("binned_outputs/square_002um/filtered_feature_bc_matrix.h5", "squares:100", "matrix not found"),
    ],
)
def test_what_is_missing_is_named(source: Source, file: str, areas: str, said: str) -> None:
    root = source("visium_hd")
    (root / "A1" / file).unlink()
    with pytest.raises(InputError, match=said):
        visium_hd.list_sections(root, areas=areas)


def refused(root: Path, areas: str) -> str:
    with pytest.raises(InputError) as caught:
        visium_hd.read_section(root, "A1", areas=areas)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_outlines_of_another_sample_are_refused(source: Source) -> None:
    root = source("visium_hd")
    path = root / "A1/segmented_outputs/cell_segmentations.geojson"
    values = json.loads(path.read_text())
    for feature in values["features"]:
        feature["properties"]["cell_id"] += 10**6
    path.write_text(json.dumps(values))
    assert "belong to different samples" in refused(root, "cells")
    for feature in values["features"]:
        feature["properties"]["cell_id"] = 1
    path.write_text(json.dumps(values))
    assert "a cell_id is that of several features" in refused(root, "cells")
    del values["features"][0]["properties"]["cell_id"]
    path.write_text(json.dumps(values))
    assert "has cell_id 'None', expected a whole number" in refused(root, "cells")


def test_nuclei_beside_the_tissue_are_refused_and_two_segmentations_too(source: Source) -> None:
    root = source("visium_hd")
    path = root / "A1/A1_nuclei.geojson"
    path.write_text(json.dumps([feature([[-9, -9], [-9, -8], [-8, -8]])]))
    assert "no nucleus holds the centre of a bin" in refused(root, "nuclei")
    Image.new("L", (30, 30)).save(root / "A1/nuclei.png")
    assert "several segmentations (A1_nuclei.geojson, nuclei.png), expected one" in refused(root, "nuclei")
    path.unlink()
    assert "holds no label but 0" in refused(root, "nuclei")


def feature(ring: object, kind: str = "Polygon") -> dict[str, object]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": [ring]}}


def test_bins_in_several_nuclei_are_counted_in_each_and_said(source: Source) -> None:
    root, made = source("visium_hd"), truth("A1")
    height, width = made.image.shape[:2]
    whole = [[0, 0], [width, 0], [width, height], [0, height]]
    (root / "A1/A1_nuclei.geojson").write_text(json.dumps([feature(whole), feature(whole), feature([[1, 1], [2, 2]])]))
    section = visium_hd.read_section(root, "A1", areas="nuclei")
    bins = visium_hd.read_section(root, "A1_002um")
    assert section.spots.id.tolist() == ["1", "2"]
    assert section.counts.sum(axis=1).tolist() == [bins.counts.sum()] * 2
    assert f"{len(bins.spots)} bins lie in several nuclei and count in each" in section.notes
    assert "1 outline of fewer than 3 points in A1_nuclei.geojson was left out" in section.notes
