"""A thousand slides predicted by four array jobs that share an output folder, are killed again and again, and started
again: every slide is predicted once, to the bytes of a run left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import demo
from tests.conftest import ROOT, command

SLIDES = int(os.environ.get("STJAX_TEST_SLIDES", "1000"))
JOBS, KILLS = 4, 5
SIDE_PX = 160
MODEL = ROOT / "tests/stjax/data/exported"


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small windows of a demo slide's tissue, all different."""
    root = demo.make_demo(tmp_path_factory.mktemp("demo") / "raw", patients=1, sections_per_patient=1, spots=60)
    pixels = np.asarray(Image.open(next(root.rglob("*.jpg"))).convert("RGB"))
    folder, rng = tmp_path_factory.mktemp("slides"), np.random.default_rng(0)
    made = 0
    while made < SLIDES:
        y, x = (int(rng.integers(0, length - SIDE_PX)) for length in pixels.shape[:2])
        window = pixels[y : y + SIDE_PX, x : x + SIDE_PX]
        if window.mean() < 190:
            Image.fromarray(window).save(folder / f"slide_{made:05d}.png")
            made += 1
    return folder


def arguments(slides: Path, out: Path, job: int = 0, jobs: int = 1) -> list[str]:
    return [
        f"--model={MODEL}", f"--source={slides}", "--source-um-per-px=0.5", "--spot-um=20", "--pitch-um=20",
        f"--out={out}", "--formats=csv", f"--shard={job + 1}/{jobs}",
    ]  # fmt: skip


def predictions(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.csv")}


def finished(out: Path) -> dict[str, int]:
    """When the prediction of each slide that has its record was written."""
    return {
        path.name: path.with_name(f"{path.name.removesuffix('.prediction.json')}.csv").stat().st_mtime_ns
        for path in out.glob("*.prediction.json")
    }


@pytest.mark.slow
def test_of_a_thousand_slides_none_is_lost_or_done_twice(slides: Path, tmp_path: Path, cache: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    command("stjax.predict", *arguments(slides, whole), cache=cache)
    lasted, pick = time.monotonic() - began, random.Random(0)
    shares = []
    for _ in range(KILLS):
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "stjax.predict", *arguments(slides, killed, job, JOBS)],
                cwd=ROOT,
                env=os.environ | {"STJAX_CACHE": str(cache)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for job in range(JOBS)
        ]
        time.sleep(pick.uniform(0.1, 0.4) * lasted)
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()
        shares.append(len(finished(killed)) / SLIDES)
    assert shares == sorted(shares)
    assert shares[0] < 1
    before = finished(killed)
    printed = [
        command("stjax.predict", *arguments(slides, killed, job, JOBS), cache=cache).stdout for job in range(JOBS)
    ]
    there = sum("there already" in line for text in printed for line in text.splitlines())
    print(f"predicted when killed: {shares}; found there and kept by the last jobs: {there}")
    found = predictions(killed)
    assert len(found) == SLIDES
    assert found == predictions(whole)
    assert there == len(before)
    assert before.items() <= finished(killed).items()  # not written again
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
