"""Cross-validation: folds by patient, modes that agree, resumption, and the choice of epochs."""

import json
import os
import signal

import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import checkpoint, crossval, train
from stjax.config import built_in
from stjax.training import faults
from tests.conftest import command
from tests.stopped_run import make_stopped


def config_of(dataset, **values):
    config = built_in("tiny")
    config.update({"data_dir": str(dataset), "batch_size": 16, "num_epochs": 2, **values})
    return config


def member(folder, fold=0):
    return crossval.Member(fold, 0, folder, {}, None)


def logged(folder, epochs):
    (folder / "logs").mkdir(parents=True)
    lines = [json.dumps({"kind": "epoch", "epoch": i + 1, "step": i + 1, **epoch}) for i, epoch in enumerate(epochs)]
    (folder / "logs" / "train.jsonl").write_text("\n".join(lines) + "\n")


def figures(loss, mae, rmse, pcc):
    return {"val_loss": loss, "val_amae": mae, "val_armse": rmse, "val_pcc_mean": pcc}


def test_published_epochs_are_the_mean_of_the_best_ones_rounded_up(tmp_path):
    """Fold 0: epochs 4, 5, 4, 5; fold 1: 5, 5, 5, 1: their mean is 4.25."""
    worse, better = figures(2.0, 2.0, 2.0, None), figures(1.0, 2.0, 1.0, 0.1)
    logged(tmp_path / "a", [worse] * 3 + [better, figures(1.5, 1.0, 1.5, 0.2)])
    logged(tmp_path / "b", [figures(2.0, 2.0, 2.0, 0.9)] + [worse] * 3 + [figures(1.0, 1.0, 1.0, 0.5)])
    assert crossval.published_epochs([member(tmp_path / "a"), member(tmp_path / "b", 1)]) == 5


def test_published_epochs_are_at_least_three(tmp_path):
    logged(tmp_path / "a", [figures(1.0, 1.0, 1.0, 0.5), figures(2.0, 2.0, 2.0, 0.1)])
    assert crossval.published_epochs([member(tmp_path / "a")]) == 3


def test_the_epoch_of_inner_folds_has_the_least_error_over_all_their_spots(tmp_path):
    """Fold a alone would take epoch 1, the mean of losses too; b has three times its spots, and c none of epoch 3."""
    logged(tmp_path / "a", [{"val_loss": loss, "val_spots": 10} for loss in (1.0, 2.0, 0.1)])
    logged(tmp_path / "b", [{"val_loss": loss, "val_spots": 30} for loss in (1.5, 1.0, 0.1)])
    logged(tmp_path / "c", [{"val_loss": 1.0, "val_spots": 10}] * 2)
    assert crossval.best_epoch([member(tmp_path / name, fold) for fold, name in enumerate("abc")]) == 2
    logged(tmp_path / "d", [{"val_loss": None, "val_spots": 10}])
    with pytest.raises(InputError, match="/d has no validation loss in its log"):
        crossval.best_epoch([member(tmp_path / "d")])


@pytest.mark.parametrize("patients", [5, 7])
def test_inner_folds_deal_all_patients_but_the_held_out_ones(patients, dataset, monkeypatch):
    sections = [{"name": f"{patient}{i}", "patient": patient} for patient in "ABCDEFG"[:patients] for i in (1, 2)]
    monkeypatch.setattr(crossval.PatchDataset, "open", lambda _: type("", (), {"sections": sections}))
    config = config_of(dataset, protocol="stnet", test_patients="B")
    split, folds = crossval.folds_of(config, "inner4")
    assert split.test == ("B1", "B2")
    assert {fold["test_sections"] for fold in folds} == {"B1,B2"}
    validating = [name for fold in folds for name in fold["val_sections"].split(",")]
    assert len(folds) == 4
    assert sorted(validating) == [each["name"] for each in sections if each["patient"] != "B"]


def test_summary_is_the_mean_and_the_sample_deviation_of_what_is_known():
    rows = [dict.fromkeys(("val_loss", "val_pcc_median", *crossval.COLUMNS)) | {"val_loss": x} for x in (1.0, 2.0, 4.0)]
    found = crossval.summary(rows)
    assert found["val_loss"] == {"mean": pytest.approx(7 / 3), "spread": pytest.approx(np.std([1, 2, 4], ddof=1))}
    assert found["amae"] == {"mean": None, "spread": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=all"], "--mode is 'all'"),
        (["--choice=best"], "--choice is 'best'"),
        (["--folds=a"], "--folds is 'a'"),
        (["--folds=7"], "--folds names 7; the data has folds 0 to 1"),
        (["--config.test_sections=A1"], "folds are of patients"),
        (["--config.protocol=stnet", "--config.model.aux=False"], "are too few for folds under protocol stnet"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, dataset, tmp_path):
    with pytest.raises(InputError, match=message):
        crossval.main(
            ["--config=configs/tiny.py", f"--config.data_dir={dataset}", f"--workdir={tmp_path / 'cv'}", *arguments]
        )


def test_one_process_at_a_time_cross_validates_in_a_folder(dataset, tmp_path, monkeypatch):
    def meanwhile(*_):
        with pytest.raises(InputError, match=r"another process is cross-validating in .*cv; wait for it, or choose"):
            crossval.crossval(config_of(dataset), tmp_path / "cv")
        raise FloatingPointError("stopped")

    monkeypatch.setattr(crossval, "train_all", meanwhile)
    with pytest.raises(FloatingPointError, match="stopped"):
        crossval.crossval(config_of(dataset), tmp_path / "cv")
    assert not list((tmp_path / "cv").iterdir())  # the lock goes with its process


def test_a_work_directory_is_needed():
    with pytest.raises(InputError, match="no work directory"):
        crossval.main(["--config=configs/tiny.py"])


def test_a_fold_that_was_stopped_is_named(trained, tmp_path, capsys):
    finished, stopped = trained[0], make_stopped(trained[0], tmp_path / "fold_1")
    rows = [crossval.row(member(finished)), crossval.row(member(stopped, 1))]
    assert [(row["run"], row["trained"], row["training_finished"]) for row in rows] == [
        (finished.name, "2 of 2 epochs", True),
        ("fold_1", "2 of 30 epochs", False),
    ]
    crossval.print_table({"runs": rows, "summary": crossval.summary(rows)})
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "NOT FINISHED" in line]
    assert said.startswith("NOT FINISHED: fold_1 is trained for 2 of 30 epochs")
    (stopped / "logs" / "train.jsonl").write_text("")  # stopped within its first epoch
    assert crossval.row(member(stopped))["epoch"] is None


