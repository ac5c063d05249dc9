import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.preprocessing import StandardScaler

from data_prep.errors import InputError
from stjax.ops import ridge

PENALTIES = (0.1, 3.0, 100.0, 3000.0)


def samples(count, width, *, targets=6, groups=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)) * rng.uniform(0.1, 5, width) + 3 * rng.normal(size=width)
    y = x[:, :5] @ rng.normal(size=(5, targets)) + rng.normal(size=(count, targets)) + 4
    return x.astype(np.float32), y, rng.permutation(np.arange(count) % groups)


def search(x, y, folds, *, standardise=True):
    """scikit-learn's: coefficients and intercept in the units of the features, and the error of every penalty."""
    scaler = StandardScaler(with_std=standardise)
    found = GridSearchCV(
        Ridge(),
        {"alpha": PENALTIES},
        scoring="neg_mean_squared_error",
        cv=PredefinedSplit(folds),
    ).fit(scaler.fit_transform(x.astype(np.float64)), y)
    fitted = found.best_estimator_
    coef = fitted.coef_.T / (scaler.scale_[:, None] if standardise else 1)
    return coef, fitted.intercept_ - scaler.mean_ @ coef, -found.cv_results_["mean_test_score"]


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize(("count", "width"), [(300, 40), (60, 200), (50, 50)], ids=["primal", "dual", "square"])
def test_solution_penalty_and_errors_are_those_of_a_grid_search_of_scikit_learn(count, width, standardise):
    x, y, groups = samples(count, width)
    found = ridge.fit(x, y, groups, penalties=PENALTIES, standardise=standardise)
    coef, intercept, errors = search(x, y, ridge.folds_of(groups), standardise=standardise)
    np.testing.assert_allclose(list(found.errors.values()), errors, rtol=1e-9)
    assert found.penalty == PENALTIES[int(np.argmin(errors))]
    np.testing.assert_allclose(found.coef, coef, atol=1e-9 * np.abs(coef).max())
    np.testing.assert_allclose(found.intercept, intercept, atol=1e-8)
    np.testing.assert_allclose(found.predict(x), x @ coef + intercept, atol=1e-8)


@pytest.mark.parametrize(("rank", "weights"), [(0, None), (2, None), (2, np.linspace(0.2, 3, 80))])
def test_primal_and_dual_agree(monkeypatch, rank, weights):
    x, y, groups = samples(80, 79)
    options = {"penalties": PENALTIES, "rank": rank, "scale": np.linspace(0.5, 2, 79), "weights": weights}
    primal = ridge.fit(x, y, groups, **options)
    monkeypatch.setattr(ridge, "_primal", ridge._dual)
    dual = ridge.fit(x, y, groups, **options)
    assert (dual.penalty, list(dual.errors)) == (primal.penalty, list(primal.errors))
    np.testing.assert_allclose(list(dual.errors.values()), list(primal.errors.values()), rtol=1e-9)
    np.testing.assert_allclose(dual.coef, primal.coef, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("count", "width"), [(300, 40), (60, 200)], ids=["primal", "dual"])
def test_predictions_of_a_rank_are_the_leading_components_of_the_fitted_targets(count, width, weighted):
    x, y, groups = samples(count, width)
    weights = np.random.default_rng(1).gamma(2.0, size=count) if weighted else np.ones(count)
    given = {"penalties": [30.0], "rank": 2, "weights": weights if weighted else None}
    full, found = ridge.fit(x, y, groups, penalties=[30.0]), ridge.fit(x, y, groups, **given)
    fitted = full.predict(x) - y.mean(axis=0)
    axes = np.linalg.svd(np.sqrt(weights)[:, None] * fitted, full_matrices=False)[2][:2]
    np.testing.assert_allclose(found.predict(x) - y.mean(axis=0), fitted @ axes.T @ axes, atol=1e-7)
    times_seven = ridge.fit(x, y, groups, **given | {"weights": 7 * weights})
    np.testing.assert_allclose(times_seven.coef, found.coef, atol=1e-12)
    errors = [
        np.mean((held.predict(x[rows]) - y[rows]) ** 2)
        for fold in range(4)
        for rows in [np.flatnonzero(ridge.folds_of(groups) == fold)]
        for held in [_of_a_rank(x, y, np.flatnonzero(ridge.folds_of(groups) != fold), 30.0, 2, weights)]
    ]
    several = ridge.fit(x, y, groups, **given | {"penalties": [30.0, 300.0]})
    np.testing.assert_allclose(several.errors[30.0], np.mean(errors), rtol=1e-9)


def _of_a_rank(x, y, rows, penalty, rank, weights):
    """Reduced-rank ridge of some samples, of features that have deviations of all, by NumPy alone."""
    std, mean, centre = x.astype(np.float64).std(axis=0), x[rows].astype(np.float64).mean(axis=0), y[rows].mean(axis=0)
    z = (x[rows] - mean) / std
    coef = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y[rows] - centre))
    axes = np.linalg.svd(np.sqrt(weights[rows])[:, None] * (z @ coef), full_matrices=False)[2][:rank]
    coef = coef @ axes.T @ axes / std[:, None]
    return ridge.Ridge(coef, centre - mean @ coef, penalty, {})


def test_a_rank_that_is_no_less_than_that_of_the_solution_changes_nothing():
    x, y, groups = samples(60, 20)
    plain, ranked = (ridge.fit(x, y, groups, penalties=PENALTIES, rank=rank) for rank in (0, 6))
    np.testing.assert_array_equal(plain.coef, ranked.coef)


