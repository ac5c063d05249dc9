"""Intervals that go with a model: kept whole, never taken for another model's, none for spots of another size."""

import dataclasses
import json

import numpy as np
import pytest

from data_prep import json_files
from data_prep.errors import InputError
from stjax.intervals import FILE, Intervals, Widening
from tests.mutated_json import mutants, refusal

WIDENING = Widening(usual=0.3, per_distance=0.5, depth=8000.0, depth_power=0.5)
KNOWN = Intervals(np.array([0.5, np.nan, 2.0]), 0.9, 3, False, 100.0, False, "a" * 64, WIDENING)


def test_they_come_back_as_they_were(tmp_path):
    KNOWN.save(tmp_path)
    found = Intervals.load(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.half_width, KNOWN.half_width)
    assert found.to_json() == KNOWN.to_json()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"half_width": 1}'])
def test_damaged_ones_are_refused_and_none_are_none(tmp_path, text):
    assert Intervals.load(tmp_path) is None
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=r"intervals.json: .*; remove it, and score the run again"):
        Intervals.load(tmp_path)


def test_a_link_to_nothing_is_no_run_without_intervals(tmp_path):
    (tmp_path / FILE).symlink_to("elsewhere")
    with pytest.raises(InputError, match=r"intervals.json: a link to nothing, expected a file"):
        Intervals.load(tmp_path)


def test_changed_ones_are_refused(tmp_path):
    KNOWN.save(tmp_path)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"level": 0.9', '"level": 0.99'))
    with pytest.raises(InputError, match="has changed since it was written"):
        Intervals.load(tmp_path)


def test_any_json_in_their_place_is_read_or_refused(tmp_path):
    for what, mutant in mutants(KNOWN.to_json()):
        (tmp_path / FILE).write_text(json.dumps(json_files.sealed(mutant)))
        refusal(what, lambda: Intervals.load(tmp_path))


def test_an_infinite_width_is_no_interval():
    wide = dataclasses.replace(KNOWN, half_width=np.array([np.inf, 1.0, 1.0]))
    assert np.isnan(Intervals.from_json(wide.to_json()).half_width[0])


def test_they_are_of_one_model_and_its_way_to_predict():
    assert KNOWN.of("a" * 64, symmetries=False) is KNOWN
    assert KNOWN.of("b" * 64, symmetries=False) is None
    assert KNOWN.of("a" * 64, symmetries=True) is None


def test_layers_lie_around_the_prediction():
    expression = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    layers = KNOWN.layers(expression, None)
    np.testing.assert_array_equal(layers["lower"], [[0.5, np.nan, 1], [3.5, np.nan, 4]])
    np.testing.assert_array_equal(layers["upper"], [[1.5, np.nan, 5], [4.5, np.nan, 8]])
    assert layers["lower"].dtype == np.float32


@pytest.mark.parametrize(("sizes", "there"), [([100, 102], True), ([100, 55], False), ([2, 2], False)])
def test_spots_of_another_size_have_none(sizes, there):
    layers = KNOWN.layers(np.zeros((2, 3), np.float32), np.array(sizes, np.float64))
    assert bool(layers) == there
    assert not dataclasses.replace(KNOWN, spot_size_um=None).layers(np.zeros((2, 3)), np.array(sizes, np.float64))


@pytest.mark.parametrize(
    ("distance", "depth", "factor"),
    [(0.2, 9000, 1), (0.3, np.nan, 1), (1.3, np.nan, 1.5), (0.1, 2000, 2), (1.3, 2000, 3), (0.1, 0, 1)],
)
def test_they_are_wider_on_slides_of_other_colours_and_for_fewer_counts(distance, depth, factor):
    assert KNOWN.factor(distance, depth) == pytest.approx(factor)
    layers = KNOWN.layers(np.zeros((1, 3), np.float32), None, KNOWN.factor(distance, depth))
    np.testing.assert_allclose(layers["upper"], [[0.5 * factor, np.nan, 2 * factor]], rtol=1e-6)


def test_intervals_of_older_versions_are_as_wide_everywhere():
    older = KNOWN.to_json()
    del older["widening"]
    assert Intervals.from_json(older).factor(3.0, 10.0) == 1
