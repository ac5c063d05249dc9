"""Arrays are told by how their spots lie, and two of them on one another from one."""

import numpy as np
import pytest

from data_prep.readers import _arrays
from tests.data_prep.readers.tiny_h5ad import hexagonal, square


def turned(xy: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return xy @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("degrees", [0, 1.5, 90, 200])
def test_hexagonal_and_square_arrays_are_told_apart(degrees: float) -> None:
    for make, kind in ((hexagonal, "hexagonal"), (square, "square")):
        array_xy, spot_xy = make(8, 9, 37.0)
        found = _arrays.measure(array_xy, turned(spot_xy, degrees))
        assert found is not None
        assert found.kind == kind
        assert found.pitch_px == pytest.approx(37.0)
        assert found.turned_degrees == pytest.approx({0: 0, 1.5: 1.5, 90: 0, 200: 20}[degrees], abs=1e-6)


def test_swapped_names_are_still_a_hexagonal_array() -> None:
    array_xy, spot_xy = hexagonal()
    found = _arrays.measure(array_xy[:, ::-1], spot_xy)
    assert found is not None
    assert (found.kind, round(found.pitch_px, 6)) == ("hexagonal", 50.0)


def test_bins_that_count_in_steps_have_the_pitch_of_a_step() -> None:
    array_xy, spot_xy = square(pitch_px=25.0)
    found = _arrays.measure(array_xy * 50 + 1000, spot_xy)
    assert found is not None
    assert (found.kind, round(found.pitch_px, 6)) == ("square", 25.0)


def test_squares_of_which_every_other_is_filled_are_square() -> None:
    array_xy, spot_xy = square(10, 10, 50.0)
    even = array_xy.sum(axis=1) % 2 == 0
    found = _arrays.measure(array_xy[even], spot_xy[even])
    assert found is not None
    assert found.kind == "square"


def test_neither_is_unknown_and_a_line_is_none() -> None:
    array_xy, spot_xy = square()
    found = _arrays.measure(array_xy, spot_xy * [1, 1.4])
    assert found is not None
    assert found.kind == "unknown"
    assert _arrays.measure(array_xy[:6], spot_xy[:6]) is None
    assert _arrays.measure(array_xy[:0], spot_xy[:0]) is None


@pytest.mark.parametrize("make", [hexagonal, square])
@pytest.mark.parametrize("shift", [(0, 0), (11, 4), (30, 20), (8 * 37, 0)])
@pytest.mark.parametrize("degrees", [0, 3])
def test_two_arrays_on_one_another_are_told(make, shift: tuple[float, float], degrees: float) -> None:
    rng = np.random.default_rng(0)
    _, spot_xy = make(16, 16, 37.0)
    first, second = rng.permutation(spot_xy), rng.permutation(turned(spot_xy, degrees) + shift)
    assert _arrays.overlap(np.concatenate([first, second]))


@pytest.mark.parametrize("order", ["rows", "columns", "shuffled"])
def test_one_array_is_no_overlap(order: str) -> None:
    rng = np.random.default_rng(0)
    for make in (hexagonal, square):
        _, spot_xy = make(16, 16, 37.0)
        noisy = spot_xy + rng.normal(0, 1.5, spot_xy.shape)
        rows = {"rows": np.arange(256), "columns": np.arange(256).reshape(16, 16).T.ravel()}.get(order)
        for xy in (spot_xy, noisy):
            assert not _arrays.overlap(xy[rng.permutation(256) if rows is None else rows])


def test_cells_at_random_and_a_second_array_beside_the_first_are_no_overlap() -> None:
    rng = np.random.default_rng(0)
    assert not _arrays.overlap(rng.uniform(0, 1000, (2000, 2)))
    _, spot_xy = hexagonal(16, 16, 37.0)
    assert not _arrays.overlap(np.concatenate([spot_xy, spot_xy + np.array([700, 0])]))
