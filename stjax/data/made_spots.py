"""Spots of a size that a slide does not have, made of its finest bins."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy.spatial import KDTree

from data_prep import csr
from data_prep.errors import InputError
from data_prep.spots import DISC, SQUARE, Spots
from stjax.data.section_spots import Places, Section, Tile, TileSpots

DISCS_FROM_UM = 50.0  # discs from here up, squares below
PITCH = 2.0  # in sizes: that of spatial transcriptomics arrays
_ROUNDING = 1e-9  # a bin whose centre is on the edge is in
MIN_COVERED = 0.9  # of a spot's area must be bins on tissue


class _Grid(NamedTuple):
    """Where spots are made: discs or squares of a size around the crossings of x [X] and y [Y]."""

    x: np.ndarray
    y: np.ndarray
    half: float
    disc: bool

    @property
    def centres(self) -> np.ndarray:
        """[Y * X, 2]."""
        return np.stack(np.meshgrid(self.x, self.y), axis=-1).reshape(-1, 2)

    def around(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some points [N, 2] lie in a spot, ascending, and in which; spots do not overlap."""
        if not (len(self.x) and len(self.y)):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        pitch = PITCH * 2 * self.half
        place = [
            np.rint((xy[:, axis] - along[0]) / pitch).astype(np.int64).clip(0, len(along) - 1)
            for axis, along in enumerate((self.x, self.y))
        ]
        away = np.stack([xy[:, 0] - self.x[place[0]], xy[:, 1] - self.y[place[1]]], axis=1)
        reach = self.half * (1 + _ROUNDING)
        inside = np.sum(away**2, axis=1) <= reach**2 if self.disc else np.abs(away).max(axis=1) <= reach
        found = np.flatnonzero(inside)
        return found, (place[1] * len(self.x) + place[0])[found]

    def sums(self, section: Section) -> tuple[np.ndarray, np.ndarray]:
        """Of each spot, how many bins of a section lie in it, and their counts of all genes; float64."""
        spots = len(self.x) * len(self.y)
        bins, total = np.zeros(spots), np.zeros(spots)
        for table in section.spot_tables():
            row, number = self.around(table.spots.xy)
            bins += np.bincount(number, minlength=spots)
            total += np.bincount(number, table.total_counts[row], minlength=spots)
        return bins, total


@dataclasses.dataclass(frozen=True, eq=False)
class Made(TileSpots):
    """Spots that are sums of the bins of a section whose centres lie in them.

    Attributes:
        number: [S] of each spot on the grid.
        spots, within: as `Places` has them.
    """

    number: np.ndarray
    spots: Spots
    within: Spots
    grid: _Grid
    of: Section

    def _per_spot(self) -> tuple[str, ...]:
        return (*super()._per_spot(), "number", "spots", "within")

    def places(self) -> Places:
        """As `TileSpots` says."""
        return Places(self.spots, self.within)

    def blocks(self, columns: np.ndarray) -> Iterator[Any]:
        """As `TileSpots` says: one, of sums."""
        yield self.counts(columns)

    def counts(self, columns: np.ndarray) -> Any:
        """As `TileSpots` says."""
        spot = np.full(len(self.grid.x) * len(self.grid.y), -1)
        spot[self.number] = np.arange(len(self))
        sums = scipy.sparse.csr_array((len(self), len(columns)), dtype=np.float32)
        for _, table in self.of.tables(np.arange(len(self.of.tile))):
            bins, number = self.grid.around(table.spots.xy)
            bins, number = bins[spot[number] >= 0], spot[number][spot[number] >= 0]
            ones = np.ones(len(bins), np.float32)
            add = scipy.sparse.csr_array((ones, (number, np.arange(len(bins)))), shape=(len(self), len(bins)))
            sums = sums + add @ csr.take_columns(table.counts[bins], columns)
        return scipy.sparse.csr_array(sums, dtype=np.float32)


def make(size_um: float, sections: Sequence[Section], tiles: list[Tile]) -> Made:
    """Spots of `size_um` on a grid over the slide."""
    section = sections[0].entry["name"]
    squares = [each for each in sections if each.squares]
    sizes = ", ".join(f"{size:g}" for each in sections for size in np.unique(np.round(each.size_um, 1)))
    finest = min(squares, key=lambda each: float(np.median(each.size_um)), default=None)
    if finest is None or float(np.median(finest.size_um)) * 2 > size_um:
        raise InputError(
            f"no spot of {size_um:g} um in section {section} ({sizes} um), nor bins of half that size to make it from"
        )
    um_per_px, bin_um = finest.entry["um_per_px"], float(np.median(finest.size_um))
    half, bin_px = size_um / um_per_px / 2, bin_um / um_per_px
    low, high = finest.low_xy - bin_px / 2, finest.high_xy  # squares begin where bins do
    x, y = (np.arange(a + half, b, PITCH * 2 * half) for a, b in zip(low, high, strict=True))
    grid = _Grid(x, y, half, disc=size_um >= DISCS_FROM_UM)
    centres = grid.centres
    # Of the tiles that hold spots, the one whose middle is nearest has the most room around this one.
    side, held = finest.tile_px(tiles), np.unique(np.concatenate([each.tile for each in sections]))
    middles = np.stack([tiles[tile].origin_xy for tile in held]) + side / 2
    found: Any = KDTree(middles).query(centres, p=np.inf)
    distance, tile = found[0], held[found[1]]
    inside = distance + half <= side / 2
    bins, total = grid.sums(finest)
    covered = bins * bin_px**2 / ((np.pi if grid.disc else 4) * half**2)
    kept = np.flatnonzero((covered >= MIN_COVERED) & inside)
    if not len(kept):
        raise InputError(
            f"section {section} has no place for spots of {size_um:g} um: "
            + ("no tile holds one whole; build with a larger --context-px" if np.any(covered >= MIN_COVERED) else
               "nowhere are enough bins on tissue")
        )  # fmt: skip
    kept = kept[np.argsort(tile[kept], kind="stable")]
    origin = np.stack([each.origin_xy for each in tiles])[tile[kept]]
    scale = np.array([each.px_scale for each in tiles])[tile[kept]]
    ids = np.array([f"{x:.0f}x{y:.0f}" for x, y in centres[kept]])
    kind, across = (DISC, half) if grid.disc else (SQUARE, 2 * half)
    name = finest.entry["name"].removesuffix(f"_{round(bin_um):03d}um")
    return Made(
        section=f"{name}_{size_um:03g}um",
        slide_section=section,
        tile=tile[kept],
        size_um=np.full(len(kept), size_um),
        total=total[kept],
        number=kept,
        spots=Spots.alike(kind, centres[kept], across, ids),
        within=Spots.alike(kind, (centres[kept] - origin) / scale[:, None], across / scale, ids),
        grid=grid,
        of=finest,
    )
