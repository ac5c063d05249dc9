import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from data_prep import readers, tiles
from data_prep.build import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import DISC, POLYGON, SQUARE, GeneTable, Section
from tests.data_prep.tiny_source import slide_pixels

GENES = 9


def make_section(tmp_path: Path, spot_xy: np.ndarray, kind: np.ndarray, size: np.ndarray, polygons=()) -> Section:
    image = tmp_path / "slide.png"
    Image.fromarray(slide_pixels(0)).save(image)
    counts = np.random.default_rng(3).poisson(0.7, (len(spot_xy), GENES)).astype(np.int32)
    return Section(
        name="S-1 (2)",
        patient="P",
        image_path=image,
        genes=GeneTable(np.array([""] * GENES), np.array([f"G{i}" for i in range(GENES)])),
        counts=scipy.sparse.csr_array(counts),
        spot_id=np.array([f"bin{i}" for i in range(len(spot_xy))]),
        spot_xy=spot_xy,
        spot_kind=kind.astype(np.uint8),
        spot_size_px=size.astype(np.float32),
        um_per_px=0.5,
        um_per_px_source="user",
        layout="fake",
        polygons=tuple(polygons),
    )


@pytest.fixture
def fake_reader(monkeypatch):
    """Makes every source hold the one section it is given."""

    def install(section: Section) -> None:
        module = SimpleNamespace(
            __name__="data_prep.readers.fake",
            read_section=lambda *_, **__: section,
            list_sections=lambda *_, **__: [section.name],
            find_sections=lambda *_, **__: {section.name: ""},
        )
        monkeypatch.setattr(readers, "find_layout", lambda *_: (module, "it is a fake"))

    return install


@pytest.fixture
def squares(tmp_path):
    """40 x 40 squares of 10 px, a whole section of 1600 bins."""
    x, y = np.meshgrid(np.arange(40) * 10 + 5.0, np.arange(40) * 10 + 5.0)
    xy = np.stack([x.ravel(), y.ravel()], axis=1)
    return make_section(tmp_path, xy, np.full(1600, SQUARE), np.full(1600, 10))


def build_tiles(section, tmp_path, fake_reader, **options) -> PatchDataset:
    fake_reader(section)
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    return PatchDataset.open(build(source, tmp_path / "out", min_counts=0, **options).parent, verify=True)


def test_lay_out_gives_each_spot_to_one_tile_whose_core_holds_it():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1000, (500, 2))
    rows = rng.permutation(500)[:400]
    origin, members = tiles.lay_out(xy, rows, size_px=128, context_px=20, px_scale=1.5)
    assert sorted(np.concatenate(members)) == sorted(rows)
    for corner, tile in zip(origin, members, strict=True):
        inside = (xy[tile] - corner) / 1.5
        assert len(tile)
        assert np.all((inside >= 20) & (inside < 108))
    assert len({tuple(corner) for corner in origin}) == len(origin)


def test_lay_out_of_no_spot_is_no_tile():
    origin, members = tiles.lay_out(np.zeros((3, 2)), np.zeros(0, int), size_px=128, context_px=20, px_scale=1)
    assert (origin.shape, members) == ((0, 2), [])


@pytest.mark.parametrize(("kind", "size", "reach"), [(DISC, 30.0, 30.0), (SQUARE, 30.0, 15.0), (POLYGON, 0, 12.0)])
def test_spot_reach_is_half_the_width_of_the_largest(tmp_path, kind, size, reach):
    outline = np.array([[50, 50], [62, 55], [55, 59]], float)
    section = make_section(tmp_path, np.array([[50.0, 50.0]]), np.array([kind]), np.array([size]), (outline,))
    assert tiles.spot_reach_px(section, np.array([0])) == reach


def test_context_is_an_eighth_or_what_the_spots_need():
    assert tiles.context_px("A", 1024, 20, None) == 128
    assert tiles.context_px("A", 1024, 150.2, None) == 151
    assert tiles.context_px("A", 1024, 20, 64) == 64
    with pytest.raises(InputError, match=r"'A'.*reach 65 px.*--context-px 64"):
        tiles.context_px("A", 1024, 64.5, 64)
    with pytest.raises(InputError, match="--tile-size-px"):
        tiles.context_px("A", 256, 10, 128)


