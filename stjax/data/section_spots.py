"""The spots of a section of a slide, by tile: a few numbers of each, by which spots are chosen; places, outlines and
counts are read for those chosen, a part of the section's table at a time. A slide may have eleven million bins.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import scipy.sparse

from data_prep import csr, records
from data_prep.dataset import PatchDataset, RecordSource
from data_prep.section_table import SectionSpots, SectionTable
from data_prep.spots import POLYGON, SQUARE, Spots

_Table = TypeVar("_Table", bound=SectionSpots)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A window of a slide.

    Attributes:
        record: its place in the data set's source of the sections asked for.
        origin_xy: [2] full-resolution pixel of its top-left corner.
        px_scale: full-resolution pixels per pixel of the tile.
    """

    record: int
    origin_xy: np.ndarray
    px_scale: float


class Places(NamedTuple):
    """Where spots are: in full-resolution pixels of the slide, and `within` in pixels of their tiles, without names.

    Of a section with millions of spots, `spots` has names as bytes, see `data_prep.names`.
    """

    spots: Spots
    within: Spots


@dataclasses.dataclass(frozen=True, eq=False)
class TileSpots(abc.ABC):
    """Spots of one slide: of a section, or of one size made from its bins. What they are is read when it is asked for.

    Attributes:
        section: the data set's section, or the slide's first section and the size.
        slide_section: a section of the data set on the same slide.
        tile: [S] which of the slide's tiles holds each, ascending.
        size_um: [S].
        total: [S] counts of all genes.
    """

    section: str
    slide_section: str
    tile: np.ndarray
    size_um: np.ndarray
    total: np.ndarray

    def __len__(self) -> int:
        return len(self.tile)

    def __getitem__(self, index: np.ndarray) -> Self:
        """Some of them, by ascending positions."""
        return dataclasses.replace(self, **{name: getattr(self, name)[index] for name in self._per_spot()})

    def _per_spot(self) -> tuple[str, ...]:
        return ("tile", "size_um", "total")

    @abc.abstractmethod
    def places(self) -> Places:
        """Where they are."""

    @abc.abstractmethod
    def blocks(self, columns: np.ndarray) -> Iterator[Any]:
        """Raw counts in blocks [n, C] that fit memory, CSR, float32; a single one is of the spots in order.

        Args:
            columns: [C] of the data set's genes; -1 for a gene without counts.
        """

    @abc.abstractmethod
    def counts(self, columns: np.ndarray) -> Any:
        """[S, C] of the spots in order, all in memory."""


Tiles = dict[tuple[int, int, int], tuple[int, Tile]]
"""Of a slide, by place and width: each with its number among them."""


def sizes_um(spots: Spots, um_per_px: float) -> np.ndarray:
    """[S] float64: how wide each is; polygons, of which no two are alike, as wide as the median one."""
    return _outlines_alike(spots.across_um(um_per_px), spots.kind == POLYGON)


def _outlines_alike(across: np.ndarray, outlined: np.ndarray) -> np.ndarray:
    if outlined.any():
        across[outlined] = np.median(across[outlined])
    return across


