"""Suite stp: its folds are STP-Bench's, its trainings are counted, its scores are by slide, and a row can be made."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import InputError
from stjax import suites
from stjax.suites import Options, _stp_folds, stp
from tests.conftest import ROOT

NAMES = [f"S{place}" for place in range(17)]
CASES = {
    name: f"P{number}" for name, number in zip(NAMES, [0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5, 6, 6, 7, 8, 8], strict=True)
}


def listing(tmp_path, text):
    (tmp_path / "ids.csv").write_text(text)
    return tmp_path


def test_cases_are_dealt_as_group_k_fold_deals_them():
    model_selection = pytest.importorskip("sklearn.model_selection")
    cases = [CASES[name] for name in NAMES]
    expected = [test.tolist() for _, test in model_selection.GroupKFold(5).split(NAMES, groups=cases)]
    assert [[NAMES.index(name) for name in test] for test in _stp_folds.by_case(NAMES, CASES, 5)] == expected


def test_without_cases_samples_are_dealt_as_k_fold_shuffles_them():
    model_selection = pytest.importorskip("sklearn.model_selection")
    split = model_selection.KFold(5, shuffle=True, random_state=42).split(NAMES)
    assert _stp_folds.shuffled(NAMES, 5) == [tuple(NAMES[row] for row in test) for _, test in split]


def test_folds_are_those_that_are_listed_else_by_case_else_shuffled(tmp_path):
    rows = [f"{name},{CASES[name]}" for name in NAMES]
    folds = _stp_folds.folds_of(listing(tmp_path, "\n".join(["sample_id,case_id", *rows])), NAMES, 5)
    assert [fold.test for fold in folds.values()] == _stp_folds.by_case(NAMES, CASES, 5)
    for fold in folds.values():
        trained = set(NAMES) - set(fold.test) - set(fold.inner)
        cases = [{CASES[name] for name in part} for part in (fold.test, fold.inner, trained)]
        assert all(cases)
        assert sum(map(len, cases)) == len(set.union(*cases))  # nobody is in two

    folds = _stp_folds.folds_of(listing(tmp_path, "\n".join(["sample_id", *NAMES])), NAMES, 5)
    assert [fold.test for fold in folds.values()] == _stp_folds.shuffled(NAMES, 5)

    table = "sample_id,case_id,fold_0,fold_1\nA,P,test,train\nB,Q,train,test\nC,Q,train,test\nD,R,train,train\n"
    folds = _stp_folds.folds_of(listing(tmp_path, table), ["A", "B", "C", "D"], 5)
    assert folds == {"fold_0": (("A",), ("B", "C")), "fold_1": (("B", "C"), ("D",))}


def test_folds_of_a_task_of_hest_benchmark_are_its_splits(tmp_path):
    (tmp_path / "splits").mkdir()
    for place, name in enumerate("AB"):
        (tmp_path / "splits" / f"test_{place}.csv").write_text(f"sample_id,patches_path,expr_path\n{name},x,y\n")
    folds = _stp_folds.folds_of(tmp_path, ["A", "B", "C"], 5)
    assert [fold.test for fold in folds.values()] == [("A",), ("B",)]
    (tmp_path / "splits" / "test_0.csv").unlink()
    with pytest.raises(InputError, match=r"test_0\.csv not found; folds are counted from 0 on, without a gap"):
        _stp_folds.folds_of(tmp_path, ["A", "B", "C"], 5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("sample_id,fold_0\nA,test\n", "does not list B, which has patches"),
        ("sample_id,fold_0\nA,val\nB,train\n", "column fold_0 has 'val', expected train or test"),
        ("sample_id,fold_0\nA,train\nB,train\n", "fold 0 has no sample to test"),
        ("sample_id,fold_0\nA,test\nB,test\n", "fold 0 has no sample to train on"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path, table, message):
    with pytest.raises(InputError, match=message):
        _stp_folds.folds_of(listing(tmp_path, table), ["A", "B"], 5)


# ---------------------------------------------------------------------------------------------------------- the suite


def test_a_method_takes_33_trainings_as_published_and_33_beside_them():
    found = suites.load("stp", Options(ROOT / "nowhere"))
    for row in stp.METHODS:
        for part in stp.PARTS:
            assert sum(run.trainings for run in found.runs if (run.row, run.part) == (row, part)) == 33
    assert {run.lacks for run in found.runs if run.row == "PixNet"} == {stp.NO_TILES}
    published = {data.name: sum(map(len, data.sections.values())) for data in found.data if data.spots}
    assert published == {name: cohort.slides for name, cohort in stp.COHORTS.items()}


def test_runs_are_of_the_folds_of_the_bundle_and_score_other_institutions(monkeypatch, tmp_path):
    (tmp_path / "wustl/BRCA").mkdir(parents=True)
    listing(tmp_path / "wustl/BRCA", "sample_id,case_id,fold_0\nA,P,test\nB,Q,train\nC,R,train\n")
    monkeypatch.setattr(Options, "is_built", lambda *_: True)
    monkeypatch.setattr(stp, "COHORTS", {"BRCA": stp.COHORTS["BRCA"]})
    monkeypatch.setattr(stp, "_sections", lambda *_: ("A", "B", "C"))
    options = Options(tmp_path / "out", tmp_path, weights={stp.ENCODER: "uni2.bin"})
    runs = {run.name: run for run in suites.load("stp", options).runs}
    train, score = runs["published/ridge/BRCA/fold_0"].commands
    assert {"--config.protocol=stp", "--config.test_sections=A"} <= set(train.arguments)
    assert not any("val_sections" in each for each in train.arguments)
    assert f"--data-dir={tmp_path / 'out/data/TNBC'}" in score.arguments
    train, _ = runs["honest/ridge/BRCA/fold_0"].commands
    assert {"--config.protocol=stp_inner", "--config.val_sections=C"} <= set(train.arguments)


def test_a_score_is_the_mean_over_slides_of_the_mean_over_genes():
    rng = np.random.default_rng(0)
    slides = [(rng.normal(size=(30, 4)), rng.normal(size=(30, 4))) for _ in range(3)]
    slides[0][1][:, 2] = 1.0  # not there: left out of that slide alone
    expected = np.mean([
        np.mean([np.corrcoef(ours[:, gene], truth[:, gene])[0, 1] for gene in range(4) if truth[:, gene].std() > 0])
        for ours, truth in slides
    ])  # fmt: skip
    assert stp.mean_of_slides(slides) == pytest.approx(expected)


@pytest.mark.slow
def test_tiny_bundles_are_trained_on_and_scored_elsewhere(tmp_path):
    line = [sys.executable, "-m", "stjax.suite", "run", "stp", "--tiny", f"--out={tmp_path}", "--processes=2"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["part"].unique().tolist() == [part + others for part in stp.PARTS for others in ("", stp.OTHERS)]
    assert (table["finished"] == table["runs"]).all()
    assert np.isfinite(table[stp.MEAN]).all()
    assert "SYNTHETIC TISSUE" in ended.stdout
    assert "stp: genes are chosen with the spots that are scored, as published" in ended.stdout
    assert "stp: the checkpoint is chosen on the sections that are scored, as published" in ended.stdout
    assert "genes of the panel that were measured there: TNBC 200" in ended.stdout
