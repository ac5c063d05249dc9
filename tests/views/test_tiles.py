"""Tiles of a data set: which spots they hold, of which size, with which counts; and models trained on them."""

import dataclasses
import json

import numpy as np
import pytest

from data_prep import build, demo, writer
from data_prep.dataset import PatchDataset, table_files
from data_prep.errors import InputError
from stjax import protocols, splits, views
from stjax.data import blocks, input_pipeline, tile_spots
from stjax.data import items as items_module
from stjax.data.fit import fit
from stjax.data.panel import Panel
from stjax.data.selection import Selection
from stjax.data.tile_spots import rounded
from stjax.ops.spot_pool import spot_pool
from stjax.ops.spot_table import merge_layouts
from stjax.views.tiles import size_weights

SIDE, VIEW = 128, views.get("tiles")


@pytest.fixture(scope="module")
def hd(tmp_path_factory):
    """Two patients' Visium HD sections as tiles that hold a spot of 100 um whole."""
    folder = tmp_path_factory.mktemp("hd")
    source = demo.make_demo(folder / "source", layout="visium_hd", patients=2, sections_per_patient=1, spots=6)
    build.build(source, folder / "data", tile_size_px=SIDE, context_px=40, min_counts=0)
    return PatchDataset.open(folder / "data")


@pytest.fixture(scope="module")
def fold(hd):
    """As its genes and statistics are before the view has seen the spots."""
    return fit(VIEW, protocols.pixnet, hd, splits.Split(("A1_016um",), (), ()))


@pytest.fixture(scope="module")
def panel(fold):
    return fold.panel


def opened(dataset, sections, panel, protocol=protocols.pixnet, **options):
    return VIEW.open(Selection(dataset, sections, protocol, train=True, **options), panel)


def names(dataset, patient):
    return tuple(section["name"] for section in dataset.sections if section["patient"] == patient)


@pytest.fixture(scope="module")
def items(hd, panel):
    return opened(hd, names(hd, "A"), panel)


def test_bins_of_all_sizes_share_the_tiles_of_their_slide(hd, items):
    assert set(rounded(items.size_um)) == {2.0, 8.0, 16.0}
    assert items.num_spots == sum(section["spots"] for section in hd.sections if section["patient"] == "A")
    assert len(items) == max(section["records"] for section in hd.sections if section["patient"] == "A")
    assert len(set(zip(items.section, items.spots.id, strict=True))) == items.num_spots


def test_counts_follow_their_spots_and_every_bin_is_its_parts(hd, panel, items):
    """Bins are nested: the counts of the bins of one size are those of another."""
    by_size = {size: items.total[rounded(items.size_um) == size].sum() for size in (2, 8, 16)}
    assert by_size[2] == by_size[8] == by_size[16]
    name = "A1_008um"
    table, columns = hd.table(name), panel.columns(hd.genes)[: panel.num_main]
    of = {spot: row for row, spot in enumerate(table.spots.id)}
    mine = np.flatnonzero(items.section == name)
    rows = [of[spot] for spot in items.spots.id[mine]]
    np.testing.assert_array_equal(items.spots.xy[mine], table.spots.xy[rows])
    expected = protocols.pixnet.transform(
        table.counts[rows][:, columns].toarray().astype(float), table.total_counts[rows][:, None], panel.num_genes
    )
    np.testing.assert_allclose(items.main_expression(protocols.pixnet, mine), expected)


