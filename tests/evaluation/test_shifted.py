"""What copies of sections teach of how much wider intervals must be."""

import numpy as np
import pytest

from stjax.evaluation import shifted


def test_widths_suffice_for_nine_copies_in_ten_of_those_beyond_the_usual_distance():
    beyond = np.linspace(0.2, 2, 40)
    slope = np.linspace(0, 1, 40)
    growths = np.stack([0.5 + beyond, 1 + slope * beyond], axis=1)
    near = np.array([[0.4, 9.0], [0.55, 9.0]])  # as far as sections are anyway: nothing is widened there
    found = shifted._per_distance(np.concatenate([growths, near]), 0.5)
    assert found == pytest.approx(np.quantile(slope, 0.9))
    assert np.mean(1 + found * beyond >= growths[:, 1]) == pytest.approx(0.9, abs=0.03)
    assert shifted._per_distance(near, 0.5) == 0
    assert shifted._per_distance(np.array([[2.0, 0.7]]), 0.5) == 0  # errors that shrink narrow nothing


def test_needed_is_what_holds_nine_errors_in_ten():
    error = np.random.default_rng(0).normal(size=(500, 3))
    scale = np.array([1.0, 2.0, np.nan])
    needed = shifted._needed(error, scale)
    assert np.mean(np.abs(error[:, :2]) <= needed * scale[:2]) == pytest.approx(0.9, abs=0.002)
    assert np.isnan(shifted._needed(error, np.full(3, np.nan)))
