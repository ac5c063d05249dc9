"""Encoder or head: what a table of every head on every encoder's features says of both, in numbers and in words."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stjax.evaluation import main_effects
from stjax.evaluation.main_effects import ENCODER, HEAD, LEVEL, PAIR, REST, Effects, Mean
from stjax.evaluation.statistics import MIN_PATIENTS
from stjax.suites import Figure, Run

_SOURCES = {
    ENCODER: "encoder",
    HEAD: "head",
    PAIR: "how well both suit each other",
    REST: "patient at hand, and chance",
}
_NOT_YET = (
    "whether the encoder or the head matters more cannot be told yet: it takes at least two heads on two encoders, all "
    "finished with the same patient held out"
)


class Block(NamedTuple):
    """A table as text, with what is said below it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    verdict: str
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Study:
    """Main effects of a table in one figure; `found` is None where too little is finished.

    Attributes:
        left_out: folds in which a head is not finished on an encoder.
        unknown: heads and encoders that have no figure in any fold.
    """

    part: str
    figure: Figure
    found: Effects | None
    left_out: int
    unknown: tuple[str, ...] = ()

    def blocks(self) -> list[Block]:
        """The analysis, and the means by encoder and by head; none where too little is finished."""
        if self.found is None:
            return []
        shares = [
            [_SOURCES[each.source], f"{each.value:.0%}", _percent(each.low, each.high), self._number(each.deviation)]
            for each in self.found.shares
        ]
        interval = f"{LEVEL:.0%} interval"
        head = ["", "share of the spread", interval, f"deviation of {self.figure.title}"]
        means = [
            [
                f"{each.factor} {each.name}",
                self._number(each.value),
                self._ends(each.low, each.high),
                f"{each.difference:+.{self.figure.digits}f}" if each.difference else "",
                self._ends(each.difference_low, each.difference_high),
            ]
            for each in self.found.means
        ]
        of_means = ["", self.figure.title, interval, "minus best", f"its {interval}"]
        return [
            Block(f"{self.part}: encoder or head", *_filled(head, shares), self._shares_in_words(), self._notes()),
            Block(f"{self.part}: means by encoder and by head", *_filled(of_means, means), self._means_in_words(), []),
        ]

    @property
    def notes(self) -> list[str]:
        """What is said below the rows themselves."""
        return [] if self.found else [_NOT_YET]

    def plain(self) -> list[dict[str, Any]]:
        """Rows for files."""
        if self.found is None:
            return []
        shares = [
            {"part": self.part, "what": "share of the spread", "name": _SOURCES[each.source], "value": each.value}
            | {"low": _known(each.low), "high": _known(each.high), "deviation": each.deviation}
            for each in self.found.shares
        ]
        return shares + [
            {"part": self.part, "what": f"mean of {each.factor}", "name": each.name, "value": each.value}
            | {"low": _known(each.low), "high": _known(each.high), "minus_best": each.difference}
            | {"minus_best_low": _known(each.difference_low), "minus_best_high": _known(each.difference_high)}
            for each in self.found.means
        ]

    def _shares_in_words(self) -> str:
        found = self.found
        assert found is not None
        of = {each.source: each for each in found.shares}
        shown = {source: f"{each.value:.0%}" for source, each in of.items()}
        ends = {source: _percent(each.low, each.high) for source, each in of.items()}
        interval = f" ({LEVEL:.0%} interval {ends[ENCODER]})" if ends[ENCODER] else ""
        said = [f"{shown[ENCODER]} is due to the encoder{interval}", f"{shown[HEAD]} to the head"]
        said[1] += f" ({ends[HEAD]})" if ends[HEAD] else ""
        if PAIR in of:
            said.append(f"{shown[PAIR]} to some heads gaining more by some encoders")
        last = "what is particular to a patient, and chance"
        if found.of_seeds:
            last = "chance (the seed)"
        elif PAIR not in of:
            last = "some heads gaining more by some encoders, and chance, which one fold cannot tell apart"
        said.append(f"{shown[REST]} to {last}")
        return (
            f"{found.heads} heads on {found.encoders} encoders predicted the same {self._held_out()}. Of how much "
            f"their {self.figure.title} differs there, {', '.join(said[:-1])} and {said[-1]}. Changing the encoder "
            f"changes it by {self._number(of[ENCODER].deviation)}, changing the head by "
            f"{self._number(of[HEAD].deviation)} (standard deviations)."
        )

    def _held_out(self) -> str:
        found = self.found
        assert found is not None
        if found.of_seeds:
            return f"held-out tissue with {found.blocks} seeds"
        return f"{found.blocks} folds of held-out patients" if found.blocks > 1 else "held-out tissue"

    def _means_in_words(self) -> str:
        assert self.found is not None
        return " ".join(
            self._first_in_words(factor, [each for each in self.found.means if each.factor == factor])
            for factor in (ENCODER, HEAD)
        )

    def _first_in_words(self, factor: str, means: Sequence[Mean]) -> str:
        first, second = means[:2]
        over = f"the {len(self._others(factor))} {self._others(factor)[0].factor}s"
        text = f"Averaged over {over}, {first.name} is the best {factor}, by {self._number(abs(second.difference))}"
        text += f" over {second.name}"
        if not math.isfinite(second.difference_low):
            return f"{text}; there are too few folds to say whether the difference is significant."
        ends = sorted((abs(second.difference_low), abs(second.difference_high)))
        if second.difference_low <= 0 <= second.difference_high:
            ends = sorted((-second.difference_low, -second.difference_high))
            return f"{text}, not significantly ({LEVEL:.0%} interval {self._ends(*ends)}, on the same folds)."
        return f"{text}, a significant difference ({LEVEL:.0%} interval {self._ends(*ends)}, on the same folds)."

    def _others(self, factor: str) -> list[Mean]:
        assert self.found is not None
        return [each for each in self.found.means if each.factor != factor]

    def _notes(self) -> list[str]:
        found = self.found
        assert found is not None
        notes = []
        if self.unknown:
            notes.append(f"without {', '.join(self.unknown)}, of which no run has a {self.figure.title}")
        if self.left_out:
            notes.append(f"folds left out, as a head is not finished on an encoder in them: {self.left_out}")
        if found.of_seeds or found.blocks == 1:
            notes.append("one fold: nothing is said of other patients")
        else:
            notes.append(
                f"how much higher the {self.figure.title} is in one fold than in another, whatever predicts it, is set "
                f"aside: {self._number(found.of_blocks)} (standard deviation)"
            )
        if found.blocks < MIN_PATIENTS and not found.of_seeds:
            notes.append(f"fewer than {MIN_PATIENTS} folds: no intervals")
        elif not found.of_seeds:
            notes.append("intervals are of folds, and their patients, drawn anew")
        return [
            *notes,
            "shares are of a two-way analysis of variance, less what chance would add with so few folds",
            "only rows of heads on features are counted",
        ]

    def _number(self, value: float) -> str:
        return f"{value:.{self.figure.digits}f}"

    def _ends(self, low: float, high: float) -> str:
        return f"{self._number(low)} to {self._number(high)}" if math.isfinite(low) else ""


