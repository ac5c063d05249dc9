"""Methods have one table: what it says is what files, tables and docs say."""

import re
from pathlib import Path

import pandas as pd

from stjax.evaluation import methods

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_identifiers_are_names_of_columns():
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) for name in methods.METHODS)
    columns = [methods.column(figure, name) for name in methods.METHODS for figure in ("pcc", "mae", "rmse")]
    assert len(set(columns)) == len(columns)
    assert columns[:4] == ["pcc", "mae", "rmse", "pcc_ridge_colour"]
    assert not set(columns) & {"pcc_low", "pcc_high", "pcc_smoothed", "pcc_of_ceiling"}  # figures of the model


def test_the_table_of_the_docs_has_every_method_as_the_code_calls_it():
    (text,) = re.findall(r"^## Baselines\n\n(.*?)\n\n", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    found = pd.DataFrame([row[:2] for row in rows], columns=["id", "label"]).set_index("id")["label"].to_dict()
    baselines = [name for name in methods.METHODS if name != methods.MODEL]
    assert found == {f"`{name}`": methods.label(name, star=" *") for name in baselines}
