"""Tiles as records: which spots they hold, of which size, with which counts; and models trained on them."""

import dataclasses
import json

import numpy as np
import pytest

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import protocols
from stjax.data import input_pipeline, tile_spots
from stjax.data.panel import fit_panel
from stjax.data.tile_records import TileFacts, TileRecords, rounded, size_weights
from stjax.ops.spot_pool import spot_pool

SIDE = 128


@pytest.fixture(scope="module")
def hd(tmp_path_factory):
    """Two patients' Visium HD sections as tiles that hold a spot of 100 um whole."""
    folder = tmp_path_factory.mktemp("hd")
    source = demo.make_demo(folder / "source", layout="visium_hd", patients=2, sections_per_patient=1, spots=6)
    build.build(source, folder / "data", tile_size_px=SIDE, context_px=40, min_counts=0)
    return PatchDataset.open(folder / "data")


@pytest.fixture(scope="module")
def panel(hd):
    split = protocols.Split(("A1_016um",), (), ())
    return fit_panel(protocols.pixnet, hd, split)


def names(dataset, patient):
    return tuple(section["name"] for section in dataset.sections if section["patient"] == patient)


@pytest.fixture(scope="module")
def records(hd, panel):
    return TileRecords(hd, names(hd, "A"), panel, protocols.pixnet)


def test_bins_of_all_sizes_share_the_tiles_of_their_slide(hd, records):
    assert set(rounded(records.size_um)) == {2.0, 8.0, 16.0}
    assert records.num_spots == sum(section["spots"] for section in hd.sections if section["patient"] == "A")
    assert len(records) == max(section["records"] for section in hd.sections if section["patient"] == "A")
    assert len(set(zip(records.section, records.spot_id, strict=True))) == records.num_spots


def test_counts_follow_their_spots_and_every_bin_is_its_parts(hd, panel, records):
    """Bins are nested: the reads of the bins of one size are those of another."""
    by_size = {size: records.total[rounded(records.size_um) == size].sum() for size in (2, 8, 16)}
    assert by_size[2] == by_size[8] == by_size[16]
    name = "A1_008um"
    table, columns = hd.table(name), panel.columns(hd.genes)[: panel.num_main]
    of = {spot: row for row, spot in enumerate(table.spot_id)}
    mine = np.flatnonzero(records.section == name)
    rows = [of[spot] for spot in records.spot_id[mine]]
    np.testing.assert_array_equal(records.spot_xy[mine], table.spot_xy[rows])
    expected = protocols.pixnet.transform(
        table.counts[rows][:, columns].toarray().astype(float), table.total_counts[rows][:, None], panel.num_genes
    )
    np.testing.assert_allclose(records.expression(panel, protocols.pixnet, mine), expected)


