import numpy as np
import pytest
import scipy.stats

from stjax import bench, metrics
from stjax.benchmarks import evaluate as bench_evaluate


def spearman_per_gene(prediction, truth):
    return metrics.pearson_per_gene(metrics.ranks(prediction), metrics.ranks(truth))


def test_pearson_equals_scipy_on_random_genes():
    rng = np.random.default_rng(0)
    prediction, truth = rng.normal(size=(2, 40, 7)) * 1e3 + 1e5
    expected = [scipy.stats.pearsonr(prediction[:, g], truth[:, g]).statistic for g in range(7)]
    np.testing.assert_allclose(metrics.pearson_per_gene(prediction, truth), expected, rtol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8])
def test_pearson_of_a_constant_gene_is_nan(constant):
    truth = np.random.default_rng(0).normal(size=(33, 2))
    prediction = truth.copy()
    prediction[:, 1] = constant
    pcc = metrics.pearson_per_gene(prediction, truth)
    assert pcc[0] == pytest.approx(1.0)
    assert np.isnan(pcc[1])


def test_pearson_of_one_spot_is_nan():
    assert np.isnan(metrics.pearson_per_gene(np.ones((1, 3)), np.ones((1, 3)))).all()


def test_pearson_of_a_float32_constant_is_nan_not_rounding_noise():
    prediction = np.broadcast_to(np.float32(0.1), (1000, 1))
    truth = np.arange(1000.0)[:, None]
    assert np.isnan(metrics.pearson_per_gene(prediction, truth)).all()


def rounding_noise(values, size=1e-7):
    """[300, G] float32 around [G] values, as a network gives that says the same of every spot."""
    noise = np.random.default_rng(1).normal(scale=size, size=(300, len(values)))
    return (np.array(values) + noise).astype(np.float32)


def test_a_prediction_that_varies_by_rounding_alone_has_no_correlation_however_it_is_measured():
    prediction = rounding_noise([0.2, 0.4, 1.0, 3.0, -0.9])
    truth = np.random.default_rng(2).normal(size=prediction.shape)
    assert np.all(np.ptp(prediction, axis=0) > 0)
    assert not metrics.varying(prediction).any()
    assert np.isnan(metrics.pearson_per_gene(prediction, truth)).all()
    assert np.isnan(metrics.pearson_per_gene(truth, prediction)).all()
    assert np.isnan(spearman_per_gene(prediction, truth)).all()
    moments = metrics.Moments(5)
    for rows in np.split(np.arange(300), [7, 100]):
        moments.update(prediction[rows], truth[rows])
    assert np.isnan(moments.pearson()).all()
    np.testing.assert_array_equal(moments.varying(), [[False] * 5, [True] * 5])


@pytest.mark.parametrize(
    ("mean", "deviation"), [(1e-5, 1e-6), (1e-5, 1e-9), (-9.0, 1e-3), (0.0, 1e-12), (100.0, 1e-3), (3.0, 1e-5)]
)
def test_what_varies_little_in_its_own_units_is_scored(mean, deviation):
    pattern = np.random.default_rng(0).normal(size=(300, 1))
    prediction = (mean + deviation * pattern).astype(np.float32)
    assert metrics.varying(prediction).all()
    assert metrics.pearson_per_gene(prediction, pattern)[0] > 0.99
    assert spearman_per_gene(prediction, pattern)[0] > 0.99
    moments = metrics.Moments(1)
    moments.update(prediction, pattern)
    assert moments.pearson()[0] > 0.99


def test_errors_equal_their_definition():
    prediction, truth = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[0.0, 2.0], [0.0, 4.0]])
    np.testing.assert_allclose(metrics.mae_per_gene(prediction, truth), [2.0, 1.0])
    np.testing.assert_allclose(metrics.rmse_per_gene(prediction, truth), [np.sqrt(5.0), np.sqrt(2.0)])


def test_section_median_pools_per_section_and_skips_undefined_sections():
    truth = np.arange(4.0)[:, None]
    predictions = [truth, -truth, truth, np.zeros((4, 1))]
    pooled = metrics.pooled_pcc(predictions, [truth] * 4, list("aabb"), pooling="section_median")
    np.testing.assert_allclose(pooled, [1.0])
    assert metrics.pooled_pcc(predictions[:2], [truth] * 2, list("ab"), pooling="pooled")[0] == pytest.approx(0.0)


def test_patient_median_pools_the_sections_of_a_patient_first():
    rng = np.random.default_rng(0)
    predictions, truths = list(rng.normal(size=(3, 9, 2))), list(rng.normal(size=(3, 9, 2)))
    pooled = metrics.pooled_pcc(predictions, truths, ["a", "b", "a"], pooling="patient_median")
    a = metrics.pearson_per_gene(np.concatenate(predictions[::2]), np.concatenate(truths[::2]))
    b = metrics.pearson_per_gene(predictions[1], truths[1])
    np.testing.assert_allclose(pooled, (a + b) / 2)


