import json

import anndata
import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import evaluate, workdir
from stjax.evaluation import conformal
from stjax.evaluation.conformal import Calibration
from stjax.inference import prepared


def test_half_width_of_one_patient_is_the_quantile_of_its_errors():
    errors = np.random.default_rng(0).normal(size=(101, 3))
    calibration = Calibration.of({"a": errors})
    np.testing.assert_allclose(calibration.half_width, np.quantile(np.abs(errors), 0.9, axis=0, method="inverted_cdf"))
    assert not calibration.guaranteed


def test_patients_count_the_same_however_many_spots_they_have():
    calibration = Calibration.of({"a": np.full((1000, 1), 1.0), "b": np.full((10, 1), 5.0)})
    assert calibration.half_width == [5.0]  # a tenth of the spots of neither is enough
    assert Calibration.of({"a": np.full((10, 1), 1.0), "b": np.full((1000, 1), 1.0)}).half_width == [1.0]


@pytest.mark.parametrize(("patients", "guaranteed"), [(8, False), (9, True), (12, True)])
def test_nine_patients_promise_ninety_percent(patients, guaranteed):
    errors = {str(p): np.random.default_rng(p).normal(size=(20, 2)) for p in range(patients)}
    calibration = Calibration.of(errors)
    assert calibration.guaranteed == guaranteed
    if patients == 9:  # the patient to come may be anything: the widest error of all
        np.testing.assert_allclose(calibration.half_width, np.abs(np.concatenate(list(errors.values()))).max(axis=0))


def test_genes_without_errors_have_no_interval_and_no_coverage():
    errors = np.random.default_rng(0).normal(size=(50, 2))
    errors[3, 1] = np.nan
    calibration = Calibration.of({"a": errors})
    assert np.isnan(calibration.half_width[1])
    np.testing.assert_array_equal(np.isnan(calibration.covered(np.zeros((4, 2)), np.zeros((4, 2)))), [False, True])


def test_coverage_counts_what_lies_within():
    calibration = Calibration(np.array([1.0, 2.0]), ("a",), False)
    truth = np.array([[0.5, 3.0], [1.0, np.nan], [1.5, 0.0]])
    np.testing.assert_allclose(calibration.covered(np.zeros((3, 2)), truth), [2 / 3, 1 / 2])


@pytest.mark.parametrize("patients", [4, 12])
def test_intervals_hold_new_patients_as_often_as_they_say(patients):
    """Patients differ in how far predictions are off; 400 repeats."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        scale = rng.uniform(0.5, 1.5, patients + 1)
        errors = {str(p): scale[p] * rng.normal(size=(rng.integers(20, 60), 1)) for p in range(patients)}
        new = scale[-1] * rng.normal(size=(50, 1))
        covered.append(Calibration.of(errors).covered(np.zeros_like(new), new)[0])
    assert 0.87 <= np.mean(covered) <= (0.93 if patients == 4 else 0.99)


def test_evaluation_writes_the_intervals_and_how_often_they_hold(trained):
    folder, _ = trained
    found = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())["conformal"]
    assert found["calibrated_on"] == ["A"]
    assert found["guaranteed"] is False
    sections = [anndata.read_h5ad(path) for path in sorted((folder / "predictions").glob("*.h5ad"))]
    inside = np.concatenate(
        [(s.layers["lower"] <= s.layers["truth"]) & (s.layers["truth"] <= s.layers["upper"]) for s in sections]
    )
    assert inside.mean() == pytest.approx(found["coverage"], abs=2e-3)
    assert 0.8 < found["coverage"] < 0.99


def test_an_ensemble_of_a_run_with_itself_is_that_run_and_says_what_it_is(trained):
    folder, _ = trained
    before = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())
    result = evaluate.evaluate(folder, evaluate.Options(ensemble=[folder]))
    assert [each["name"] for each in result["ensemble"]] == [folder.name] * 2  # and no folder of this machine
    assert {each["model_sha256"] for each in result["ensemble"]} == {result["model_sha256"]}
    for figure in ("pcc_median", "amae"):
        assert result["methods"]["model"][figure] == pytest.approx(before["methods"]["model"][figure], abs=1e-3)
    own = [
        path.parent
        for path in (folder / "evaluation" / "stjax").glob("*/metrics.json")
        if json.loads(path.read_text())["ensemble"]
    ]  # other tests score the same run
    path = next((own[0] / "predictions").glob("*.h5ad"))
    assert np.abs(anndata.read_h5ad(path).layers["std"]).max() < 1e-5
    assert json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text()) == before


def test_a_size_that_the_validation_patients_lack_is_why_there_are_no_intervals(trained, monkeypatch):
    def lacking(*_args, **_options):
        raise InputError("no spot of 2 um in section A1")

    monkeypatch.setattr(prepared, "predict_sections", lacking)
    found = conformal.calibrate([workdir.Run.load(trained[0])], sizes_um=(2.0,), max_spots=0)
    assert found == (None, "no spot of 2 um in section A1")
