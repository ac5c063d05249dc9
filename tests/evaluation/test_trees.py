"""Regressions by trees: as scikit-learn's and XGBoost's own on the same features; a package that lacks is named."""

import json

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.preprocessing import StandardScaler

from data_prep import demo_hest_bench, hest_bench
from data_prep.errors import InputError
from stjax import metrics
from stjax.evaluation import trees
from stjax.evaluation.linear_probe import Probe
from stjax.hest_bench import main
from tests.stjax.test_hest_bench import GENES, write_features

RNG = np.random.default_rng(5)
MIXED = RNG.normal(size=(3, 8))
HIDDEN = {name: RNG.normal(size=(60, 3)) for name in "ABC"}
FEATURES = {name: of @ MIXED + 0.2 * RNG.normal(size=(60, 8)) for name, of in HIDDEN.items()}
TARGETS = {
    name: np.stack([np.exp(of[:, 0]), of[:, 1] > 0], axis=1) + 0.1 * RNG.normal(size=(60, 2))
    for name, of in HIDDEN.items()
}


def whole(of, names):
    return np.concatenate([of[name] for name in names])


def test_a_forest_on_features_as_they_are_is_scikit_learns():
    fitted = trees.fit("A2-random-forest", Probe(FEATURES, TARGETS), ("A", "B"))
    x = whole(FEATURES, "AB").astype(np.float32)
    theirs = [
        RandomForestRegressor(70, max_depth=16, random_state=42).fit(x, y).predict(FEATURES["C"].astype(np.float32))
        for y in whole(TARGETS, "AB").T
    ]
    np.testing.assert_allclose(fitted.predict(FEATURES["C"]), np.stack(theirs, axis=1))
    assert (fitted.components, fitted.alpha) == (0, 0.0)


def test_components_are_those_of_a_scaler_and_pca_and_of_training_alone():
    fitted = trees.fit("A1-random-forest", Probe(FEATURES, TARGETS), ("A", "B"))
    scaler = StandardScaler().fit(whole(FEATURES, "AB"))
    expected = (
        PCA(8, svd_solver="full")
        .fit(scaler.transform(whole(FEATURES, "AB")))
        .transform(scaler.transform(FEATURES["C"]))
    )
    seen = trees._seen(FEATURES["C"], fitted.seen)
    assert fitted.components == 8
    np.testing.assert_allclose(np.abs(seen[:, ::-1]), np.abs(expected), rtol=1e-3, atol=1e-4)  # least first, any sign
    assert metrics.pearson_per_gene(fitted.predict(FEATURES["C"]), TARGETS["C"]).min() > 0.3


def test_boosted_trees_are_xgboosts():
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    fitted = trees.fit("A2-xgboost", Probe(FEATURES, TARGETS), ("A", "B"))
    given = {"n_estimators": 100, "learning_rate": 0.1, "max_depth": 3, "subsample": 0.8, "colsample_bytree": 0.8}
    theirs = xgboost.XGBRegressor(**given, random_state=1).fit(
        whole(FEATURES, "AB").astype(np.float32), whole(TARGETS, "AB")
    )
    np.testing.assert_allclose(
        fitted.predict(FEATURES["C"]), theirs.predict(FEATURES["C"].astype(np.float32)), rtol=1e-5
    )


def test_the_command_writes_the_same_files_as_of_a_ridge(tmp_path, capsys):
    root = demo_hest_bench.write(tmp_path / "bench", spots=30, genes=GENES, size_px=8)
    write_features(root, tmp_path / "embeddings", "known", 12)
    given = [f"--root={root}", f"--out={tmp_path / 'out'}", f"--features={tmp_path / 'embeddings'}", "--encoder=known"]
    main([*given, "--tasks=TINY_VISIUM", "--method=random-forest"])
    printed = capsys.readouterr().out
    assert "A1-random-forest: on the components of A1, a forest of 70 trees a gene" in printed
    split = tmp_path / "out/hest/A1-random-forest/TINY_VISIUM/known/split0"
    config, summary = (json.loads((split / f"{name}.json").read_text()) for name in ("config", "summary"))
    assert (config["method"], config["dimreduce"], config["latent_dim"], config["alpha"]) == (
        "random-forest",
        "PCA",
        12,
        None,
    )
    assert len(summary["pearson_corrs"]) == GENES
    assert -1 < summary["pearson_mean"] < 1
    assert (tmp_path / "out/scores/TINY_VISIUM/known/A1-random-forest.json").is_file()
    assert hest_bench.tasks(root)
    with pytest.raises(
        InputError, match="A3 chooses the penalty of a ridge: --method=random-forest goes with A1 and A2"
    ):
        main([*given, "--method=random-forest", "--protocols=A3"])


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(trees.PACKAGES, "xgboost", ("no_such_module", "xgboost"))
    with pytest.raises(
        InputError, match="--method=xgboost needs the package xgboost, which is not installed: pip install"
    ):
        trees.check("xgboost")
