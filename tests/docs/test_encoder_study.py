"""The table of examples/encoder_study.py, of runs that are there."""

import importlib.util
import json

import anndata
import numpy as np
import pandas as pd
import pytest

from stjax.evaluation import statistics
from stjax.metrics import pearson_per_gene
from tests.conftest import ROOT

spec = importlib.util.spec_from_file_location("encoder_study", ROOT / "examples/encoder_study.py")
assert spec is not None
assert spec.loader is not None
study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study)

SPOTS, GENES = 80, 12
RNG = np.random.default_rng(0)
XY, TRUTH = RNG.random((SPOTS, 2)), RNG.normal(size=(SPOTS, GENES))


def make_run(folder, noise, *, rows=slice(None), truth=TRUTH):
    """What evaluation leaves of a run whose prediction is the truth with noise, of some spots."""
    prediction = TRUTH + noise * np.random.default_rng(1).normal(size=TRUTH.shape)
    genes = pd.DataFrame(index=[f"G{i}" for i in range(GENES)])
    obs = pd.DataFrame({"patient": "A"}, index=[f"s{i}" for i in range(SPOTS)])
    adata = anndata.AnnData(prediction.astype(np.float32), obs=obs, var=genes)
    adata.layers["truth"], adata.obsm["spatial"] = truth.astype(np.float32), XY
    (folder / "predictions").mkdir(parents=True)
    adata[rows].copy().write_h5ad(folder / "predictions" / "A1.h5ad")
    pcc = float(pearson_per_gene(prediction, TRUTH).mean())
    of = {"pcc_mean": pcc, "intervals": {"pcc_mean": [pcc - 0.1, pcc + 0.1]}}
    beside = {"pcc_mean": {"difference": 0.125, "interval": [-0.25, 0.5]}}
    figures = {"methods": {"model": of, "ridge_colour": of}, "model_minus": {"ridge_colour": beside}, "spots": SPOTS}
    (folder / "evaluation/stjax").mkdir(parents=True)
    (folder / "evaluation/stjax/metrics.json").write_text(json.dumps(figures))
    return pcc


def test_differences_are_paired_over_the_spots_of_both_runs(tmp_path):
    rows = RNG.permutation(SPOTS)[:70]
    make_run(tmp_path / "mlp_vits", 1.0, rows=rows)
    make_run(tmp_path / "ridge_vits", 2.0)
    difference, low, high = study.paired(tmp_path / "mlp_vits", tmp_path / "ridge_vits")
    noise = np.random.default_rng(1).normal(size=TRUTH.shape)
    own = [np.mean(pearson_per_gene((TRUTH + k * noise)[rows], TRUTH[rows])) for k in (1, 2)]
    assert difference == pytest.approx(own[0] - own[1], abs=1e-6)
    assert low < difference < high
    assert (high - low) / 2 < 0.2  # paired: both err by the same noise
    assert statistics.LEVEL == 0.9


def test_runs_of_another_truth_are_not_paired(tmp_path):
    make_run(tmp_path / "a", 1.0)
    make_run(tmp_path / "b", 1.0, truth=TRUTH + 1)
    assert study.paired(tmp_path / "a", tmp_path / "b") is None


def test_the_table_has_the_runs_that_are_there_each_beside_its_ridge(tmp_path):
    ridge = make_run(tmp_path / "ridge_vits", 2.0)
    mlp = make_run(tmp_path / "mlp_vits", 1.0)
    make_run(tmp_path / "linear_lite0", 1.0)  # whose ridge is not there yet
    data = study.Data("tissue", tmp_path, (), (), ())
    table = list(study.rows(tmp_path, data))
    assert [(row["head"], row["encoder"]) for row in table] == [
        ("linear", "Lite0"), ("ridge on colour", "random ViT-S"), ("ridge", "random ViT-S"),
        ("MLP + AuxNet", "random ViT-S"),
    ]  # fmt: skip
    colour = table[1]
    assert [colour[key] for key in ("minus_ridge", "minus_low", "minus_high")] == [-0.125, -0.5, 0.25]
    assert "minus_ridge" not in table[0] | table[2]
    assert table[3]["minus_ridge"] == pytest.approx(mlp - ridge, abs=1e-6)
    lines = study.markdown(table).splitlines()
    assert lines[:4] == [f"**tissue**, {SPOTS} spots", "", "| | Lite0 | random ViT-S |", "|---|---|---|"]
    assert lines[4].startswith("| ridge on colour | - | .")
    assert "; -0.125 (-0.500 to +0.250) |" in lines[4]
    assert not any("PixNet" in line for line in lines)
