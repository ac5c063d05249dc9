"""What a suite's table must not be read without."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from data_prep.counted import counted
from stjax import protocols
from stjax.evaluation.statistics import MIN_PATIENTS
from stjax.reporting import read
from stjax.suites import Suite

if TYPE_CHECKING:
    from stjax.suites._table import Part, Row

_NAMED = 3  # rows, and runs of each, that the note on what lacks names
DEPTH_PCC, FLAT_PCC = 0.2, 0.05  # of raw counts, and of counts divided by depth: the first is depth, not biology


def footnotes(suite: Suite, part: "Part", results: dict[str, list[read.RunResults]]) -> list[str]:
    """What the table must not be read without."""
    runs = [run for of_row in results.values() for run in of_row]
    notes = lacking(part.rows)
    if runs:
        notes += of_runs(runs)
        encoders = {row.encoder for row in part.rows} - {""}
        encoders = encoders or {str((run.metrics.get("encoder") or {}).get("title", "")) for run in runs} - {""}
        if len(encoders) > 1:
            notes.append(not_ranked(encoders))
        notes.append(
            "results are means over a row's finished runs, ± their sample standard deviation; intervals, and "
            "differences of the median PCC, are of the held-out spots of all its runs together"
        )
    if any(row.quoted for row in part.rows):
        notes.append(f"published results are quoted, not ours: {suite.source}")
    return [*notes, *suite.notes.get("", ()), *suite.notes.get(part.name, ())]


def of_runs(runs: Sequence[read.RunResults]) -> list[str]:
    """What results of these runs must not be read without."""
    return _notes_on_data(runs) + on_rules(runs)


def lacking(rows: "Sequence[Row]") -> list[str]:
    """The note on runs that are not finished, if any."""
    found = [
        f"{row.name} lacks {', '.join(row.missing[:_NAMED])}{', ...' * (len(row.missing) > _NAMED)}"
        for row in rows
        if row.missing
    ]
    more = (
        f"; and {counted(len(found) - _NAMED, 'further rows')}: suite.json lists all runs"
        if len(found) > _NAMED
        else ""
    )
    return [f"not finished: {'; '.join(found[:_NAMED])}{more}"] * bool(found)


def not_ranked(encoders: Collection[str]) -> str:
    """The note on rows of several encoders."""
    return f"rows differ in their encoder too ({', '.join(sorted(encoders))}): they are not ranked as heads"


def _notes_on_data(runs: Sequence[read.RunResults]) -> list[str]:
    """Of who and what is scored."""
    notes = []
    patients = {section.patient for run in runs for section in run.sections}
    if known := sorted({each for run in runs for each in run.metrics.get("patients_also_in_training", ())}):
        notes.append(
            f"sections of {', '.join(known[:8])} are scored by models that learnt from other sections of the same "
            "patient: nothing is said of new patients"
        )
    elif len(patients) < MIN_PATIENTS:
        notes.append(counted(len(patients), "patients are scored: too few to speak of patients"))
    constant = sum(int(run.metrics["methods"]["model"].get("genes_constant_prediction") or 0) for run in runs)
    if constant:
        notes.append(
            f"{constant} genes of all runs are predicted as constants; they have no PCC, and are left out of means"
        )
    return notes


def on_rules(runs: Sequence[read.RunResults]) -> list[str]:
    """Of the rules that results were made under."""
    notes, used = [], sorted({run.metrics["protocol"] for run in runs})
    known = [protocols.get_protocol(name) for name in used if name in protocols.names()]
    notes += [
        f"{each.name}: genes are chosen with the spots that are scored, as published"
        for each in known
        if each.panel_scope == "all"
    ]
    notes += [
        f"{each.name}: the checkpoint is chosen on the sections that are scored, as published"
        for each in known
        if each.validation == "test"
    ]
    if len(used) > 1:
        notes.append(f"rows are of several protocols ({', '.join(used)}): compare those of one alone")
    if unselected := sum(not run.data.get("split", {}).get("val") for run in runs):
        notes.append(
            f"{unselected} of {counted(len(runs), 'runs')} without validation patients: the last checkpoint is scored"
        )
    if any(run.metrics.get("mean_over_symmetries") for run in runs):
        notes.append("predictions are means over the eight symmetries of the square")
    depth = [run.label for run in runs if _is_depth(run)]
    if depth:
        notes.append(
            f"{', '.join(depth[:3])}: the PCC of raw counts is high, that of counts divided by depth about 0: depth, "
            "not biology"
        )
    unfinished = [run.label for run in runs if run.metrics.get("training_finished") is False]
    return notes + [f"NOT FINISHED when scored: {', '.join(unfinished)}"] * bool(unfinished)


def _is_depth(run: read.RunResults) -> bool:
    found = {name: of["methods"]["model"].get("pcc_median") for name, of in (run.metrics.get("targets") or {}).items()}
    raw, library = found.get("raw"), found.get("library")
    return raw is not None and library is not None and raw > DEPTH_PCC and library < FLAT_PCC
