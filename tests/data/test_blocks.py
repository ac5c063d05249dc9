"""Spatial blocks: over random places and sizes, no part is shown what another is; each spot is tested on once."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section_table import SectionTable
from data_prep.spots import SQUARE, Spots
from stjax.data import blocks
from stjax.data.blocks import Blocks, Field, Rule, cut, divide

CASES = range(24)
FOLDS = 4
RULE = Rule(folds=FOLDS, per_fold=1, fold=0, validates=True, buffer_um=0.0)
DROPPED = blocks.PARTS.index("dropped")


class Slides(PatchDataset):
    """Sections in memory: as much of a data set as blocks need."""

    def __init__(self, places, um_per_px=0.5, images=None):
        sections = [
            {
                "name": f"S{i}",
                "patient": "P",
                "spots": len(xy),
                "records": len(xy),
                "um_per_px": um_per_px,
                "px_scale": 1.0,
                "image": {"sha256": "same" if images is None else images[i]},
            }
            for i, xy in enumerate(places)
        ]
        manifest = {
            "genes": {"ensembl_id": ["ENSG1"], "symbol": ["A"]},
            "sections": sections,
            "kind": "patches",
            "parameters": {"patch_size_px": 32, "tile_size_px": None},
        }
        super().__init__(Path("memory"), manifest, "hash")
        self.places = {f"S{i}": xy for i, xy in enumerate(places)}

    def tables(self, name, *, names=True):
        del names
        xy, count = self.places[name], len(self.places[name])
        ids = np.array([f"{name}-{i}" for i in range(count)])
        counts = scipy.sparse.csr_array(np.arange(1, count + 1, dtype=np.int32)[:, None])
        zeros = np.zeros((count, 3))
        record, white = np.arange(count, dtype=np.int32), np.zeros(count, np.float32)
        total = np.arange(1, count + 1)
        yield SectionTable(Spots.alike(SQUARE, xy, 4.0, ids), total, record, white, zeros, zeros, counts)

    spot_tables = tables


def places(rng):
    """Spots of a slide: anywhere, on a lattice with holes, in clumps, or in a strip."""
    count, extent = int(rng.integers(150, 500)), rng.uniform(800, 3000)
    kind = rng.integers(4)
    if kind == 0:
        return rng.uniform(0, extent, (count, 2))
    if kind == 1:
        side = int(count**0.5)
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * extent / side
        return grid[rng.uniform(size=len(grid)) < 0.8]
    if kind == 2:
        return rng.uniform(0, extent, (6, 2))[rng.integers(6, size=count)] + rng.normal(0, extent / 30, (count, 2))
    return rng.uniform(0, extent, (count, 2)) * (1, 0.1)


def field_of_patches(dataset, side):
    return lambda name: Field(np.floor(dataset.places[name] - side / 2 + 0.5) + side / 2, side)


def field_of_tiles(dataset, side, margin):
    core = side - 2 * margin
    return lambda name: Field((np.floor(dataset.places[name] / core) + 0.5) * core, side)


def drawn(case):
    """A slide of one or two sections, and the fields of view of one kind or the other."""
    rng = np.random.default_rng(case)
    first = places(rng)
    both = [first] if case % 3 else [first, first[::3] + rng.uniform(0, 5, 2)]
    dataset = Slides(both, um_per_px=float(rng.uniform(0.2, 1.5)))
    extent = float(np.ptp(first, axis=0).max())
    side = float(rng.integers(round(0.02 * extent), round(0.08 * extent)))
    return dataset, field_of_tiles(dataset, side, side / 8) if case % 2 else field_of_patches(dataset, side)


def parts_of(found, dataset):
    names = [section["name"] for section in dataset.sections]
    return {name: np.repeat(found.parts[name]["part"], found.parts[name]["length"]) for name in names}


def overlap(one, other, side):
    """[A, B] bool: whether squares with these middles overlap, each pair looked at."""
    return (np.abs(one[:, None] - other[None]) < side).all(axis=2)


@pytest.mark.parametrize("case", CASES)
def test_no_field_of_view_reaches_that_of_another_part_and_every_spot_is_tested_on_once(case):
    dataset, field_of = drawn(case)
    names = [section["name"] for section in dataset.sections]
    middle, side = np.concatenate([field_of(name).middle_xy for name in names]), field_of(names[0]).side_px
    tested = np.zeros(len(middle), int)
    for fold in range(FOLDS):
        found = divide(dataset, field_of, dataclasses.replace(RULE, fold=fold))
        assert found == divide(dataset, field_of, dataclasses.replace(RULE, fold=fold))
        part = np.concatenate(list(parts_of(found, dataset).values()))
        train, val, test, dropped = (part == place for place in range(len(blocks.PARTS)))
        assert not overlap(middle[train], middle[test | val], side).any()
        assert not overlap(middle[val], middle[test], side).any()
        counts = [int(each.sum()) for each in (train, val, test, dropped)]
        assert list(found.num_spots.values()) == counts
        assert sum(counts) == len(middle)
        assert min(counts[:3]) > 0
        tested += test
        # What is dropped had to be: of training it is near validation or test, of validation near test.
        near = overlap(middle[dropped], middle[test | val], side + 4).any(axis=1)
        of_val = np.isin(np.flatnonzero(dropped), np.flatnonzero(_fold_of(dataset, names) == (fold + 1) % FOLDS))
        assert (near | of_val).all()
    assert (tested == 1).all()


def _fold_of(dataset, names):
    return cut(np.concatenate([dataset.places[name] for name in names]), FOLDS) % FOLDS


@pytest.mark.parametrize("count", [2, 3, 5, 8, 15])
def test_blocks_are_rectangles_apart_with_as_many_spots(count):
    xy = np.random.default_rng(count).uniform(0, 1000, (600, 2)) * (1, 0.7)
    block = cut(xy, count)
    sizes = np.bincount(block, minlength=count)
    assert len(sizes) == count
    assert sizes.max() - sizes.min() <= np.ceil(np.log2(count)) + 1
    low = np.array([xy[block == b].min(axis=0) for b in range(count)])
    high = np.array([xy[block == b].max(axis=0) for b in range(count)])
    for one in range(count):
        for other in range(one):
            assert ((low[one] > high[other]) | (low[other] > high[one])).any()
    sides = high - low
    assert (sides.max(axis=1) < 4 * sides.min(axis=1)).all()  # compact


def test_blocks_do_not_cut_through_places_that_spots_share():
    grid = np.stack(np.meshgrid(np.arange(30.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    block = cut(np.repeat(grid, 3, axis=0), 5)
    assert (block.reshape(-1, 3) == block.reshape(-1, 3)[:, :1]).all()


def test_several_blocks_a_fold_are_spread_over_the_section():
    xy = np.random.default_rng(0).uniform(0, 3000, (2000, 2))
    dataset = Slides([xy])
    one, four = (
        divide(dataset, field_of_patches(dataset, 40.0), dataclasses.replace(RULE, per_fold=count)) for count in (1, 4)
    )
    assert four.num_spots["dropped"] > one.num_spots["dropped"]  # more edges
    spread = [np.std(xy[parts_of(each, dataset)["S0"] == 2], axis=0).min() for each in (one, four)]
    assert spread[1] > spread[0]


def test_a_wider_buffer_keeps_spots_so_far_apart_and_a_narrower_one_is_refused():
    xy = np.random.default_rng(1).uniform(0, 3000, (1500, 2))
    dataset = Slides([xy], um_per_px=0.5)
    field_of = field_of_patches(dataset, 60.0)
    found = divide(dataset, field_of, dataclasses.replace(RULE, buffer_um=200.0))
    part = parts_of(found, dataset)["S0"]
    assert not overlap(xy[part == 0], xy[(part == 1) | (part == 2)], 400.0 - 1e-9).any()
    assert "at least 200 um apart" in found.apart
    with pytest.raises(InputError, match=r"buffer_um is 20, narrower than the 30 um"):
        divide(dataset, field_of, dataclasses.replace(RULE, buffer_um=20.0))


def test_a_spot_larger_than_its_patch_is_part_of_the_field():
    xy = np.random.default_rng(2).uniform(0, 500, (400, 2))
    dataset = Slides([xy], um_per_px=1.0)  # squares of 4 px
    found = divide(dataset, field_of_patches(dataset, 2.0), RULE)
    assert found.field_um >= 4


def test_sections_on_slides_of_their_own_are_divided_each_by_itself():
    rng = np.random.default_rng(3)
    one, other = (rng.uniform(0, 2000, (300, 2)) for _ in range(2))
    dataset = Slides([one, other], images=["a", "b"])
    found = divide(dataset, field_of_patches(dataset, 40.0), RULE)
    alone = Slides([one])
    assert found.parts["S0"] == divide(alone, field_of_patches(alone, 40.0), RULE).parts["S0"]
    assert found.slides == 2
    assert "of 2 sections" in found.caveat


def test_without_validation_the_other_blocks_are_all_for_training():
    xy = np.random.default_rng(4).uniform(0, 2000, (500, 2))
    dataset = Slides([xy])
    found = divide(dataset, field_of_patches(dataset, 40.0), dataclasses.replace(RULE, validates=False))
    assert found.num_spots["val"] == 0
    split = found.split(found.open(dataset))
    assert (split.train, split.val, split.test) == (("S0_train",), (), ("S0_test",))
    assert "no validation sections" in split.warnings[-1]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"folds": 2}, "config.blocks.folds is 2, expected at least 3"),
        ({"folds": 1, "validates": False}, "expected at least 2"),
        ({"per_fold": 0}, "config.blocks.per_fold is 0"),
        ({"fold": 4}, "fold is 4; config.blocks.folds makes folds 0 to 3"),
        ({"buffer_um": -1.0}, "config.blocks.buffer_um is -1"),
        ({"buffer_um": float("nan")}, "config.blocks.buffer_um is nan"),
        ({"folds": 500}, "Section 'S0': its 100 spots make no 500 blocks; set fewer --config.blocks.folds"),
        ({"buffer_um": 5000.0}, "no spot is left to train on: of 100 spots .*at least 5000 um apart"),
    ],
)
def test_what_makes_no_parts_is_refused(changed, says):
    dataset = Slides([np.random.default_rng(5).uniform(0, 1000, (100, 2))])
    with pytest.raises(InputError, match=says) as caught:
        divide(dataset, field_of_patches(dataset, 20.0), dataclasses.replace(RULE, **changed))
    assert "\n" not in str(caught.value)


def made():
    dataset = Slides([np.random.default_rng(6).uniform(0, 1500, (300, 2))])
    return dataset, divide(dataset, field_of_patches(dataset, 40.0), RULE)


def test_parts_are_sections_with_their_own_spots_alone():
    dataset, found = made()
    divided, part = found.open(dataset), parts_of(found, dataset)["S0"]
    assert [section["name"] for section in divided.sections] == ["S0_train", "S0_val", "S0_test"]
    for place, name in enumerate(divided.names):
        table, rows = divided.table(name), np.flatnonzero(part == place)
        np.testing.assert_array_equal(table.spots.xy, dataset.places["S0"][rows])
        np.testing.assert_array_equal(table.counts.toarray()[:, 0], rows + 1)
        np.testing.assert_array_equal(table.record_of_spot, rows)
        assert divided.section(name)["spots"] == len(rows)
        (part_of_it,) = divided.tables(name)
        np.testing.assert_array_equal(part_of_it.spots.id, table.spots.id)
        assert divided.of_whole(name) == "S0"
    assert divided.patients(divided.names) == dict.fromkeys(divided.names, ("P", "unknown"))
    assert divided.content_hash == dataset.content_hash
    with pytest.raises(InputError, match="no section 'S0'; the data set holds S0_train, S0_val, S0_test"):
        divided.table("S0")
    assert found.num_spots["dropped"] == int(np.sum(part == DROPPED)) > 0


def test_parts_survive_json_and_are_refused_where_they_are_not_of_the_data():
    dataset, found = made()
    again = Blocks.from_json(json.loads(json.dumps(found.to_json())), "data.json")
    assert again == found
    assert again.exported.parts == {}
    assert again.exported.caveat == found.caveat
    with pytest.raises(InputError, match="section S0 has 299 spots, and blocks are kept for 300"):
        found.open(Slides([dataset.places["S0"][1:]]))
    for wrong in ({"part": [9], "length": [300]}, {"part": [0, 1], "length": [300]}):
        with pytest.raises(InputError, match="the parts of section S0 are none"):
            Blocks.from_json(found.to_json() | {"parts": {"S0": wrong}}, "data.json")
