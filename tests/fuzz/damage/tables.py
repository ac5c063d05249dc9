"""Damage to delimited text: rows and cells."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.damage.raw import WRITTEN
from tests.fuzz.damage.values import ODD_TEXTS


class _Place(NamedTuple):
    """A cell of a table."""

    lines: list[str]
    row: int
    column: int
    separator: str
    rng: random.Random

    @property
    def cells(self) -> list[str]:
        return self.lines[self.row].split(self.separator)

    @property
    def before(self) -> list[str]:
        return self.lines[: self.row]

    @property
    def after(self) -> list[str]:
        return self.lines[self.row + 1 :]

    def put(self, *values: str) -> list[str]:
        """The lines with other cells in place of this one."""
        cells = self.cells
        return [
            *self.before,
            self.separator.join([*cells[: self.column], *values, *cells[self.column + 1 :]]),
            *self.after,
        ]

    def each_row(self, change: Callable[[list[str]], list[str]]) -> list[str]:
        """The lines with every one's cells changed."""
        return [self.separator.join(change(line.split(self.separator))) for line in self.lines]


def _swapped(place: _Place) -> list[str]:
    other = place.rng.randrange(len(place.cells))

    def change(cells: list[str]) -> list[str]:
        if max(place.column, other) < len(cells):
            cells[place.column], cells[other] = cells[other], cells[place.column]
        return cells

    return place.each_row(change)


def _separator(place: _Place) -> list[str]:
    mark = place.rng.choice((";", "\t", ",", " ", "|"))
    return [line.replace(place.separator, mark) for line in place.lines]


_ACTIONS: dict[str, Callable[[_Place], list[str]]] = {
    "a number": lambda at: at.put(at.rng.choice(WRITTEN)),
    "number": lambda at: at.put(at.rng.choice(WRITTEN)),
    "text": lambda at: at.put(at.rng.choice(ODD_TEXTS).encode(errors="replace").decode()),
    "another cell": lambda at: at.put(at.rng.choice(at.rng.choice(at.lines).split(at.separator))),
    "cell removed": lambda at: at.put(),
    "open quote": lambda at: at.put(f'"{at.cells[at.column]}'),
    "column removed": lambda at: at.each_row(lambda cells: [*cells[: at.column], *cells[at.column + 1 :]]),
    "columns swapped": _swapped,
    "rows removed": lambda at: [*at.before, *at.lines[at.row + at.rng.choice((1, 1, 5)) :]],
    "row repeated": lambda at: [*at.before, *[at.lines[at.row]] * at.rng.choice((2, 2, 50)), *at.after],
    "no header": lambda at: at.lines[1:],
    "separator": _separator,
    "rows shuffled": lambda at: [at.lines[0], *at.rng.sample(at.lines[1:], len(at.lines) - 1)],
}


def damage_text(text: str, rng: random.Random) -> tuple[str, str]:
    """A table, its separator told by what it holds, with another cell, row, column or spelling."""
    lines = text.split("\n")
    separator = max("\t, ", key=lambda mark: sum(line.count(mark) for line in lines[:5]))
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        row = rng.choice((0, rng.randrange(len(lines)), rng.randrange(len(lines))))
        column = rng.randrange(lines[row].count(separator) + 1)
        action = rng.choice(sorted(_ACTIONS))
        lines = _ACTIONS[action](_Place(lines, row, column, separator, rng)) or [""]
        done.append(f"{action} in line {row + 1}")
    return "\n".join(lines), ", ".join(done)


def damage_table(path: Path, rng: random.Random) -> str:
    """A file of delimited text; see `damage_text`."""
    text, what = damage_text(path.read_text(), rng)
    data = text.encode(rng.choice(("utf-8",) * 20 + ("utf-16", "utf-8-sig", "latin-1")), errors="replace")
    path.write_bytes(data)
    return what
