"""Every metric against an independent implementation: SciPy, scikit-learn, scikit-image, statsmodels."""

import numpy as np
import pytest
import scipy.stats
import skimage.metrics
import sklearn.metrics
from statsmodels.stats.descriptivestats import sign_test as statsmodels_sign_test
from statsmodels.stats.multitest import multipletests

from stjax import metrics
from stjax.evaluation import map_metrics, statistics

TOLERANCE = 1e-6


def spearman_per_gene(prediction, truth):
    return metrics.pearson_per_gene(metrics.ranks(prediction), metrics.ranks(truth))


def make(kind):
    """Predictions and truths [S, G] that are hard on a metric."""
    rng = np.random.default_rng(0)
    prediction, truth = rng.normal(size=(2, 60, 6))
    truth += 0.5 * prediction
    if kind == "constant genes":
        prediction[:, 1], truth[:, 2], truth[:, 3], prediction[:, 3] = 0.1, 1e8, -3.3, np.pi
    elif kind == "ties":
        prediction, truth = np.round(prediction), np.log1p(np.maximum(np.round(truth), 0))
    elif kind == "NaN":
        prediction[3, 1], truth[7, 2], truth[:, 4] = np.nan, np.nan, np.nan
    elif kind == "large mean":
        prediction, truth = prediction + 1e4, truth * 1e-3 + 10  # deviations of 1e-4: further float32 does not go
    elif kind == "two spots":
        prediction, truth = prediction[:2], truth[:2]
    return prediction, truth


KINDS = ("random", "constant genes", "ties", "NaN", "large mean", "two spots")


@pytest.mark.filterwarnings("ignore:An input array is constant:scipy.stats.ConstantInputWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(metrics.pearson_per_gene, scipy.stats.pearsonr), (spearman_per_gene, scipy.stats.spearmanr)],
    ids=["pearson", "spearman"],
)
def test_correlations_equal_scipy(ours, theirs, kind):
    prediction, truth = make(kind)
    expected = [theirs(p, t).statistic for p, t in zip(prediction.T, truth.T, strict=True)]
    np.testing.assert_allclose(ours(prediction, truth), expected, atol=TOLERANCE)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "NaN"])
def test_errors_equal_scikit_learn(kind):
    prediction, truth = make(kind)
    for ours, theirs in (
        (metrics.mae_per_gene, sklearn.metrics.mean_absolute_error),
        (metrics.rmse_per_gene, sklearn.metrics.root_mean_squared_error),
    ):
        expected = theirs(truth, prediction, multioutput="raw_values")
        np.testing.assert_allclose(ours(prediction, truth), expected, rtol=TOLERANCE)


def test_errors_of_nan_are_nan():
    prediction, truth = make("NaN")
    for figure in (metrics.mae_per_gene, metrics.rmse_per_gene):
        np.testing.assert_array_equal(np.isnan(figure(prediction, truth)), [False, True, True, False, True, False])


@pytest.mark.parametrize("figure", [metrics.pearson_per_gene, spearman_per_gene])
def test_one_spot_has_no_correlation(figure):
    assert np.isnan(figure(np.ones((1, 3)), np.zeros((1, 3)))).all()


def test_a_million_spots_streamed_or_at_once_equal_scipy():
    rng = np.random.default_rng(0)
    truth = rng.poisson(3.0, (1_000_000, 2)) + 1e5  # ties, and a mean that cancels
    prediction = 0.2 * truth + rng.normal(size=truth.shape)
    moments = metrics.Moments(2)
    for start in range(0, len(truth), 300_007):
        moments.update(prediction[start : start + 300_007], truth[start : start + 300_007])
    for gene in range(2):
        expected = scipy.stats.pearsonr(prediction[:, gene], truth[:, gene]).statistic
        assert moments.pearson()[gene] == pytest.approx(expected, abs=TOLERANCE)
        assert metrics.pearson_per_gene(prediction, truth)[gene] == pytest.approx(expected, abs=TOLERANCE)
    ranked = scipy.stats.spearmanr(prediction[:, 0], truth[:, 0]).statistic
    assert spearman_per_gene(prediction[:, :1], truth[:, :1])[0] == pytest.approx(ranked, abs=TOLERANCE)


def lattice(rows, columns, pitch=200.0):
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x.ravel(), y.ravel()], axis=1) * pitch


