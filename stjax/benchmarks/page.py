"""A Markdown page of `stjax.bench`'s rows, and how their ratios compare with earlier ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import InputError
from stjax.benchmarks import Row

FALLEN = 2.0  # times that a ratio may fall before it counts: other machines, other loads


def markdown(rows: Sequence[Row], *, about: str, command: str) -> str:
    """The page: a table a benchmark.

    Args:
        about: machine and versions.
        command: by which it is repeated.
    """
    lines = ["# Benchmarks", "", f"{about}. To repeat this:", "", "```bash", command, "```", ""]
    lines.append("The ratio is against the reference of the same case, timed in turn with it: above 1 is faster.")
    for what in dict.fromkeys(row["what"] for row in rows):
        lines += ["", f"## {what}", "", "| case | method | ms | ratio | |", "|---|---|---|---|---|"]
        for row in (row for row in rows if row["what"] == what):
            ratio = "" if row["speedup"] is None else f"{row['speedup']:.2f}"
            cells = (row["case"], row["method"], f"{row['seconds'] * 1e3:.3g}", ratio, notes(row))
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def notes(row: Row) -> str:
    """What a row says besides its time."""
    found = []
    if "images_per_second" in row:
        found.append(f"{row['images_per_second']:.1f} images/s")
    if "utilisation" in row:
        found.append(f"{row['utilisation']:.0%} of the matrix product's rate")
    if "note" in row:
        found.append(row["note"])
    if "compile_seconds" in row:
        found.append(f"compiled in {row['compile_seconds']:.1f} s")
    return ", ".join(found)


def read(path: Path) -> list[Row]:
    """The rows of an earlier `--json`. Raises InputError where the file is something else."""
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
        if all({"what", "case", "method", "speedup"} <= row.keys() for row in rows):
            return rows
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    raise InputError(f"--compare {path}: not the rows of a benchmark; give a file that stjax bench --json wrote")


def fallen(rows: Sequence[Row], before: Sequence[Row]) -> list[str]:
    """What is less than half as fast, against its own reference, as it was before; a line each.

    Raises:
        InputError: nothing can be compared.
    """

    def ratios(rows: Sequence[Row]) -> dict[tuple[str, str, str], float]:
        return {(row["what"], row["case"], row["method"]): row["speedup"] for row in rows if row["speedup"]}

    now, then = ratios(rows), ratios(before)
    if not (both := [key for key in now if key in then]):
        raise InputError("--compare: the file has none of the cases just measured; give one of the same options")
    return [
        f"{', '.join(key)}: {now[key]:.2f} times its reference, {then[key]:.2f} before"
        for key in both
        if now[key] * FALLEN < then[key]
    ]
