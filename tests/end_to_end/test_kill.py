"""Killed at random moments and started again, training ends with an uninterrupted run's parameters, bit for bit."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from data_prep.dataset import PatchDataset
from stjax import checkpoint, parallel, workdir
from stjax import config as configs
from stjax.inference import embedding
from stjax.state import init_state
from tests.conftest import ROOT, command

KILLS = int(os.environ.get("STJAX_TEST_KILLS", "8"))
VIEWS = {  # a model of each
    "patches": ["tiny"],
    "features": ["probe_mlp", "features=small"],
    "sections of images": ["histogene", "model.variant=pixels_tiny", "model.options.crop_px=0"],
    "sections with a bank": ["eggn", "model.variant=tiny", "features=small"],
}


def last_checkpoint(folder):
    """Step, plain state and hashes of every file of the newest checkpoint, all verified."""
    step = checkpoint.steps(folder / "checkpoints")[0]
    manifest = checkpoint.verify(folder / "checkpoints" / str(step))
    return step, manifest["meta"], array_bytes(folder, step)


def array_bytes(folder, step):
    config, fold = configs.load(folder / "config.json"), workdir.load_fold(folder)
    _, template = init_state(config, fold, mesh=parallel.make_mesh(), abstract=True)
    state = checkpoint.restore(folder / "checkpoints", step, template)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def assert_same(killed, whole):
    assert last_checkpoint(killed) == last_checkpoint(whole)
    assert sorted(path.name for path in (killed / "predictions").iterdir())
    names = {path.name for path in (killed / "checkpoints").iterdir()}
    assert names == {path.name for path in (whole / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def with_features(dataset, tmp_path_factory):
    """The data set, with features of its patches, by an encoder that other processes know."""
    folder = tmp_path_factory.mktemp("kill") / "data"
    shutil.copytree(dataset, folder)
    options = embedding.Options("efficientnet_lite0", seed=0, any_scale=True)
    embedding.embed(PatchDataset.open(folder), "small", options, mesh=parallel.make_mesh())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_killed_and_resumed_training_ends_with_the_same_bits(view, tmp_path, cache, with_features):
    config, *settings = VIEWS[view]
    settings += [f"data_dir={with_features}", "num_epochs=6"]
    arguments = [f"--config=configs/{config}.py", *(f"--config.{each}" for each in settings)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command("stjax.train", *arguments, f"--workdir={whole}", cache=cache)
    duration = 30.0  # of a run left alone, compiled programs in the cache; measured with every one there is

    rng = random.Random(0)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    kills = kills_of_this_run = finished = 0
    while kills < KILLS or kills_of_this_run:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "stjax.train", *arguments, f"--workdir={killed}"],
            cwd=ROOT, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            # Start-up takes a good part of so small a run: most kills fall into training, saving and evaluating.
            _, errors = process.communicate(timeout=None if kills >= KILLS else rng.uniform(0.3, 1.0) * duration)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills, kills_of_this_run = kills + 1, kills_of_this_run + 1
            continue
        assert process.returncode == 0, errors
        assert_same(killed, whole)
        shutil.rmtree(killed)
        if not kills_of_this_run:
            duration = time.monotonic() - started
        kills_of_this_run, finished = 0, finished + 1
    print(f"{kills} kills, {finished} runs finished with the uninterrupted one's bits")
    assert finished
