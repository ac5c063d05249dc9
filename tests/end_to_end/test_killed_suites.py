"""Suites that are killed at random moments, and called again, end with the table of one left alone, byte for byte."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

KILLS = 3
CALLS = 20  # at most: where a run outlives its suite, the next call leaves it alone
SUITES = {  # with --tiny: what of each
    "her2st": "b0_aux",  # trained, then scored under every protocol
    "pixnet_v1": "table_1_stnet/*,table_2/histogene",  # scored on bins of another data set
}


def started(name: str, out: Path, cache: Path) -> subprocess.Popen[str]:
    """The suite as a session of its own, to which its runs belong."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-m", "stjax.suite", "run", name, "--tiny", f"--only={SUITES[name]}", f"--out={out}"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=ROOT, env=environment, start_new_session=True, **streams)


def kill(suite: subprocess.Popen[str], *, alone: bool) -> None:
    """Ends a suite by SIGKILL, and its runs; or the suite alone, which its runs outlive."""
    runs = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if not alone and os.getsid(int(place.name)) == suite.pid:
                runs.append(int(place.name))
    for pid in (suite.pid, *runs):  # the suite first: it must not see its runs die
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    suite.communicate()


def finished(out: Path) -> bool:
    path = out / "suite.json"
    return path.is_file() and {run["status"] for run in json.loads(path.read_text())["runs"]} == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_a_suite_killed_three_times_ends_with_the_same_table(name: str, tmp_path: Path, cache: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    suite = started(name, whole, cache)
    errors = suite.communicate()[1]
    assert suite.returncode == 0, errors
    duration = time.monotonic() - begun
    assert finished(whole)

    moments, kills, compared = random.Random(0), 0, 0
    for _ in range(CALLS):
        suite = started(name, killed, cache)
        try:
            errors = suite.communicate(timeout=moments.uniform(0.1, 0.5) * duration if kills < KILLS else None)[1]
        except subprocess.TimeoutExpired:
            kill(suite, alone=kills == 1)
            kills += 1
            continue
        assert suite.returncode == 0, errors
        if finished(killed):
            assert (killed / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
            compared += 1
            if kills == KILLS:
                break
            shutil.rmtree(killed)  # finished between two kills: the others hit another
    assert kills == KILLS
    assert compared
