import json

import pandas as pd

from tests.conftest import command
from tests.report.html_reading import Page


def test_run_as_training_leaves_it_has_a_report(trained, cache, tmp_path):
    run, _ = trained
    out = tmp_path / "new" / "report.html"
    printed = command("stjax.report", f"--workdir={run}", f"--out={out}", cache=cache).stdout
    assert printed.splitlines()[-1] == str(out)
    assert "note:" not in printed  # everything the page is made of is there
    page = Page(out.read_text(encoding="utf-8"))
    (shown,) = page.data["runs"]
    folder = run / "evaluation" / "stjax"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert shown["methods"] == metrics["methods"]
    assert shown["genes"]["gene"] == pd.read_csv(folder / "per_gene.csv", keep_default_na=False)["gene"].tolist()
    assert [section["name"] for section in shown["sections"]] == metrics["sections"]
    assert len(shown["log"]["epoch"]["step"]) == 2
    assert "SYNTHETIC DATA" in page.visible
    assert metrics["protocol_sha256"] in page.visible
    for method in metrics["methods"]:
        assert page.data["methods"][method]["column"] in shown["genes"]


def test_folder_without_a_run_is_bad_input(tmp_path, cache):
    result = command("stjax.report", f"--workdir={tmp_path}", "--out=x.html", cache=cache, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "is not a stjax run directory" in result.stderr
    assert "Traceback" not in result.stderr