def test_a_batch_places_spots_where_they_are_on_the_tile(hd, items):
    """The pooled coordinate of every spot is its centre."""
    index = np.array([1, 0])
    images = np.stack([items.images[int(i)] for i in index])
    batch = items.batch(images, index, size=3)
    assert batch["image"].shape == (3, SIDE, SIDE, 3)
    assert not batch["mask"][2].any()
    assert not batch["spots"].count[2].any()
    grid = (np.arange(SIDE // 4) + 0.5) * 4  # centres of the feature cells, from the image's corner
    places = np.stack(np.meshgrid(grid, grid), axis=-1).astype(np.float32)
    found = np.asarray(spot_pool(np.stack([places] * 3), batch["spots"], aggregation="mean"))
    for place, tile in enumerate(index):
        rows = slice(items.windows.start[tile], items.windows.start[tile + 1])
        count = rows.stop - rows.start
        np.testing.assert_array_equal(batch["mask"][place] > 0, np.arange(batch["mask"].shape[1]) < count)
        np.testing.assert_array_equal(batch["total"][place, :count, 0], items.total[rows])
        origin = hd_origin(hd, items, tile)
        expected = (items.spots.xy[rows] - origin) / 1.0
        # Whole pixels stand for the spot: the mean of their centres is within half a pixel of the spot's.
        assert np.abs(found[place, :count] - expected).max() <= 0.51


def hd_origin(dataset, items, tile):
    """The tile's corner from the data set's own record, in full-resolution pixels (of which a tile's pixel is one)."""
    source = dataset.source(names(dataset, "A"))
    spots = set(items.spots.id[items.windows.start[tile] : items.windows.start[tile + 1]])
    return next(r["origin_xy"] for r in (source[i] for i in range(len(source))) if spots & set(r["spot_id"]))


def test_sizes_that_are_not_there_are_made_of_the_finest_bins(hd, panel):
    made = opened(hd, names(hd, "A"), panel, sizes_um=(16, 40, 100))
    assert set(rounded(made.size_um)) == {16.0, 40.0, 100.0}
    assert set(made.section) == {"A1_016um", "A1_040um", "A1_100um"}
    fine = hd.table("A1_002um")
    um_per_px = hd.section("A1_002um")["um_per_px"]
    for size, inside in ((100, lambda away: np.hypot(*away.T)), (40, lambda away: np.abs(away).max(axis=1))):
        chosen = np.flatnonzero(rounded(made.size_um) == size)
        assert len(chosen)
        for spot in chosen:
            away = (fine.spots.xy - made.spots.xy[spot]) * um_per_px
            assert made.total[spot] == fine.total_counts[inside(away) <= size / 2 + 1e-6].sum()
    with pytest.raises(InputError, match="no spot of 3 um in section A1_002um"):
        opened(hd, names(hd, "A"), panel, sizes_um=(3,))


def test_a_panel_is_fitted_to_the_spots_that_are_trained_on(hd):
    split = splits.Split(names(hd, "A"), (), names(hd, "B"))
    least = 1 + max(int(hd.table(name).total_counts.max()) for name in split.train)  # no bin has so many
    rules = dataclasses.replace(protocols.stjax, num_main_genes=20, min_counts=least)
    with pytest.raises(InputError, match=f"0 training spots have at least {least} counts"):
        fit(VIEW, rules, hd, split)
    fitted = fit(VIEW, rules, hd, split, sizes_um=(100,))
    ((_, (used,), _),) = tile_spots.slides(Selection(hd, split.train, rules, train=True, sizes_um=(100,)))
    counts = used.counts(np.arange(len(hd.genes)))
    assert used.total.min() >= least
    best = np.sort(np.argsort(-counts.toarray().astype(float).mean(axis=0), kind="stable")[:20])
    np.testing.assert_array_equal(fitted.panel.symbol[:20], hd.genes.symbol[best])
    trained_on = opened(hd, split.train, fitted.panel, rules, sizes_um=(100,))
    np.testing.assert_allclose(fitted.train_mean, trained_on.main_expression(rules).mean(axis=0))
    # Genes and images of bins of one size are those of a data set that has no other.
    of_size, alone = split.train[-1:], hd.table(split.train[-1])
    chosen = fit(VIEW, protocols.pixnet, hd, split, sizes_um=(16,))
    expected = fit(VIEW, protocols.pixnet, hd, splits.Split(of_size, (), ()))
    assert len(alone.spots) == trained_on_size(hd, split.train, 16)
    np.testing.assert_array_equal(chosen.panel.symbol, expected.panel.symbol)
    np.testing.assert_allclose(chosen.image_mean, expected.image_mean)


def trained_on_size(dataset, sections, size_um):
    found = tile_spots.slides(Selection(dataset, sections, protocols.pixnet, train=True, sizes_um=(size_um,)))
    return sum(len(spots) for slide in found for spots in slide.spots)


def test_chosen_sizes_leave_the_others_out(hd, panel):
    chosen = opened(hd, names(hd, "A"), panel, sizes_um=(8,))
    assert set(chosen.section) == {"A1_008um"}


def test_drawn_spots_are_the_same_every_time(hd, panel):
    one, other = (opened(hd, names(hd, "A"), panel, max_spots=50) for _ in range(2))
    assert one.num_spots == 3 * 50
    np.testing.assert_array_equal(one.spots.id, other.spots.id)
    assert one.left_out > 0


@pytest.fixture(scope="module")
def in_parts(hd, tmp_path_factory):
    """The same, its tables in parts; a table that is read whole is an error."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_SPOTS", 700)
        build.build(hd.path.parent / "source", folder, tile_size_px=SIDE, context_px=40, min_counts=0)
    return Parted.open(folder)


class Parted(PatchDataset):
    """Read part by part alone."""

    def table(self, name):
        raise AssertionError(f"the table of {name} is read whole")


@pytest.mark.parametrize("options", [{}, {"max_spots": 60}, {"sizes_um": (8, 40)}, {"sizes_um": (2, 100)}])
def test_spots_of_tables_in_parts_are_those_of_whole_ones(hd, in_parts, panel, options):
    assert len(table_files(in_parts.section("A1_002um"))) > 10
    whole, parted = (opened(dataset, names(hd, "A"), panel, **options) for dataset in (hd, in_parts))
    for name in ("weight", "left_out", "size_um", "total", "section", "slide_section"):
        np.testing.assert_array_equal(getattr(parted, name), getattr(whole, name))
    for name in ("id", "xy", "kind", "size_px"):
        np.testing.assert_array_equal(getattr(parted.spots, name), getattr(whole.spots, name))
    assert (parted.counts != whole.counts).nnz == 0
    for one, other in zip(parted.windows.spots, whole.windows.spots, strict=True):
        np.testing.assert_array_equal(one.xy, other.xy)


@pytest.mark.parametrize("sizes_um", [(), (8, 40)])
@pytest.mark.parametrize("ranking", ["mean_count", "variability", "hmhvg"])
def test_genes_and_targets_are_measured_block_by_block(hd, in_parts, sizes_um, ranking, monkeypatch):
    rules = dataclasses.replace(
        protocols.stjax, num_main_genes=30, min_counts=3, min_spot_fraction=0.0, gene_ranking=ranking, panel_scope="all"
    )
    split = splits.Split(names(hd, "A"), (), names(hd, "B"))
    whole = fit(VIEW, rules, hd, split, sizes_um=sizes_um)
    monkeypatch.setattr(items_module, "_BLOCK_ENTRIES", 5000)
    parted = fit(VIEW, rules, in_parts if ranking != "hmhvg" else hd, split, sizes_um=sizes_um)
    np.testing.assert_array_equal(parted.panel.symbol, whole.panel.symbol)
    for name in ("target_mean", "target_std", "train_mean", "image_mean", "image_std"):
        np.testing.assert_allclose(getattr(parted, name), getattr(whole, name), rtol=1e-9)


def test_blocks_of_tables_in_parts_are_those_of_whole_ones(hd, in_parts):
    rule = blocks.Rule(folds=3, per_fold=2, fold=0, validates=False, buffer_um=0.0)
    kept = [blocks.divide(data, lambda name, data=data: VIEW.field(data, name), rule) for data in (hd, in_parts)]
    assert kept[0].parts == kept[1].parts
    found = [opened(each.open(data), each.split(each.open(data)).train, protocols_panel(data), max_spots=90)
             for each, data in zip(kept, (hd, in_parts), strict=True)]  # fmt: skip
    np.testing.assert_array_equal(found[0].spots.id, found[1].spots.id)
    assert (found[0].counts != found[1].counts).nnz == 0


def protocols_panel(dataset):
    return Panel(dataset.genes.ensembl_id, dataset.genes.symbol, 20, len(dataset.genes))


def test_every_size_weighs_the_same():
    weight = size_weights(np.repeat([2.0, 16.0], [90, 10]))
    assert weight.mean() == pytest.approx(1)
    assert weight[:90].sum() == pytest.approx(weight[90:].sum())


def test_facts_are_those_of_the_training_tiles_under_one_layout_for_all(hd, fold, items):
    other = opened(hd, names(hd, "B"), fold.panel)
    fitted = VIEW.fit(fold, protocols.pixnet, items, other)
    facts, windows = fitted.facts, items.windows
    assert VIEW.trained_sizes_um(fitted) == tuple(facts["sizes_um"]) == (2.0, 8.0, 16.0)
    assert facts["pixels_per_spot"] == pytest.approx(np.average(windows.pixels, weights=items.weight))
    rates = np.array(facts["base_rates"])
    assert rates.shape == (fold.panel.num_main + 1,)
    # Rates a pixel times pixels are the counts.
    assert rates.sum() * windows.pixels.sum() == pytest.approx(items.total.sum(dtype=float), rel=1e-6)
    assert windows.layout != other.windows.layout
    merged = merge_layouts([windows.layout, other.windows.layout])
    read = dataclasses.replace(fitted, facts=json.loads(json.dumps(facts)))
    for patient in "AB":
        each = opened(hd, names(hd, patient), fold.panel)
        VIEW.prepare(read, each)
        assert each.windows.layout == merged
    VIEW.check_facts(read, "data.json")


def test_refitted_statistics_are_those_of_the_spots(hd, fold, items):
    fitted = VIEW.fit(fold, protocols.stjax, items, None)
    values = items.main_expression(protocols.stjax)
    weight, main = size_weights(items.size_um), slice(fold.panel.num_main)
    mean = np.average(values, axis=0, weights=weight)
    np.testing.assert_allclose(fitted.train_mean, mean, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(fitted.target_mean[main], fitted.train_mean)
    std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weight))
    np.testing.assert_allclose(fitted.target_std[main], std, rtol=1e-5)
    # The same where a fold is fitted anew to be compared with another.
    rules = dataclasses.replace(protocols.stjax, min_counts=0)
    again = VIEW.refit(fold, Selection(hd, names(hd, "A"), rules, train=True))
    for name in ("train_mean", "target_mean", "target_std"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fitted, name))


def test_every_tile_comes_once_an_epoch(items):
    batches = input_pipeline.training_batches(items, batch_size=2, seed=0, start_step=0, num_workers=0)
    seen = np.concatenate([next(batches)[1] for _ in range(len(items) // 2)])
    batches.close()
    assert len(set(seen.tolist())) == len(seen)


def test_too_few_counts_are_named(hd, panel):
    with pytest.raises(InputError, match="no spot of A1_002um has the 1000 counts that protocol stjax asks for"):
        opened(hd, ("A1_002um",), panel, protocols.stjax)


@pytest.mark.parametrize("factor", [0.8, 3])
def test_spots_follow_a_tile_that_is_enlarged_and_those_that_leave_it_are_told(fold, items, factor):
    windows, inside = VIEW.enlarged(items.windows, fold, factor)
    assert len(windows) == len(items.windows)
    assert len(inside) == items.num_spots
    assert inside.any()
    assert inside.all() == (factor < 1)
    for before, after in zip(items.windows.spots, windows.spots, strict=True):
        np.testing.assert_allclose(after.xy - SIDE / 2, factor * (before.xy - SIDE / 2), atol=1e-6)
        np.testing.assert_allclose(after.across_px(), factor * before.across_px(), rtol=1e-5)
    bounds = np.concatenate([spots.bounds() for spots in windows.spots])
    np.testing.assert_array_equal(inside, (bounds.min(axis=1) >= 0) & (bounds.max(axis=1) <= SIDE))
