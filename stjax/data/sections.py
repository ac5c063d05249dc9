"""Sections as items: what a model is told of the spots it is asked about, and of all others of their section."""

import copy
import dataclasses
import zlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from data_prep.spots import ranges
from stjax.data.images import Images
from stjax.data.items import Batch, Windows, filled
from stjax.data.lattice import MOST_NEAR

IMAGE, FEATURES, GRID, NEAR, CONTEXT, BANK = "image", "features", "grid", "near", "context", "bank"
GENES = "genes"  # vectors, which a model is built from; of a batch it is nothing
NEEDS = (IMAGE, FEATURES, GRID, NEAR, CONTEXT, BANK, GENES)
OF_SECTION = (FEATURES, GRID, NEAR)  # needs that are of all spots of a section
NO_GROUP = -1


def inputs_of(needs: Collection[str], *, side: int, width: int, windows: int) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """Name, type and shape of each array of a batch that a model needs; sizes B, S and N by name.

    Args:
        side: of a patch, pixels.
        width: D of the features.
        windows: W.
    """
    of_need: dict[str, list[tuple[str, Any, tuple[Any, ...]]]] = {
        IMAGE: [("image", np.uint8, ("B", "S", side, side, 3))],
        FEATURES: [("features", np.float32, ("B", "N", width))],
        GRID: [("grid", np.int32, ("B", "N", 2))],
        NEAR: [("near", np.int32, ("B", "N", MOST_NEAR))],
        CONTEXT: [("context", np.float32, ("B", "S", windows, width)), ("context_mask", bool, ("B", "S", windows))],
        BANK: [("group", np.int32, ("B", "S"))],
    }
    found: list[tuple[str, Any, tuple[Any, ...]]] = [("spots_mask", bool, ("B", "S"))]
    if set(needs) & set(OF_SECTION):
        found += [("present", bool, ("B", "N")), ("rows", np.int32, ("B", "S"))]
    return found + [each for need, of in of_need.items() if need in needs for each in of]


