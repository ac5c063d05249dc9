import itertools
import pickle

import numpy as np
import pytest

from data_prep.dataset import PatchDataset
from stjax import protocols, splits, views
from stjax.data import input_pipeline
from stjax.data.fit import fit
from stjax.data.selection import Selection

BATCH = 12


@pytest.fixture(scope="module")
def opened(dataset):
    return PatchDataset.open(dataset)


@pytest.fixture(scope="module")
def split(opened):
    return splits.split_sections(protocols.stjax, {s["name"]: s["patient"] for s in opened.sections})


@pytest.fixture(scope="module")
def panel(opened, split):
    return fit(views.get("patches"), protocols.stjax, opened, split).panel


@pytest.fixture(scope="module")
def items(opened, split, panel):
    return views.get("patches").open(Selection(opened, split.train, protocols.stjax, train=True), panel)


def positions(items, *, batches, start_step=0, num_workers=0, seed=3, size=BATCH):
    stream = input_pipeline.training_batches(
        items, batch_size=size, seed=seed, start_step=start_step, num_workers=num_workers
    )
    taken = [index.tolist() for _, index in itertools.islice(stream, batches)]
    stream.close()
    return taken


def test_every_record_comes_once_an_epoch_and_the_order_changes(items):
    taken = list(itertools.chain(*positions(items, batches=2 * len(items) // BATCH)))
    first, second = taken[: len(items)], taken[len(items) :]
    assert sorted(first) == list(range(len(items)))
    assert len(set(second)) == len(second)
    assert first[: len(second)] != second


def test_starting_at_a_step_continues_the_same_stream(items):
    whole = positions(items, batches=30)
    for start in (1, 7, 25):
        assert positions(items, batches=30 - start, start_step=start) == whole[start:]


def test_batches_of_one_hold_the_same_records_in_the_same_order(items):
    singles = positions(items, batches=3 * BATCH, size=1)
    assert list(itertools.chain(*singles)) == list(itertools.chain(*positions(items, batches=3)))
    assert positions(items, batches=4, start_step=9, size=1) == singles[9:13]


def test_worker_processes_change_nothing(items):
    assert positions(items, batches=4, start_step=2, num_workers=2) == positions(items, batches=4, start_step=2)


def test_worker_processes_get_no_counts(items):
    sent = len(pickle.dumps(input_pipeline._Rows(items, BATCH)))
    assert sent < 2_000 + 8 * len(items)  # of a process, whatever the number of genes
    counts = items.counts
    assert sent < counts.data.nbytes / 10


def test_seeds_give_other_orders(items):
    assert positions(items, batches=2, seed=0) != positions(items, batches=2, seed=1)


def test_a_batch_holds_the_pixels_and_counts_of_its_spots(opened, panel, items):
    stream = input_pipeline.training_batches(items, batch_size=BATCH, seed=0, start_step=0, num_workers=0)
    batch, index = next(stream)
    stream.close()
    columns = panel.columns(opened.genes)
    assert batch["image"].dtype == np.uint8
    assert batch["counts"].shape == (BATCH, 1, len(panel.symbol))
    for row, position in enumerate(index):
        name = items.section[position]
        table = opened.table(name)
        spot = int(np.flatnonzero(table.spots.id == items.spots.id[position])[0])
        np.testing.assert_array_equal(batch["counts"][row, 0], table.counts[[spot]].toarray()[0, columns])
        assert batch["total"][row, 0, 0] == table.total_counts[spot]
        pixels = opened.source((name,))[int(table.record_of_spot[spot])]["image"]
        np.testing.assert_array_equal(batch["image"][row], pixels)


def test_evaluation_batches_cover_every_record_in_order_under_a_mask(items):
    size = 64
    covered = []
    for batch, index in input_pipeline.evaluation_batches(items, batch_size=size):
        assert batch["image"].shape[0] == size
        assert batch["mask"].sum() == len(index)
        assert not batch["image"][len(index) :].any()
        covered += index.tolist()
    assert covered == list(range(len(items)))
