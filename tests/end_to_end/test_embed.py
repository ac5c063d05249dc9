"""`stjax embed` by its command line: killed at random moments, it ends with an uninterrupted run's bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from stjax.features.store import Features
from tests.conftest import ROOT, command
from tests.end_to_end.test_kill_results import digests, killed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of two sections."""
    folder = tmp_path_factory.mktemp("embedded")
    demo.make_demo(folder / "raw", patients=2, sections_per_patient=1, spots=60)
    build.build(folder / "raw", folder / "patches", min_counts=0)
    return folder / "patches"


@pytest.mark.slow
def test_killed_embeddings_end_with_the_same_bytes(prepared: Path, cache: Path) -> None:
    call = [f"--data-dir={prepared}", "--encoder=kaiko_s16", "--random", "--batch-size=4"]
    command("stjax.embed", *call, cache=cache)
    features = prepared / "features"
    expected = digests(features)

    def done() -> None:
        assert digests(features) == expected

    killed(["stjax.embed", *call], cache, done=done, again=lambda: shutil.rmtree(features))


@pytest.mark.slow
def test_two_processes_of_two_devices_embed_as_one(prepared: Path, cache: Path) -> None:
    call = [f"--data-dir={prepared}", "--encoder=kaiko_s16", "--random", "--batch-size=4"]
    command("stjax.embed", *call, "--name=one", cache=cache)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    launched = [sys.executable, "launch/local.py", "--processes=2", "--cpu-devices=2", "--module=stjax.embed", "--"]
    launched += [*call, "--name=two"]
    ended = subprocess.run(
        launched, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("features/two") == 1
    dataset = PatchDataset.open(prepared)
    one, two = (Features.open(dataset, name) for name in ("one", "two"))
    for name, vectors in one.sections.items():
        np.testing.assert_allclose(two.sections[name], vectors, atol=1e-5 * np.abs(vectors).max())


def test_mistakes_are_told_in_one_line(prepared: Path, cache: Path) -> None:
    said = {
        ("--encoder=uni", "--random"): "UNI sees section A1 at 1.4 um per px, and was trained at 0.5",
        ("--encoder=uni2", "--random"): "there is no encoder 'uni2'; did you mean",
        ("--encoder=kaiko_s16",): "needs its weights: give --weights=FILE",
        ("--encoder=kaiko_s16", "--weights=README.md"): "neither a .safetensors nor a PyTorch file",
        ("--encoder=kaiko_s16", "--random", "--context=5"): "--context and --fields need --source",
        ("--encoder=kaiko_s16", "--random", "--context=4", "--source=."): "--context is 4, expected 3, 5, 7 or 9",
        ("--encoder=kaiko_s16", "--random", "--maps"): "--maps is for tiles",
        ("--random",): "give --encoder=NAME",
    }
    for options, text in said.items():
        result = command("stjax.embed", f"--data-dir={prepared}", *options, cache=cache, check=False)
        assert result.returncode == 2, result.stderr
        assert text in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (prepared / "features" / "kaiko_s16").exists()