def rounded(count: int) -> int:
    """Room for so many spots: sections of about the same size share a program."""
    step = 64 if count <= 1024 else 256
    return -(-count // step) * step


@dataclasses.dataclass(frozen=True, eq=False)
class Around:
    """What is known of N spots of a section, as far as a model needs it: of all that are used, or of those on a virtual
    lattice (`stjax.data.arrays`).

    Attributes:
        rows: [N] which of the section's used spots they are.
        own: [N] bool; others are there for what they say of these, and are predicted elsewhere.
        vectors: [R, D] of the section's records, or [R, W, D] of windows around them, which may be memory-mapped.
        inside: [R, W] which windows lie in the image.
        record: [N] row in these of each spot.
        places: [N, 2] on the array's lattice.
        near: [N, 8] rows of each spot's neighbours, -1: none.
    """

    rows: np.ndarray
    own: np.ndarray
    vectors: np.ndarray | None = None
    inside: np.ndarray | None = None
    record: np.ndarray | None = None
    places: np.ndarray | None = None
    near: np.ndarray | None = None

    @property
    def count(self) -> int:
        """N."""
        return len(self.rows)

    def features(self) -> np.ndarray:
        """[N, D] of each spot's own window."""
        assert self.vectors is not None
        return middle(self.vectors)[self.record]


def dealt(
    names: Sequence[str], around: Sequence[Around], per_item: int, *, seed: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Spots in items of `per_item`, the last of each section of fewer; all of a section in one where it is 0.

    Args:
        names: of the sections.
        seed: of the draw, which is the same for a section whatever others there are; None deals them in order.

    Returns:
        [items + 1] where each item's spots begin, and [items] the section of each; [N] the spot's row in it, and its
        place among the spots of all.
    """

    def groups(name: str, count: int) -> list[np.ndarray]:
        rows = np.arange(count)
        if per_item and seed is not None:
            rows = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(count)
        return np.split(rows, range(per_item, count, per_item)) if per_item else [rows]

    items = [
        (of, first, rows)
        for of, (name, each, first) in enumerate(
            zip(names, around, np.cumsum([0, *(each.count for each in around)]), strict=False)
        )
        if each.count
        for rows in groups(name, each.count)
    ]
    nothing = np.zeros(0, np.int64)
    start = np.cumsum([0, *(len(rows) for *_, rows in items)])
    row = np.concatenate([nothing, *(rows for *_, rows in items)])
    spot = np.concatenate([nothing, *(first + rows for _, first, rows in items)])
    return start, np.array([of for of, *_ in items], np.int64), row, spot


def middle(vectors: np.ndarray) -> np.ndarray:
    """[R, D] of records' own windows, of [R, D] or, with others around them, [R, W, D]."""
    return vectors if vectors.ndim == 2 else vectors[:, vectors.shape[1] // 2]


class SectionWindows(Windows):
    """Sections, or groups of spots of them, with what a model needs to know.

    Attributes:
        around: the sections, or the virtual lattices through their spots.
        group: [N] int32, in item order.
    """

    def __init__(
        self,
        start: np.ndarray,
        needs: Collection[str],
        around: Sequence[Around],
        section: np.ndarray,
        row: np.ndarray,
        group: np.ndarray,
        per_item: int,
    ):
        """
        Args:
            needs: of `NEEDS`.
            around: the sections.
            section: [items] position among them of each item's.
            row: [N] of each spot, in item order, among those of its section.
            group: [N] of a training spot, what the bank must not be asked of; -1 of others.
            per_item: spots of an item; 0: all of the section.
        """
        super().__init__(start)
        self._needs, self.around = frozenset(needs), around
        self._section, self._row, self.group = section, row, group
        most = rounded(int(np.diff(self.start).max(initial=1)))
        self._most = min(per_item, most) if per_item else most
        self._most_around = rounded(max((each.count for each in around), default=1))

    @property
    def most_spots(self) -> int:
        """S, room for the spots of any item."""
        return self._most

    def inputs(self, images: np.ndarray, index: Sequence[int] | np.ndarray, size: int) -> Batch:
        """As `Windows.inputs`, of stacks of patches [b, S, H, W, 3] where images are needed; and the other keywords of
        models that `stjax.views.sections` lists."""
        index = np.asarray(index, np.int64)
        item, spot = ranges(self.start[index], self.start[index + 1])  # [R] of each spot, its item's place, ...
        slot = spot - self.start[index][item]  # ... and its own in the item
        batch: Batch = {"spots_mask": np.zeros((size, self._most), bool)}
        batch["spots_mask"][item, slot] = True
        if IMAGE in self._needs:
            batch["image"] = filled(images, size)
        if BANK in self._needs:
            batch["group"] = np.full((size, self._most), NO_GROUP, np.int32)
            batch["group"][item, slot] = self.group[spot]
        if self._needs & set(OF_SECTION):
            batch["rows"] = np.zeros((size, self._most), np.int32)
            batch["rows"][item, slot] = self._row[spot]
            batch |= self._sections([self.around[each] for each in self._section[index].tolist()], size)
        if CONTEXT in self._needs:
            batch |= self._contexts(index, size)
        return batch

    def with_vectors(self, vectors: np.ndarray, inside: np.ndarray) -> "SectionWindows":
        """The same, with the features [N, W, D] of the windows around each spot, in item order, which is that of the
        sections' own spots.

        Args:
            inside: [N, W] which of these lie in the image.
        """
        made, first = copy.copy(self), np.cumsum([0, *(each.count for each in self.around)])
        vectors = vectors if CONTEXT in self._needs else middle(vectors)
        made.around = [
            dataclasses.replace(each, vectors=vectors, inside=inside, record=start + np.arange(each.count))
            for start, each in zip(first, self.around, strict=False)
        ]
        return made

    def own_features(self) -> np.ndarray:
        """[N, D] float32 of the spots, in item order."""
        sections = [each.features().astype(np.float32) for each in self.around]
        of = np.repeat(self._section, np.diff(self.start))  # [N]
        first = np.cumsum([0, *(len(each) for each in sections)])
        return np.concatenate(sections)[first[of] + self._row]

    def _sections(self, around: Sequence[Around], size: int) -> Batch:
        """What of the batch is of whole sections."""
        most, batch = self._most_around, {}
        batch["present"] = np.zeros((size, most), bool)
        for place, each in enumerate(around):
            batch["present"][place, : each.count] = True
        kinds: dict[str, Any] = {GRID: ("places", (2,), 0), NEAR: ("near", (MOST_NEAR,), -1)}
        for need in self._needs & kinds.keys():
            attribute, shape, missing = kinds[need]
            batch[need] = np.full((size, most, *shape), missing, np.int32)
            for place, each in enumerate(around):
                batch[need][place, : each.count] = getattr(each, attribute)
        if FEATURES in self._needs:
            vectors = self.around[0].vectors
            assert vectors is not None
            batch[FEATURES] = np.zeros((size, most, vectors.shape[-1]), np.float32)
            for place, each in enumerate(around):
                batch[FEATURES][place, : each.count] = each.features()
        return batch

    def _contexts(self, index: np.ndarray, size: int) -> Batch:
        """Features of the windows around each spot that is asked about."""
        vectors = self.around[0].vectors
        assert vectors is not None
        windows, width = vectors.shape[1:]
        batch = {
            CONTEXT: np.zeros((size, self._most, windows, width), np.float32),
            "context_mask": np.zeros((size, self._most, windows), bool),
        }
        for place, item in enumerate(index.tolist()):
            of, rows = self.around[int(self._section[item])], self._row[self.rows(item)]
            assert of.vectors is not None
            assert of.inside is not None
            assert of.record is not None
            inside = of.inside[of.record[rows]]
            batch[CONTEXT][place, : len(rows)] = np.where(inside[..., None], of.vectors[of.record[rows]], 0)
            batch["context_mask"][place, : len(rows)] = inside
        return batch


class Stacks:
    """The patches of each item's spots as one image [S, H, W, 3]; nothing where a model needs none.

    Attributes:
        patches: those of all spots, in item order.
    """

    def __init__(self, patches: Images, start: np.ndarray, most: int):
        """
        Args:
            start: [items + 1] where each item's spots begin.
            most: S; 0 reads nothing.
        """
        self.patches, self._start, self._most = patches, start, most

    @property
    def record(self) -> np.ndarray:
        """[N] of each spot, in item order, as `Images.record`."""
        return self.patches.record

    def __len__(self) -> int:
        return len(self._start) - 1

    def __getitem__(self, item: int) -> np.ndarray:
        if not self._most:
            return np.zeros(0, np.uint8)
        return filled(np.stack([self.patches[row] for row in range(*self._start[item : item + 2])]), self._most)