@pytest.mark.parametrize("shift", [0.0, 1e3])  # at 1e5 scikit-image loses digits, by 4e-6
def test_ssim_of_full_windows_equals_scikit_image(shift):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(16 * 20, 5)) + shift
    prediction = truth + rng.normal(size=truth.shape)
    prediction[:, 3], prediction[:, 4] = prediction[0, 3], truth[:, 4]
    neighbours = map_metrics.Neighbours.of(lattice(16, 20))
    ours = map_metrics.ssim(prediction, truth, neighbours, min_share=1.0)
    for gene in range(5):
        p, t = (each[:, gene].reshape(16, 20) for each in (prediction, truth))
        expected = skimage.metrics.structural_similarity(p, t, win_size=7, data_range=np.ptp(t))
        assert ours[gene] == pytest.approx(expected, abs=TOLERANCE)


def test_ssim_at_the_border_of_tissue_equals_its_definition():
    rng = np.random.default_rng(0)
    xy = lattice(9, 11)[rng.random(99) < 0.8]
    prediction, truth = rng.normal(size=(2, len(xy), 1))
    within = np.abs(xy[:, None] - xy).max(axis=2) <= 3.4 * 200
    c1, c2 = ((k * np.ptp(truth)) ** 2 for k in (0.01, 0.03))
    expected = []
    for window in within:
        if window.sum() < within.sum(axis=1).max() / 2:
            continue
        p, t = prediction[window, 0], truth[window, 0]
        (vp, both), (_, vt) = np.cov(p, t)
        expected.append(
            (2 * p.mean() * t.mean() + c1) * (2 * both + c2) / ((p.mean() ** 2 + t.mean() ** 2 + c1) * (vp + vt + c2))
        )
    assert len(expected) < len(within)
    ours = map_metrics.ssim(prediction, truth, map_metrics.Neighbours.of(xy))
    np.testing.assert_allclose(ours, np.mean(expected), rtol=1e-9)


def test_ssim_of_a_constant_truth_one_spot_or_nan_is_nan():
    neighbours = map_metrics.Neighbours.of(lattice(8, 8))
    truth = np.random.default_rng(0).normal(size=(64, 3))
    prediction = truth.copy()
    truth[:, 1], prediction[5, 2] = 0.1, np.nan
    np.testing.assert_allclose(map_metrics.ssim(prediction, truth, neighbours), [1, np.nan, np.nan])
    alone = map_metrics.Neighbours.of(np.zeros((1, 2)))
    assert np.isnan(map_metrics.ssim(prediction[:1], truth[:1], alone)).all()


@pytest.mark.parametrize("rotation", [0.0, 0.3])
def test_smoothing_averages_the_eight_neighbours_of_a_square_lattice_and_six_of_a_hexagonal_one(rotation):
    turn = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    square = lattice(5, 5, 1.0)
    hexagonal = lattice(5, 5, 1.0) * [1.0, np.sqrt(0.75)] + np.repeat([0, 0.5, 0, 0.5, 0], 5)[:, None] * [1, 0]
    for xy, neighbours in ((square, 9), (hexagonal, 7)):
        windows = map_metrics.Neighbours.of(xy @ turn)
        assert windows.near.sum(axis=1)[12] == neighbours
        values = np.random.default_rng(0).normal(size=(25, 2))
        near = np.linalg.norm(xy - xy[12], axis=1) < 1.6
        np.testing.assert_allclose(map_metrics.smooth(values, windows)[12], values[near].mean(axis=0))


@pytest.mark.parametrize("method_input", [np.array([0.01, 0.04, 0.03, 0.005]), np.array([0.5, 0.5, 0.02, 0.9, 1.0])])
def test_holm_equals_statsmodels(method_input):
    np.testing.assert_allclose(statistics.holm(method_input), multipletests(method_input, method="holm")[1])


def test_holm_leaves_out_what_has_no_p_value():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    expected = multipletests(p[[0, 2, 3]], method="holm")[1]
    np.testing.assert_allclose(statistics.holm(p)[[0, 2, 3]], expected)
    assert np.isnan(statistics.holm(p)[1])


def test_sign_test_equals_statsmodels_where_most_signs_are_positive():
    pcc = np.random.default_rng(0).normal(0.5, 1, (23, 8))
    pcc[:2, 3], pcc[4, 5] = np.nan, 0.0
    ours = statistics.sign_test(pcc)
    for gene in range(8):
        values = pcc[~np.isnan(pcc[:, gene]), gene]
        if np.sum(values > 0) > np.sum(values < 0):
            assert ours[gene] == pytest.approx(statsmodels_sign_test(values)[1] / 2, abs=TOLERANCE)
    assert ours[3] == pytest.approx(
        scipy.stats.binomtest(int(np.sum(pcc[2:, 3] > 0)), 21, alternative="greater").pvalue
    )
    assert np.isnan(statistics.sign_test(np.full((3, 1), np.nan))).all()