def test_tiles_hold_every_square_once_with_its_own_counts(squares, tmp_path, fake_reader):
    dataset = build_tiles(squares, tmp_path, fake_reader, tile_size_px=128, shard_mb=1)
    entry = dataset.sections[0]
    assert dataset.manifest["kind"] == "tiles"
    assert dataset.kind == "tiles"
    assert entry["split"] == "S_1__2_"
    assert entry["spots"] == 1600
    sizes = [shard["records"] for shard in entry["shards"]]
    assert len(sizes) > 1
    assert max(sizes) - min(sizes) <= 1

    table, source = dataset.table("S-1 (2)"), dataset.source(["S-1 (2)"])
    pixels = np.asarray(Image.open(squares.image_path)).astype(int)
    found: dict[str, np.ndarray] = {}
    start = 0
    for index in range(len(source)):
        record = source[index]
        spots = len(record["spot_id"])
        assert record["image"].shape == (128, 128, 3)
        assert table.spot_id[start : start + spots].tolist() == record["spot_id"].tolist()
        assert np.all(table.record_of_spot[start : start + spots] == index)
        start += spots
        counts = scipy.sparse.csr_array(
            (record["count_values"], record["count_indices"], record["count_indptr"]), shape=(spots, GENES)
        ).toarray()
        assert np.all((record["spot_xy"] >= 16) & (record["spot_xy"] < 112))
        full = record["spot_xy"] * record["px_scale"] + record["origin_xy"]
        for spot, where, row in zip(record["spot_id"], full, counts, strict=True):
            assert spot not in found
            found[spot] = row
            np.testing.assert_allclose(where, squares.spot_xy[int(spot[3:])])
        x, y = record["origin_xy"].astype(int)
        inside = record["image"][max(-y, 0) : 400 - y, max(-x, 0) : 400 - x]
        shown = pixels[max(y, 0) : y + 128, max(x, 0) : x + 128]
        assert np.abs(inside[: len(shown)] - shown).mean() < 2
    np.testing.assert_array_equal(np.stack([found[spot] for spot in squares.spot_id]), squares.counts.toarray())


def test_tiles_resampled_keep_spot_sizes_in_record_pixels(squares, tmp_path, fake_reader):
    dataset = build_tiles(squares, tmp_path, fake_reader, tile_size_px=64, um_per_px=1.0, context_px=8)
    record = dataset.source(["S-1 (2)"])[3]
    assert record["px_scale"] == 2
    assert set(record["spot_size_px"]) == {5.0}
    assert dataset.table("S-1 (2)").spot_size_px[0] == 10


def test_tiles_carry_the_outlines_of_polygons(tmp_path, fake_reader):
    xy = np.array([[100.0, 100.0], [300.0, 200.0], [102.0, 120.0]])
    triangle = np.array([[-5, -5], [6, 0], [0, 7]], float)
    square = np.array([[-4, -4], [4, -4], [4, 4], [-4, 4]], float)
    kind = np.array([POLYGON, DISC, POLYGON])
    outlines = (square + xy[2], triangle + xy[0])
    section = make_section(tmp_path, xy, kind, np.array([1, 9, 0]), outlines)
    dataset = build_tiles(section, tmp_path, fake_reader, tile_size_px=256)
    outlines_by_id = {"bin0": triangle + xy[0], "bin2": square + xy[2]}
    seen = 0
    for index in range(len(source := dataset.source([section.name]))):
        record = source[index]
        for spot in np.flatnonzero(record["spot_kind"] == POLYGON):
            which = int(record["spot_size_px"][spot])
            start, stop = record["polygon_indptr"][which : which + 2]
            outline = record["polygon_xy"][start:stop] + record["origin_xy"]
            np.testing.assert_allclose(outline, outlines_by_id[record["spot_id"][spot]])
            seen += 1
    assert seen == 2


def test_tile_parameters_are_in_the_manifest(squares, tmp_path, fake_reader):
    dataset = build_tiles(squares, tmp_path, fake_reader, tile_size_px=128)
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    assert manifest["dataset"] == "stjax_tiles/1.0.0"
    assert manifest["parameters"]["tile_size_px"] == 128
    assert manifest["sections"][0]["context_px"] == 16


@pytest.mark.slow
def test_tiles_of_a_visium_hd_sized_section(tmp_path, fake_reader):
    side = 550
    x, y = np.meshgrid((np.arange(side) + 0.5) * 400 / side, (np.arange(side) + 0.5) * 400 / side)
    xy = np.stack([x.ravel(), y.ravel()], axis=1)
    section = make_section(tmp_path, xy, np.full(side**2, SQUARE), np.full(side**2, 400 / side))
    dataset = build_tiles(section, tmp_path, fake_reader, tile_size_px=128)
    assert dataset.sections[0]["spots"] == side**2
    source, ids = dataset.source([section.name]), []
    for index in range(len(source)):
        ids.extend(source[index]["spot_id"])
    assert sorted(ids) == sorted(section.spot_id)
    assert dataset.table(section.name).counts.sum() == section.counts.sum()
