"""Spots: one geometry, whichever rows are taken and from whichever window it is seen."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.spots import DISC, POLYGON, SQUARE, Spots

TRIANGLE = np.array([[10.0, 10], [16, 10], [10, 18]])
FRAME = [np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]]), np.array([[2.0, 2], [2, 6], [6, 6], [6, 2]])]
ISLAND = np.array([[3.0, 3], [5, 3], [5, 5], [3, 5]])  # in the frame's hole


@pytest.fixture
def mixed() -> Spots:
    """A disc, a polygon, a square, and a polygon with a hole."""
    return Spots.concatenate([
        Spots.discs([[5, 6]], np.float32(3), ["d"]),
        Spots.polygons([TRIANGLE], ["t"]),
        Spots.squares([[20, 30]], 4, ["s"]),
        Spots.polygons([FRAME], ["f"]),
    ])  # fmt: skip


def test_parts_are_joined_in_order(mixed: Spots) -> None:
    assert mixed.id.tolist() == ["d", "t", "s", "f"]
    assert mixed.kind.tolist() == [DISC, POLYGON, SQUARE, POLYGON]
    assert mixed.size_px.tolist() == [3, 0, 4, 0]
    assert mixed.xy.tolist() == [[5, 6], [13, 14], [20, 30], [4, 4]]
    assert [len(mixed.rings(spot)) for spot in range(4)] == [0, 1, 0, 2]
    np.testing.assert_array_equal(mixed.rings(1)[0], TRIANGLE)
    np.testing.assert_array_equal(mixed.rings(3)[1], FRAME[1])


@pytest.mark.parametrize(
    "rows", [[3, 0, 3, 1], [False, True, True, False], slice(1, None), slice(None, None, -1), 3, []]
)
def test_rows_take_their_outlines_along(mixed: Spots, rows: Any) -> None:
    rows = np.array(rows, np.int64) if rows == [] else rows
    expected = np.atleast_1d(np.arange(4)[rows])
    taken = mixed[rows]
    assert taken.id.tolist() == mixed.id[expected].tolist()
    for place, spot in enumerate(expected):
        assert len(taken.rings(place)) == len(mixed.rings(spot))
        for ring, other in zip(taken.rings(place), mixed.rings(spot), strict=True):
            np.testing.assert_array_equal(ring, other)


def test_bounds_and_reach_are_those_of_each_kind(mixed: Spots) -> None:
    assert mixed.bounds().tolist() == [[2, 3, 8, 9], [10, 10, 16, 18], [18, 28, 22, 32], [0, 0, 8, 8]]
    assert mixed.reach_px().tolist() == [3, 4, 2, 4]
    aside = dataclasses.replace(mixed, xy=mixed.xy + 1)
    assert aside.reach_px().tolist() == [3, 5, 2, 5]


def test_size_is_a_diameter_a_side_or_that_of_the_disc_of_the_same_area(mixed: Spots) -> None:
    areas = np.array([24.0, 64 - 16])
    np.testing.assert_allclose(mixed.across_px(), [6, 2 * np.sqrt(areas[0] / np.pi), 4, 2 * np.sqrt(areas[1] / np.pi)])
    np.testing.assert_allclose(mixed.across_um(0.5), mixed.across_px() / 2)


@pytest.mark.parametrize("turned", [1, -1])
def test_an_island_in_a_hole_counts_whichever_way_it_turns(turned: int) -> None:
    spots = Spots.polygons([[ISLAND[::turned], *FRAME], TRIANGLE])
    np.testing.assert_allclose(np.pi * np.square(spots.across_px() / 2), [64 - 16 + 4, 24])


def test_the_area_is_exact_far_from_the_corner() -> None:
    far = Spots.polygons([TRIANGLE + 1e8])
    np.testing.assert_allclose(np.pi * np.square(far.across_px() / 2), 24, rtol=1e-6)


def test_a_window_sees_the_same_spots_in_its_own_pixels(mixed: Spots) -> None:
    seen = mixed.within([4, 2], 2.0)
    np.testing.assert_array_equal(seen.xy, (mixed.xy - [4, 2]) / 2)
    np.testing.assert_array_equal(seen.bounds(), (mixed.bounds() - [4, 2, 4, 2]) / 2)
    np.testing.assert_allclose(seen.across_px() * 2, mixed.across_px())
    single = Spots.discs([[5.0, 5.0]], np.float32(55 / 3)).within([0, 0], 1.3)
    assert single.size_px.dtype == np.float32
    assert single.size_px[0] == np.float32(55 / 3) / np.float32(1.3)


def test_no_spots_have_no_size() -> None:
    none = Spots.discs(np.zeros((0, 2)), 5)
    assert len(none) == len(none[:]) == len(Spots.concatenate([none, none])) == len(Spots.polygons([])) == 0
    assert none.across_px().shape == none.reach_px().shape == (0,)
    assert none.bounds().shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xy": np.zeros((3, 2))}, r"spots have id \(4,\), xy \(3, 2\)"),
        ({"xy": np.full((4, 2), np.nan)}, "spots 'd', 't', 's', 'f': a centre that is no finite number"),
        ({"size_px": np.array([1, 0, -1, 0.0])}, "spot 's': a radius or side that is negative"),
        ({"size_px": np.array([np.inf, 0, 1, 0])}, "spot 'd': a radius or side that is negative or no number"),
        ({"kind": np.array([0, 2, 256, 2])}, "spot 's': no kind"),
        ({"kind": np.array([0, 2, 2, 2])}, "spot 's': polygons have an outline"),
        ({"kind": np.array([0, 0, 1, 2])}, "spot 't': polygons have an outline"),
        ({"ring_spot": np.array([3, 1, 3])}, "do not fit together"),
        ({"ring_spot": np.array([1, 3, 9])}, "outlines are of spots 1 to 9 of 4"),
        ({"ring_start": np.array([0, 3, 7, 99])}, "do not fit together"),
        ({"ring_start": np.array([0, 1, 7, 11])}, "outline of spot 1 has a ring of fewer than 3 vertices"),
        ({"ring_start": np.array([0, 3, 7])}, r"outlines have ring_spot \(3,\), ring_start \(3,\)"),
        ({"ring_xy": np.full((11, 2), np.inf)}, "outline of spot 1 has vertices that are no finite numbers"),
    ],
)
def test_what_are_no_spots_is_refused(mixed: Spots, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(mixed, **changes)


@pytest.mark.parametrize("outline", [TRIANGLE[:2], [FRAME[0], np.zeros((2, 2))], np.zeros((3, 3)), []])
def test_an_outline_is_of_rings_of_three_vertices_or_more(outline: Any) -> None:
    with pytest.raises(InputError, match=r"at least 3|fewer than 3|not \[V, 2\]|polygons have an outline"):
        Spots.polygons([outline])