@pytest.mark.parametrize("pooling", ["pooled", "section_median", "patient_median"])
def test_correlation_of_pooled_ranks_is_spearmans(pooling):
    rng = np.random.default_rng(0)
    predictions, truths = (list(np.round(rng.normal(size=(3, 9, 2)), 1)) for _ in range(2))
    patients = ["a", "b", "a"]
    ranked = [metrics.pooled_ranks(each, patients, pooling=pooling) for each in (predictions, truths)]
    np.testing.assert_allclose(
        metrics.pooled_pcc(*ranked, patients, pooling=pooling),
        metrics.pooled(spearman_per_gene, predictions, truths, patients, pooling=pooling),
    )


def test_summary_counts_the_bands_of_the_paper_and_the_genes_without_pcc():
    pcc = np.array([np.nan, -0.2, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    summary = metrics.summarise(pcc, np.ones(9), 2 * np.ones(9))
    assert summary["genes"] == 9
    assert summary["genes_without_pcc"] == 1
    assert summary["genes_pcc_above_0"] == 6
    assert summary["genes_pcc_0.1_to_0.3"] == 2
    assert summary["genes_pcc_0.3_to_0.5"] == 2
    assert summary["genes_pcc_above_0.5"] == 1
    assert summary["pcc_median"] == pytest.approx(0.25)
    assert (summary["amae"], summary["armse"]) == (1.0, 2.0)


def test_summary_without_any_pcc_says_none_not_zero():
    summary = metrics.summarise(np.full(3, np.nan), np.ones(3), np.ones(3))
    assert summary["pcc_mean"] is None
    assert summary["pcc_median"] is None


def test_moments_of_batches_are_those_of_all_spots():
    rng = np.random.default_rng(0)
    truth = rng.normal(1e4, 1.0, (1000, 5))  # a large mean cancels in naive sums
    prediction = 0.3 * truth + rng.normal(size=truth.shape)
    prediction[:, 3], truth[:, 4] = 0.1, 1e4 / 3
    moments = metrics.Moments(5)
    for rows in np.split(np.arange(1000), [1, 1, 17, 400]):
        moments.update(prediction[rows], truth[rows])
    expected = metrics.pearson_per_gene(prediction, truth)
    assert np.isnan(expected[3:]).all()
    np.testing.assert_allclose(moments.pearson(), expected, rtol=1e-9)
    assert np.isnan(metrics.Moments(5).pearson()).all()


def test_a_constant_has_no_correlation_however_many_spots_there_are():
    truth = np.random.default_rng(0).normal(size=(100_000, 1))
    assert np.isnan(metrics.pearson_per_gene(np.broadcast_to([np.log(3.0)], truth.shape), truth)).all()


def test_moments_of_sums_taken_on_the_device_are_those_of_the_spots():
    rng = np.random.default_rng(0)
    truth = rng.normal(3.0, 1.0, (4000, 5)).astype(np.float32)
    prediction = (0.3 * truth + rng.normal(size=truth.shape)).astype(np.float32)
    prediction[:, 3] = 0.1
    moments = metrics.Moments(5)
    for rows in np.split(np.arange(4000), [1000, 1024]):
        sums = bench_evaluate._batch_sums(prediction[rows], truth[rows])
        moments.merge(*(np.asarray(part, np.float64) for part in sums), count=len(rows))
    np.testing.assert_allclose(moments.pearson(), metrics.pearson_per_gene(prediction, truth), atol=1e-6)


def test_the_bench_of_evaluation_times_every_method(monkeypatch):
    monkeypatch.setattr(bench_evaluate, "SPOTS", 100)
    monkeypatch.setattr(bench_evaluate, "GENES", 3)
    rows = list(bench_evaluate.rows(1, bench.interleave))
    assert [row["method"] for row in rows] == [
        "all figures", "spots gathered", "block sums", "numpy", "device", "numpy", "device"
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in rows)


def test_a_gene_that_does_not_vary_is_divided_by_one():
    values = np.random.default_rng(0).normal(size=(1000, 3))
    values[:, 1], values[:, 2] = np.log(3.0), 2.0 + 1e-7 * values[:, 0]
    assert np.std(values[:, 2]) > 0
    np.testing.assert_allclose(metrics.scale_of(values), [np.std(values[:, 0]), 1, 1])


def test_constant_genes_are_known_and_the_same():
    values = np.random.default_rng(0).normal(size=(9, 3))
    values[:, 1], values[4, 2] = 0.3, np.nan
    np.testing.assert_array_equal(metrics.constant(values), [False, True, False])
    assert not metrics.constant(values[:1]).any()  # one spot cannot vary
    assert not metrics.constant(values[:0]).any()
