import itertools
import time

import numpy as np
import pytest
import scipy.ndimage

from stjax import metrics
from stjax.evaluation import statistics
from stjax.evaluation.statistics import Bootstrap, Units


def places(side, columns=None):
    y, x = np.mgrid[:side, : columns or side]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(float)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100, 177])
def test_spatial_code_halves_into_patches_of_nearly_one_size(count):
    xy = np.random.default_rng(0).random((count, 2)) * [3, 1]
    code, bits = statistics.spatial_code(xy)
    assert len(set(code)) == count
    for halvings in range(bits + 1):
        sizes = np.bincount(code >> (bits - halvings), minlength=1 << halvings)
        assert sizes.max() - sizes.min() <= 1


def test_spatial_blocks_are_compact():
    units = Units.of([places(16)], ["a"])
    assert (units.kind, len(units.stratum), len(units.finer.stratum)) == ("spatial_blocks", 4, 16)
    for block in range(4):
        assert np.ptp(places(16)[units.of_spot == block], axis=0).tolist() == [7, 7]


def test_units_are_patients_where_there_are_several_and_blocks_within_sections_where_not():
    xy = [places(6)] * 5
    units = Units.of(xy, ["a", "b", "a", "c", "d"])
    assert units.kind == "patients"
    assert np.unique(units.of_spot[:36]) == np.unique(units.of_spot[72:108]) == [0]
    assert units.freedom == 3
    units = Units.of(xy, ["a", "b", "a", "c", "c"])
    assert (units.kind, units.freedom) == ("spatial_blocks", 5 * 3)
    np.testing.assert_array_equal(units.stratum, np.repeat(np.arange(5), 4))


@pytest.mark.parametrize("pooling", ["pooled", "section_median", "patient_median"])
@pytest.mark.parametrize("patients", ["aabb", "abcd", "abcde"])
def test_draws_equal_the_figures_of_spots_drawn_one_by_one(pooling, patients):
    rng = np.random.default_rng(0)
    patients = [*patients, patients[0]]
    xy = [places(6, 5) for _ in patients]
    predictions = [rng.normal(size=(30, 3)) for _ in patients]
    truths = [prediction + rng.normal(size=(30, 3)) + 100 for prediction in predictions]
    predictions[1][:, 1] = 7.0
    units = Units.of(xy, patients)
    group = np.repeat(metrics.group_of_section(patients, pooling), 30)
    bootstrap = Bootstrap(units, group, resamples=5)
    prediction, truth = np.concatenate(predictions), np.concatenate(truths)
    for level, draws in zip((units, units.finer), bootstrap.draw(prediction, truth), strict=False):
        times = (bootstrap if level is units else bootstrap._finer)._times
        for draw in range(5):
            spots = np.repeat(np.arange(len(truth)), times[draw, level.of_spot].astype(int))
            groups, copies = [], []
            for name in np.unique(group):
                of_group = spots[group[spots] == name]
                copy = times[draw, level.of_spot[group == name][0]] if level.kind == "patients" else 1
                if len(of_group):
                    groups.append(metrics.pearson_per_gene(prediction[of_group], truth[of_group]))
                    copies.append(1 if pooling == "pooled" else int(copy))
            expected = metrics.median_of_known(np.repeat(groups, copies, axis=0))
            np.testing.assert_allclose(draws.pcc[draw], expected, rtol=1e-9)
            np.testing.assert_allclose(draws.mae[draw], metrics.mae_per_gene(prediction[spots], truth[spots]))
            np.testing.assert_allclose(draws.rmse[draw], metrics.rmse_per_gene(prediction[spots], truth[spots]))


def test_a_gene_that_is_constant_in_a_draw_has_no_pcc_there_and_one_constant_everywhere_has_no_interval():
    truth = np.zeros((64, 2))
    truth[:4, 0] = np.arange(4)  # all in one block
    prediction = np.random.default_rng(0).normal(size=truth.shape)
    units = Units.of([places(8)], ["a"])
    draws = Bootstrap(units, np.zeros(64, int)).draw(prediction, truth)
    assert 0.2 < np.isnan(draws[0].pcc[:, 0]).mean() < 0.5
    low, high = statistics.intervals(
        metrics.pearson_per_gene(prediction, truth), [each.pcc for each in draws], units, scale="correlation"
    )
    assert np.isnan(low[1])
    assert np.isnan(high[1])


