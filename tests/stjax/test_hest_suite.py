"""The suite of HEST-Benchmark: its table of scores on disk, and, slowly, all of it on a synthetic bundle."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from data_prep import files
from data_prep.hest_bench import Fold
from stjax import encoders, suites
from stjax.evaluation import hest_scores
from stjax.suites import Options, _state, _table
from stjax.suites.hest_bench import FOLDS
from tests.conftest import ROOT

BETTER, WORSE = "uni", "resnet50_imagenet"


def leave(out, encoder, task, pcc):
    """What a finished run leaves, its genes' PCC being `pcc` and within samples half of it."""
    genes = np.array([pcc - 0.1, pcc + 0.1, np.nan])
    fold = hest_scores.FoldScores(
        Fold(("a",), ("b",)), {"train": 9, "test": 9}, 0.1, 256, genes, genes, genes, {"b": genes / 2}
    )
    folder = out / "runs" / encoder / task
    for protocol in ("A1", "A3"):
        scores = hest_scores.Scores(task, encoder, protocol, ("x", "y", "z"), (fold,), 8, {"compute": "float32"})
        hest_scores.write(folder / "scores" / task / encoder / f"{protocol}.json", scores, "")
    files.write_text(folder / "table.csv", "")


def tables(out):
    options = Options(out, out, encoders=(BETTER, WORSE), weights=dict.fromkeys((BETTER, WORSE), "x"))
    found = suites.load("hest_bench", options)
    return _table.read_tables(found, _state.places(found, options))


def test_the_table_has_tasks_side_by_side_and_means_once_all_are_there(tmp_path):
    for place, task in enumerate(FOLDS):
        leave(tmp_path, BETTER, task, 0.3 + place / 100)
        if task != "SKCM":
            leave(tmp_path, WORSE, task, 0.2 + place / 100)
    first = tables(tmp_path).parts[0]
    better, worse = first.rows
    assert better.figures["pcc_mean"][0] == pytest.approx(0.34)
    assert better.figures["pcc_within_samples"][0] == pytest.approx(0.17)
    assert worse.figures["PRAD"][0] == pytest.approx(0.26)
    assert "pcc_mean" not in worse.figures
    assert worse.missing == [f"{WORSE}/SKCM"]
    assert first.verdict == f"{BETTER} alone is finished."
    assert f"not finished: {WORSE} lacks {WORSE}/SKCM" in first.notes

    leave(tmp_path, WORSE, "SKCM", 0.5)
    found = tables(tmp_path)
    text = "\n".join(found.console())
    assert f"{BETTER} is ahead of {WORSE} by 0.0756 in mean PCC, and in 8 of 9 tasks (sign test, p = 0.039)." in text
    assert "A1: 18 genes of folds do not vary and have no PCC" in text
    assert "SYNTHETIC" not in text
    assert not found.parts[1].rows[0].figures  # A2 was not asked for
    found.write(tmp_path)
    rows = pd.read_csv(tmp_path / "table.csv")
    assert rows["published_pcc_mean"].dropna().tolist() == [encoders.find(name).hest for name in (BETTER, WORSE)]
    assert (tmp_path / "report.html").read_text().count("<circle") == 6  # of A1 ours and published, of A3 ours


@pytest.mark.slow
def test_the_tiny_suite_is_made_once(tmp_path):
    line = [sys.executable, "-m", "stjax.suite", "run", "hest_bench", "--tiny", f"--out={tmp_path}"]
    first = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "features of 3 samples made" in first
    assert "SYNTHETIC TISSUE" in first
    again = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert again.startswith("2 of 2 runs are finished; 0 are begun")
    assert first.endswith(again.partition("\n")[2])
    runs = json.loads((tmp_path / "suite.json").read_text())["runs"]
    assert [run["status"] for run in runs] == ["done", "done"]
