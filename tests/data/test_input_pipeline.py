import itertools
import pickle

import numpy as np
import pytest

from data_prep.dataset import PatchDataset
from stjax import protocols
from stjax.data import input_pipeline
from stjax.data.panel import fit_panel

BATCH = 12


@pytest.fixture(scope="module")
def opened(dataset):
    return PatchDataset.open(dataset)


@pytest.fixture(scope="module")
def split(opened):
    return protocols.split_sections(protocols.stjax, {s["name"]: s["patient"] for s in opened.sections})


@pytest.fixture(scope="module")
def panel(opened, split):
    return fit_panel(protocols.stjax, opened, split)


@pytest.fixture(scope="module")
def records(opened, split, panel):
    return input_pipeline.PatchRecords(opened, split.train, panel, protocols.stjax, train=True)


def positions(records, *, batches, start_step=0, num_workers=0, seed=3):
    stream = input_pipeline.training_batches(
        records, batch_size=BATCH, seed=seed, start_step=start_step, num_workers=num_workers
    )
    taken = [index.tolist() for _, index in itertools.islice(stream, batches)]
    stream.close()
    return taken


def test_every_record_comes_once_an_epoch_and_the_order_changes(records):
    taken = list(itertools.chain(*positions(records, batches=2 * len(records) // BATCH)))
    first, second = taken[: len(records)], taken[len(records) :]
    assert sorted(first) == list(range(len(records)))
    assert len(set(second)) == len(second)
    assert first[: len(second)] != second


def test_starting_at_a_step_continues_the_same_stream(records):
    whole = positions(records, batches=30)
    for start in (1, 7, 25):
        assert positions(records, batches=30 - start, start_step=start) == whole[start:]


def test_worker_processes_change_nothing(records):
    assert positions(records, batches=4, start_step=2, num_workers=2) == positions(records, batches=4, start_step=2)


def test_worker_processes_get_no_counts(records):
    sent = len(pickle.dumps(input_pipeline._Rows(records, BATCH)))
    assert sent < 2_000 + 8 * len(records)  # of a process, whatever the number of genes
    counts = records._counts
    assert sent < counts.data.nbytes / 10


def test_seeds_give_other_orders(records):
    assert positions(records, batches=2, seed=0) != positions(records, batches=2, seed=1)


def test_a_batch_holds_the_pixels_and_counts_of_its_spots(opened, panel, records):
    stream = input_pipeline.training_batches(records, batch_size=BATCH, seed=0, start_step=0, num_workers=0)
    batch, index = next(stream)
    stream.close()
    columns = panel.columns(opened.genes)
    assert batch["image"].dtype == np.uint8
    assert batch["counts"].shape == (BATCH, 1, len(panel.symbol))
    for row, position in enumerate(index):
        name = records.section[position]
        table = opened.table(name)
        spot = int(np.flatnonzero(table.spot_id == records.spot_id[position])[0])
        np.testing.assert_array_equal(batch["counts"][row, 0], table.counts[[spot]].toarray()[0, columns])
        assert batch["total"][row, 0, 0] == table.total_counts[spot]
        pixels = opened.source((name,))[int(table.record_of_spot[spot])]["image"]
        np.testing.assert_array_equal(batch["image"][row], pixels)


def test_evaluation_batches_cover_every_record_in_order_under_a_mask(records):
    size = 64
    covered = []
    for batch, index in input_pipeline.evaluation_batches(records, batch_size=size):
        assert batch["image"].shape[0] == size
        assert batch["mask"].sum() == len(index)
        assert not batch["image"][len(index) :].any()
        covered += index.tolist()
    assert covered == list(range(len(records)))


def test_genes_the_data_set_lacks_have_no_counts_and_no_truth(opened, split, panel):
    import dataclasses

    ids, symbols = panel.ensembl_id.copy(), panel.symbol.copy()
    ids[3], symbols[3] = "ENSG99999999999", "NOT_THERE"
    foreign = dataclasses.replace(panel, ensembl_id=ids, symbol=symbols)
    known = input_pipeline.PatchRecords(opened, split.test, panel, protocols.stjax, train=False)
    other = input_pipeline.PatchRecords(opened, split.test, foreign, protocols.stjax, train=False)
    index = np.arange(5)
    expected = known.counts(index)
    assert expected[..., 3].any()
    expected[..., 3] = 0
    np.testing.assert_array_equal(other.counts(index), expected)
    assert np.isnan(other.main_expression(foreign, protocols.stjax)[:, 3]).all()
    assert np.isfinite(np.delete(other.main_expression(foreign, protocols.stjax), 3, axis=1)).all()
