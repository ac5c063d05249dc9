"""Places of spots on their array's lattice, and neighbours, from nothing but where they lie."""

import numpy as np
import pytest

from data_prep import demo, readers
from stjax.data import lattice

PITCH = 137.0


def array(kind, columns, rows):
    """Places [S, 2] of a whole array and where they lie, in pitches."""
    column, row = (each.ravel() for each in np.indices((columns, rows)))
    places = np.stack([column, row], axis=1)
    if kind == "square":
        return places, places.astype(float)
    places = places[(column + row) % 2 == 0]
    return places, places * [0.5, np.sqrt(3) / 2]


def turned(xy, degrees):
    angle = np.radians(degrees)
    return xy @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("kind", ["square", "hexagonal"])
@pytest.mark.parametrize("seed", range(25))
def test_places_are_found_whatever_is_missing_shuffled_turned_and_off_by_a_tenth_of_the_pitch(kind, seed):
    rng = np.random.default_rng(seed)
    sides = rng.integers(6, 40, 2) * (np.array([2, 1]) if kind == "hexagonal" else 1)
    places, at = array(kind, *sides)
    kept = rng.permutation(len(places))[: int(len(places) * rng.uniform(0.5, 1))]
    places, at = places[kept], at[kept]
    xy = turned(at, rng.uniform(-8, 8)) + rng.uniform(-0.1, 0.1, at.shape)
    found = lattice.find(PITCH * xy + rng.uniform(-1e3, 1e4, 2))
    np.testing.assert_array_equal(found.places, places - places.min(axis=0))
    assert found.pitch_px == pytest.approx(PITCH, rel=0.02)
    assert len(found.steps) == (8 if kind == "square" else 6)


def test_rows_along_y_count_whole_rows_along_x():
    places, at = array("hexagonal", 20, 12)
    found = lattice.find(PITCH * turned(at, 90.0))
    np.testing.assert_array_equal(found.places, np.stack([places[:, 1].max() - places[:, 1], places[:, 0]], axis=1))


def test_islands_of_tissue_are_on_one_lattice():
    places, at = array("square", 60, 30)
    kept = (np.abs(places[:, 0] - 8) < 6) | (np.abs(places[:, 0] - 50) < 6)
    found = lattice.find(PITCH * turned(at[kept], 3.0))
    np.testing.assert_array_equal(found.places, (places - [3, 0])[kept])


@pytest.mark.parametrize("count", [30, 100, 3000])
def test_spots_anywhere_lie_on_no_lattice(count):
    rng = np.random.default_rng(count)
    assert lattice.find(rng.uniform(0, 1000, (count, 2))) is None
    assert lattice.find(np.repeat(rng.uniform(0, 1000, (count, 2)), 2, axis=0)) is None


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_few_spots_have_places(count):
    found = lattice.find(np.array([[0.0, 5.0], [10.0, 5.0], [20.0, 5.0]])[:count])
    np.testing.assert_array_equal(found.places, np.array([[0, 0], [1, 0], [2, 0]])[:count])
    near = lattice.near(np.array([[0.0, 5.0], [10.0, 5.0], [20.0, 5.0]])[:count], found)
    assert near.shape == (count, 8)
    assert (near >= 0).sum() == 2 * max(count - 1, 0)


def by_distance(at, reach):
    """Sets of rows nearer than `reach`, the slow way."""
    apart = np.linalg.norm(at[:, None] - at[None], axis=2)
    return [set(np.flatnonzero((row > 0) & (row < reach))) for row in apart]


@pytest.mark.parametrize("kind", ["square", "hexagonal"])
@pytest.mark.parametrize("known", [True, False])
def test_neighbours_are_those_around_each_spot_nearest_first(kind, known):
    rng = np.random.default_rng(3)
    places, at = array(kind, 14, 11)
    kept = rng.permutation(len(places))[: int(0.7 * len(places))]
    places, at = places[kept], at[kept]
    xy = PITCH * (at + rng.uniform(-0.02, 0.02, at.shape))
    near = lattice.near(xy, lattice.find(xy) if known else None)
    assert near.dtype == np.int32
    for spot, expected in enumerate(by_distance(at, 1.45)):
        rows = near[spot][near[spot] >= 0]
        assert set(rows.tolist()) == expected
        assert np.all(near[spot][len(rows) :] == -1)
        apart = np.linalg.norm(xy[rows] - xy[spot], axis=1)
        assert np.all(np.diff(apart) >= 0)


def test_of_some_spots_neighbours_are_among_them_in_their_old_places():
    places, at = array("square", 6, 6)
    whole = lattice.find(PITCH * at)
    some = np.flatnonzero(places[:, 0] > 2)
    near = lattice.near(PITCH * at[some], whole[some])
    assert near.max() == len(some) - 1
    np.testing.assert_array_equal(whole[some].places, places[some])


def test_the_demos_sections_lie_on_the_array_they_were_laid_on(tmp_path):
    source = demo.make_demo(tmp_path / "raw", patients=1, sections_per_patient=1, spots=60)
    section = readers.reader("her2st").read_section(source, "A1")
    found = lattice.find(section.spots.xy)
    named = np.array([each.split("x") for each in section.spots.id], int)
    np.testing.assert_array_equal(found.places, named - named.min(axis=0))
