"""SIGTERM at any moment saves and ends a run; started again, it ends with an uninterrupted run's state, bit for bit."""

import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import checkpoint, evaluate, parallel, train, workdir
from stjax.config import built_in
from stjax.training import closed_form, faults, loop, steps
from tests.conftest import ROOT, command
from tests.end_to_end.test_kill import last_checkpoint


def config_of(dataset, **values):
    config = built_in("tiny")
    config.update({"data_dir": str(dataset), "batch_size": 16, "num_epochs": 2, "test_patients": "", **values})
    return config


def losses(folder, kind="train"):
    entries = [json.loads(line) for line in (folder / "logs" / "train.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if entry["kind"] == kind]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """An uninterrupted run in this process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.train(config_of(dataset), folder)
    return folder


def stop_at(monkeypatch, place, name, call):
    """Sends SIGTERM to this process in the given call of a function, the first being 1."""
    original, calls = getattr(place, name), []

    def with_signal(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, with_signal)


MOMENTS = [
    pytest.param("step", parallel, "put_batch", 7, "saved at step 7", id="step"),
    pytest.param("start", loop, "prepare", 1, "the same command goes on", id="start", marks=pytest.mark.slow),
    pytest.param("compile", parallel, "put_batch", 1, "saved at step 1", id="compile", marks=pytest.mark.slow),
    pytest.param("validation", loop, "validate", 1, "saved at step 12", id="validation", marks=pytest.mark.slow),
    pytest.param("save", checkpoint, "save", 1, "saved at step 12", id="save", marks=pytest.mark.slow),
    pytest.param("last", checkpoint, "save", 2, "training is finished", id="last-save", marks=pytest.mark.slow),
    pytest.param("scoring", evaluate, "evaluate", 1, "stopped by SIGTERM", id="scoring", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("moment", "place", "name", "call", "word"), MOMENTS)
def test_a_run_stopped_at_any_moment_goes_on_to_the_same_bits(
    moment, place, name, call, word, whole, dataset, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, place, name, call)
        with pytest.raises(faults.Stopped, match=word):
            train.train(config_of(dataset), folder)
    assert (checkpoint.newest(folder / "checkpoints") is None) == (moment == "start")
    train.train(config_of(dataset), folder)
    assert last_checkpoint(folder) == last_checkpoint(whole)
    assert losses(folder) == losses(whole)
    assert losses(folder, "epoch") == losses(whole, "epoch")  # the mean over an epoch that two starts shared


def test_a_closed_form_told_to_stop_is_saved_and_not_yet_scored(dataset, tmp_path, monkeypatch):
    config = config_of(dataset, fit="closed_form")
    config.model.aux = False
    stop_at(monkeypatch, closed_form, "solve", 1)
    with pytest.raises(faults.Stopped, match="training is finished; the same command goes on"):
        train.train(config, tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1]
    assert not (tmp_path / "run" / "evaluation").exists()


@pytest.mark.slow
def test_checkpoints_within_an_epoch_change_nothing_and_are_gone_back_to(whole, dataset, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    config = config_of(dataset, save_every_steps=5)

    def fails(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", fails)
        with pytest.raises(KeyboardInterrupt):
            train.train(config, folder)
    assert checkpoint.steps(folder / "checkpoints") == [10, 5]
    train.train(config, folder)
    assert last_checkpoint(folder) == last_checkpoint(whole)


@pytest.mark.slow
def test_the_command_ends_with_a_word_and_code_0(dataset, tmp_path, cache):
    code = (
        "import os, signal, sys\nfrom stjax import parallel, train\nfrom data_prep import cli\n"
        "original, calls = parallel.put_batch, []\n"
        "def put(*a):\n    calls.append(1)\n    len(calls) == 3 and os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return original(*a)\n"
        "parallel.put_batch = put\ncli.run(train.main)\n"
    )
    (tmp_path / "stopping.py").write_text(code)
    environment = f"{tmp_path}{os.pathsep}{ROOT}"
    os.environ["PYTHONPATH"], before = environment, os.environ.get("PYTHONPATH", "")
    try:
        arguments = ["--config=configs/tiny.py", f"--config.data_dir={dataset}", f"--workdir={tmp_path / 'run'}"]
        result = command("stopping", *arguments, cache=cache)
    finally:
        os.environ["PYTHONPATH"] = before
    assert result.stdout.rstrip().endswith("the same command resumes")
    assert result.stderr == ""


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(dataset, tmp_path):
    config = config_of(
        dataset, optimizer="sgd", learning_rate=1e30, schedule="constant", log_every_steps=1, save_every_steps=1
    )
    with (
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match=r"last good checkpoint is .*/checkpoints/1"),
    ):
        train.train(config, tmp_path / "run")
    assert workdir.checkpoint.newest(tmp_path / "run" / "checkpoints") is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"micro_batch": 5}, "micro_batch is 5, no part of"),
        ({"profile_steps": "late"}, "profile_steps is 'late'"),
        ({"step_timeout_s": -1}, "step_timeout_s is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message, dataset, tmp_path):
    with pytest.raises(InputError, match=message):
        train.train(config_of(dataset, **values), tmp_path / "run")


def test_a_trace_and_the_split_of_time_are_written(dataset, tmp_path):
    folder = tmp_path / "run"
    train.train(config_of(dataset, num_epochs=1, profile_steps="3:5"), folder)
    assert list((folder / "logs" / "tensorboard").glob("plugins/profile/*/*.xplane.pb"))
    entry = json.loads((folder / "logs" / "train.jsonl").read_text().splitlines()[-1])
    assert all(entry[f"seconds_{part}"] >= 0 for part in ("input", "host", "device"))


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_resumed(whole, dataset, tmp_path, capsys, caplog):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest, older = checkpoint.steps(folder / "checkpoints")[:2]
    path = max((folder / "checkpoints" / str(newest)).rglob("*"), key=lambda each: each.stat().st_size)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(bytes(damaged))
    train.train(config_of(dataset), folder)
    assert f"{newest} is damaged" in caplog.text
    assert f"resumes at step {older}" in capsys.readouterr().out
    assert last_checkpoint(folder) == last_checkpoint(whole)


def test_accumulated_gradients_are_those_of_the_whole_batch_without_batch_norm():
    """Of a linear model on eight devices: ragged masks, so micro-batches of different weight."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 2)).astype(np.float32)}
    batch = {
        "image": rng.normal(size=(16, 3)).astype(np.float32),
        "mask": rng.integers(0, 2, (16, 4)).astype(np.float32),
    }

    def loss_of(params, statistics, batch, parts, key):
        del parts, key
        square = jax.numpy.square(batch["image"] @ params["w"]).sum(axis=-1)
        loss = (square * batch["mask"].sum(axis=-1)).sum() / jax.numpy.maximum(batch["mask"].sum(), 1)
        return loss, ({"loss": loss}, statistics)

    gradients_of = jax.grad(loss_of, has_aux=True)
    key, statistics = jax.random.key(0), {"count": np.zeros(())}
    whole, (figures, _) = gradients_of(params, statistics, batch, None, key)
    mesh = parallel.make_mesh()
    split = parallel.put_whole(batch, mesh)
    parts = jax.numpy.zeros((3, 16, 1, 1, 1), bool)
    many, summed, _ = jax.jit(lambda b: steps.accumulated(gradients_of, params, statistics, b, parts, key, 2))(split)
    np.testing.assert_allclose(many["w"], whole["w"], rtol=1e-5)
    np.testing.assert_allclose(summed["loss"], figures["loss"], rtol=1e-6)
