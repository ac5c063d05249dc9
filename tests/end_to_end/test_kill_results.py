"""Killed at random moments and called again, `evaluate` and `predict --dense` end with an uninterrupted run's bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data_prep import build, demo, files
from tests.conftest import ROOT, command

KILLS = int(os.environ.get("STJAX_TEST_KILLS", "10"))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, hidden ones too."""
    return {str(p.relative_to(folder)): files.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def killed(arguments: Sequence[str], cache: Path, *, done: Callable[[], None], again: Callable[[], None]) -> None:
    """Kills a command at random moments until there were `KILLS`, now once, now several times in a row; whenever it
    comes to its end, and so after the last of them, `done` compares, and `again` removes the results."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    rng, kills, duration, ended, unended = random.Random(0), 0, 0.0, 0, True
    while kills < KILLS or unended:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:  # start-up takes a good part of so small a job: most kills fall into what comes after
            ends = not duration or kills == KILLS or (unended and rng.random() < 0.4)
            limit = None if ends else rng.uniform(0.4, 1.0) * duration
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills, unended = kills + 1, True
            continue
        assert process.returncode == 0, errors
        done()
        again()
        ended, unended = ended + 1, False
        duration = duration or time.monotonic() - started
    print(f"{kills} kills, {ended} ends with the same bytes")


@pytest.mark.slow
def test_killed_evaluations_end_with_the_same_bytes(trained: tuple[Path, str], cache: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    expected = {}

    def again() -> None:
        for name in ("evaluation", "predictions"):
            shutil.rmtree(run / name)
        (run / "intervals.json").unlink(missing_ok=True)

    def done() -> None:
        assert digests(run) == expected

    again()
    command("stjax.evaluate", f"--workdir={run}", cache=cache)
    expected |= digests(run)
    again()
    killed(["stjax.evaluate", f"--workdir={run}"], cache, done=done, again=again)


@pytest.mark.slow
def test_killed_maps_end_with_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    demo.make_demo(tmp_path / "raw", layout="visium_hd", patients=2, sections_per_patient=1, spots=3)
    build.build(tmp_path / "raw", tmp_path / "tiles", tile_size_px=128, context_px=32, min_counts=0, bin_um=(16,))
    run, out = tmp_path / "run", tmp_path / "out"
    arguments = ["--config=configs/pixnet_tiny.py", "--config.batch_size=4", "--config.num_epochs=1"]
    arguments += ["--config.model.variant=resnet18", f"--config.data_dir={tmp_path / 'tiles'}", f"--workdir={run}"]
    command("stjax.train", *arguments, cache=cache)
    call = ["stjax.predict", f"--workdir={run}", f"--source={tmp_path / 'raw'}", f"--out={out}", "--dense"]
    call += ["--tile-px=1024", "--formats=h5ad,csv", "--sections=A1_016um"]
    command(*call, cache=cache)
    expected = digests(out)
    shutil.rmtree(out)

    def done() -> None:
        assert digests(out) == expected

    killed(call, cache, done=done, again=lambda: shutil.rmtree(out))
