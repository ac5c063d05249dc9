"""HEST-Benchmark (Jaume et al., NeurIPS 2024): encoders on its nine tasks of the published mean, A1, A2 and A3 each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from data_prep import demo_hest_bench
from data_prep.errors import InputError
from stjax import encoders
from stjax.evaluation import hest_scores, hest_table
from stjax.evaluation.linear_probe import PROTOCOLS
from stjax.suites import Command, Data, Figure, Options, Run, Suite, _footnotes
from stjax.suites._encoders import lacking
from stjax.suites._state import DONE, Place
from stjax.suites._table import Part, Row

FOLDS = {
    "CCRCC": 6,
    "COAD": 2,
    "IDC": 4,
    "LUNG": 2,
    "LYMPH_IDC": 4,
    "PAAD": 3,
    "PRAD": 2,
    "READ": 2,
    "SKCM": 2,
}
PATCHES = {  # of each task, as handed out
    "CCRCC": 74_220,
    "COAD": 15_651,
    "IDC": 35_536,
    "LUNG": 5_206,
    "LYMPH_IDC": 19_964,
    "PAAD": 7_571,
    "PRAD": 62_710,
    "READ": 8_407,
    "SKCM": 3_034,
}
_TINY_PATCHES = 48  # of a task of synthetic patches, about
TINY_ENCODER = "kaiko_s16"
BUNDLE = Data(
    name="bundle",
    raw="",
    about="HEST-Benchmark as it is handed out (huggingface.co/datasets/MahmoodLab/hest-bench)",
    build=(),
    demo=("--spots=24",),
    tiny=(),
    sections={},
    spots=251_812,
    demo_module="data_prep.demo_hest_bench",
    as_it_lies=True,
)
PART = "HEST-Benchmark"
MEAN, WITHIN = "pcc_mean", "pcc_within_samples"


def suite(options: Options) -> Suite:
    """Every encoder on every task. Raises InputError for an encoder that is not known, and for seeds."""
    if options.seeds != (0,):
        raise InputError("hest_bench has no seeds: its regressions are solved exactly")
    published = tuple(name for name, each in encoders.ENCODERS.items() if each.hest is not None)
    names = options.encoders or ((TINY_ENCODER,) if options.tiny else published)
    folds = {task: len(of) for task, of in demo_hest_bench.TASKS.items()} if options.tiny else FOLDS
    runs = []
    for name in names:
        runs += [_run(options, name, task, count, lacking(options, name)) for task, count in folds.items()]
    columns = (
        Figure(MEAN, "mean PCC", 4),
        Figure(WITHIN, "within samples", 4),
        *(Figure(task, task) for task in folds),
    )
    quoted = {name: {MEAN: entry.hest} for name in names if (entry := encoders.find(name)).hest is not None}
    return Suite(
        "hest_bench",
        "HEST-Benchmark: encoders under a linear model, on samples held out",
        tuple(runs),
        {f"{PART}: {protocol}": columns for protocol in PROTOCOLS},
        "HEST-Benchmark's page (huggingface.co/datasets/MahmoodLab/hest-bench), the mean over nine tasks",
        {} if options.tiny else {f"{PART}: A1": quoted},
        {"": ("HCC is left out, as it is of the published mean; stjax hest-bench scores it too",)},
        parts=_parts,
        of_encoders=True,
    )


def _run(options: Options, name: str, task: str, folds: int, lacks: str) -> Run:
    of = f"{name}/{task}"
    root = options.raw(BUNDLE) if options.tiny or options.root else Path()
    arguments = (f"--root={root}", f"--out={options.out / 'runs' / of}", f"--encoder={name}", f"--tasks={task}")
    arguments += ("--random",) if options.tiny else ()
    arguments += (f"--weights={name}={options.weights[name]}",) if name in options.weights else ()
    command = Command("stjax.hest_bench", arguments, "table.csv")
    images = PATCHES.get(task, _TINY_PATCHES)
    return Run(of, PART, name, (BUNDLE,), (command,), folds, lacks=lacks, embeds=(name, images))


# ---------------------------------------------------------------------------------------------------------- table


def _parts(suite: Suite, places: Sequence[Place]) -> tuple[list[Part], bool]:
    """A table of each protocol."""
    finished = {place.run.name: place.state() == DONE for place in places}
    scores = [
        (place.run.name, found)
        for place in places
        if finished[place.run.name]
        for path in sorted(place.folder.glob("scores/*/*/*.json"))
        if (found := hest_scores.read(path)) is not None
    ]
    tasks = [figure.key for figure in next(iter(suite.figures.values())) if figure.key not in (MEAN, WITHIN)]
    synthetic = bool(set(tasks) & set(demo_hest_bench.TASKS))
    parts = []
    for title, columns in suite.figures.items():
        of = [each for _, each in scores if f"{PART}: {each.protocol}" == title]
        rows = []
        for name in dict.fromkeys(place.run.row for place in places):
            planned = [place.run.name for place in places if place.run.row == name]
            missing = [each for each in planned if not finished[each]]
            row = Row(title, name, len(planned), missing, {}, quoted=dict(suite.quoted.get(title, {}).get(name, {})))
            _fill(row, {each.task: each for each in of if each.encoder == name}, len(tasks))
            rows.append(row)
        known = sorted((row for row in rows if MEAN in row.figures), key=lambda row: -row.figures[MEAN][0])
        notes = _footnotes.lacking(rows) + hest_table.notes(of, tasks, synthetic=synthetic) * bool(of)
        notes += ["± is the deviation over tasks of a mean, over folds of a task"] * bool(of)
        if any(row.quoted for row in rows):
            notes.append(f"published results are quoted, not ours: {suite.source}")
        notes += suite.notes[""]
        best = known[0] if known else None
        parts.append(Part(title, columns, rows, best, "best", _verdict(known, tasks), notes))
    return parts, synthetic


def _fill(row: Row, scores: dict[str, hest_scores.Scores], tasks: int) -> None:
    """The metrics of an encoder; means once every task is scored."""
    row.figures |= {task: each.pooled for task, each in scores.items()}
    if len(scores) == tasks:
        pooled, within = ([each.pooled[0] for each in scores.values()], [each.within for each in scores.values()])
        row.figures |= {key: (float(np.mean(of)), float(np.std(of))) for key, of in ((MEAN, pooled), (WITHIN, within))}
        row.mean_pcc = row.figures[MEAN][0], np.nan, np.nan


def _verdict(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Who is ahead, best first, by how much, and in how many tasks."""
    if len(rows) < 2:
        return f"{rows[0].name} alone is finished." if rows else ""
    best, second = rows[:2]
    both = [task for task in tasks if task in best.figures and task in second.figures]
    ahead = sum(best.figures[task][0] > second.figures[task][0] for task in both)
    p = stats.binomtest(ahead, len(both)).pvalue
    return (
        f"{best.name} is ahead of {second.name} by {best.figures[MEAN][0] - second.figures[MEAN][0]:.4f} in mean PCC, "
        f"and in {ahead} of {len(both)} tasks (sign test, p = {p:.2g})."
    )
