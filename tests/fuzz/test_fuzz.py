"""Damaged inputs, always the same: each is refused in one line or accepted. And what the fuzzer itself finds.

300 of them by default, of which slow tests have 2,000.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_prep.errors import InputError
from tests.conftest import ROOT
from tests.fuzz import runner, targets, worker
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.worker import Job, Limits

EACH = -(-300 // len(TARGETS))  # cases of a target
MORE = -(-2000 // len(TARGETS))  # of slow tests


def found(file, cases):
    """What a run over all targets found; in a process of its own, as JAX is at work in this one."""
    command = [sys.executable, "-m", "tests.fuzz", "--target=all", f"--cases={cases}", f"--json={file}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert file.is_file(), ended.stdout + ended.stderr
    return json.loads(file.read_text())


@pytest.mark.parametrize("cases", [EACH, pytest.param(MORE, marks=pytest.mark.slow)], ids=["some", "many"])
def test_damaged_input_is_refused_in_one_line_or_read(cases, tmp_path):
    by_name = found(tmp_path / "result.json", cases)
    assert set(by_name) == set(TARGETS)
    assert {name: of["findings"] for name, of in by_name.items() if of["findings"]} == {}
    assert all(sum(of["outcomes"].values()) == cases for of in by_name.values())


class Faulty(Target):
    """Its byte decides what goes wrong."""

    def make(self, folder: Path) -> None:
        (folder / "file").write_bytes(b"0")

    def damage(self, folder: Path, rng: random.Random) -> str:
        kind = rng.choice("rsdxhkmol")
        (folder / "file").write_text(kind)
        return kind

    def use(self, folder: Path) -> targets.Facts:
        kind = (folder / "file").read_text()
        if kind == "r":
            raise InputError("no")
        if kind == "l":
            raise InputError("no" * 300)  # a command line shows 500 characters of it
        if kind == "x":
            raise KeyError("no")
        while kind == "h":
            pass
        if kind == "k":
            os.abort()
        if kind == "m":
            bytearray(b"\1") * (3 << 28)
        if kind == "o":
            (folder.parent / "outside").write_text("no")
        return {"kind": "0" if kind == "s" else kind}


def test_every_kind_of_fault_is_found_and_the_cases_go_on(monkeypatch):
    monkeypatch.setattr(targets, "load", lambda _: Faulty())
    limits = Limits(seconds=2.0, memory_bytes=1 << 29)
    tally = runner.run([Job("faulty", 0, 9)], 469, limits)["faulty"]
    drawn = [random.Random(f"469/faulty/{case}").choice("rsdxhkmol") for case in range(9)]
    names = {"r": "refused", "s": "same", "d": "different", "x": "exception", "h": "hang", "k": "death"}
    names |= {"m": "memory", "o": "outside", "l": "refused"}
    assert tally.outcomes == Counter(names[kind] for kind in drawn)
    by_outcome = {finding.outcome: finding.cases for finding in tally.findings.values()}
    assert by_outcome == {names[kind]: [case] for case, kind in enumerate(drawn) if names[kind] in runner.FINDINGS}


@pytest.mark.parametrize("name", TARGETS)
def test_a_case_is_rebuilt_from_its_number(name, tmp_path):
    target = targets.load(name)
    made = []
    for again in ("first", "second"):
        folder = tmp_path / again
        folder.mkdir()
        target.make(folder)
        what = target.damage(folder, random.Random("7"))
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        made.append((what, [(file.relative_to(folder), file.read_bytes()) for file in files]))
    assert made[0] == made[1]


def test_the_place_of_an_error_is_the_projects_last_line(tmp_path):
    with pytest.raises(InputError) as caught:
        targets.load("weights_pth_zip").use(tmp_path)
    assert worker.place(caught.value).startswith("stjax/models/weight_files.py:")
