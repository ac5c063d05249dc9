"""Encoder or head: shares of known effects, intervals over patients, and an independent analysis of variance."""

import itertools

import numpy as np
import pandas as pd
import pytest

from stjax.evaluation import main_effects

HEADS, ENCODERS = ["ridge", "egn", "bleep"], ["uni", "lite0"]


def values(blocks=8, *, encoder=0.02, head=0.04, noise=0.0, seeds=1):
    """Additive effects, patients of their own level, and noise."""
    rng = np.random.default_rng(3)
    of = np.zeros((3, 2, blocks, seeds)) + 0.3
    of += encoder * np.array([1, -1])[None, :, None, None] + head * np.array([1, 0, -1])[:, None, None, None]
    return of + 0.1 * rng.normal(size=blocks)[:, None] + noise * rng.normal(size=of.shape)


def shares(found):
    return {each.source: each for each in found.shares}


def test_effects_that_are_put_in_are_found():
    found = main_effects.analyse(values(), HEADS, ENCODERS)
    of = shares(found)
    spread = 0.02**2 + 0.04**2 * 2 / 3
    assert of["encoder"].value == pytest.approx(0.02**2 / spread)
    assert of["head"].value == pytest.approx(0.04**2 * 2 / 3 / spread)
    assert of["pair"].value == pytest.approx(0, abs=1e-9)
    assert of["encoder"].deviation == pytest.approx(0.02)
    assert sum(each.value for each in found.shares) == pytest.approx(1)
    assert [(each.factor, each.name) for each in found.means] == [
        ("encoder", "uni"), ("encoder", "lite0"), ("head", "ridge"), ("head", "egn"), ("head", "bleep")
    ]  # fmt: skip
    assert found.means[1].difference == pytest.approx(-0.04)
    assert found.of_blocks == pytest.approx(values().mean(axis=(0, 1, 3)).std(ddof=1))


def test_the_best_is_the_lowest_of_an_error():
    found = main_effects.analyse(values(), HEADS, ENCODERS, higher_is_better=False)
    assert [each.name for each in found.means][::2] == ["lite0", "bleep", "ridge"]


def test_shares_are_those_of_an_analysis_of_variance():
    """By sums of squares of group means in pandas, each source against its own interaction with the patient."""
    of = values(6, noise=0.02)[..., 0]
    rows = [(*place, of[place]) for place in itertools.product(*map(range, of.shape))]
    table = pd.DataFrame(rows, columns=pd.Index(["head", "encoder", "patient", "y"]))
    table["y"] -= table.groupby("patient")["y"].transform("mean")

    def squares(*names):
        return float(np.square(table.groupby(list(names))["y"].transform("mean")).sum())

    encoder, head = squares("encoder"), squares("head")
    pair = squares("encoder", "head") - encoder - head
    by_encoder, by_head = squares("encoder", "patient") - encoder, squares("head", "patient") - head
    whole = float(np.square(table["y"]).sum())
    rest = whole - encoder - head - pair - by_encoder - by_head
    # df x mean square of the interaction: 1 x by_encoder / 5, 2 x by_head / 10, 2 x rest / 10
    wanted = [encoder - by_encoder / 5, head - by_head / 5, pair - rest / 5]
    found = main_effects.analyse(of[..., None], HEADS, ENCODERS)
    np.testing.assert_allclose([each.value for each in found.shares[:3]], np.maximum(wanted, 0) / whole)


def test_chance_has_no_share_of_its_own_and_intervals_narrow_with_patients():
    few, many = (shares(main_effects.analyse(values(n, encoder=0, noise=0.02), HEADS, ENCODERS)) for n in (4, 40))
    assert many["encoder"].value < 0.03
    assert many["rest"].value > 0.15
    for source in ("head", "rest"):
        assert many[source].high - many[source].low < few[source].high - few[source].low
    assert few["head"].low <= few["head"].value <= few["head"].high


def test_fewer_than_four_patients_have_no_intervals_and_one_has_no_pair():
    three, one = (main_effects.analyse(values(n, noise=0.01), HEADS, ENCODERS) for n in (3, 1))
    assert np.isnan([each.low for each in three.shares]).all()
    assert np.isnan([each.difference_high for each in three.means]).all()
    assert [each.source for each in one.shares] == ["encoder", "head", "rest"]
    assert sum(each.value for each in one.shares) == pytest.approx(1)


def test_seeds_are_chance():
    of = values(1, noise=0.02, seeds=5)
    found = main_effects.analyse(of, HEADS, ENCODERS)
    assert (found.of_seeds, found.blocks, found.seeds) == (True, 5, 1)
    assert np.isnan([each.low for each in found.shares]).all()  # they say nothing of other patients
    of = values(6, noise=0.02, seeds=5)
    more = main_effects.analyse(of, HEADS, ENCODERS)
    averaged = main_effects.analyse(of.mean(axis=3, keepdims=True), HEADS, ENCODERS)
    assert shares(more)["rest"].value > shares(averaged)["rest"].value
