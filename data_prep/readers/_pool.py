"""Molecules and bins pooled to areas: to squares or discs that cover a slide, and to the polygons of cells."""

import itertools
from collections.abc import Iterator

import numpy as np
import scipy.sparse

from data_prep.counts import Counts, shape_of
from data_prep.errors import InputError
from data_prep.readers._areas import SQUARES, Areas
from data_prep.spots import Spots, ranges

_PAIRS = 2_000_000  # of points and edges looked at together
_ROWS = 200_000  # points whose counts are added up together
_BITS = 21  # of a row and of a column of areas in one number
_HALF = 1 << (_BITS - 1)
_ROW = np.sqrt(0.75)  # of a hexagonal lattice, in units of its pitch


class Lattice:
    """Counts of points in squares edge to edge, or in discs on a hexagonal lattice, from the image's corner on.

    Points may come a batch at a time; areas without any are none.
    """

    def __init__(self, areas: Areas, um_per_px: float, genes: int):
        self._areas, self._genes = areas, genes
        self._size, self._pitch = areas.size_um / um_per_px, areas.pitch_um / um_per_px
        self._seen = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]  # entries of areas and genes, and their counts

    def add(self, xy: np.ndarray, gene: np.ndarray, times: np.ndarray | None = None) -> None:
        """Points (x, y) [N, 2] in pixels of the image, the gene of each [N], and how often it was counted (once).

        Raises:
            InputError: a point that lies nowhere near an image.
        """
        if not (np.isfinite(xy) & (np.abs(xy) < _HALF * min(self._size, self._pitch * _ROW))).all():
            raise InputError("a molecule lies at no finite place, or millions of areas away from the image")
        inside, row, column = self._squares(xy) if self._areas.kind == SQUARES else self._discs(xy)
        key = (((row + _HALF) << _BITS) + column + _HALF) * self._genes + gene
        keys, place = np.unique(key[inside], return_inverse=True)
        weights = None if times is None else times[inside]
        self._seen.append((keys, np.bincount(place, weights, minlength=len(keys)).astype(np.int64)))
        if sum(len(keys) for keys, _ in self._seen[1:]) > len(self._seen[0][0]) + _PAIRS:
            self._seen = [self._summed()]

    def _summed(self) -> tuple[np.ndarray, np.ndarray]:
        keys, place = np.unique(np.concatenate([keys for keys, _ in self._seen]), return_inverse=True)
        counts = np.concatenate([counts for _, counts in self._seen])
        return keys, np.bincount(place, counts, minlength=len(keys)).astype(np.int64)

    def pooled(self) -> tuple[Spots, scipy.sparse.csr_array]:
        """The areas that hold a point, row by row, and their counts [S, G] int32."""
        keys, counts = self._summed()
        area, gene = np.divmod(keys, self._genes)
        area, spot = np.unique(area, return_inverse=True)
        row, column = (area >> _BITS) - _HALF, (area & (2 * _HALF - 1)) - _HALF
        ids = np.array([f"r{place[0]}_c{place[1]}" for place in np.column_stack([row, column]).tolist()], dtype=str)
        pooled = scipy.sparse.csr_array((counts.astype(np.int32), (spot, gene)), shape=(len(area), self._genes))
        if self._areas.kind == SQUARES:
            return Spots.squares((np.column_stack([column, row]) + 0.5) * self._size, self._size, ids), pooled
        return Spots.discs(self._centres(row, column), self._size / 2, ids), pooled

    def _squares(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        column, row = np.floor(xy / self._size).astype(np.int64).T
        return np.ones(len(xy), bool), row, column

    def _discs(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As no discs overlap, the one that holds a point is in the row of centres above or below it."""
        first = np.floor(xy[:, 1] / (self._pitch * _ROW) - 0.5).astype(np.int64)
        found = np.zeros(len(xy), bool)
        row, column = first.copy(), np.zeros(len(xy), np.int64)
        for each in (first, first + 1):
            nearest = np.round(xy[:, 0] / self._pitch - 0.5 - (each % 2) / 2).astype(np.int64)
            apart = np.hypot(*(xy - self._centres(each, nearest)).T)
            holds = ~found & (apart <= self._size / 2)
            row, column, found = np.where(holds, each, row), np.where(holds, nearest, column), found | holds
        return found, row, column

    def _centres(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return np.column_stack([column + 0.5 + (row % 2) / 2, (row + 0.5) * _ROW]) * self._pitch


def sum_in_polygons(spots: Spots, xy: np.ndarray, counts: Counts) -> tuple[scipy.sparse.csr_array, int]:
    """Counts of polygons: the sum of those of the points in each.

    A point on the border between two neighbours is in one of them; one in two that overlap counts in both.

    Args:
        spots: [S] polygons.
        xy: [N, 2] points, in the same pixels.
        counts: [N, G] int32 of the points, of which a block of rows is in memory at a time where they are on disk.

    Returns:
        [S, G] int32, and how many points are in several polygons.
    """
    spot, point = _members(spots, xy)
    order = np.argsort(point, kind="stable")
    first = np.searchsorted(point[order], np.arange(0, len(xy) + _ROWS, _ROWS))
    pooled = scipy.sparse.csr_array((len(spots), shape_of(counts)[1]), dtype=np.int32)
    for number, (start, stop) in enumerate(itertools.pairwise(first.tolist())):
        these, rows = order[start:stop], slice(number * _ROWS, min((number + 1) * _ROWS, len(xy)))
        entries = (np.ones(len(these), np.int32), (spot[these], point[these] - rows.start))
        member = scipy.sparse.csr_array(entries, shape=(len(spots), rows.stop - rows.start))
        pooled = scipy.sparse.csr_array(pooled + member @ counts[rows])
    pooled.sort_indices()
    return pooled, int(np.sum(np.bincount(point, minlength=1) > 1))


def _members(spots: Spots, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a polygon and a point in it, for all polygons."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    edges, first_edge = _edges(spots)
    for spot, point in _candidates(spots.bounds(), xy):
        heights, rank = np.unique(xy[point, 1], return_inverse=True)
        order = np.lexsort((rank, spot))
        spot, point, rank = spot[order], point[order], rank[order]
        several = np.unique(spot)
        owner, edge = ranges(first_edge[several], first_edge[several + 1])
        # An edge is crossed by lines to the left of the points from its lesser y on and before its greater y.
        key, of_edge = spot * (len(heights) + 1) + rank, several[owner] * (len(heights) + 1)
        low, high = (np.searchsorted(key, of_edge + np.searchsorted(heights, edges[edge, end])) for end in (1, 3))
        crossings = np.zeros(len(spot), np.int64)
        for part in _chunks(high - low):
            number, pair = ranges(low[part], high[part])
            (x, y), (x0, y0, x1, y1) = xy[point[pair]].T, edges[edge[part][number]].T
            left = x0 + (y - y0) * ((x1 - x0) / (y1 - y0)) <= x
            crossings += np.bincount(pair[left], minlength=len(spot))
        inside = crossings % 2 == 1
        found.append((spot[inside], point[inside]))
    spot, point = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return spot, point


def _chunks(work: np.ndarray) -> Iterator[slice]:
    """Parts of a list whose entries take so much work, each of about `_PAIRS`."""
    number = np.floor(np.cumsum(work) / _PAIRS).astype(np.int64)
    start = [*np.flatnonzero(np.diff(number, prepend=-1)).tolist(), len(work)]
    yield from map(slice, start[:-1], start[1:])


def _edges(spots: Spots) -> tuple[np.ndarray, np.ndarray]:
    """[E, 4] x, y, x, y of all edges, the end of lesser y first, so that neighbours round alike; and [S + 1], where
    those of each polygon begin."""
    following = np.arange(1, len(spots.ring_xy) + 1)
    following[spots.ring_start[1:] - 1] = spots.ring_start[:-1]
    edges = np.concatenate([spots.ring_xy, spots.ring_xy[following]], axis=1)
    of_spot = np.bincount(spots.ring_spot, weights=np.diff(spots.ring_start), minlength=len(spots)).astype(np.int64)
    return np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges), np.cumsum([0, *of_spot])


def _candidates(bounds: np.ndarray, xy: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a polygon and a point within its bounds, some polygons at a time.

    Points are sorted into a raster as coarse as polygons are; each polygon looks at the rows of cells it touches.

    Args:
        bounds: [S, 4] of the polygons.
        xy: [N, 2] points.
    """
    if not len(bounds) or not len(xy):
        return
    low = xy.min(axis=0)
    extent = xy.max(axis=0) - low
    step = max(float(np.median(bounds[:, 2:] - bounds[:, :2])), float(extent.max()) / 30_000, 1e-9)
    wide, high = (np.floor(extent / step).astype(np.int64) + 1).tolist()

    def cells(points: np.ndarray) -> np.ndarray:
        return np.floor((points - low) / step).astype(np.int64)

    column, row = cells(xy).T
    key = row * wide + column
    order = np.argsort(key, kind="stable")
    key = key[order]
    first, last = (np.clip(cells(corner), -1, [wide, high]) for corner in (bounds[:, :2], bounds[:, 2:]))
    cells_each = np.maximum(last - first + 1, 0).prod(axis=1)
    for part in _chunks(1 + cells_each * (len(xy) / (wide * high))):
        spot, cell_row = ranges(np.maximum(first[part, 1], 0), np.minimum(last[part, 1], high - 1) + 1)
        spot += part.start
        left, right = np.maximum(first[spot, 0], 0), np.minimum(last[spot, 0], wide - 1)
        ends = (np.searchsorted(key, cell_row * wide + left), np.searchsorted(key, cell_row * wide + right, "right"))
        line, place = ranges(*ends)
        spot, point = spot[line], order[place]
        within = np.all((xy[point] >= bounds[spot, :2]) & (xy[point] <= bounds[spot, 2:]), axis=1)
        yield spot[within], point[within]
