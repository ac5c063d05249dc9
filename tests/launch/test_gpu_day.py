"""The script for a first day with a GPU: all its parts on the CPU, at tiny sizes."""

import json
import sys

import pytest

from stjax import bench
from tests.launch.test_launch import LAUNCH, call


@pytest.mark.slow
def test_the_dry_mode_runs_every_part_and_writes_a_page(tmp_path):
    script = (LAUNCH / "gpu_day.sh", "--dry", f"--python={sys.executable}", f"--out={tmp_path}")
    done = call(*script, timeout=1800, XLA_FLAGS="")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu_day.json").read_text())
    assert {row["what"] for row in rows} == set(bench.TINY)
    errors = [row["error"] for row in rows if row["what"] == "numerics"]
    assert errors[0] == 0 < errors[1]  # the CPU against itself; and bfloat16, which is rounded
    methods = {row["what"]: row["method"] for row in rows}
    assert (methods["folds"], methods["input"], methods["spot_pool"]) == ("together", "pipeline", "spot_pool")
    assert all(row["speedup"] > 0 for row in rows if row["what"] in ("folds", "input", "spot_pool"))
    page = (tmp_path / "gpu_day.md").read_text()
    assert "stjax bench --what=gpu_day" in page
    assert all(f"\n## {what}\n" in page for what in bench.TINY)
    assert page.count("\n| ") == len(rows) + len(bench.TINY)


def test_options_of_ones_own_take_the_place_of_the_usual():
    line = call(LAUNCH / "gpu_day.sh", "--dry-run", "--cuda=13", "--", "--batch-size=32").stdout.splitlines()[-1]
    assert line.count("--batch-size") == 1
    assert line.endswith("--batch-size=32")
    assert "vit_l16" in line
