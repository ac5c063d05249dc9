"""Virtual lattices through spots that are finer than those a model was trained on."""

import numpy as np
import pytest

from data_prep.errors import InputError
from stjax.data import arrays, lattice
from tests.data.test_lattice import array, turned

EVERYTHING = frozenset({"features", "grid", "near"})
TRAINED = [{"pitch_um": 100.0, "hexagonal": False}]


def laid(kind, pitch_px, *, sides=(34, 30), kept=1.0, seed=0, degrees=0.0):
    """Places in pixels [S, 2] of spots of one kind, some of them missing, and their lattice."""
    rng = np.random.default_rng(seed)
    _, at = array(kind, *sides)
    xy = pitch_px * turned(at[rng.permutation(len(at))[: int(kept * len(at))]], degrees) + rng.uniform(0, 1e3, 2)
    return xy, lattice.find(xy)


@pytest.mark.parametrize("kind", ["square", "hexagonal"])
@pytest.mark.parametrize("hexagonal", [False, True])
@pytest.mark.parametrize("ratio", [2.0, 3.2, 6.25, 12.5])
@pytest.mark.parametrize(("kept", "degrees"), [(1.0, 0.0), (0.6, 4.0)])
def test_every_spot_has_one_place_of_its_own_and_lies_at_each_of_its_places(kind, hexagonal, ratio, kept, degrees):
    xy, on = laid(kind, 8.0, kept=kept, degrees=degrees)
    pitch = ratio * 8.0
    found = arrays.through(on, pitch, hexagonal=hexagonal)
    own = np.concatenate([each.rows[each.own] for each in found])
    np.testing.assert_array_equal(np.sort(own), np.arange(len(xy)))
    unit = lattice.kind(hexagonal=hexagonal)[0] * pitch
    for each in found:
        assert np.all(np.diff(each.rows) >= 0)
        assert len(np.unique(each.lattice.places, axis=0)) == len(each.rows)
        if hexagonal:
            assert len(set((each.lattice.places.sum(axis=1) % 2).tolist())) == 1
        moved = turned(xy[each.rows], -degrees) - each.lattice.places * unit  # of one lattice but for the spots' cells
        apart = np.linalg.norm(moved - (moved.min(axis=0) + moved.max(axis=0)) / 2, axis=1).max()
        assert apart <= 1.5 * 8.0
        assert each.lattice.pitch_px == pitch


def test_a_lattice_has_no_hole_where_spots_are_whatever_the_ratio():
    _, on = laid("square", 8.0, sides=(60, 60))
    for each in arrays.through(on, 12.5 * 8.0, hexagonal=False):
        size = each.lattice.places.max(axis=0) + 1
        assert len(each.rows) == size.prod()
        assert set(size.tolist()) <= {4, 5}
    assert not all(each.own.all() for each in arrays.through(on, 12.5 * 8.0, hexagonal=False))


@pytest.mark.parametrize("parts", [2, 3, 8])
@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (1, 1)])
def test_spots_on_the_training_lattice_are_told_what_they_would_be_there(parts, offset):
    rng = np.random.default_rng(parts)
    places, at = array("square", 6 * parts, 5 * parts)
    there = rng.uniform(size=(6, 5)) < 0.8  # of tissue, in the training's places
    there[0, 0] = there[5, 4] = True
    fine = there[tuple((places // parts).T)]
    order = rng.permutation(np.flatnonzero(fine))
    xy, places = 10.0 * at[order] / parts, places[order]
    coarse = np.flatnonzero(np.all(places % parts == offset, axis=1))
    facts = {"arrays": [{"pitch_um": 10.0, "hexagonal": False}], "grid_size": [6, 5]}
    found = arrays.around("A", xy, np.arange(len(xy)), 1.0, EVERYTHING, facts)
    assert len(found) == parts**2
    (own,) = arrays.around("A", xy[coarse], np.arange(len(coarse)), 1.0, EVERYTHING, facts)
    (same,) = [each for each in found if coarse[0] in each.rows]
    np.testing.assert_array_equal(same.rows, coarse)
    np.testing.assert_array_equal(same.places, own.places)
    np.testing.assert_array_equal(same.near, own.near)
    assert same.own.all()


def test_spots_as_far_apart_as_the_trainings_keep_their_array_and_finer_ones_see_the_trainings():
    xy, _ = laid("square", 40.0)
    used = np.arange(0, len(xy), 2)
    (whole,) = arrays.around("A", xy, used, 2.2, EVERYTHING, {"arrays": TRAINED})  # 88 um
    np.testing.assert_array_equal(whole.rows, np.arange(len(used)))
    np.testing.assert_array_equal(whole.places, lattice.find(xy).places[used])
    assert len(arrays.around("A", xy, used, 1.0, EVERYTHING, {"arrays": TRAINED})) == 9
    assert len(arrays.around("A", xy, used, 1.0, EVERYTHING, {})) == 1  # of earlier versions, which do not say
    assert len(arrays.around("A", xy, used, 1.0, frozenset({"image", "context"}), {"arrays": TRAINED})) == 1
    several = [{"pitch_um": 8.0, "hexagonal": False}, *TRAINED, {"pitch_um": 200.0, "hexagonal": True}]
    assert arrays.coarser(several, 40.0) == TRAINED[0]
    assert arrays.coarser(several, 9.0) is None


def test_coarser_spots_and_larger_arrays_are_refused_in_one_line():
    xy, _ = laid("square", 40.0)
    for needs, facts, says in (
        (
            EVERYTHING,
            {"arrays": TRAINED},
            "'A': its spots are 200 um apart, those .* trained on 100 um",
        ),
        (EVERYTHING, {"arrays": [{"pitch_um": 800.0, "hexagonal": False}], "grid_size": [8, 8]}, "has 9 x 8 places"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            arrays.around("A", xy, np.arange(len(xy)), 5.0, needs, facts)
        assert "\n" not in str(caught.value)


def test_the_nearest_spot_of_a_trainings_array_is_one_of_few():
    xy, _ = laid("square", 8.0, sides=(50, 50))
    rows = arrays.looked_up(xy, 1.0, TRAINED)
    kept = np.unique(rows)
    assert len(kept) == 16
    assert np.linalg.norm(xy[rows] - xy, axis=1).max() < 100
    np.testing.assert_array_equal(rows[kept], kept)
    assert arrays.looked_up(xy, 12.5, TRAINED) is None  # as far apart
    assert arrays.looked_up(xy, 50.0, TRAINED) is None
    assert arrays.looked_up(np.random.default_rng(0).uniform(0, 1000, (200, 2)), 1.0, TRAINED) is None
