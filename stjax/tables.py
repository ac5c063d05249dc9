"""CSV files that a spreadsheet opens as what they are: text in them never becomes a formula."""

from pathlib import Path
from typing import Any

import pandas as pd

from data_prep import files

_FORMULA = ("=", "+", "-", "@", "\t")


def write_csv(path: Path, table: pd.DataFrame, **options: Any) -> None:
    """Writes a table whole or not at all. Names that a spreadsheet would take for a formula get an apostrophe in front;
    numbers are as they are.

    Args:
        options: further keywords of `pandas.DataFrame.to_csv`.
    """
    text = table.select_dtypes(exclude=["number", "bool"]).columns
    table = table.assign().astype(dict.fromkeys(text, object))
    for name in text:
        table[name] = table[name].map(quoted)
    table.columns = [quoted(name) for name in table.columns]
    with files.whole(path) as made:
        table.to_csv(made, index=False, **options)


def quoted(value: Any) -> Any:
    """Text with an apostrophe in front where it begins as a formula does, or as `quoted` text; else the value. Carriage
    returns are left out: readers that take one for the end of a line would begin the next with what follows."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r", "")
    return f"'{value}" if value.lstrip("'").startswith(_FORMULA) else value


def unquoted(value: Any) -> Any:
    """What `quoted` was given."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and quoted(value[1:]) == value else value
