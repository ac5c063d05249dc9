"""What `evaluate` and `predict` leave: a scored run as `report` reads it, and records by which `predict` goes on."""

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from data_prep import json_files
from stjax import report
from stjax.inference.records import Record
from stjax.reporting import sections
from tests.fuzz.targets import Facts, Target, facts
from tests.report.made_run import make_run

_MADE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")  # when


class ReportInputs(Target):
    """A scored run, made into a page."""

    only = ("metrics.json", "per_gene.csv", "*.h5ad", "*.h5ad", "protocols.json", "manifest.json", "train.jsonl")

    def make(self, folder: Path) -> None:
        run = make_run(folder / "run", spots=9)
        content = json_files.unsealed(json_files.read(run / "data.json", remedy=""), "", remedy="")
        json_files.write(
            run / "data.json", json_files.sealed(content | {"data_dir": "run_data"})
        )  # as seen from inside

    def use(self, folder: Path) -> Facts:
        with contextlib.chdir(folder):
            report.report([Path("run")], Path("report.html"))
            return facts({"page": _MADE.sub("", Path("report.html").read_text())})


class PredictionRecords(Target):
    """Finished predictions: gone on with, shown, and replaced."""

    of: ClassVar[dict[str, Any]] = {"model_sha256": "m" * 64, "genes": ["GENE1", "GENE2"], "um_per_px": 0.5}
    only = ("*.json", "*.json", "*.h5ad")

    def make(self, folder: Path) -> None:
        made, out = make_run(folder / "run", sections=("A1",), patients=("A",), spots=4), folder / "out"
        (made / "predictions").rename(out)
        for other in (made, folder / "run_data"):
            shutil.rmtree(other)
        (out / "A1.csv").write_text("spot,GENE1\nA1_0,1.5\n")
        (out / "notes.txt").write_text("mine")
        record = Record(out, "A1", self.of, overwrite=False)
        for form in ("h5ad", "csv"):
            record.add(form, [f"A1.{form}"])

    def use(self, folder: Path) -> Facts:
        out = folder / "out"
        genes = pd.DataFrame({"gene": ["GENE1", "GENE2"], "ensembl_id": [f"ENSG{place:011d}" for place in range(2)]})
        lacking = Record(out, "A1", self.of, overwrite=True).lacks(["h5ad", "csv", "png"])
        try:
            section, made = sections.read(out / "A1.h5ad", "A1", genes, remedy="predict again")
        finally:
            Record(out, "A1", self.of | {"um_per_px": 1.0}, overwrite=True)
            if (out / "notes.txt").read_text() != "mine":
                raise PermissionError("a file of the user's is gone")
        return facts({"lacking": lacking, "left": sorted(path.name for path in out.iterdir()), **made, "of": section})