def test_a_batch_places_spots_where_they_are_on_the_tile(hd, records):
    """The pooled coordinate of every spot is its centre."""
    index = np.array([1, 0])
    images = np.stack([records.images[int(i)] for i in index])
    batch = records.batch(images, index, size=3)
    assert batch["image"].shape == (3, SIDE, SIDE, 3)
    assert not batch["mask"][2].any()
    assert not batch["spots"].count[2].any()
    grid = (np.arange(SIDE // 4) + 0.5) * 4  # centres of the feature cells, from the image's corner
    places = np.stack(np.meshgrid(grid, grid), axis=-1).astype(np.float32)
    found = np.asarray(spot_pool(np.stack([places] * 3), batch["spots"], aggregation="mean"))
    for place, tile in enumerate(index):
        rows = slice(records.start[tile], records.start[tile + 1])
        count = rows.stop - rows.start
        np.testing.assert_array_equal(batch["mask"][place] > 0, np.arange(batch["mask"].shape[1]) < count)
        np.testing.assert_array_equal(batch["total"][place, :count, 0], records.total[rows])
        origin = hd_origin(hd, records, tile)
        expected = (records.spot_xy[rows] - origin) / 1.0
        # Whole pixels stand for the spot: the mean of their centres is within half a pixel of the spot's.
        assert np.abs(found[place, :count] - expected).max() <= 0.51


def hd_origin(dataset, records, tile):
    """The tile's corner from the data set's own record, in full-resolution pixels (of which a tile's pixel is one)."""
    source = dataset.source(names(dataset, "A"))
    spots = set(records.spot_id[records.start[tile] : records.start[tile + 1]])
    return next(r["origin_xy"] for r in (source[i] for i in range(len(source))) if spots & set(r["spot_id"]))


def test_sizes_that_are_not_there_are_made_of_the_finest_bins(hd, panel):
    made = TileRecords(hd, names(hd, "A"), panel, protocols.pixnet, sizes_um=(16, 40, 100))
    assert set(rounded(made.size_um)) == {16.0, 40.0, 100.0}
    assert set(made.section) == {"A1_016um", "A1_040um", "A1_100um"}
    fine = hd.table("A1_002um")
    um_per_px = hd.section("A1_002um")["um_per_px"]
    for size, inside in ((100, lambda away: np.hypot(*away.T)), (40, lambda away: np.abs(away).max(axis=1))):
        chosen = np.flatnonzero(rounded(made.size_um) == size)
        assert len(chosen)
        for spot in chosen:
            away = (fine.spot_xy - made.spot_xy[spot]) * um_per_px
            assert made.total[spot] == fine.total_counts[inside(away) <= size / 2 + 1e-6].sum()
    with pytest.raises(InputError, match="no spot of 3 um in section A1_002um"):
        TileRecords(hd, names(hd, "A"), panel, protocols.pixnet, sizes_um=(3,))


def test_a_panel_is_fitted_to_the_spots_that_are_trained_on(hd):
    split = protocols.Split(names(hd, "A"), (), names(hd, "B"))
    least = 1 + max(int(hd.table(name).total_counts.max()) for name in split.train)  # no bin has so many
    rules = dataclasses.replace(protocols.stjax, num_main_genes=20, min_counts=least)
    with pytest.raises(InputError, match=f"0 training spots have at least {least} reads"):
        fit_panel(rules, hd, split)
    fitted = fit_panel(rules, hd, split, sizes_um=(100,))
    ((_, (spots,)),) = tile_spots.slides(hd, split.train, np.arange(len(hd.genes)), sizes_um=(100,))
    used = spots[spots.total >= least]
    best = np.sort(np.argsort(-used.counts.toarray().astype(float).mean(axis=0), kind="stable")[:20])
    np.testing.assert_array_equal(fitted.symbol[:20], hd.genes.symbol[best])
    trained_on = TileRecords(hd, split.train, fitted, rules, sizes_um=(100,))
    np.testing.assert_allclose(fitted.train_mean, trained_on.main_expression(fitted, rules).mean(axis=0))
    # Genes and images of bins of one size are those of a data set that has no other.
    of_size, alone = split.train[-1:], hd.table(split.train[-1])
    chosen = fit_panel(protocols.pixnet, hd, split, sizes_um=(16,))
    expected = fit_panel(protocols.pixnet, hd, protocols.Split(of_size, (), ()))
    assert len(alone.spot_id) == trained_on_size(hd, split.train, 16)
    np.testing.assert_array_equal(chosen.symbol, expected.symbol)
    np.testing.assert_allclose(chosen.image_mean, expected.image_mean)


def trained_on_size(dataset, sections, size_um):
    columns = np.zeros(1, np.int64)
    found = tile_spots.slides(dataset, sections, columns, sizes_um=(size_um,))
    return sum(len(spots.tile) for _, every in found for spots in every)


def test_chosen_sizes_leave_the_others_out(hd, panel):
    chosen = TileRecords(hd, names(hd, "A"), panel, protocols.pixnet, sizes_um=(8,))
    assert set(chosen.section) == {"A1_008um"}


def test_drawn_spots_are_the_same_every_time(hd, panel):
    one, other = (TileRecords(hd, names(hd, "A"), panel, protocols.pixnet, max_spots=50) for _ in range(2))
    assert one.num_spots == 3 * 50
    np.testing.assert_array_equal(one.spot_id, other.spot_id)
    assert one.left_out > 0


def test_every_size_weighs_the_same():
    weight = size_weights(np.repeat([2.0, 16.0], [90, 10]))
    assert weight.mean() == pytest.approx(1)
    assert weight[:90].sum() == pytest.approx(weight[90:].sum())


def test_facts_survive_json_exactly(panel, records):
    facts = records.facts()
    again = TileFacts.from_json(json.loads(json.dumps(facts.to_json())))
    assert again.layout == facts.layout
    assert (again.pixels_per_spot, again.sizes_um) == (facts.pixels_per_spot, facts.sizes_um)
    np.testing.assert_array_equal(again.base_rates, facts.base_rates)
    assert facts.base_rates.shape == (panel.num_main + 1,)
    # Rates a pixel times pixels are the reads.
    pixels = np.concatenate(records.tables.pixels).sum()
    assert facts.base_rates.sum() * pixels == pytest.approx(records.total.sum(dtype=float), rel=1e-6)


def test_refitted_statistics_are_those_of_the_spots(panel, records):
    fitted = records.refit(panel, protocols.stjax)
    values = records.main_expression(panel, protocols.stjax)
    weight = size_weights(records.size_um)
    mean = np.average(values, axis=0, weights=weight)
    np.testing.assert_allclose(fitted.train_mean, mean, rtol=1e-5, atol=1e-8)
    std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weight))
    np.testing.assert_allclose(fitted.target_std[: panel.num_main], std, rtol=1e-5)


def test_every_tile_comes_once_an_epoch(records):
    batches = input_pipeline.training_batches(records, batch_size=2, seed=0, start_step=0, num_workers=0)
    seen = np.concatenate([next(batches)[1] for _ in range(len(records) // 2)])
    batches.close()
    assert len(set(seen.tolist())) == len(seen)


def test_too_few_reads_are_named(hd, panel):
    with pytest.raises(InputError, match="no spot of A1_002um has the 1000 reads that protocol stjax asks for"):
        TileRecords(hd, ("A1_002um",), panel, protocols.stjax)