def _percent(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {high:.0%}" if math.isfinite(low) else ""


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _filled(head: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The columns in which something is known."""
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return [head[place] for place in kept], [[row[place] for place in kept] for row in rows]


def study(part: str, figure: Figure, runs: Sequence[Run], values: Mapping[str, float | None]) -> Study | None:
    """The main effects of a figure.

    Args:
        values: {name of a finished run: the figure}.

    Returns:
        None where no run is of a head and an encoder.
    """
    if not any(run.cell for run in runs):
        return None
    known = {
        run.cell: value
        for run in runs
        if run.cell and (value := values.get(run.name)) is not None and math.isfinite(value)
    }
    heads, encoders, every = ([*dict.fromkeys(str(cell[place]) for cell in known)] for place in range(3))
    seeds = [*dict.fromkeys(cell.seed for cell in known)]
    folds = [
        fold
        for fold in every
        if all((head, encoder, fold, seed) in known for head in heads for encoder in encoders for seed in seeds)
    ]
    if min(len(heads), len(encoders)) < 2 or not folds:
        return Study(part, figure, None, 0)
    of = np.array([[[[known[h, e, f, s] for s in seeds] for f in folds] for e in encoders] for h in heads])  # pyright: ignore[reportArgumentType]
    scale = "correlation" if "pcc" in figure.key else "difference"
    found = main_effects.analyse(of, heads, encoders, higher_is_better=figure.higher_is_better, scale=scale)
    planned = dict.fromkeys(name for run in runs if run.cell for name in (run.cell.head, run.cell.encoder))
    unknown = tuple(name for name in planned if name not in (*heads, *encoders))
    return Study(part, figure, found, len(every) - len(folds), unknown)
