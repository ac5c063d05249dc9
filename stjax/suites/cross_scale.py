"""Spots of other sizes: PixNet's Table 2 on synthetic Visium HD, whose cells' expression is known.

Every method is trained on bins of 16 um and scored on those of 2, 8 and 16 um of a patient held out, compared with its
prediction for the nearest bin of 16 um.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from data_prep import json_files
from stjax import protocols
from stjax.suites import Command, Data, Embedding, Figure, Options, Run, Suite, _effects, comparators, train
from stjax.suites._encoders import crossed
from stjax.suites._footnotes import lacking, not_ranked
from stjax.suites._state import DONE, Place
from stjax.suites._table import Part, Row

PART = "Trained on bins of 16 um"
TRAINED_UM, SIZES_UM, HELD_OUT = 16, (2, 8, 16), "F1"
_ABOUT = "synthetic Visium HD slides of six patients (data_prep.demo)"
_DEMO = ("--layout=visium_hd", "--patients=6", "--sections-per-patient=1", "--spots=1")
_SLIDES = {patient: (f"{patient}1_016um",) for patient in "ABCDEF"}
_NAMES = tuple(f"{HELD_OUT}_{size:03d}um" for size in SIZES_UM)
_PATCHES = ("--patch-size-px=64", "--min-counts=0")
_ONE_SIZE = (*_PATCHES, f"--bin-um={TRAINED_UM}")
TRAINED = Data("bins_of_16_um", None, _ABOUT, _ONE_SIZE, _DEMO, _ONE_SIZE, _SLIDES, 880)
EVERY = Data(
    "bins_of_all_sizes", None, _ABOUT, (*_PATCHES, f"--sections={','.join(_NAMES)}"), _DEMO,
    (*_PATCHES, f"--sections={','.join(_NAMES)}"), {"F": _NAMES}, 10_074,
)  # fmt: skip
TILES = Data(
    "tiles", None, _ABOUT, ("--tile-size-px=128", "--min-counts=0"), _DEMO, ("--tile-size-px=128", "--min-counts=0"),
    {patient: tuple(f"{patient}1_{size:03d}um" for size in SIZES_UM) for patient in "ABCDEF"}, 60_000,
)  # fmt: skip
FEATURES = {"lite0": comparators.SPOT, "lite0_around": Embedding("lite0_around", comparators.ENCODER, context=3)}
FIGURES = (
    *(Figure(f"{size}:model:pcc_mean", f"mean PCC, {size} um") for size in SIZES_UM),
    *(Figure(f"{size}:nearest_spot:pcc_mean", f"nearest, {size} um") for size in SIZES_UM[:-1]),
    *(Figure(f"{size}:model:mse", f"MSE, {size} um", higher_is_better=False) for size in SIZES_UM),
)
NOTES = (
    "scored against the expected expression of the tissue's cells, without the noise of counts",
    "nearest: what the same model says of the nearest bin of 16 um",
    "one slide, budgets cut as those of the suite comparators: to see how methods carry over to other sizes, not which "
    "is better",
)


def suite(options: Options) -> Suite:
    """Every method once, and a seed; with --encoder, heads on features are a row for each encoder."""
    runs = []
    for method in crossed(comparators.models(options), FEATURES, options):
        name, config = method.name, method.config
        if name.endswith("as_released"):
            continue
        steady = {} if config == "ridge_features" else protocols.STEADY  # which pixnet lacks: b0 goes astray
        given = {**steady, **method.settings, "protocol": "pixnet", **(comparators.tiny(name) if options.tiny else {})}
        features = (method.features,) if method.features else ()
        patches = [dataclasses.replace(data, features=features) for data in (TRAINED, EVERY)]
        data = (TILES,) if name == "pixnet" else tuple(patches)
        if name == "histogene":
            given["model__options__crop_px"] = 0
        for seed in options.seeds:
            of = name + f"/seed_{seed}" * (len(options.seeds) > 1)
            held_out, scored = f"{HELD_OUT}_{TRAINED_UM:03d}um", [f"--demo-truth={options.raw(data[-1])}"]
            if name == "pixnet":
                given["spot_sizes_um"], held_out = f"{TRAINED_UM}", ",".join(_NAMES)
                scored += [f"--spot-size-um={','.join(map(str, SIZES_UM))}"]
            else:
                scored += [f"--data-dir={options.path(EVERY)}"]
            commands = (
                train(options, of, data[0], config, **given, test_sections=held_out, seed=seed),
                Command(
                    "stjax.evaluate", (f"--workdir={options.out / 'runs' / of}", *scored), "evaluation/*/*/metrics.json"
                ),
            )
            runs.append(Run(of, PART, method.row, data, commands, lacks=method.lacks, cell=method.cell(HELD_OUT, seed)))
    title = "Spots of other sizes than trained on"
    return Suite(
        "cross_scale", title, tuple(runs), {PART: FIGURES}, notes={PART: NOTES}, parts=_parts, of_encoders=True
    )


def _parts(_: Suite, places: Sequence[Place]) -> tuple[list[Part], bool]:
    """The table."""
    rows = []
    for name in dict.fromkeys(place.run.row for place in places):
        of = [place for place in places if place.run.row == name]
        scored = [scores(place) for place in of if place.state() == DONE]
        missing = [place.run.name for place in of if place.state() != DONE]
        row = Row(PART, name, len(of), missing, means(scored))
        cell = of[0].run.cell
        rows.append(dataclasses.replace(row, head=cell.head, encoder=cell.encoder) if cell else row)
    first = FIGURES[0]
    found = {place.run.name: scores(place).get(first.key) for place in places if place.state() == DONE}
    effects = _effects.study(PART, first, [place.run for place in places], found)
    known = [row for row in rows if first.key in row.figures]
    best = max(known, key=lambda row: row.figures[first.key][0], default=None)
    verdict, notes = "", [*lacking(rows), *NOTES]
    if effects:
        best, notes = None, [*notes, not_ranked({row.encoder for row in rows} - {""})]
    elif best:
        verdict = f"{best.name} has the highest {first.title}, {best.figures[first.key][0]:.3f}."
    return [Part(PART, FIGURES, rows, best, "best", verdict, notes, effects)], True


def scores(place: Place) -> dict[str, float]:
    """{metric: value} of a run that is scored on all sizes."""
    path = next(iter(sorted(place.folder.glob("evaluation/*/*/metrics.json"))))
    found: dict[str, Any] = json_files.read(path, remedy="score the run again with stjax.evaluate")
    values = {}
    for figure in FIGURES:
        size, method, key = figure.key.split(":")
        value = found["sizes_um"].get(size, {}).get("methods", {}).get(method, {}).get(key)
        if value is not None:
            values[figure.key] = value
    return values


def means(scored: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean over seeds of each metric that all have."""
    keys = [figure.key for figure in FIGURES if scored and all(figure.key in each for each in scored)]
    return {key: (sum(each[key] for each in scored) / len(scored), math.nan) for key in keys}
