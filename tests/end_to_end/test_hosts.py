"""Any number of devices and of processes trains alike: the same batches in the same order, the same losses."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from stjax import checkpoint
from tests.conftest import ROOT


def start(folder, cache, *arguments, processes=1, devices=1):
    """Starts a training by launch/local.py."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "launch/local.py", f"--processes={processes}", f"--cpu-devices={devices}", "--",
         *arguments, f"--workdir={folder}"],
        cwd=ROOT, env=environment | {"STJAX_CACHE": str(cache)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def train(folder, cache, *arguments, **topology):
    with start(folder, cache, *arguments, **topology) as process:
        output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    return output


def figures(folder, kind, name):
    entries = [json.loads(line) for line in (folder / "logs" / "train.jsonl").read_text().splitlines()]
    return np.array([entry[name] for entry in entries if entry["kind"] == kind])


def assert_same_curve(folder, other):
    assert len(figures(folder, "train", "loss")) == len(figures(other, "train", "loss")) > 1
    np.testing.assert_allclose(figures(folder, "train", "loss"), figures(other, "train", "loss"), rtol=1e-5)
    np.testing.assert_allclose(figures(folder, "epoch", "val_loss"), figures(other, "epoch", "val_loss"), rtol=1e-4)


def test_two_processes_of_two_devices_give_the_losses_of_one(trained, cache, tmp_path):
    """The run of the fixture had one device; scored by both, every spot is counted once."""
    folder, _ = trained
    output = train(tmp_path / "run", cache, "--config=configs/tiny.py", processes=2, devices=2)
    assert_same_curve(tmp_path / "run", folder)
    results = [json.loads((run / "evaluation/stjax/metrics.json").read_text()) for run in (folder, tmp_path / "run")]
    assert results[0]["spots"] == results[1]["spots"]
    assert results[1]["methods"]["model"]["amae"] == pytest.approx(results[0]["methods"]["model"]["amae"], rel=1e-3)
    # One process writes and speaks.
    assert output.count("held-out sections") == 1
    steps = figures(tmp_path / "run", "train", "step")
    assert list(steps) == list(range(1, len(steps) + 1))


CASES = {
    "tiny": ["--config=configs/tiny.py"],
    # By SGD, as published. AdamW's first steps are the signs of gradients, noise where there is no gradient: after six
    # its curves are 1e-4 apart in float32, and in float64 none.
    "enet_b0": [
        *("--config=configs/enet_b0_aux.py", "--config.demo.patch_size_px=96", "--config.demo.patients=3"),
        *("--config.optimizer=sgd", "--config.learning_rate=1e-3"),
    ],
    "pixnet": ["--config=configs/pixnet_tiny.py", "--config.batch_size=8"],
    "pixnet_sum": [
        *("--config=configs/pixnet_tiny.py", "--config.batch_size=8"),
        *("--config.model.options.aggregation=sum", "--config.loss=mse_pcc"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES))
def test_every_topology_gives_the_same_losses(case, cache, tmp_path):
    arguments = [*CASES[case], "--config.num_epochs=1", "--config.log_every_steps=1"]
    train(tmp_path / "1x1", cache, *arguments)
    for processes, devices in ((1, 2), (1, 4), (1, 8), (2, 2), (4, 2)):
        folder = tmp_path / f"{processes}x{devices}"
        train(folder, cache, *arguments, processes=processes, devices=devices)
        curve, one = (figures(each, "train", "loss") for each in (folder, tmp_path / "1x1"))
        print(case, processes, devices, float(np.max(np.abs(curve / one - 1))))
        assert len(curve) == len(one) > 3
        np.testing.assert_allclose(curve, one, rtol=1e-5)
        assert curve[0] == pytest.approx(one[0], rel=1e-6)


@pytest.mark.slow
def test_another_number_of_processes_goes_on_within_an_epoch(trained, cache, tmp_path):
    folder, _ = trained
    run = tmp_path / "run"
    arguments = ["--config=configs/tiny.py", "--config.save_every_steps=5"]
    with start(run, cache, *arguments) as process:
        while not checkpoint.steps(run / "checkpoints") and process.poll() is None:
            pass
        process.send_signal(signal.SIGTERM)
        assert "saved at step" in process.communicate()[0]
    assert process.returncode == 0
    assert checkpoint.steps(run / "checkpoints")[0] % 12  # within an epoch
    output = train(run, cache, *arguments, processes=2, devices=1)
    assert "resumes at step" in output
    assert_same_curve(run, folder)