def test_what_varies_by_rounding_alone_has_no_draw_and_no_p_value():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(256, 3))
    prediction = (1.5 + rng.normal(scale=[1e-7, 1e-3, 1.0], size=truth.shape)).astype(np.float32)
    units = Units.of([places(16)], ["a"])
    draws = Bootstrap(units, np.zeros(256, int), resamples=20).draw(prediction, truth)
    for each in draws:
        np.testing.assert_array_equal(np.isnan(each.pcc).all(axis=0), [True, False, False])
        assert not np.isnan(each.pcc[:, 1:]).any()
    p = statistics.permutation_p([prediction], [truth], [places(16)], permutations=99)
    np.testing.assert_array_equal(np.isnan(p), [True, False, False])


def test_one_spot_has_no_interval():
    units = Units.of([np.zeros((1, 2))], ["a"])
    draws = Bootstrap(units, np.zeros(1, int), resamples=9).draw(np.ones((1, 2)), np.zeros((1, 2)))
    low, high = statistics.intervals(np.ones(2), [each.mae for each in draws], units, scale="error")
    assert np.isnan([low, high]).all()


def test_permutation_finds_what_is_related_and_has_no_p_value_for_constants():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(256, 4))
    prediction = truth + rng.normal(size=truth.shape)
    prediction[:, 1] = rng.normal(size=256)
    prediction[:, 2], truth[7, 3] = 0.3, np.nan
    p = statistics.permutation_p([prediction], [truth], [places(16)], permutations=999)
    assert p[0] == 1 / 1000
    assert p[1] > 0.02
    assert np.isnan(p[2:]).all()


def test_the_variance_over_permutations_is_exact():
    rng = np.random.default_rng(0)
    fit = rng.normal(size=(4, 4, 2))
    sums = [fit[np.arange(4), list(order)].sum(axis=0) for order in itertools.permutations(range(4))]
    np.testing.assert_allclose(statistics._permutation_variance(fit), np.var(sums, axis=0))


def test_patients_needed_is_the_first_number_that_can_reach_significance():
    needed = statistics.patients_needed(250)
    assert 0.5**needed * 250 <= 0.05 < 0.5 ** (needed - 1) * 250


def maps(rng, genes, side, smooth, *, related):
    """Predictions and truths [S, G] on side x side spots: smooth fields and, in the truth, as much white noise."""
    shape = (genes, side + 8 * smooth, side + 8 * smooth)
    unit = 1.0 if not smooth else np.sqrt(4 * np.pi) * smooth  # of variance 1 after smoothing
    fields = [scipy.ndimage.gaussian_filter(rng.standard_normal(shape), (0, smooth, smooth)) * unit for _ in range(2)]
    a, b = (field[:, 4 * smooth :, 4 * smooth :][:, :side, :side].reshape(genes, -1).T for field in fields)
    return related * a + np.sqrt(1 - related**2) * b, np.sqrt(0.5) * (a + rng.standard_normal(a.shape))