@pytest.mark.parametrize(("count", "width"), [(300, 40), (60, 200)], ids=["primal", "dual"])
def test_scaled_features_are_penalised_as_features_that_were_multiplied(count, width):
    x, y, groups = samples(count, width)
    x = x.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    scale = np.random.default_rng(1).uniform(0.2, 3, width)
    found = ridge.fit(x, y, groups, penalties=PENALTIES, scale=scale)
    direct = ridge.fit(x * scale, y, groups, penalties=PENALTIES, standardise=False)
    np.testing.assert_allclose(list(found.errors.values()), list(direct.errors.values()), rtol=1e-9)
    np.testing.assert_allclose(found.coef, direct.coef * scale[:, None], atol=1e-9)


def test_a_vanishing_penalty_is_least_squares():
    x, y, groups = samples(200, 10)
    found = ridge.fit(x, y, groups, penalties=[1e-9])
    with_one = np.hstack([x.astype(np.float64), np.ones((len(x), 1))])
    expected = np.linalg.lstsq(with_one, y)[0]
    np.testing.assert_allclose(np.vstack([found.coef, found.intercept]), expected, atol=1e-8)
    assert found.errors == {}


@pytest.mark.parametrize("count", [300, 20], ids=["primal", "dual"])
def test_samples_in_blocks_and_in_half_precision_give_the_same(count, monkeypatch):
    x, y, groups = samples(count, 30)
    x = x.astype(np.float16)
    whole = ridge.fit(x.astype(np.float64), y, groups)
    monkeypatch.setattr(ridge, "_ROWS", 32)
    blocks = ridge.fit(x, y, groups)
    assert blocks.penalty == whole.penalty
    np.testing.assert_allclose(blocks.coef, whole.coef, atol=1e-10)
    assert not jax.config.jax_enable_x64


def test_what_is_held_out_does_not_reach_the_model_that_it_scores():
    """A group's own targets, made wild, change the errors of its fold as of the same model; a model that had seen them
    would err less."""
    x, y, groups = samples(400, 20, groups=2)
    wild = y.copy()
    wild[groups == 1] += 1000
    plain, moved = (ridge.fit(x, each, groups, penalties=PENALTIES).errors for each in (y, wild))
    # Both folds are off by 1000 throughout: each model knows the other group's level alone.
    for penalty in PENALTIES:
        assert moved[penalty] == pytest.approx(1000.0**2, rel=0.05)
        assert plain[penalty] < 100


@pytest.mark.parametrize("sizes", [(5, 90, 40, 40, 7, 3, 60), (10, 10), (1,) * 12])
def test_a_group_is_in_one_fold_and_folds_are_of_like_size(sizes):
    groups = np.random.default_rng(0).permutation(np.repeat([f"P{i}" for i in range(len(sizes))], sizes))
    folds = ridge.folds_of(groups)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    assert sorted(np.unique(folds)) == list(range(min(ridge.FOLDS, len(sizes))))
    assert np.bincount(folds).max() <= max(*sizes, 1.5 * sum(sizes) / ridge.FOLDS)


@pytest.mark.parametrize("count", [120, 12], ids=["primal", "dual"])
def test_a_feature_that_does_not_vary_has_no_coefficient(count):
    x, y, groups = samples(count, 20)
    x[:, 3] = 1e4 + np.float32(1e-3) * (groups == 0)  # rounding
    x[:, 4] = groups == 1  # varies in the fold that is held out alone
    found = ridge.fit(x, y, groups, penalties=PENALTIES)
    assert (found.coef[3] == 0).all()
    assert np.isfinite(list(found.errors.values())).all()
    without = np.delete(x, 3, axis=1)
    np.testing.assert_allclose(
        np.delete(found.coef, 3, axis=0), ridge.fit(without, y, groups, penalties=PENALTIES).coef, atol=1e-10
    )


def test_a_feature_that_hardly_varies_outside_a_fold_does_not_blow_up_what_is_held_out():
    """As an encoder's channels do that are dead but in a few spots: on Lite0's features of her2st errors were 7,000."""
    x, y, groups = samples(300, 10)
    x[:, 3] = np.where(groups == 0, x[:, 3], 1e-5 * x[:, 3])
    assert max(ridge.fit(x, y, groups, penalties=PENALTIES).errors.values()) < 10 * np.var(y)


def test_a_penalty_at_the_end_of_those_tried_is_remarked_on():
    x, y, groups = samples(300, 8)
    noise = np.random.default_rng(1).normal(size=y.shape)
    assert "the largest of those tried" in ridge.fit(x, noise, groups, penalties=(1.0, 10.0, 1e6)).remark
    assert "0.001, is the least of those tried" in ridge.fit(x, 1000 * y, groups, penalties=(1e-3, 1e5)).remark
    assert ridge.fit(x, y, groups, penalties=(10.0,)).remark == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y, g: (x, y, np.zeros_like(g)), "there is one; give a single penalty"),
        (lambda x, y, g: (x[1:], y, g), "features are of 39 samples, targets of 40, groups of 40"),
        (lambda x, y, g: (np.where(np.arange(10) == 3, np.nan, x), y, g), "not finite"),
        (lambda x, y, g: (x, np.where(np.arange(6) == 3, np.inf, y), g), "not finite"),
    ],
)
def test_samples_that_cannot_be_fitted_are_refused(change, says):
    with pytest.raises(InputError, match=says):
        ridge.fit(*change(*samples(40, 10)))


def test_penalties_that_are_not_positive_are_refused():
    with pytest.raises(InputError, match="expected positive numbers"):
        ridge.fit(*samples(40, 10), penalties=[0.0, 1.0])
