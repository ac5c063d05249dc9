"""Spatial blocks: training, validation and test within a slide, for those with one section.

A slide is cut across its longer side, and its parts again, into compact blocks with about as many spots each, which are
dealt to folds in turn: those of one fold are for test, those of the next for validation, all others for training. A
spot's *field of view* is the square of the slide that a model is shown for it (`View.field`). Spots of training whose
field overlaps that of a spot of validation or test are dropped, and of validation those that overlap one of test.

The parts of a section are the sections "<name>_train", "<name>_val" and "<name>_test" of a data set that shows the one
on disk so (`Divided`): what reads sections by name knows nothing of blocks, and sees no spot of another part.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy.spatial import KDTree

from data_prep import json_files
from data_prep.dataset import PatchDataset, RecordSource
from data_prep.errors import InputError
from data_prep.section_table import SectionSpots, SectionTable
from data_prep.tissue import BLUR_MARGIN_PX
from stjax.splits import Split

_Table = TypeVar("_Table", bound=SectionSpots)

PARTS = ("train", "val", "test", "dropped")
_TRAIN, _VAL, _TEST, _DROPPED = range(len(PARTS))
_REMEDY = "restore it, or train in a new work directory"
BLOCKS = {  # as a run's file has them
    **dict.fromkeys(("folds", "per_fold", "slides"), json_files.whole_number(1)),
    "fold": json_files.whole_number(0),
    **dict.fromkeys(("field_um", "buffer_um"), json_files.number(0)),
    "parts": json_files.Each(dict.fromkeys(("part", "length"), json_files.numbers(0, whole=True))),
}


class Field(NamedTuple):
    """Fields of view of some spots, squares in full-resolution pixels: their middles [S, 2], and the side of all."""

    middle_xy: np.ndarray
    side_px: float


@dataclasses.dataclass(frozen=True)
class Rule:
    """How slides are divided.

    Attributes:
        folds: so many, `per_fold` blocks each.
        fold: the one that is tested on; validates: whether the next one validates, or is for training as the others.
        buffer_um: spots of different parts are at least so far apart along x or y; 0: as their fields ask for.
    """

    folds: int
    per_fold: int
    fold: int
    validates: bool
    buffer_um: float

    def check(self) -> None:
        """Raises InputError for what is no rule."""
        least = 3 if self.validates else 2
        if self.folds < least:
            raise InputError(f"config.blocks.folds is {self.folds}, expected at least {least}: training needs one too")
        if self.per_fold < 1:
            raise InputError(f"config.blocks.per_fold is {self.per_fold}, expected at least 1 block")
        if not 0 <= self.fold < self.folds:
            raise InputError(f"fold is {self.fold}; config.blocks.folds makes folds 0 to {self.folds - 1}")
        if not 0 <= self.buffer_um < np.inf:
            raise InputError(f"config.blocks.buffer_um is {self.buffer_um}, expected micrometres, or 0")


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The parts of a run's sections.

    Attributes:
        folds, per_fold, fold: as `Rule` has them.
        slides: how many were divided.
        field_um: side of the largest field of view; buffer_um: as asked for.
        parts: of each section, where its spots go, in the order of its table: "part", places in `PARTS`, and "length",
            how many in a row go there. Empty of an exported model.
    """

    folds: int
    per_fold: int
    fold: int
    slides: int
    field_um: float
    buffer_um: float
    parts: Mapping[str, Mapping[str, list[int]]]

    @property
    def caveat(self) -> str:
        """What results on such parts do not say."""
        of = "one section" if self.slides == 1 else f"{self.slides} sections"
        return (
            f"the model's held-out results are for spatial blocks of {of} whose other blocks it was trained on: they "
            "say nothing about other sections or patients"
        )

    @property
    def num_spots(self) -> dict[str, int]:
        """Of each part."""
        counts = [0] * len(PARTS)
        for runs in self.parts.values():
            for place, length in zip(runs["part"], runs["length"], strict=True):
                counts[place] += length
        return dict(zip(PARTS, counts, strict=True))

    def open(self, whole: PatchDataset) -> "Divided":
        """The data set with the parts for sections. Raises InputError where they are not of its sections."""
        parts = {}
        for section in whole.sections:
            runs = self.parts.get(section["name"], {"part": [], "length": []})
            if sum(runs["length"]) != section["spots"]:
                raise InputError(
                    f"{whole.path}: section {section['name']} has {section['spots']} spots, and blocks are kept for "
                    f"{sum(runs['length'])}; {_REMEDY}"
                )
            parts[section["name"]] = np.repeat(np.array(runs["part"], np.int64), runs["length"])
        return Divided(whole, parts)

    def split(self, divided: "Divided") -> Split:
        """Its sections, by part; and what a reader must be told."""
        names = {part: tuple(name for name in divided.names if divided.part(name) == part) for part in PARTS}
        spots = self.num_spots
        warnings = [
            self.caveat,
            f"{spots['dropped']} of {sum(spots.values())} spots, between the blocks, are dropped: the model would be "
            f"shown for them what it is shown for spots of another part ({self.apart})",
        ]
        if not names["val"]:
            warnings.append("no validation sections: the last checkpoint is used, none is selected")
        return Split(names["train"], names["val"], names["test"], tuple(warnings))

    @property
    def apart(self) -> str:
        """How far apart parts are."""
        field = f"fields of view are {self.field_um:.0f} um wide"
        return f"{field}, parts at least {self.buffer_um:g} um apart" if self.buffer_um else field

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], name: str) -> "Blocks":
        """What `to_json` returned, of the shape `BLOCKS`. Raises InputError, naming the file, where parts are none."""
        for section, runs in values["parts"].items():
            if len(runs["part"]) != len(runs["length"]) or max(runs["part"], default=0) >= len(PARTS):
                raise InputError(f"{name}: the parts of section {section} are none; {_REMEDY}")
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})

    @property
    def exported(self) -> "Blocks":
        """What goes with an exported model: not which spots."""
        return dataclasses.replace(self, parts={})


