"""The protocols of HEST-Benchmark beside scikit-learn's pipelines."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep.errors import InputError
from stjax import metrics
from stjax.evaluation import linear_probe
from stjax.ops import ridge

GENES = 6


@pytest.fixture(scope="module")
def task():
    """Features whose scales differ, far from 0, one the same everywhere; wider than the 256 components."""
    rng = np.random.default_rng(0)
    mix, loadings = rng.normal(size=(20, 300)), rng.normal(size=(20, GENES))
    features, targets = {}, {}
    for name, count in (("a", 170), ("b", 210), ("c", 130)):
        hidden = rng.normal(size=(count, 20))
        x = (hidden @ mix + rng.normal(size=(count, 300))) * rng.uniform(0.1, 4, 300) + 3
        x[:, 7] = 2
        features[name] = x.astype(np.float32)
        targets[name] = np.log1p(rng.poisson(np.exp(0.3 * hidden @ loadings)).astype(np.float64))
    return features, targets


def reference(protocol, x, y):
    if protocol == "A2":
        alpha = 100 / (x.shape[1] * GENES)
        return Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(x, y)
    pca = PCA(linear_probe.COMPONENTS, svd_solver="full")
    if protocol == "A1":
        last = Ridge(alpha=100 / (linear_probe.COMPONENTS * GENES), fit_intercept=False, solver="svd")
    else:
        grid = {"alpha": ridge.PENALTIES}
        last = GridSearchCV(Ridge(solver="svd"), grid, cv=KFold(5), scoring="neg_mean_squared_error")
    return make_pipeline(StandardScaler(), pca, last).fit(x, y)


@pytest.mark.parametrize("protocol", linear_probe.PROTOCOLS)
def test_each_protocol_is_scikit_learns_pipeline(task, protocol):
    features, targets = task
    fitted = linear_probe.Probe(features, targets).fit(protocol, ("a", "b"))
    x, y = (np.concatenate([part["a"], part["b"]]).astype(np.float64) for part in (features, targets))
    theirs = reference(protocol, x, y)
    pcc = [
        metrics.pearson_per_gene(of.predict(features["c"].astype(np.float64)), targets["c"]) for of in (fitted, theirs)
    ]
    np.testing.assert_allclose(pcc[0], pcc[1], atol=1e-6)
    np.testing.assert_allclose(
        fitted.predict(features["c"]), theirs.predict(features["c"].astype(np.float64)), atol=1e-5
    )  # fmt: skip
    if protocol == "A3":
        assert fitted.alpha == theirs[-1].best_params_["alpha"]


def test_features_that_are_not_finite_or_of_two_widths_are_refused(task):
    features, targets = task
    with pytest.raises(InputError, match="not finite"):
        linear_probe.Probe(features | {"a": np.full_like(features["a"], np.nan)}, targets)
    with pytest.raises(InputError, match="numbers a patch"):
        linear_probe.Probe(features | {"a": features["a"][:, :5]}, targets)
