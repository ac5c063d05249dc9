"""Tables of spots of other sizes than a model was trained on: what it scores at each, beside what it says of the
nearest spot of the trained size."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_prep import json_files
from stjax.suites import Figure, Suite, _effects
from stjax.suites._footnotes import footnotes, not_ranked
from stjax.suites._state import DONE, Place
from stjax.suites._table import Part, Row, ahead

LEAVES = "evaluation/*/*/metrics.json"  # of a training's scoring on another data set
_TITLES = {"mse": "MSE", "amae": "MAE"}


def figures(sizes: Iterable[int], nearest: Iterable[int], errors: Iterable[str]) -> tuple[Figure, ...]:
    """Columns: the mean PCC at each size, that of the nearest spot at some, and errors ("mse", "amae") at each."""
    sizes = tuple(sizes)
    return (
        *(Figure(f"{size}:model:pcc_mean", f"mean PCC, {size} um") for size in sizes),
        *(Figure(f"{size}:nearest_spot:pcc_mean", f"nearest, {size} um") for size in nearest),
        *(
            Figure(f"{size}:model:{key}", f"{_TITLES[key]}, {size} um", higher_is_better=False)
            for key in errors
            for size in sizes
        ),
    )


def table(suite: Suite, title: str, places: Sequence[Place]) -> tuple[Part, bool]:
    """A part's table, and whether any of its tissue is synthetic; its rows are ranked by its first column, unless they
    differ in their encoder."""
    columns, first, rows = suite.figures[title], suite.figures[title][0], []
    metrics = {place.run.name: _metrics(place) for place in places if place.state() == DONE}
    found = {name: scores(each, columns) for name, each in metrics.items()}
    for label in dict.fromkeys(place.run.row for place in places):
        runs = [place.run for place in places if place.run.row == label]
        finished, cell = [found[run.name] for run in runs if run.name in found], runs[0].cell
        missing = [run.name for run in runs if run.name not in found]
        quoted = dict(suite.quoted.get(title, {}).get(label, {}))
        row = Row(title, label, len(runs), missing, means(finished), quoted=quoted)
        rows.append(dataclasses.replace(row, head=cell.head, encoder=cell.encoder) if cell else row)
    values = {name: each.get(first.key) for name, each in found.items()}
    effects = _effects.study(title, first, [place.run for place in places], values)
    best, verdict = ahead([] if effects else rows, first)
    part = Part(title, columns, rows, best, "best", verdict, [], effects)
    part.notes = footnotes(suite, part, {})
    part.notes += [not_ranked({row.encoder for row in rows} - {""})] if effects else []
    return part, any(bool(each.get("synthetic")) for each in metrics.values())


def _metrics(place: Place) -> dict[str, Any]:
    path = next(iter(sorted(place.folder.glob(LEAVES))))
    return json_files.read(path, remedy="score the run again with stjax.evaluate")


def scores(metrics: Mapping[str, Any], columns: Sequence[Figure]) -> dict[str, float]:
    """{figure: value} of what metrics.json says of each size."""
    values = {}
    for figure in columns:
        size, method, key = figure.key.split(":")
        value = metrics["sizes_um"].get(size, {}).get("methods", {}).get(method, {}).get(key)
        if value is not None:
            values[figure.key] = value
    return values


def means(scored: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean over runs of each figure that all have."""
    keys = [key for key in (scored[0] if scored else ()) if all(key in each for each in scored)]
    return {key: (sum(each[key] for each in scored) / len(scored), math.nan) for key in keys}