class Divided(PatchDataset):
    """A data set whose sections are parts of those on disk; without the spots that are dropped."""

    def __init__(self, whole: PatchDataset, parts: Mapping[str, np.ndarray]):
        """
        Args:
            parts: [S] place in `PARTS` of each spot of each section.
        """
        self._whole = whole
        self._found: dict[str, tuple[str, str, np.ndarray]] = {}  # section, part and rows of each of these sections
        sections = []
        for entry in whole.sections:
            for place, part in enumerate(PARTS[:_DROPPED]):
                if len(rows := np.flatnonzero(parts[entry["name"]] == place)):
                    name = f"{entry['name']}_{part}"
                    self._found[name] = entry["name"], part, rows
                    sections.append({**entry, "name": name, "spots": len(rows)})
        super().__init__(whole.path, {**whole.manifest, "sections": sections}, whole.content_hash)

    @property
    def whole(self) -> PatchDataset:
        """As `PatchDataset` says."""
        return self._whole

    @property
    def names(self) -> tuple[str, ...]:
        """Of its sections."""
        return tuple(self._found)

    def of_whole(self, name: str) -> str:
        """As `PatchDataset` says."""
        return self._found[self.section(name)["name"]][0]

    def part(self, name: str) -> str:
        """Of `PARTS`, which a section is."""
        return self._found[name][1]

    def rows(self, name: str) -> np.ndarray:
        """As `PatchDataset` says."""
        return self._found[self.section(name)["name"]][2]

    def tables(self, name: str, *, names: bool = True) -> Iterator[SectionTable]:
        """Spots and counts of a part, beside all records of the section: some of the records at a time."""
        return self._of_part(name, self.whole.tables(self.of_whole(name), names=names))

    def spot_tables(self, name: str, *, names: bool = True) -> Iterator[SectionSpots]:
        """The same without counts."""
        return self._of_part(name, self.whole.spot_tables(self.of_whole(name), names=names))

    def _of_part(self, name: str, tables: Iterator[_Table]) -> Iterator[_Table]:
        rows, first = self.rows(name), 0
        for table in tables:
            stop = first + len(table.spots)
            yield table[rows[np.searchsorted(rows, first) : np.searchsorted(rows, stop)] - first]
            first = stop

    def source(self, names: Sequence[str]) -> RecordSource:
        """All records of the sections that parts are of."""
        return self.whole.source([self.of_whole(name) for name in names])


