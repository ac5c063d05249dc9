"""Tables of a suite: what finished runs scored, next to what was published, with what is missing and caveats."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import cli, files, json_files
from stjax.evaluation.statistics import LEVEL
from stjax.reporting import compare, read, suite_page
from stjax.reporting.together import mean_pcc, of_patients, together
from stjax.suites import Figure, Suite, _effects
from stjax.suites._footnotes import footnotes
from stjax.suites._state import DONE, Place
from stjax.tables import write_csv


@dataclasses.dataclass
class Row:
    """One of a table.

    Attributes:
        planned, missing: runs, and the names of those that are not finished.
        figures: {key: (mean over finished runs, their sample standard deviation)}.
        mean_pcc: of all held-out spots together, with the ends of its interval.
        above_colour: mean over runs of how far the mean PCC is above the ridge on colour.
        pair: with the row that it is compared with, where this is another, called `compared_with`.
        quoted: what was published.
        head, encoder: where rows differ in both, those of a row on features.
    """

    part: str
    name: str
    planned: int
    missing: list[str]
    figures: dict[str, tuple[float, float]]
    mean_pcc: tuple[float, float, float] | None = None
    above_colour: float | None = None
    pair: compare.Pair | None = None
    quoted: dict[str, float] = dataclasses.field(default_factory=dict)
    head: str = ""
    encoder: str = ""
    compared_with: str = ""

    @property
    def finished(self) -> int:
        """How many runs are."""
        return self.planned - len(self.missing)


@dataclasses.dataclass
class Part:
    """One table.

    Attributes:
        best: the row that is ahead in its first column; None where nothing is finished, or rows are not ranked.
        versus: what rows are compared with: "best", or the suite's reference.
        effects: of encoders and heads, where rows differ in both.
    """

    name: str
    columns: tuple[Figure, ...]
    rows: list[Row]
    best: Row | None
    versus: str
    verdict: str
    notes: list[str]
    effects: _effects.Study | None = None

    def blocks(self) -> list[_effects.Block]:
        """The table as text, and those below it."""
        of = [] if self.effects is None else self.effects.blocks()
        notes = self.notes if self.effects is None else [*self.notes, *self.effects.notes]
        return [_effects.Block(self.name, *cells(self), self.verdict, notes), *of]


@dataclasses.dataclass
class Tables:
    """All tables of a suite."""

    suite: Suite
    parts: list[Part]
    runs: list[dict[str, Any]]
    synthetic: bool

    def console(self) -> list[str]:
        """Lines for the terminal."""
        lines = [self.suite.title] + ["SYNTHETIC TISSUE: these results say nothing about any model"] * self.synthetic
        for each in self._blocks():
            lines += ["", each.title, *cli.table([each.head, *each.rows], align="<" + ">" * (len(each.head) - 1))]
            lines += [each.verdict] * bool(each.verdict) + [f"* {note}" for note in each.notes]
        return lines

    def _blocks(self) -> list[_effects.Block]:
        return [block for part in self.parts for block in part.blocks()]

    def write(self, out: Path) -> list[Path]:
        """suite.json, table.csv, effects.csv where there are any, table.md, table.tex and report.html; returns their
        paths."""
        rows = [_plain(part, row) for part in self.parts for row in part.rows]
        effects = [row for part in self.parts if part.effects for row in part.effects.plain()]
        found = {"suite": self.suite.name, "runs": self.runs, "table": rows} | ({"effects": effects} if effects else {})
        json_files.write(out / "suite.json", found)
        write_csv(out / "table.csv", pd.DataFrame(rows))
        if effects:
            write_csv(out / "effects.csv", pd.DataFrame(effects))
        files.write_text(out / "table.md", "\n".join(self._markdown()) + "\n")
        files.write_text(out / "table.tex", "\n".join(self._latex()) + "\n")
        files.write_text(out / "report.html", suite_page.build(self))
        names = ["suite.json", "table.csv", *["effects.csv"] * bool(effects), "table.md", "table.tex", "report.html"]
        return [out / name for name in names]

    def _markdown(self) -> list[str]:
        lines = []
        for each in self._blocks():
            rows = [each.head, ["---"] * len(each.head), *each.rows]
            lines += [f"**{each.title}**", "", *(f"| {' | '.join(row)} |" for row in rows)]
            lines += ["", *([each.verdict, ""] if each.verdict else []), *(f"* {note}" for note in each.notes), ""]
        return lines

    def _latex(self) -> list[str]:
        lines = []
        for each in self._blocks():
            lines += ["\\begin{table}", f"\\begin{{tabular}}{{l{'r' * (len(each.head) - 1)}}}", "\\hline"]
            lines += [" & ".join(map(_escaped, row)) + " \\\\" for row in (each.head, *each.rows)]
            text = " ".join([each.title + ".", *filter(None, [each.verdict]), *each.notes])
            lines += ["\\hline", "\\end{tabular}", f"\\caption{{{_escaped(text)}}}", "\\end{table}", ""]
        return lines


def _escaped(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {"<": "\\textless{}", ">": "\\textgreater{}"} | {each: f"\\{each}" for each in "&%$#_{}"}
    return "".join(special.get(letter, letter) for letter in text)


def cells(part: Part) -> tuple[list[str], list[list[str]]]:
    """The head of a table and its rows, as text: "published" where something is quoted, "" where nothing is known;
    columns of intervals and differences in which nothing is known are left out."""
    columns = {"": [row.name for row in part.rows], "runs": [f"{row.finished} of {row.planned}" for row in part.rows]}
    for figure in part.columns:
        columns[figure.title] = [_with_spread(row.figures.get(figure.key), figure.digits) for row in part.rows]
    levels = [row.pair.levels["spots"] if row.pair else compare.Level() for row in part.rows]
    more = {
        f"{LEVEL:.0%} interval of PCC": [_ends(row.mean_pcc and row.mean_pcc[1:]) for row in part.rows],
        f"minus {part.versus}": [_signed(level.difference) for level in levels],
        f"its {LEVEL:.0%} interval": [_ends((level.low, level.high)) for level in levels],
        "minus ridge on colour": [_signed(row.above_colour) for row in part.rows],
    }
    for f in part.columns:
        quoted = [f"{row.quoted[f.key]:.{f.digits}f}" if f.key in row.quoted else "" for row in part.rows]
        more[f"published {f.title}"] = quoted
    columns |= {title: shown for title, shown in more.items() if any(shown)}
    return list(columns), [list(line) for line in zip(*columns.values(), strict=True)]


def _with_spread(value: tuple[float, float] | None, digits: int) -> str:
    if value is None or not math.isfinite(value[0]):
        return ""
    return f"{value[0]:.{digits}f}" + (f" ± {value[1]:.{digits}f}" if math.isfinite(value[1]) else "")


def _ends(ends: Sequence[float | None] | None) -> str:
    if not ends or any(end is None or not math.isfinite(end) for end in ends):
        return ""
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:+.3f}"


def _plain(part: Part, row: Row) -> dict[str, Any]:
    """A row for files."""
    level = row.pair.levels["spots"] if row.pair else compare.Level()
    found: dict[str, Any] = {"part": part.name, "name": row.name}
    found |= {"head": row.head, "encoder": row.encoder} if part.effects else {}
    found |= {"runs": row.planned, "finished": row.finished}
    for figure in part.columns:
        mean, spread = row.figures.get(figure.key, (math.nan, math.nan))
        found |= {figure.key: _known(mean), f"{figure.key}_sd": _known(spread)}
    _, low, high = row.mean_pcc or (math.nan,) * 3
    found |= {"pcc_mean_low": _known(low), "pcc_mean_high": _known(high)}
    found["compared_with"] = row.compared_with
    found |= {"difference": level.difference, "difference_low": level.low, "difference_high": level.high}
    found |= {"difference_p": level.p, "minus_ridge_colour": row.above_colour}
    return found | {f"published_{key}": value for key, value in row.quoted.items()}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# -------------------------------------------------------------------------------------------------------- reading


def read_tables(suite: Suite, places: Sequence[Place]) -> Tables:
    """The tables of some runs, as far as they are finished."""
    states = {place.run.name: place.state() for place in places}
    parts, synthetic = suite.parts(suite, places) if suite.parts else of_trainings(suite, places)
    runs = [
        {"name": place.run.name, "model": place.run.row, "part": place.run.part, "workdir": str(place.scored)}
        | {"status": states[place.run.name], "seconds": place.note()["seconds"]}
        | (place.run.cell._asdict() if place.run.cell else {})
        for place in places
    ]
    return Tables(suite, parts, runs, synthetic)


def of_trainings(suite: Suite, places: Sequence[Place]) -> tuple[list[Part], bool]:
    """Of what trainings scored, and whether any of it is synthetic tissue."""
    parts, synthetic = [], False
    for name in dict.fromkeys(place.run.part for place in places):
        of_part = [place for place in places if place.run.part == name]
        results = {
            place.run.name: read.read_run(place.scored, place.run.name) for place in of_part if place.state() == DONE
        }
        synthetic |= any(run.synthetic for run in results.values())
        compared: dict[str, Row] = {}
        titles = [title for title in suite.figures if title == name or title.startswith(f"{name}: ")]
        parts += [_part(suite, title, of_part, results, compared) for title in titles]
    return parts, synthetic


def _part(
    suite: Suite, title: str, places: Sequence[Place], results: dict[str, read.RunResults], compared: dict[str, Row]
) -> Part:
    """A table.

    Args:
        results: of the runs that are finished, by name.
        compared: gets the rows of a part's first table, which alone has intervals and comparisons.
    """
    columns, of_rows = suite.figures[title], {}
    part = Part(title, columns, [], None, "best", "", [])
    notes = {place.run.name: place.note() for place in places}
    for label in dict.fromkeys(place.run.row for place in places):
        runs = [place.run for place in places if place.run.row == label]
        names, cell = [run.name for run in runs], runs[0].cell
        found = [results[name] for name in names if name in results]
        missing = [name for name in names if name not in results]
        quoted = dict(suite.quoted.get(title, {}).get(label, {}))
        row = Row(title, label, len(names), missing, _figures(found, columns, notes), quoted=quoted)
        part.rows.append(dataclasses.replace(row, head=cell.head, encoder=cell.encoder) if cell else row)
        if found:
            of_rows[label] = found
            part.rows[-1].above_colour = _above_colour(found)
    if not compared:
        _compare(part, of_rows, suite.reference)
        compared |= {row.name: row for row in part.rows}
        values = {name: _figure(run, columns[0].key, notes[name]) for name, run in results.items()}
        part.effects = _effects.study(title, columns[0], [place.run for place in places], values)
    part.notes = footnotes(suite, part, of_rows)
    return part


def _figures(
    runs: Sequence[read.RunResults], columns: Sequence[Figure], notes: Mapping[str, dict[str, Any]]
) -> dict[str, tuple[float, float]]:
    """Mean and sample deviation over runs of every column that they have."""
    found = {}
    for figure in columns:
        known = [_figure(run, figure.key, notes[run.label]) for run in runs]
        values = [value / figure.unit for value in known if value is not None and math.isfinite(value)]
        if values:
            found[figure.key] = float(np.mean(values)), float(np.std(values, ddof=1)) if values[1:] else math.nan
    return found


def _figure(run: read.RunResults, key: str, note: dict[str, Any]) -> float | None:
    kind, _, name = key.rpartition(":")
    if kind == "gene":
        of = run.genes.loc[run.genes["gene"] == name, "pcc"]
        return float(of.iloc[0]) if len(of) else None
    if kind == "cost":
        return note.get(name)
    if kind == "together":
        return None
    if kind:
        return (run.metrics.get("targets") or {}).get(kind, {}).get("methods", {}).get("model", {}).get(name)
    return run.metrics["methods"]["model"].get(name)


def _above_colour(runs: Sequence[read.RunResults]) -> float | None:
    minus = [(run.metrics.get("model_minus") or {}).get("ridge_colour") or {} for run in runs]
    known = [value for each in minus if (value := (each.get("pcc_mean") or {}).get("difference")) is not None]
    return float(np.mean(known)) if known else None


def _compare(part: Part, results: dict[str, list[read.RunResults]], reference: str) -> None:
    """Intervals of each row, the best row, and how far the others are from it, or from the reference, in the sections
    of both."""
    scored = {label: {section.name for run in runs for section in run.sections} for label, runs in results.items()}
    for row in part.rows:
        if row.name in results and (whole := together(results[row.name], row.name, scored[row.name])):
            row.mean_pcc = mean_pcc(whole)
            of_all = {figure.key: figure.key.removeprefix("together:") for figure in part.columns}
            row.figures |= {key: (of_patients(whole, name), math.nan) for key, name in of_all.items() if key != name}
    first = part.columns[0]
    known = [row for row in part.rows if first.key in row.figures]
    if not known:
        return
    sign = 1 if first.higher_is_better else -1
    best = max(known, key=lambda row: sign * row.figures[first.key][0])
    beside = {row.name: _beside(row, known, best, reference) for row in known}
    pairs = {}
    for row in known:
        other = beside[row.name]
        both = scored[row.name] & scored[other.name] if other and other is not row else None
        if other and both:
            pair = [together(results[name], name, both) for name in (row.name, other.name)]
            if pair[0] and pair[1]:
                pairs[row.name] = pair[0], pair[1]
                row.compared_with = other.name
    for label, pair in zip(pairs, compare.tested(pairs.values()), strict=True):
        next(row for row in part.rows if row.name == label).pair = pair
    if any(row.encoder for row in part.rows):
        part.versus = f"{reference}, same encoder"
        part.verdict = f"Rows differ in their encoder, and are not ranked. {_compared(part, part.versus)}"
        return
    part.best = best
    if beside[best.name] is best:
        part.verdict = _verdict(part)
    else:
        part.versus = reference
        ahead = f"{best.name} has the best {first.title}, {best.figures[first.key][0]:.{first.digits}f}."
        part.verdict = f"{ahead} {_compared(part, reference)}"


def _beside(row: Row, known: Sequence[Row], best: Row, reference: str) -> Row | None:
    """The row that another is compared with: the reference, which is that of the same encoder where rows differ in it,
    else the best one."""
    if row.encoder:
        return next((each for each in known if (each.head, each.encoder) == (reference, row.encoder)), None)
    if any(each.encoder for each in known):
        return None
    return next((each for each in known if each.name == reference), best)


def ahead(rows: Sequence[Row], figure: Figure) -> tuple[Row | None, str]:
    """The row whose figure is highest, and that in words; None and "" where no row has one."""
    known = [row for row in rows if figure.key in row.figures]
    best = max(known, key=lambda row: row.figures[figure.key][0], default=None)
    return best, f"{best.name} has the highest {figure.title}, {best.figures[figure.key][0]:.3f}." if best else ""


def _verdict(part: Part) -> str:
    """One sentence: who is ahead, of whom, by how much, and whether that is more than chance."""
    first, best = part.columns[0], part.best
    others = [row for row in part.rows if row is not best and first.key in row.figures]
    if best is None:
        return ""
    if not others:
        return f"{best.name} alone is finished."
    sign = 1 if first.higher_is_better else -1
    second = max(others, key=lambda row: sign * row.figures[first.key][0])
    by = abs(best.figures[first.key][0] - second.figures[first.key][0])
    text = f"{best.name} is ahead of {second.name} by {by:.{first.digits}f} in {first.title}"
    level = second.pair.levels["spots"] if second.pair else compare.Level(why="no spots are in common")
    if level.low is None or level.high is None or level.p is None:
        return f"{text}; whether that is more than chance cannot be told ({level.why})."
    apart = "more than" if level.high < 0 or level.low > 0 else "no more than"
    return (
        f"{text}; paired over {level.n} {level.unit}, {apart} chance would give (difference of median PCC "
        f"{_signed(level.difference)}, {LEVEL:.0%} interval {_ends((level.low, level.high))}, p = {level.p:.2g})."
    )


def _compared(part: Part, reference: str) -> str:
    """Which rows are above or below the reference by more than chance gives."""
    levels = {row.name: row.pair.levels["spots"] for row in part.rows if row.pair}
    above = [name for name, level in levels.items() if level.low is not None and level.low > 0]
    below = [name for name, level in levels.items() if level.high is not None and level.high < 0]
    others = [name for name in levels if name not in (*above, *below)]
    said = "; ".join(
        f"{what}: {', '.join(names)}"
        for what, names in (("above it", above), ("below it", below), ("not significantly different", others))
        if names
    )
    return f"Compared with {reference} (median PCC, paired, {LEVEL:.0%} intervals): {said or 'no row yet'}."