class Section:
    """A section of a slide: a few numbers of each of its spots; all else is read for those asked for.

    Attributes:
        entry: the manifest's.
        tile: [S] of each spot, in the order of the section's table; size_um, total: [S].
        squares: whether all spots are squares.
        low_xy, high_xy: [2] the least and the greatest of their centres.
    """

    def __init__(self, dataset: PatchDataset, name: str, source: RecordSource, first: int, tiles: Tiles):
        """
        Args:
            source: of the records of several sections; first: of them, the first of this one.
            tiles: of the slide so far; those of this section are added.
        """
        self.entry, self._dataset, self._source, self._first = dataset.section(name), dataset, source, first
        tile_of_record, held = [], [0]
        for record in range(first, first + self.entry["records"]):
            content = source.record(record, image=False)
            origin, scale = content["origin_xy"].astype(np.float64), float(content["px_scale"])
            key = (round(origin[0]), round(origin[1]), content["width"])
            tile_of_record.append(tiles.setdefault(key, (len(tiles), Tile(record, origin, scale)))[0])
            held.append(len(content["spot_id"]))
        self._record_start = np.cumsum(held)  # of the spots that the records hold, which may be more than these
        self._measure(np.array(tile_of_record, np.int64))

    def _measure(self, tile_of_record: np.ndarray) -> None:
        across, outlined, tile, total, record = [], [], [], [], 0
        self.low_xy, self.high_xy, self.squares = np.full(2, np.inf), np.full(2, -np.inf), True
        for table in self.spot_tables():
            spots = table.spots
            across.append(spots.across_um(self.entry["um_per_px"]))
            outlined.append(spots.kind == POLYGON)
            tile.append(tile_of_record[table.record_of_spot + record])
            total.append(table.total_counts)
            self.low_xy = spots.xy.min(axis=0, initial=np.inf).clip(max=self.low_xy)
            self.high_xy = spots.xy.max(axis=0, initial=-np.inf).clip(min=self.high_xy)
            self.squares &= bool(np.all(spots.kind == SQUARE))
            record += len(table.white_fraction)
        self.size_um = _outlines_alike(np.concatenate(across), np.concatenate(outlined))
        self.tile, self.total = np.concatenate(tile), np.concatenate(total)

    def spot_tables(self) -> Iterator[SectionSpots]:
        """The section's table without counts and names, part by part."""
        return self._dataset.spot_tables(self.entry["name"], names=False)

    def spots(self) -> "Measured":
        """All of them."""
        row = np.argsort(self.tile, kind="stable")
        per_spot = {"tile": self.tile[row], "size_um": self.size_um[row], "total": self.total[row]}
        return Measured(self.entry["name"], self.entry["name"], **per_spot, row=row, of=self)

    def tables(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, SectionTable]]:
        """What the section's table says of the spots at these rows of it, part by part: the positions in `rows`, and
        the part of the table in their order, without names."""
        return _parts(rows, self._dataset.tables(self.entry["name"], names=False))

    def places(self, rows: np.ndarray) -> Places:
        """Of the spots at these rows of the section's table."""
        at, spots = [], []
        for positions, table in _parts(rows, self._dataset.spot_tables(self.entry["name"])):
            at.append(positions)
            spots.append(dataclasses.replace(table.spots, id=_short(table.spots.id)))
        return Places(_in_order(at, Spots.concatenate, spots), self._within(rows))

    def _within(self, rows: np.ndarray) -> Spots:
        held = self._dataset.rows(self.entry["name"])[rows]  # among all that its records hold
        order = np.argsort(held, kind="stable")
        bounds = np.searchsorted(held[order], self._record_start)
        at, within = [order[:0]], [Spots.alike(SQUARE, np.zeros((0, 2)), np.float32(0), np.zeros(0, "S1"))]
        for record in np.flatnonzero(np.diff(bounds)).tolist():
            found = records.spots_of(self._source.record(self._first + record, image=False))
            unnamed = dataclasses.replace(found, id=np.zeros(len(found), "S1"))
            at.append(order[bounds[record] : bounds[record + 1]])
            within.append(unnamed[held[at[-1]] - self._record_start[record]])
        return _in_order(at, Spots.concatenate, within)

    def tile_px(self, tiles: Sequence[Tile]) -> float:
        """Side of a tile, full-resolution pixels."""
        return self._dataset.size_px * tiles[0].px_scale


@dataclasses.dataclass(frozen=True, eq=False)
class Measured(TileSpots):
    """Spots of a section.

    Attributes:
        row: [S] of the section's table.
    """

    row: np.ndarray
    of: Section

    def _per_spot(self) -> tuple[str, ...]:
        return (*super()._per_spot(), "row")

    def places(self) -> Places:
        """As `TileSpots` says."""
        return self.of.places(self.row)

    def blocks(self, columns: np.ndarray) -> Iterator[Any]:
        """As `TileSpots` says, a block for each part of the section's table."""
        return (csr.take_columns(table.counts, columns) for _, table in self.of.tables(self.row))

    def counts(self, columns: np.ndarray) -> Any:
        """As `TileSpots` says."""
        at, blocks = [np.zeros(0, np.int64)], [scipy.sparse.csr_array((0, len(columns)), dtype=np.float32)]
        for positions, table in self.of.tables(self.row):
            at.append(positions)
            blocks.append(csr.take_columns(table.counts, columns))
        return _in_order(at, csr.stack, blocks)


def _parts(rows: np.ndarray, tables: Iterator[_Table]) -> Iterator[tuple[np.ndarray, _Table]]:
    first = 0
    for table in tables:
        stop = first + len(table.spots)
        positions = np.flatnonzero((rows >= first) & (rows < stop))
        here = rows[positions] - first
        yield positions, table if np.array_equal(here, np.arange(len(table.spots))) else table[here]
        first = stop


def _in_order(at: list[np.ndarray], join: Callable[[list[Any]], Any], parts: list[Any]) -> Any:
    """Parts, whose rows have these positions, as one in the order of the positions."""
    position, joined = np.concatenate(at), join(parts)
    return joined if (position[1:] > position[:-1]).all() else joined[np.argsort(position)]


def _short(names: np.ndarray) -> np.ndarray:
    """Names as bytes, where they can be: a quarter of what text takes."""
    try:
        return names.astype("S")
    except UnicodeEncodeError:
        return names