def divide(dataset: PatchDataset, field_of: Callable[[str], Field], rule: Rule) -> Blocks:
    """The parts of the sections of a data set; of one slide all are divided alike.

    Args:
        field_of: the fields of view of a section's spots.

    Raises:
        InputError: a buffer narrower than the field of view, or nothing left to train or to validate on.
    """
    rule.check()
    slides: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in dataset.sections:
        slides.setdefault((entry["image"]["sha256"], entry["patient"]), []).append(entry)
    parts, field_um = {}, 0.0
    for sections in slides.values():
        names, um_per_px = [entry["name"] for entry in sections], sections[0]["um_per_px"]
        centres, across = zip(*(_centres(dataset, name) for name in names), strict=True)
        fields = [field_of(name) for name in names]
        side_px = max(*across, *(field.side_px for field in fields))
        field_um = max(field_um, side_px * um_per_px)
        if 0 < rule.buffer_um < side_px * um_per_px:
            raise InputError(
                f"config.blocks.buffer_um is {rule.buffer_um:g}, narrower than the {side_px * um_per_px:.0f} um that "
                f"the model is shown for a spot of {names[0]}; give more, or 0 for as much as is needed"
            )
        xy = np.concatenate(centres)
        middle = np.concatenate([field.middle_xy for field in fields])
        buffer_px = rule.buffer_um / um_per_px
        found = _dealt(cut(xy, rule.folds * rule.per_fold, names[0]), xy, middle, side_px, buffer_px, rule)
        for name, part in zip(names, np.split(found, np.cumsum([len(each) for each in centres])[:-1]), strict=True):
            start = np.flatnonzero(np.diff(part, prepend=-1))
            parts[name] = {
                "part": part[start].tolist(),
                "length": np.diff(start, append=len(part)).tolist(),
            }
    made = Blocks(rule.folds, rule.per_fold, rule.fold, len(slides), field_um, rule.buffer_um, parts)
    spots = made.num_spots
    for part, what in (("train", "train"), ("val", "validate")):
        if not spots[part] and (part == "train" or rule.validates):
            raise InputError(
                f"no spot is left to {what} on: of {sum(spots.values())} spots {spots['test']} are for test, "
                f"{spots['train']} for training, {spots['val']} for validation, and {spots['dropped']} too near to "
                f"these ({made.apart}); set other --config.blocks.folds, or build with smaller patches or tiles"
            )
    return made


def _centres(dataset: PatchDataset, name: str) -> tuple[np.ndarray, float]:
    """[S, 2] float64 centres of a section's spots, and how wide the widest is; pixels."""
    spots = [table.spots for table in dataset.spot_tables(name, names=False)]
    return np.concatenate([each.xy for each in spots]), 2 * max(float(each.reach_px().max(initial=0)) for each in spots)


def cut(xy: np.ndarray, count: int, name: str = "") -> np.ndarray:
    """[S] block of each spot, 0 to `count` - 1, neighbours mostly with numbers that follow one another.

    A block is a rectangle. What is to be so many blocks is cut across its longer side between two spots, such that both
    sides have as nearly as many spots as their shares of the blocks.

    Args:
        xy: [S, 2].
        name: of the section, for messages.

    Raises:
        InputError: there are too few places to cut between.
    """
    block = np.zeros(len(xy), np.int64)

    def divide_rows(rows: np.ndarray, first: int, blocks: int) -> None:
        if blocks == 1:
            block[rows] = first
            return
        along = xy[rows, int(np.argmax(np.ptp(xy[rows], axis=0)))] if len(rows) else np.zeros(0)
        place, many = np.unique(along, return_counts=True)
        if len(place) < 2:
            raise InputError(
                f"Section {name!r}: its {len(xy)} spots make no {count} blocks; set fewer --config.blocks.folds"
            )
        left = blocks // 2
        cuts = np.cumsum(many)[:-1]
        edge = place[int(np.argmin(np.abs(cuts - len(rows) * left / blocks)))]
        divide_rows(rows[along <= edge], first, left)
        divide_rows(rows[along > edge], first + left, blocks - left)

    divide_rows(np.arange(len(xy)), 0, count)
    return block


def _dealt(
    block: np.ndarray, xy: np.ndarray, middle: np.ndarray, side_px: float, buffer_px: float, rule: Rule
) -> np.ndarray:
    """[S] place in `PARTS` of each spot."""
    fold = block % rule.folds
    part = np.full(len(block), _TRAIN)
    part[fold == rule.fold] = _TEST
    if rule.validates:
        part[fold == (rule.fold + 1) % rule.folds] = _VAL
    reach = side_px + 2 * BLUR_MARGIN_PX  # windows begin at whole pixels, and are resampled
    for own, others in ((_VAL, [_TEST]), (_TRAIN, [_TEST, _VAL])):
        ours, theirs = np.flatnonzero(part == own), np.isin(part, others)
        near = _nearer(middle[ours], middle[theirs], reach) | _nearer(xy[ours], xy[theirs], buffer_px)
        part[ours[near]] = _DROPPED
    return part


def _nearer(points: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """[P] bool: which points have one of the others nearer than `reach` along both axes."""
    if not (len(points) and len(others) and reach):
        return np.zeros(len(points), bool)
    unique, which = np.unique(points, axis=0, return_inverse=True)  # the spots of a tile have one field
    tree = KDTree(np.unique(others, axis=0))
    distance = np.asarray(tree.query(unique, p=np.inf, distance_upper_bound=reach)[0])
    return np.isfinite(distance)[which.ravel()]


def overlapping(middle: np.ndarray, others: np.ndarray, side_px: float) -> int:
    """How many of some fields [P, 2] overlap one of some others [O, 2]; all squares of a side."""
    return int(_nearer(middle, others, side_px).sum())
