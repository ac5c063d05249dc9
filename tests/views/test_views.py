"""What holds of every view, and how items become batches."""

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax import protocols, views
from stjax.data.panel import Panel
from stjax.views.tiles import TileWindows
from tests.inference.fake_predictor import made_fold

SIDE, GENES, MAIN = 64, 5, 3


def test_every_view_is_found_by_its_name():
    assert {"patches", "tiles"} <= set(views.names())
    for name in views.names():
        view = views.get(name)
        assert isinstance(view, views.View)
        assert view.name == name
        assert view.kinds
        for attribute in ("item", "items", "of_dataset", "build_flag", "what"):
            assert isinstance(getattr(view, attribute), str)


@pytest.mark.parametrize("name", ["cells", "", "__init__", "patches.View", "../patches"])
def test_a_view_that_is_none_is_refused_in_one_line(name):
    with pytest.raises(
        InputError, match=r"there is no view '.*'; this version of stjax knows .*patches.*tiles"
    ) as caught:
        views.get(name)
    assert "\n" not in str(caught.value)


def windows_of(kind):
    """Seven patches, or four tiles of three, one, two and four spots."""
    if kind == "patches":
        return views.Windows(np.arange(8))
    rng = np.random.default_rng(0)
    spots = [Spots.discs(rng.uniform(0, SIDE, (count, 2)), rng.uniform(1, 12, count)) for count in (3, 1, 2, 4)]
    return TileWindows(spots, size_px=SIDE)


def items_of(kind, *, genes=GENES):
    """Items of such windows, with random counts, totals and weights; the data set lacks the second gene."""
    rng = np.random.default_rng(1)
    windows = windows_of(kind)
    spots = int(windows.start[-1])
    counts = rng.poisson(2.0, (spots, genes)).astype(np.float32)
    counts[:, 1] = 0
    names = np.array([f"G{gene}" for gene in range(GENES)])
    return views.Items(
        images=rng.integers(0, 256, (len(windows), SIDE, SIDE, 3)).astype(np.uint8),
        windows=windows,
        panel=Panel(names, names, MAIN, num_genes=100),
        absent=np.arange(GENES) == 1,
        counts=scipy.sparse.csr_array(counts),
        weight=rng.uniform(0.1, 2, spots).astype(np.float32),
        left_out=0,
        spots=Spots.discs(rng.uniform(0, 999, (spots, 2)), 3),
        describe=str,
        size_um=np.full(spots, 8.0),
        total=rng.integers(100, 999, spots).astype(np.float32),
        white=np.zeros(spots),
        section=np.full(spots, "A"),
        slide_section=np.full(spots, "A"),
    )


def by_a_plain_loop(items, counts, index, size):
    """`Items.batch` of all that does not come from the windows."""
    most = items.windows.most_spots
    batch = {
        "counts": np.zeros((size, most, counts.shape[1]), np.float32),
        "total": np.zeros((size, most, 1), np.float32),
        "mask": np.zeros((size, most), np.float32),
    }
    for place, item in enumerate(index):
        for slot, spot in enumerate(range(items.windows.start[item], items.windows.start[item + 1])):
            batch["counts"][place, slot] = counts[spot]
            batch["total"][place, slot, 0] = items.total[spot]
            batch["mask"][place, slot] = items.weight[spot]
    return batch


@pytest.mark.parametrize("kind", ["patches", "tiles"])
@pytest.mark.parametrize(("index", "size"), [([2, 0, 3], 3), ([3, 1], 5), ([1, 1, 2], 3), ([], 2), ([0, 1, 2, 3], 4)])
@pytest.mark.parametrize("genes", [GENES, MAIN])
def test_a_batch_is_what_a_loop_over_items_and_spots_gives(kind, index, size, genes):
    items = items_of(kind, genes=genes)
    index = np.array(index, np.int64)
    images = items.images[index]
    batch = items.batch(images, index, size=size)
    expected = by_a_plain_loop(items, items.counts.toarray(), index, size)
    for name, values in expected.items():
        assert batch[name].dtype == values.dtype
        np.testing.assert_array_equal(batch[name], values)
    assert batch["image"].shape == (size, SIDE, SIDE, 3)
    assert batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"][: len(index)], images)
    assert not batch["image"][len(index) :].any()
    empty = batch["mask"] == 0  # nothing is under the mask, be it a missing item or spot
    assert not batch["counts"][empty].any()
    assert not batch["total"][empty].any()
    assert (~empty).sum() == sum(np.diff(items.windows.start)[index])


def test_measured_expression_is_of_the_spots_asked_for_and_unknown_where_a_gene_is_lacking():
    protocol = protocols.stjax
    items = items_of("tiles")
    every = items.main_counts()
    assert every.shape == (items.num_spots, MAIN)
    assert np.isnan(every[:, 1]).all()
    np.testing.assert_array_equal(every[:, [0, 2]], items.counts.toarray()[:, [0, 2]])
    np.testing.assert_array_equal(items.main_sums(), items.counts.toarray()[:, :MAIN].sum(axis=0))
    rows = np.array([4, 1, 9])
    expected = protocol.transform(every[rows], items.total[rows].astype(float)[:, None], 100)
    np.testing.assert_array_equal(items.main_expression(protocol, rows), expected)
    np.testing.assert_array_equal(items.main_expression(protocol)[rows], expected)


@pytest.mark.parametrize("kind", ["patches", "tiles"])
def test_inputs_of_too_few_items_are_filled_up_with_nothing(kind):
    windows = windows_of(kind)
    images = np.random.default_rng(2).integers(1, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    whole, padded = windows.inputs(images, [1, 3], 2), windows.inputs(images, [1, 3], 4)
    assert set(padded) == set(whole) == ({"image"} if kind == "patches" else {"image", "spots"})
    np.testing.assert_array_equal(whole["image"], images)
    np.testing.assert_array_equal(padded["image"][:2], images)
    assert not padded["image"][2:].any()
    assert padded["image"].shape == (4, SIDE, SIDE, 3)
    if kind == "tiles":
        assert padded["spots"].count.shape == (4, windows.most_spots)
        np.testing.assert_array_equal(padded["spots"].count[:2], whole["spots"].count)
        assert not padded["spots"].count[2:].any()
        np.testing.assert_array_equal(padded["spots"].count[1, :4], windows.pixels[windows.rows(3)])


def test_windows_say_which_spots_are_in_each_item():
    for kind, sizes in (("patches", [1] * 7), ("tiles", [3, 1, 2, 4])):
        windows = windows_of(kind)
        assert [windows.rows(item).stop - windows.rows(item).start for item in range(len(windows))] == sizes
        assert windows.most_spots >= max(sizes)
    assert views.Windows(np.arange(8)).most_spots == 1


def test_images_are_normalised_by_the_folds_statistics():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    fold = made_fold(image_mean=np.array([190.0, 110, 165]), image_std=np.array([40.0, 50, 60]))
    found = np.asarray(views.normalise(images, fold))
    np.testing.assert_allclose(found, (images - fold.image_mean) / fold.image_std, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32
