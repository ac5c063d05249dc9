"""Tables of HEST-Benchmark: an encoder a row and a task a row, with what they must not be read without."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep import cli, files
from data_prep.counted import counted
from stjax import encoders
from stjax.evaluation import linear_probe, trees
from stjax.evaluation.hest_scores import Scores
from stjax.features.store import RANDOM
from stjax.ops import ridge
from stjax.tables import write_csv

PROTOCOLS = (*linear_probe.PROTOCOLS, *trees.PROTOCOLS)
LEFT_OUT = "HCC"  # of the published mean
PUBLISHED = ("CCRCC", "COAD", "IDC", "LUNG", "LYMPH_IDC", "PAAD", "PRAD", "READ", "SKCM")
_RULES = {
    "A1": "A1: standardised, 256 principal components, ridge without intercept, penalty 100 / (256 x genes): HEST's "
    "README and the published results; solved exactly, which HEST's own randomised PCA and LSQR are not",
    "A2": "A2: ridge without intercept on features as they are, penalty 100 / (width x genes): HEST's paper, Table "
    "A13; wide encoders do worse for their width alone",
    "A3": "A3: A1 with an intercept and the penalty that predicts five blocks of the training patches best",
    "A1-random-forest": "A1-random-forest: on the components of A1, a forest of 70 trees a gene by scikit-learn, where "
    "HEST takes cuML's",
    "A2-random-forest": "A2-random-forest: on features as they are, a forest of 70 trees a gene by scikit-learn, where "
    "HEST takes cuML's",
    "A1-xgboost": "A1-xgboost: on the components of A1, 100 rounds of boosted trees with HEST's parameters",
    "A2-xgboost": "A2-xgboost: on features as they are, 100 rounds of boosted trees with HEST's parameters",
}
_QUOTED = "published A1 is quoted, not ours: the mean over nine tasks on HEST-Benchmark's page"
_DOUBTS = {
    "COAD": "COAD: TENX147 to 149 count as one patient, and may be three",
    "IDC": "IDC: TENX95 and TENX99 may be of one donor",
    "PRAD": "PRAD: two patients, one scanned at another resolution: folds differ in both",
    "READ": "READ: replicate pairs; each fold holds out one pair",
}


@dataclasses.dataclass(frozen=True)
class Tables:
    """Titled tables, [rows][cells] with their heads, and footnotes."""

    tables: list[tuple[str, list[list[str]]]]
    notes: list[str]

    def console(self) -> list[str]:
        """Lines for the terminal."""
        lines = []
        for title, rows in self.tables:
            lines += [title, *cli.table(rows, align="<" + ">" * (len(rows[0]) - 1)), ""]
        return lines + [f"* {note}" for note in self.notes]

    def markdown(self) -> str:
        """The same for a file."""
        lines = []
        for title, (head, *body) in self.tables:
            lines += [f"**{title}**", "", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)), ""]
        return "\n".join(lines + [f"* {note}" for note in self.notes]) + "\n"


def write(out: Path, scores: Sequence[Scores], *, synthetic: bool) -> tuple[list[str], list[Path]]:
    """Writes table.md and table.csv; returns the lines for the terminal, and the paths."""
    found = tables(scores, synthetic=synthetic)
    files.write_text(out / "table.md", found.markdown())
    rows = [
        {
            "protocol": each.protocol,
            "task": each.task,
            "encoder": each.encoder,
            "pcc_pooled": each.pooled[0],
            "pcc_pooled_sd": each.pooled[1],
            "pcc_within_samples": each.within,
            "genes_without_pcc": each.undefined,
            "genes": len(each.genes),
            "folds": len(each.folds),
            "samples": len(each.samples),
            "width": each.width,
            "alpha_min": min(fold.alpha for fold in each.folds),
            "alpha_max": max(fold.alpha for fold in each.folds),
            "weights_sha256": each.made.get("weights_sha256", ""),
            "pooling": each.made.get("pooling", ""),
            "compute": each.made.get("compute", ""),
        }
        for each in scores
    ]
    write_csv(out / "table.csv", pd.DataFrame(rows))
    return found.console(), [out / "table.md", out / "table.csv"]


def tables(scores: Sequence[Scores], *, synthetic: bool = False) -> Tables:
    """The tables of some scores: of encoders over all tasks, and of each protocol by task."""
    found = {(each.protocol, each.task, each.encoder): each for each in scores}
    protocols = [protocol for protocol in PROTOCOLS if any(each.protocol == protocol for each in scores)]
    tasks, names = (list(dict.fromkeys(each)) for each in ([s.task for s in scores], [s.encoder for s in scores]))
    counted = [task for task in tasks if task != LEFT_OUT] or tasks
    quoted = {} if synthetic or set(counted) != set(PUBLISHED) else {name: _published(scores, name) for name in names}
    head = ["encoder", "width", *(f"{p} {kind}" for p in protocols for kind in ("pooled", "in samples"))]
    rows = [head + ["published A1"] * any(quoted.values())]
    for name in names:
        row = [name, str(next(each.width for each in scores if each.encoder == name))]
        for protocol in protocols:
            of_tasks = [found.get((protocol, task, name)) for task in counted]
            row += [_shown(_mean(of_tasks, kind)) for kind in (_pooled, _within)]
        rows.append(row + [quoted.get(name, "")] * any(quoted.values()))
    whole = f"Mean PCC over {len(counted)} tasks" + f", {LEFT_OUT} left out as published" * (LEFT_OUT in tasks)
    made = [(whole, rows)]
    for protocol in protocols:
        rows = [["task", "folds", "samples", *names]]
        for task in tasks:
            of_task = [found.get((protocol, task, name)) for name in names]
            one = next(each for each in scores if each.task == task)
            cells = ["" if each is None else f"{_shown(_pooled(each))} ({_shown(_within(each))})" for each in of_task]
            rows.append([task, str(len(one.folds)), str(len(one.samples)), *cells])
        made.append((f"{protocol}: mean PCC pooled over a fold's test patches (within samples)", rows))
    return Tables(made, notes(scores, tasks, synthetic=synthetic) + [_QUOTED] * any(quoted.values()))


def _mean(of_tasks: Sequence[Scores | None], kind: Callable[[Scores], float]) -> float:
    """NaN where a task is missing."""
    return float(np.mean([math.nan if each is None else kind(each) for each in of_tasks]))


def _pooled(scores: Scores) -> float:
    return scores.pooled[0]


def _within(scores: Scores) -> float:
    return scores.within


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _published(scores: Sequence[Scores], name: str) -> str:
    """What was published of an encoder, "" where it is not known to be that one."""
    random = any(each.made.get("weights_sha256", "").startswith(RANDOM) for each in scores if each.encoder == name)
    entry = encoders.ENCODERS.get(name)
    return "" if random or entry is None or entry.hest is None else f"{entry.hest:.4f}"


def notes(scores: Sequence[Scores], tasks: Sequence[str], *, synthetic: bool) -> list[str]:
    """What some scores must not be read without."""
    protocols = [protocol for protocol in PROTOCOLS if any(each.protocol == protocol for each in scores)]
    found = ["SYNTHETIC patches and counts: these results say nothing about any encoder"] * synthetic
    found += [_RULES[protocol] for protocol in protocols]
    if remarks := sorted({_at_end(each) for each in scores} - {""}):
        found += remarks
    found.append(
        "pooled PCC, HEST's own, also rewards telling samples apart; within samples it is the mean over a fold's test "
        "samples"
    )
    found.append("the genes are the most variable of all samples, test samples among them, as published")
    found.append("the bundle names no patients: whether a fold holds out a patient is not known from it")
    for protocol in protocols:
        lacking = sum(each.undefined for each in scores if each.protocol == protocol)
        if lacking:
            found.append(
                f"{protocol}: " + counted(lacking, "genes of folds do not vary and have no PCC; left out of means")
            )
    found += [f"features of {name} are of random weights" for name in _random(scores)]
    compute = sorted({each.made.get("compute", "") for each in scores} - {""})
    if len(compute) > 1:
        found.append(f"encoders computed in {' and '.join(compute)}: they are not ranked")
    return found + [_DOUBTS[task] for task in tasks if task in _DOUBTS and not synthetic]


def _random(scores: Sequence[Scores]) -> list[str]:
    return sorted({each.encoder for each in scores if each.made.get("weights_sha256", "").startswith(RANDOM)})


def _at_end(scores: Scores) -> str:
    """What is to be said of penalties that are the least or largest of those tried."""
    ends = (min(ridge.PENALTIES), max(ridge.PENALTIES))
    count = sum(fold.alpha in ends for fold in scores.folds) if scores.protocol == "A3" else 0
    which = f"A3: of {scores.task}, {scores.encoder}, the penalty of {count} of {len(scores.folds)} folds"
    return f"{which} is the least or largest of those tried" if count else ""
