"""Patches of a data set: which spots they hold, of which size, with which counts."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import GeneTable
from data_prep.spots import Spots
from stjax import protocols, splits, views
from stjax.data.fit import fit
from stjax.data.panel import Panel
from stjax.data.selection import Selection
from tests.data.test_fit import Tables

VIEW = views.get("patches")


def test_bins_cut_as_patches_are_squares_of_their_own_side(tmp_path):
    demo.make_demo(tmp_path / "raw", layout="visium_hd", patients=1, sections_per_patient=1, spots=2)
    build.build(tmp_path / "raw", tmp_path / "data", patch_size_px=32, min_counts=0, bin_um=[8, 16])
    dataset = PatchDataset.open(tmp_path / "data")
    panel = Panel(dataset.genes.ensembl_id[:2], dataset.genes.symbol[:2], 2, len(dataset.genes))
    for section in dataset.sections:
        items = VIEW.open(Selection(dataset, [section["name"]], protocols.pixnet, train=True), panel)
        assert len(items) == items.num_spots == section["spots"]
        size = float(section["name"].rpartition("_")[2].removesuffix("um"))
        np.testing.assert_allclose(items.size_um, size, rtol=1e-5)


def tables():
    """A data set in memory whose section A has three discs and a polygon."""
    spots = Spots.discs([[10, 10], [20, 10], [30, 10]], [5, 8, 7], list("abd"))
    spots = Spots.concatenate(
        [spots[:2], Spots.polygons([np.array([[0, 0], [6, 0], [6, 4], [0, 4]])], ["c"]), spots[2:]]
    )
    table = types.SimpleNamespace(
        counts=scipy.sparse.csr_array(np.arange(1, 9, dtype=np.int32).reshape(4, 2)), spots=spots,
        total_counts=np.array([9, 10, 11, 12]), record_of_spot=np.array([1, 0, 2, 3], np.int32),
        white_fraction=np.array([0.0, 0.25, 0.5, 0.75], np.float32),
    )  # fmt: skip
    return types.SimpleNamespace(
        path=Path("data"), genes=GeneTable(np.array(["E1", "E2"]), np.array(["G1", "G2"])), table=lambda _: table,
        section=lambda _: {"um_per_px": 0.5}, source=lambda _: [{"image": f"image {record}"} for record in range(4)],
    )  # fmt: skip


PANEL = Panel(np.array(["E1", "E2"]), np.array(["G1", "G2"]), num_main=1, num_genes=2)


def test_every_spot_has_its_own_size_patch_and_whiteness():
    items = VIEW.open(Selection(tables(), ["A"], protocols.pixnet, train=True), PANEL)
    assert items.size_um == pytest.approx([5, 8, 0.5 * 2 * np.sqrt(24 / np.pi), 7])
    assert [items.images[item] for item in range(4)] == ["image 1", "image 0", "image 2", "image 3"]
    assert items.white.tolist() == [0.25, 0.0, 0.5, 0.75]
    assert [items.describe(item) for item in range(4)] == ["A/a", "A/b", "A/c", "A/d"]
    assert items.section.tolist() == items.slide_section.tolist() == ["A"] * 4


def test_spots_that_the_protocol_does_not_use_are_left_out_and_counted():
    rules = dataclasses.replace(protocols.brstnet_code, min_counts=10, max_white_fraction=0.5)
    for train, expected in ((True, "b"), (False, "bcd")):
        items = VIEW.open(Selection(tables(), ["A"], rules, train=train), PANEL)
        assert (items.spots.id.tolist(), items.left_out) == (list(expected), 4 - len(expected))


def test_sections_without_a_spot_to_validate_or_score_on_are_refused_with_the_cause():
    data = Tables()

    def check(protocol, **parts):
        VIEW.check_spots(data, protocol, splits.Split(**{"train": ("C",), "val": (), "test": ()} | parts))

    check(protocols.stjax, val=("A", "B"))
    check(protocols.stjax)
    data.tables["A"].total_counts = np.full(40, 999)
    check(protocols.stjax, val=("A", "B"))  # B has some
    with pytest.raises(InputError, match="none of the 40 spots of A, the val sections: 40 have fewer than 1000"):
        check(protocols.stjax, val=("A",))
    data.tables["A"].total_counts = np.r_[np.full(10, 999), np.full(30, 5000)]
    data.tables["A"].white_fraction = np.full(40, 0.9)
    with pytest.raises(InputError, match=r"10 have fewer than 1000 counts, 30 a patch that is white; choose others"):
        check(protocols.brstnet_paper, test=("A",))


def test_genes_the_data_set_lacks_have_no_counts_and_no_truth(dataset):
    opened = PatchDataset.open(dataset)
    split = splits.split_sections(protocols.stjax, {s["name"]: s["patient"] for s in opened.sections})
    panel = fit(VIEW, protocols.stjax, opened, split).panel
    ids, symbols = panel.ensembl_id.copy(), panel.symbol.copy()
    ids[3], symbols[3] = "ENSG99999999999", "NOT_THERE"
    foreign = dataclasses.replace(panel, ensembl_id=ids, symbol=symbols)
    chosen = Selection(opened, split.test, protocols.stjax, train=False)
    known, other = (VIEW.open(chosen, each) for each in (panel, foreign))
    index = np.arange(5)
    images = np.stack([known.images[int(i)] for i in index])
    expected = known.batch(images, index, size=5)["counts"]
    assert expected.shape == (5, 1, len(panel.symbol))
    assert expected[..., 3].any()
    expected[..., 3] = 0
    np.testing.assert_array_equal(other.batch(images, index, size=5)["counts"], expected)
    assert np.isnan(other.main_counts()[:, 3]).all()
    assert np.isnan(other.main_expression(protocols.stjax)[:, 3]).all()
    assert np.isfinite(np.delete(other.main_expression(protocols.stjax), 3, axis=1)).all()


def test_sizes_of_spots_are_asked_of_tiles_alone():
    with pytest.raises(InputError, match=r"config\.spot_sizes_um is for tiles, data holds patches; leave it empty"):
        VIEW.open(Selection(tables(), ["A"], protocols.stjax, train=True, sizes_um=(8,)), PANEL)