@pytest.mark.slow
@pytest.mark.parametrize("sections", [1, 2])
@pytest.mark.parametrize(("side", "smooth"), [(14, 0), (14, 1), (14, 2), (30, 2), (30, 4)])
def test_intervals_of_spatial_blocks_cover(side, smooth, sections):
    """200 repeats, as the figures in docs/evaluation.md. The truth is the figure expected of such sections."""
    rng = np.random.default_rng(0)
    genes, repeats = 20, 200
    xy, group = [places(side)] * sections, np.zeros(side * side * sections, int)
    units = Units.of(xy, ["a"] * sections)
    found = []
    for repeat in range(repeats):
        parts = [maps(rng, genes, side, smooth, related=0.6) for _ in range(sections)]
        prediction, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
        estimate = metrics.pearson_per_gene(prediction, truth)
        draws = Bootstrap(units, group, resamples=400, seed=repeat).draw(prediction, truth)
        of_genes = statistics.intervals(estimate, [each.pcc for each in draws], units, scale="correlation")
        mean = statistics.intervals(
            estimate.mean(), [each.pcc.mean(axis=1) for each in draws], units, scale="correlation"
        )
        mae = metrics.mae_per_gene(prediction, truth)
        of_mae = statistics.intervals(mae, [each.mae for each in draws], units, scale="error")
        found.append((estimate, *of_genes, *mean, mae, *of_mae))
    estimate, low, high, mean_low, mean_high, mae, mae_low, mae_high = (
        np.array(part) for part in zip(*found, strict=True)
    )
    cover = np.mean((low <= estimate.mean()) & (estimate.mean() <= high))
    cover_mae = np.mean((mae_low <= mae.mean()) & (mae.mean() <= mae_high))
    cover_mean = np.mean((mean_low <= estimate.mean()) & (estimate.mean() <= mean_high))
    print(f"{sections} x {side}^2 spots, smooth {smooth}: PCC {cover:.3f}, MAE {cover_mae:.3f}, mean {cover_mean:.3f}")
    assert 0.85 <= cover <= 0.95
    assert 0.85 <= cover_mae <= 0.95
    assert cover_mean >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["pooled", "section_median", "patient_median"])
@pytest.mark.parametrize("patients", [4, 8, 20])
def test_intervals_of_patients_cover(patients, pooling):
    rng = np.random.default_rng(0)
    genes, repeats, spots = 20, 200, 40
    names = [str(patient) for patient in range(patients) for _ in range(2)]
    xy = [places(8, 5)] * len(names)
    units = Units.of(xy, names)
    group = np.repeat(metrics.group_of_section(names, pooling), spots)
    found = []
    for repeat in range(repeats):
        slope = rng.normal(1.0, 0.5, (patients, genes)).repeat(2, axis=0)  # patients differ in how well they are met
        predictions = rng.normal(size=(len(names), spots, genes))
        truths = slope[:, None] * predictions + rng.normal(size=predictions.shape)
        estimate = metrics.pooled_pcc(list(predictions), list(truths), names, pooling=pooling)
        bootstrap = Bootstrap(units, group, resamples=400, seed=repeat)
        draws = bootstrap.draw(predictions.reshape(-1, genes), truths.reshape(-1, genes))
        found.append((estimate, *statistics.intervals(estimate, [draws[0].pcc], units, scale="correlation")))
    estimate, low, high = (np.array(part) for part in zip(*found, strict=True))
    cover = np.mean((low <= np.mean(estimate)) & (np.mean(estimate) <= high))
    print(f"{patients} patients, {pooling}: {cover:.3f}")
    assert 0.85 <= cover <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("side", "smooth"), [(14, 0), (14, 2), (30, 4)])
def test_smooth_maps_do_not_pass_for_related(side, smooth):
    rng = np.random.default_rng(0)
    p = [
        statistics.permutation_p(
            *([each] for each in maps(rng, 50, side, smooth, related=0.0)), [places(side)], permutations=999
        )
        for _ in range(40)
    ]
    share = np.mean(np.concatenate(p) < 0.05)
    print(f"{side}^2 spots, smooth {smooth}: p < 0.05 in {share:.3f}")
    assert 0.02 <= share <= 0.08


@pytest.mark.slow
def test_thirty_thousand_spots_are_drawn_in_seconds():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30_000, 250))
    xy = [rng.random((10_000, 2)) for _ in range(3)]
    units = Units.of(xy, ["a", "b", "c"])
    started = time.perf_counter()
    bootstrap = Bootstrap(units, np.zeros(30_000, int))
    for _ in range(5):
        bootstrap.draw(truth + rng.normal(size=truth.shape), truth)
    assert time.perf_counter() - started < 60
