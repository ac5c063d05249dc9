import numpy as np
import pytest

from stjax import baselines


def test_ridge_equals_its_normal_equations_at_the_chosen_penalty():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(50, 6)) * 7 + 3, rng.normal(size=(50, 4))
    ridge = baselines.Ridge.fit(features, targets)
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = np.linalg.solve(x.T @ x + ridge.penalty * np.eye(6), x.T @ (targets - targets.mean(axis=0)))
    np.testing.assert_allclose(ridge.coefficients, expected, rtol=1e-8)


def test_ridge_shrinks_noise_and_keeps_signal():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5))
    noise = baselines.Ridge.fit(features, rng.normal(size=(200, 3)))
    signal = baselines.Ridge.fit(features, features[:, :1] + 0.1 * rng.normal(size=(200, 1)))
    assert noise.penalty > signal.penalty
    assert np.corrcoef(signal.predict(features)[:, 0], features[:, 0])[0, 1] > 0.99


def test_a_feature_or_total_that_varies_by_rounding_alone_is_no_feature():
    """Divided by their own deviation, rounding errors would be as loud as a feature."""
    rng = np.random.default_rng(0)
    noise = (np.log(3.0) + rng.normal(scale=1e-7, size=(60, 1))).astype(np.float32).astype(np.float64)
    signal, targets = rng.normal(size=(60, 1)), rng.normal(size=(60, 2))
    assert np.ptp(noise) > 0
    both = baselines.Ridge.fit(np.concatenate([noise, signal], axis=1), targets)
    alone = baselines.Ridge.fit(signal, targets)
    np.testing.assert_allclose(
        both.predict(np.concatenate([noise, signal], axis=1)), alone.predict(signal), rtol=1e-5, atol=1e-5
    )
    total = np.full(60, 1234.0) + rng.normal(scale=1e-6, size=60)
    assert not baselines.TotalCounts.fit(total, targets).slope.any()


def test_a_constant_feature_does_no_harm():
    features = np.concatenate([np.ones((20, 1)), np.arange(20.0)[:, None]], axis=1)
    ridge = baselines.Ridge.fit(features, features[:, 1:])
    assert np.all(np.isfinite(ridge.predict(features)))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_colour_statistics_of_a_flat_patch_are_finite(value):
    statistics = baselines.colour_statistics(np.full((2, 16, 16, 3), value, np.uint8))
    assert statistics.shape == (2, 30)
    assert np.all(np.isfinite(statistics))


def test_colour_statistics_tell_colour_and_texture_apart():
    rng = np.random.default_rng(0)
    flat, pink = np.full((32, 32, 3), 200, np.uint8), np.full((32, 32, 3), (230, 150, 190), np.uint8)
    rough = rng.integers(150, 250, (32, 32, 3)).astype(np.uint8)
    statistics = baselines.colour_statistics(np.stack([flat, pink, rough]))
    assert np.abs(statistics[0] - statistics[1]).max() > 10
    assert statistics[2, 24] > statistics[0, 24] == 0  # gradient along rows


def test_total_counts_equal_a_straight_line_fitted_to_each_gene():
    rng = np.random.default_rng(0)
    total = rng.integers(1000, 9000, 40).astype(float)
    targets = rng.normal(size=(40, 3)) + np.log1p(total)[:, None]
    fitted = baselines.TotalCounts.fit(total, targets).predict(total[:5])
    for gene in range(3):
        expected = np.polyval(np.polyfit(np.log1p(total), targets[:, gene], 1), np.log1p(total[:5]))
        np.testing.assert_allclose(fitted[:, gene], expected)


def test_spots_of_one_depth_have_no_slope():
    targets = np.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(baselines.TotalCounts.fit(np.full(3, 7.0), targets).predict(np.ones(1)), [[2.0, 3.0]])


def test_nearest_measured_spots_never_see_the_spot_itself():
    y, x = np.mgrid[:5, :7]
    xy = np.stack([x.ravel() + y.ravel() % 2 / 2, y.ravel() * np.sqrt(0.75)], axis=1)
    truth = np.random.default_rng(0).normal(size=(35, 3))
    found = baselines.nearest_measured(truth, xy)
    middle = 17
    around = np.argsort(np.linalg.norm(xy - xy[middle], axis=1))[1:7]
    np.testing.assert_allclose(found[middle], truth[around].mean(axis=0))
    changed = truth.copy()
    changed[middle] = 1e9
    np.testing.assert_array_equal(baselines.nearest_measured(changed, xy)[middle], found[middle])


@pytest.mark.parametrize("count", [1, 2, 9])
def test_nearest_measured_spots_of_few_spots_or_of_one_place(count):
    truth = np.arange(float(count))[:, None]
    found = baselines.nearest_measured(truth, np.zeros((count, 2)))
    if count == 1:
        assert np.isnan(found).all()
    else:
        assert np.isfinite(found).all()
    if count == 2:
        np.testing.assert_array_equal(found[:, 0], [1.0, 0.0])
