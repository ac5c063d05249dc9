"""Every suite on synthetic tissue by the command that users type: its tables hold what its runs scored."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from stjax import suites
from stjax.evaluation import hest_scores
from stjax.suites import stp
from tests.conftest import command

ONE = {  # a run of each suite, mostly its cheapest: a slow test has all runs
    "brstnet": "enet_b0_aux/fold_0",
    "comparators": "her2st/ridge/A",
    "cross_scale": "ridge",
    "her2st": "b0_aux/A",
    "hest_bench": "kaiko_s16/TINY_VISIUM",
    "pixnet_v1": "table_1_stnet/stnet/fold_0",
    "pixnet_v4": "table_2_her2st/stnet/fold_0",
    "stnet": "BC90001",
    "stp": "published/ridge/BRCA/fold_0",
}
IN_CI = "comparators"  # of the others one run is a slow test too
FILES = ("suite.json", "table.csv", "table.md", "table.tex", "report.html")


def scored(folder: Path, part: str, key: str) -> float | None:
    """A figure of a finished run, read where its scoring left it; None where it has none."""
    *of, name = key.split(":")
    if of_tasks := [hest_scores.read(path) for path in sorted(folder.glob("scores/*/*/*.json"))]:
        known = [each for each in of_tasks if each is not None]
        return next((each.pooled[0] for each in known if each.task == name and part.endswith(each.protocol)), None)
    (path,) = folder.glob("evaluation/*/*/metrics.json" if len(of) == 2 else "evaluation/*/metrics.json")
    found: dict[str, Any] = json.loads(path.read_text())
    if of:
        found = found["sizes_um" if len(of) == 2 else "targets"].get(of[0], {})
    return found.get("methods", {}).get(of[1] if len(of) == 2 else "model", {}).get(name)


def scored_by_slide(folder: Path, part: str, key: str) -> float | None:
    """STP-Bench's figure of a finished run, of what it predicted: a mean over genes in each slide, then over slides."""
    if part.endswith(stp.OTHERS) or key not in (*folder.parts, stp.MEAN):  # with --tiny the mean is of one data set
        return None
    slides = []
    for path in sorted((folder / "predictions").glob("*.h5ad")):
        section = anndata.read_h5ad(path)
        genes = zip(np.asarray(section.X).T, np.asarray(section.layers["truth"]).T, strict=True)
        slides.append(np.mean([np.corrcoef(*of)[0, 1] for of in genes if min(np.ptp(each) for each in of) > 0]))
    return float(np.mean(slides))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == IN_CI else pytest.mark.slow) for name in suites.names()]
)
def test_a_run_of_a_tiny_suite_and_its_table(name: str, tmp_path: Path, cache: Path) -> None:
    runs = tabled(name, tmp_path / "out", cache, f"--only={ONE[name]}")
    assert [run["name"] for run in runs if run["status"] == "done"] == [ONE[name]]


@pytest.mark.slow
@pytest.mark.parametrize("name", suites.names())
def test_a_tiny_suite_runs_and_its_table_has_the_figures_of_its_runs(name: str, tmp_path: Path, cache: Path) -> None:
    runs = tabled(name, tmp_path / "out", cache, "--processes=2")
    assert {run["status"] for run in runs} == {"done"}


def tabled(name: str, out: Path, cache: Path, *options: str) -> list[dict[str, Any]]:
    """The runs of a tiny suite once it was run, and its table found to hold what those that are done scored."""
    printed = command("stjax.suite", "run", name, "--tiny", f"--out={out}", *options, cache=cache).stdout
    assert "SYNTHETIC TISSUE" in printed
    assert all((out / file).stat().st_size for file in FILES)
    runs: list[dict[str, Any]] = json.loads((out / "suite.json").read_text())["runs"]
    done = [run for run in runs if run["status"] == "done"]
    with (out / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    checked = set()
    for row in table:
        own = [run for run in done if row["part"] == run["part"] or row["part"].startswith(f"{run['part']}: ")]
        folders = [Path(run["workdir"]) for run in own if run["model"] == row["name"]]
        assert int(row["finished"]) == len(folders)
        for key, text in row.items():
            if f"{key}_sd" not in row or not text:
                continue
            of_run = scored_by_slide if name == "stp" else scored
            values = [value for each in folders if (value := of_run(each, row["part"], key)) is not None]
            if values:
                assert float(text) == pytest.approx(statistics.fmean(values), rel=1e-4 if name == "stp" else 1e-9)
                checked.add(row["part"])
    assert checked >= {run["part"] for run in done} or name == "hest_bench"
    assert checked
    return runs
