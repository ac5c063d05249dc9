import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from data_prep import readers, records, tiles
from data_prep.build import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import GeneTable, Section
from data_prep.section_table import SectionTable
from data_prep.spots import POLYGON, Spots
from tests.data_prep.tiny_source import slide_pixels

GENES = 9


def make_section(tmp_path: Path, spots: Spots) -> Section:
    image = tmp_path / "slide.png"
    Image.fromarray(slide_pixels(0)).save(image)
    counts = np.random.default_rng(3).poisson(0.7, (len(spots), GENES)).astype(np.int32)
    return Section(
        name="S-1 (2)",
        patient="P",
        image_path=image,
        genes=GeneTable(np.array([""] * GENES), np.array([f"G{i}" for i in range(GENES)])),
        counts=scipy.sparse.csr_array(counts),
        spots=dataclasses.replace(spots, id=np.array([f"bin{i}" for i in range(len(spots))])),
        um_per_px=0.5,
        um_per_px_source="user",
        layout="fake",
    )


@pytest.fixture
def fake_reader(monkeypatch):
    """Makes every source hold the one section it is given."""

    def install(section: Section) -> None:
        module = SimpleNamespace(
            name="fake",
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
    return make_section(tmp_path, Spots.squares(xy, np.float32(10)))


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
        assert table.spots.id[start : start + spots].tolist() == record["spot_id"].tolist()
        assert np.all(table.record_of_spot[start : start + spots] == index)
        counts = table.counts[start : start + spots].toarray()
        start += spots
        assert np.all((record["spot_xy"] >= 16) & (record["spot_xy"] < 112))
        full = record["spot_xy"] * record["px_scale"] + record["origin_xy"]
        for spot, where, row in zip(record["spot_id"], full, counts, strict=True):
            assert spot not in found
            found[spot] = row
            np.testing.assert_allclose(where, squares.spots.xy[int(spot[3:])])
        x, y = record["origin_xy"].astype(int)
        inside = record["image"][max(-y, 0) : 400 - y, max(-x, 0) : 400 - x]
        shown = pixels[max(y, 0) : y + 128, max(x, 0) : x + 128]
        assert np.abs(inside[: len(shown)] - shown).mean() < 2
    np.testing.assert_array_equal(np.stack([found[spot] for spot in squares.spots.id]), squares.counts.toarray())


def test_tiles_resampled_keep_spot_sizes_in_record_pixels(squares, tmp_path, fake_reader):
    dataset = build_tiles(squares, tmp_path, fake_reader, tile_size_px=64, um_per_px=1.0, context_px=8)
    record = dataset.source(["S-1 (2)"])[3]
    assert record["px_scale"] == 2
    assert set(record["spot_size_px"]) == {5.0}
    assert dataset.table("S-1 (2)").spots.size_px[0] == 10


def test_outlines_of_polygons_are_in_the_table_and_in_the_records(tmp_path, fake_reader):
    triangle = np.array([[95.0, 95], [106, 100], [100, 107]])
    frame = [np.array([[-9, -9], [9, -9], [9, 9], [-9, 9]]) * side + [102.0, 120] for side in (1, 0.5)]
    spots = Spots.concatenate(
        [Spots.polygons([triangle]), Spots.discs([[300.0, 200]], 9), Spots.polygons([frame, triangle + 150])]
    )
    section = make_section(tmp_path, spots)
    dataset = build_tiles(section, tmp_path, fake_reader, tile_size_px=256)
    table, source = dataset.table(section.name).spots, dataset.source([section.name])
    row = {spot: place for place, spot in enumerate(section.spots.id)}
    seen = []
    for record in (source[index] for index in range(len(source))):
        held = records.spots_of(record)
        full = held.within(-record["origin_xy"], 1.0)  # whole pixels, nothing is rounded
        for spots, place in ((full, place) for place in range(len(full))):
            seen.append(str(spots.id[place]))
            same_as(spots, place, section.spots, row[seen[-1]])
    assert sorted(seen) == sorted(section.spots.id)
    for place, spot in enumerate(table.id):
        same_as(table, place, section.spots, row[spot])
    assert np.count_nonzero(table.kind == POLYGON) == 3


def same_as(spots: Spots, place: int, others: Spots, other: int) -> None:
    assert (spots.kind[place], spots.size_px[place]) == (others.kind[other], others.size_px[other])
    assert len(spots.rings(place)) == len(others.rings(other))
    for ring, expected in zip(spots.rings(place), others.rings(other), strict=True):
        np.testing.assert_array_equal(ring, expected)


def test_polygons_of_an_earlier_version_are_refused(tmp_path):
    spots = Spots.polygons([np.array([[0.0, 0], [4, 0], [0, 4]])])
    counts, nothing = scipy.sparse.csr_array((1, 1), dtype=np.int32), np.zeros(1, np.int32)
    SectionTable(spots, nothing, nothing, np.zeros(1), np.zeros((1, 3)), np.zeros((1, 3)), counts).save(
        tmp_path / "t.npz"
    )
    assert len(SectionTable.load(tmp_path / "t.npz").spots.rings(0)) == 1
    with np.load(tmp_path / "t.npz") as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file if not name.startswith("ring_")})
    with pytest.raises(InputError, match=r"old\.npz: polygons without outlines.*build it again"):
        SectionTable.load(tmp_path / "old.npz")


def test_tile_parameters_are_in_the_manifest(squares, tmp_path, fake_reader):
    dataset = build_tiles(squares, tmp_path, fake_reader, tile_size_px=128)
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    assert manifest["dataset"] == "stjax_tiles/2.0.0"
    assert manifest["parameters"]["tile_size_px"] == 128
    assert manifest["sections"][0]["context_px"] == 16


@pytest.mark.slow
def test_tiles_of_a_visium_hd_sized_section(tmp_path, fake_reader):
    side = 550
    x, y = np.meshgrid((np.arange(side) + 0.5) * 400 / side, (np.arange(side) + 0.5) * 400 / side)
    xy = np.stack([x.ravel(), y.ravel()], axis=1)
    section = make_section(tmp_path, Spots.squares(xy, np.float32(400 / side)))
    dataset = build_tiles(section, tmp_path, fake_reader, tile_size_px=128)
    assert dataset.sections[0]["spots"] == side**2
    source, ids = dataset.source([section.name]), []
    for index in range(len(source)):
        ids.extend(source[index]["spot_id"])
    assert sorted(ids) == sorted(section.spots.id)
    assert dataset.table(section.name).counts.sum() == section.counts.sum()
