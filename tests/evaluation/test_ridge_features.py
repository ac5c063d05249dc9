"""The ridge on features: a baseline of every evaluation whose data set has features."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import evaluate, metrics, protocols, workdir
from stjax.data.selection import Selection
from stjax.evaluation import statistics
from stjax.evaluation.comparison import Task
from stjax.features import store
from stjax.inference import prepared
from stjax.ops import ridge
from tests.conftest import command

WIDTH = 9


def add_features(dataset, name, *, encoder="an_encoder", missing=(), context=1):
    """Vectors that know the mean colour of a patch, and noise; NaN at the records `missing` of every section."""
    key = {
        "encoder": encoder, "weights_sha256": "random:0", "pooling": "mean", "width": WIDTH, "dtype": "float32",
        "compute": "float32", "px": 32, "um_per_px": {"C1": 1.4}, "mean": [0.5] * 3, "std": [0.2] * 3,
        "context": context, "maps": False, "patches": store.patches_sha256(dataset),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    with store.Writer(dataset.path / store.FOLDER / name, key) as writer:
        for section in dataset.sections:
            colour = dataset.table(section["name"]).channel_mean
            vectors = np.hstack([colour, rng.normal(size=(len(colour), WIDTH - 3))]).astype(np.float32)
            vectors[list(missing)] = np.nan
            arrays = {store.VECTORS: vectors}
            if context > 1:
                around = np.full((len(vectors), context**2, WIDTH), 7, np.float32)
                around[:, context**2 // 2] = vectors
                arrays = {store.VECTORS: around, store.MASK: np.ones(around.shape[:2], bool)}
            shapes = {kind: (array.shape[1:], array.dtype) for kind, array in arrays.items()}
            writer.begin(section, shapes, block=len(vectors))
            writer.write(arrays)
            writer.missing(section["name"], len(missing))
        writer.finish()


@pytest.fixture(scope="module")
def run_on_features(tmp_path_factory, dataset, cache):
    """The work directory of a run, and its data set, which has features of its own."""
    folder = tmp_path_factory.mktemp("features")
    shutil.copytree(dataset, folder / "data")
    own = PatchDataset.open(folder / "data")
    add_features(own, "one")
    setting = ("--config.fit=closed_form", "--config.model.aux=False", f"--config.data_dir={own.path}")
    done = command("stjax.train", "--config=configs/tiny.py", f"--workdir={folder / 'run'}", *setting, cache=cache)
    return folder / "run", own, done.stdout


def scores(folder):
    return json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())


def test_its_figures_are_those_of_scikit_learn_with_the_penalty_of_blocks_held_out(run_on_features):
    folder, dataset, printed = run_on_features
    result = scores(folder)
    assert list(result["methods"])[:3] == ["model", "ridge_colour", "ridge_features"]
    about = result["ridge_features"]
    assert (about["features"], about["encoder"], about["held_out"]) == ("one", "an_encoder", "spatial_blocks")
    assert (
        f"ridge on features: of an_encoder (features/one), penalty {about['penalty']:g}, chosen on spatial" in printed
    )

    run = workdir.Run.load(folder)
    parts = []
    for part, train in (("train", True), ("test", False)):
        chosen = Selection(dataset, getattr(run.fold.split, part), run.protocol, train=train)
        items = run.view.open(chosen, run.fold.panel)
        vectors = np.concatenate([np.load(dataset.path / f"features/one/{dataset.section(name)['split']}.npy")
                                  [dataset.table(name).record_of_spot] for name in chosen.sections])  # fmt: skip
        parts.append((vectors.astype(np.float64), items.main_expression(run.protocol), items))
    (x, y, items), (x_test, y_test, _) = parts
    groups = statistics.groups_to_hold_out(np.full(len(x), "B"), items.section, items.spots.xy)
    standardised = (y - run.fold.main.target_mean) / run.fold.main.target_std
    assert about["penalty"] == ridge.fit(x, standardised, groups).penalty
    scaler = StandardScaler().fit(x)
    fitted = Ridge(alpha=about["penalty"]).fit(scaler.transform(x), standardised)
    expected = metrics.pearson_per_gene(fitted.predict(scaler.transform(x_test)), y_test)
    table = pd.read_csv(folder / "evaluation" / "stjax" / "per_gene.csv")
    np.testing.assert_allclose(table["pcc_ridge_features"], expected, atol=1e-6)
    paired = result["model_minus"]["ridge_features"]["pcc_mean"]
    ours, theirs = (result["methods"][name]["pcc_mean"] for name in ("model", "ridge_features"))
    assert paired["difference"] == pytest.approx(ours - theirs)
    assert paired["interval"][0] < paired["difference"] < paired["interval"][1]


def test_the_same_command_finds_the_run_finished(run_on_features, cache):
    folder, dataset, _ = run_on_features
    setting = ("--config.fit=closed_form", "--config.model.aux=False", f"--config.data_dir={dataset.path}")
    again = command("stjax.train", "--config=configs/tiny.py", f"--workdir={folder}", *setting, cache=cache)
    assert f"The run in {folder} is finished." in again.stdout
    assert "closed form:" not in again.stdout


def test_of_several_features_one_is_named_or_none_is_taken(run_on_features, monkeypatch, capsys):
    folder, dataset, _ = run_on_features
    run = workdir.Run.load(folder)
    add_features(dataset, "two", encoder="another")
    try:
        assert prepared.features_beside(run, dataset, "") == (None, None)
        assert (
            "stjax evaluate --features=NAME compares with a ridge on features, one of one, two"
            in capsys.readouterr().out
        )
        found = prepared.features_beside(run, dataset, "two")
        assert found.scored.encoder == "another"
        assert found.trained is found.scored  # opened once
        monkeypatch.setitem(run.fold.facts, "features", "one")  # a model's own
        assert prepared.features_beside(run, dataset, "").scored.encoder == "an_encoder"
        with pytest.raises(InputError, match="three: no features there; there are one, two"):
            prepared.features_beside(run, dataset, "three")
    finally:
        shutil.rmtree(dataset.path / store.FOLDER / "two")


def test_an_evaluation_opens_the_features_once(run_on_features, monkeypatch):
    opened, as_ever = [], store.Features.open
    monkeypatch.setattr(store.Features, "open", lambda of, name: opened.append(name) or as_ever(of, name))
    evaluate.evaluate(run_on_features[0])
    assert opened == ["one"]


def test_a_spot_without_features_is_not_learnt_from_and_is_predicted_the_mean(run_on_features):
    folder, dataset, _ = run_on_features
    add_features(dataset, "gaps", missing=(0, 5))
    try:
        result = evaluate.evaluate(folder, evaluate.Options(features="gaps"))
    finally:
        shutil.rmtree(dataset.path / store.FOLDER / "gaps")
    whole = scores(folder)["methods"]["ridge_features"]
    gaps = result["methods"]["ridge_features"]
    assert gaps["pcc_median"] == pytest.approx(whole["pcc_median"], abs=0.1)
    assert gaps["pcc_median"] != whole["pcc_median"]
    assert result["ridge_features"]["features"] == "gaps"


def test_of_features_with_context_the_middle_window_counts(run_on_features):
    folder, dataset, _ = run_on_features
    add_features(dataset, "around", context=3)
    try:
        run = workdir.Run.load(folder)
        chosen = Selection(dataset, run.fold.split.test, run.protocol, train=False)
        items = run.view.open(chosen, run.fold.panel)
        one, around = (prepared.features_of(items, chosen, store.Features.open(dataset, name))
                       for name in ("one", "around"))  # fmt: skip
        np.testing.assert_array_equal(one, around)
    finally:
        shutil.rmtree(dataset.path / store.FOLDER / "around")


def test_other_data_is_scored_with_features_of_the_same_encoder_alone(run_on_features, tmp_path):
    folder, dataset, _ = run_on_features
    other = tmp_path / "other"
    shutil.copytree(dataset.path, other, ignore=shutil.ignore_patterns(store.FOLDER))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest, indent=3))  # of another hash
    run, there = workdir.Run.load(folder), PatchDataset.open(other)
    assert prepared.features_beside(run, there, "") == (None, None)
    add_features(there, "one")
    found = prepared.features_beside(run, there, "")
    assert [each.path for each in found] == [each / "features" / "one" for each in (other, dataset.path)]
    gone = dataclasses.replace(run, fold=dataclasses.replace(run.fold, data_dir=str(tmp_path / "gone")))
    assert prepared.features_beside(gone, there, "one").trained is None
    shutil.rmtree(other / "features")
    add_features(there, "one", encoder="another")
    with pytest.raises(InputError, match="of another encoder than the features of"):
        prepared.features_beside(run, there, "")


def test_patients_are_held_out_or_sections_of_one_or_blocks_of_two_sections():
    rng = np.random.default_rng(0)
    xy, section = rng.random((60, 2)), np.repeat(["A1", "A2", "B1"], 20)
    patient = np.where(section == "B1", "B", "A")
    of_patients = statistics.groups_to_hold_out(patient, section, xy)
    assert {frozenset(patient[of_patients == group]) for group in set(of_patients)} == {frozenset("A"), frozenset("B")}
    assert statistics.held_out(patient, section) == "patients"
    of_sections = statistics.groups_to_hold_out(np.full(60, "A"), section, xy)
    assert [set(section[of_sections == group]) for group in sorted(set(of_sections))] == [{"A1"}, {"A2"}, {"B1"}]
    two = section != "B1"
    assert statistics.held_out(np.full(40, "A"), section[two]) == "spatial_blocks"
    of_blocks = statistics.groups_to_hold_out(np.full(40, "A"), section[two], xy[two])
    assert len(set(of_blocks)) == 8
    for group in set(of_blocks):
        assert len(set(section[two][of_blocks == group])) == 1


def test_a_spot_a_thousand_deviations_off_is_predicted_as_one_ten_off():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4))
    counts, total = rng.poisson(np.exp(2 + features[:, :3])), np.full(60, 1000.0)
    patient = np.repeat(["A", "B", "C"], 20)
    training = prepared.Training(
        np.zeros((60, 1)), counts, total, patient, patient, rng.random((60, 2)), features.astype(np.float32)
    )
    task = Task(protocols.get_protocol("stjax"), 10, np.zeros(3), np.ones(3), np.zeros(3), training)
    ends = features.mean(axis=0) + 10 * features.std(axis=0)
    far, bound = (
        task.by_features(SimpleNamespace(features=np.where(np.arange(4) == 0, each, features[:5])))
        for each in (1000, ends)
    )
    np.testing.assert_allclose(far, bound, rtol=1e-5)
    assert np.ptp(task.ridge_features.coef[0]) > 0.01