@pytest.fixture(scope="module")
def sequential(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequential")
    return folder, crossval.crossval(config_of(dataset), folder)


@pytest.mark.slow
def test_folds_validate_on_each_patient_once_and_hold_the_same_one_out(sequential):
    folder, result = sequential
    splits = [json.loads((folder / f"fold_{fold}" / "data.json").read_text())["split"] for fold in (0, 1)]
    assert splits[0]["test"] == splits[1]["test"]
    assert not set(splits[0]["val"]) & set(splits[1]["val"])
    assert set(splits[0]["val"]) == set(splits[1]["train"])
    assert [row["fold"] for row in result["runs"]] == [0, 1]
    mean = np.mean([row["amae"] for row in result["runs"]])
    assert json.loads((folder / "crossval.json").read_text())["summary"]["amae"]["mean"] == pytest.approx(mean)
    assert len((folder / "crossval.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_finished_fold_is_not_trained_again(sequential, dataset, monkeypatch, capsys):
    folder, result = sequential
    monkeypatch.setattr(train, "train", None)
    assert crossval.crossval(config_of(dataset), folder) == result
    assert "2 of 2 runs are finished" in capsys.readouterr().out


def losses(folder, kind="train", name="loss"):
    entries = [json.loads(line) for line in (folder / "logs" / "train.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if entry["kind"] == kind]


def assert_same(folder, other):
    for fold in (0, 1):
        a, b = folder / f"fold_{fold}", other / f"fold_{fold}"
        for name in ("loss", "loss_main", "loss_aux"):
            np.testing.assert_allclose(losses(a, name=name), losses(b, name=name), rtol=1e-5)
        for name in ("val_loss", "val_amae", "val_armse"):
            np.testing.assert_allclose(losses(a, "epoch", name), losses(b, "epoch", name), rtol=1e-4)


@pytest.mark.slow
def test_folds_trained_together_are_those_trained_one_after_another(sequential, dataset, tmp_path):
    """On eight virtual devices, which share every member's batches."""
    folder, result = sequential
    found = crossval.crossval(config_of(dataset), tmp_path, mode="together")
    assert_same(folder, tmp_path)
    for one, other in zip(result["runs"], found["runs"], strict=True):
        assert one["epoch"] == other["epoch"]
        assert one["amae"] == pytest.approx(other["amae"], rel=1e-4)


@pytest.mark.slow
def test_seeds_trained_together_on_devices_of_their_own_are_those_trained_alone(dataset, tmp_path):
    """Eight members on eight devices; the first and the last are compared with runs by themselves."""
    config = config_of(dataset, num_epochs=1)
    crossval.crossval(config, tmp_path / "all", folds=[0], seeds=list(range(8)), mode="together")
    for seed in (0, 7):
        crossval.crossval(config, tmp_path / f"{seed}", folds=[0], seeds=[seed])
        alone, among = losses(tmp_path / f"{seed}" / "fold_0"), losses(tmp_path / "all" / f"fold_0_seed_{seed}")
        np.testing.assert_allclose(among, alone, rtol=1e-5)
    assert losses(tmp_path / "0" / "fold_0") != losses(tmp_path / "7" / "fold_0")


@pytest.mark.slow
def test_members_stopped_within_an_epoch_go_on_together_or_alone(sequential, dataset, tmp_path, monkeypatch):
    folder, _ = sequential
    from stjax.training import together

    original, calls = together.Members.step, []

    def stops(self, clocks):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, clocks)

    with monkeypatch.context() as patch:
        patch.setattr(together.Members, "step", stops)
        with pytest.raises(faults.Stopped):
            crossval.crossval(config_of(dataset), tmp_path, mode="together")
    for fold in (0, 1):
        assert checkpoint.steps(tmp_path / f"fold_{fold}" / "checkpoints") == [5]
    crossval.crossval(config_of(dataset), tmp_path, folds=[0])
    crossval.crossval(config_of(dataset), tmp_path, mode="together")
    assert_same(folder, tmp_path)


@pytest.mark.slow
def test_folds_in_processes_and_the_published_choice(dataset, cache, tmp_path):
    result = command(
        "stjax.crossval", "--config=configs/tiny.py", f"--config.data_dir={dataset}", f"--workdir={tmp_path}",
        "--mode=processes", "--choice=published", "--config.num_epochs=1", cache=cache,
    )  # fmt: skip
    assert "[fold_0] " in result.stdout
    assert "[fold_1] " in result.stdout
    found = json.loads((tmp_path / "crossval.json").read_text())
    assert found["published_epochs"] == 3
    split = json.loads((tmp_path / "all_patients" / "data.json").read_text())["split"]
    assert split["val"] == []
    assert len(split["train"]) == 4
    assert losses(tmp_path / "all_patients", "epoch")[2:]
    assert "all patients" in result.stdout
