"""Which pixels a spot covers, and the weight each feature has on the sum over them. NumPy on the host, float64.

The dense map is a bilinear resize R of the feature grid, so the sum over a spot's pixels m_n is `w_n = R^T m_n` applied
to the features. R is separable, and a spot is a set of horizontal runs of pixels, so with C the running sum of the
column weights every run [start, stop) of row i adds `Ry[i] (x) (C[stop] - C[start])`: a few numbers a run, whatever
its length. `sum(w_n)` is the number of the spot's pixels inside the image.

Pixel (row i, column j) is the point (x, y) = (j, i), as in PixNet's equation 5. A spot covers the pixels whose point
lies in it: discs closed, squares and polygons half-open, so that neighbours which share an edge share no pixel.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from data_prep.errors import InputError
from data_prep.section import DISC, POLYGON, SQUARE

_CHUNK = 1 << 21  # terms summed at a time; bounds the memory, about 100 bytes a term

Polygon = np.ndarray | Sequence[np.ndarray]  # one ring, or several


@dataclasses.dataclass(frozen=True)
class Shapes:
    """N spots, in pixels of the image.

    Attributes:
        kind: [N] uint8, DISC, SQUARE or POLYGON (`data_prep.section`).
        xy: [N, 2] float64 centres; of no meaning for polygons.
        size_px: [N] float64, disc radius, square side, or index into `polygons`.
        polygons: each one ring [V, 2] (x, y) or several; a point is inside where it lies in an odd number of rings, so
            a ring within a ring is a hole, whichever way it turns. The first vertex need not be repeated.

    Raises:
        InputError: a coordinate or size that is no finite number, a negative size, a polygon of fewer than 3 vertices.
    """

    kind: np.ndarray
    xy: np.ndarray
    size_px: np.ndarray
    polygons: tuple[Polygon, ...] = ()

    def __post_init__(self) -> None:
        for name, dtype in (("kind", np.uint8), ("xy", np.float64), ("size_px", np.float64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        rings = tuple(_rings(polygon) for polygon in self.polygons)
        object.__setattr__(self, "polygons", rings)
        count = len(self.kind)
        if self.kind.ndim != 1 or self.xy.shape != (count, 2) or self.size_px.shape != (count,):
            raise InputError(
                f"spots have kind {self.kind.shape}, xy {self.xy.shape}, size_px {self.size_px.shape}; "
                "expected [N], [N, 2] and [N]"
            )
        is_polygon = self.kind == POLYGON
        for valid, wrong in (
            (np.isfinite(self.xy).all(axis=1) | is_polygon, "a centre that is no finite number"),
            (np.isfinite(self.size_px) & (self.size_px >= 0), "a radius or side that is negative or no number"),
            (self.kind <= POLYGON, f"no known kind (disc is {DISC}, square {SQUARE}, polygon {POLYGON})"),
            (~is_polygon | (self.size_px < len(rings)), f"a polygon beyond the {len(rings)} there are"),
        ):
            if not valid.all():
                raise InputError(f"{spot_names(~valid)}: {wrong}; correct or drop what is wrong")
        for number, polygon in enumerate(rings):
            if any(ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 for ring in polygon):
                raise InputError(f"polygon {number} has a ring that is not [V, 2] with at least 3 vertices")
            if not all(np.isfinite(ring).all() for ring in polygon):
                raise InputError(f"polygon {number} has vertices that are no finite numbers")

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: Any) -> "Shapes":
        """The spots of a slice, a mask or an array of positions."""
        return Shapes(self.kind[index], self.xy[index], self.size_px[index], self.polygons)

    def rings(self, spot: Any) -> tuple[np.ndarray, ...]:
        """A polygon spot's rings."""
        return self.polygons[int(self.size_px[spot])]  # pyright: ignore[reportReturnType]

    def bounds(self) -> np.ndarray:
        """[N, 4] float64: least x, least y, greatest x, greatest y."""
        reach = np.where(self.kind == DISC, self.size_px, self.size_px / 2)[:, None]
        bounds = np.concatenate([self.xy - reach, self.xy + reach], axis=1)
        for spot in np.flatnonzero(self.kind == POLYGON):
            vertices = np.concatenate(self.rings(spot))
            bounds[spot] = [*vertices.min(axis=0), *vertices.max(axis=0)]
        return bounds


def _rings(polygon: Polygon) -> tuple[np.ndarray, ...]:
    rings = (polygon,) if isinstance(polygon, np.ndarray) and polygon.ndim == 2 else tuple(polygon)
    return tuple(np.asarray(ring, np.float64) for ring in rings)


def spot_names(which: np.ndarray) -> str:
    """[N] bool to "spots 3, 5 and 7 more", for messages."""
    found = np.flatnonzero(which)
    named = ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return f"spot{'s' if len(found) > 1 else ''} {named}"


def discs(xy: Any, radius_px: Any) -> Shapes:
    """Discs around `xy` [N, 2] of radius `radius_px` [N] or one for all: pixels at most that far from the centre."""
    return _alike(DISC, xy, radius_px)


def squares(xy: Any, side_px: Any) -> Shapes:
    """Axis-aligned squares around `xy` [N, 2]: pixels with x - side / 2 <= j < x + side / 2, and so for rows."""
    return _alike(SQUARE, xy, side_px)


def polygons(outlines: Sequence[Polygon]) -> Shapes:
    """Polygons, each one ring [V, 2] (x, y) or several: islands and holes."""
    count = len(outlines)
    return Shapes(np.full(count, POLYGON), np.zeros((count, 2)), np.arange(count), tuple(outlines))


def concatenate(*parts: Shapes) -> Shapes:
    """Several kinds of spots as one, in the order given."""
    size, outlines = [], ()
    for part in parts:
        size.append(np.where(part.kind == POLYGON, part.size_px + len(outlines), part.size_px))
        outlines += part.polygons
    kind, xy = (np.concatenate([getattr(part, name) for part in parts]) for name in ("kind", "xy"))
    return Shapes(kind, xy, np.concatenate(size), outlines)


def _alike(kind: int, xy: Any, size_px: Any) -> Shapes:
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    return Shapes(np.full(len(xy), kind), xy, np.broadcast_to(np.asarray(size_px, np.float64), len(xy)))


# --------------------------------------------------------------------------------------------------------- pixels


class Runs(NamedTuple):
    """Horizontal runs of covered pixels, sorted by spot: columns start <= j < stop of a row."""

    spot: np.ndarray
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def pixel_runs(shapes: Shapes, image_hw: tuple[int, int]) -> Runs:
    """The pixels of an image of `image_hw` (rows, columns) that each spot covers."""
    parts = [_disc_runs(shapes, image_hw), _square_runs(shapes, image_hw), _polygon_runs(shapes, image_hw)]
    spot, row, start, stop = (np.concatenate(column) for column in zip(*parts, strict=True))
    start, stop = np.clip(start, 0, image_hw[1]), np.clip(stop, 0, image_hw[1])
    order = np.argsort(spot, kind="stable")
    order = order[stop[order] > start[order]]
    return Runs(spot[order], row[order], start[order], stop[order])


def _between(first: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers first <= k < stop of every pair, one after the other: the pair's position, and k."""
    count = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + first[owner]


def _whole(values: np.ndarray, limit: int) -> np.ndarray:
    return np.clip(values, -1, limit + 1).astype(np.int64)  # clipped first: a float may exceed every integer type


def _disc_runs(shapes: Shapes, image_hw: tuple[int, int]) -> Runs:
    spots = np.flatnonzero(shapes.kind == DISC)
    (x, y), r = shapes.xy[spots].T, shapes.size_px[spots]
    height, width = image_hw
    first, stop = _whole(np.ceil(y - r), height), _whole(np.floor(y + r) + 1, height)
    owner, row = _between(np.maximum(first, 0), np.minimum(stop, height))
    x, y, r = x[owner], y[owner], r[owner]

    def inside(column: np.ndarray) -> np.ndarray:
        return (column - x) ** 2 + (row - y) ** 2 <= r**2

    half = np.sqrt(np.maximum(r**2 - (row - y) ** 2, 0))
    left, right = np.ceil(x - half), np.floor(x + half)
    # The root may round across a pixel; the definition decides.
    left += np.where(inside(left - 1), -1, np.where(inside(left), 0, 1))
    right += np.where(inside(right + 1), 1, np.where(inside(right), 0, -1))
    return Runs(spots[owner], row, _whole(left, width), _whole(right + 1, width))


def _square_runs(shapes: Shapes, image_hw: tuple[int, int]) -> Runs:
    spots = np.flatnonzero(shapes.kind == SQUARE)
    (x, y), half = shapes.xy[spots].T, shapes.size_px[spots] / 2
    height, width = image_hw
    first, stop = _whole(np.ceil(y - half), height), _whole(np.ceil(y + half), height)
    owner, row = _between(np.maximum(first, 0), np.minimum(stop, height))
    left, right = _whole(np.ceil(x - half), width), _whole(np.ceil(x + half), width)
    return Runs(spots[owner], row, left[owner], right[owner])


def _polygon_runs(shapes: Shapes, image_hw: tuple[int, int]) -> Runs:
    spots, edges = _edges(shapes)
    height, width = image_hw
    low, high = _whole(np.ceil(edges[:, 1]), height), _whole(np.ceil(edges[:, 3]), height)
    owner, row = _between(np.maximum(low, 0), np.minimum(high, height))
    column = np.ceil(_crossing(edges[owner], row))
    order = np.lexsort((column, row, spots[owner]))  # every row of a spot holds an even number of crossings
    spot, row, column = spots[owner][order], row[order], _whole(column[order], width)
    return Runs(spot[::2], row[::2], column[::2], column[1::2])


def _edges(shapes: Shapes) -> tuple[np.ndarray, np.ndarray]:
    """[E] spot and [E, 4] x, y, x, y of every polygon edge, the end of lesser y first: neighbours round alike."""
    spots, ends = [np.zeros(0, np.int64)], [np.zeros((0, 4))]
    for spot in np.flatnonzero(shapes.kind == POLYGON):
        for ring in shapes.rings(spot):
            ends.append(np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1))
            spots.append(np.full(len(ring), spot))
    edges = np.concatenate(ends)
    return np.concatenate(spots), np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges)


def _crossing(edges: np.ndarray, row: np.ndarray) -> np.ndarray:
    """x at which edges [..., 4] cross their row; edges are not horizontal."""
    x, y, x_end, y_end = np.moveaxis(edges, -1, 0)
    return x + (row - y) * ((x_end - x) / (y_end - y))


def shape_masks(shapes: Shapes, image_hw: tuple[int, int]) -> np.ndarray:
    """[N, H, W] bool, straight from the definition of each shape: what `pixel_runs` and the weights are tested against,
    and the masks that `spot_pool_reference` takes."""
    row, column = np.arange(image_hw[0])[:, None], np.arange(image_hw[1])[None, :]
    masks = np.zeros((len(shapes), *image_hw), bool)
    owner, edges = _edges(shapes)
    for spot, (x, y) in enumerate(shapes.xy):
        size = shapes.size_px[spot]
        if shapes.kind[spot] == DISC:
            masks[spot] = (column - x) ** 2 + (row - y) ** 2 <= size**2
        elif shapes.kind[spot] == SQUARE:
            half = size / 2
            masks[spot] = (x - half <= column) & (column < x + half) & (y - half <= row) & (row < y + half)
        else:
            for edge in edges[owner == spot]:
                if edge[1] < edge[3]:
                    masks[spot] ^= (edge[1] <= row) & (row < edge[3]) & (_crossing(edge, row) <= column)
    return masks


# -------------------------------------------------------------------------------------------------------- weights


class _Axis:
    """The bilinear resize along one axis, `cells` features to `pixels`: half-pixel centres, edges clamped.

    Pixel i takes `1 - part[i]` of cell `low[i]` and `part[i]` of the next.
    """

    def __init__(self, pixels: int, cells: int):
        self.cells = cells
        position = np.clip((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)
        self.low = np.floor(position).astype(np.int64)
        self.part = position - self.low
        # Running sums of each cell's weights, over the few pixels that have any.
        self.first = np.searchsorted(position, np.arange(cells) - 1, side="right")
        stop = np.searchsorted(position, np.arange(cells) + 1, side="left")
        pixel = self.first[:, None] + np.arange(int((stop - self.first).max()))
        weight = 1 - np.abs(position[np.minimum(pixel, pixels - 1)] - np.arange(cells)[:, None])
        running = np.cumsum(np.where(pixel < stop[:, None], weight, 0), axis=1)
        self.running = np.pad(running, ((0, 0), (1, 0)))  # [cells, pixels with weight + 1]

    def sum(self, start: np.ndarray, stop: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """The weight that pixels start <= i < stop give a cell in all."""
        last = self.running.shape[1] - 1
        begin, end = (np.clip(pixel - self.first[cell], 0, last) for pixel in (start, stop))
        return self.running[cell, end] - self.running[cell, begin]


def pooling_matrix(
    shapes: Shapes, *, image_hw: tuple[int, int], grid_hw: tuple[int, int]
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """The linear map from features to sums over spots: `matrix @ features.reshape(h * w, C)`.

    Args:
        image_hw: H, W, rows and columns of the image the spots are in.
        grid_hw: h, w of the feature grid that covers it, at most H, W.

    Returns:
        [N, h * w] float64 CSR with the weight of each feature, and [N] int64, the pixels of each spot in the image.

    Raises:
        InputError: a grid that is empty or finer than the image.
    """
    if not all(0 < cells <= pixels for cells, pixels in zip(grid_hw, image_hw, strict=True)):
        raise InputError(f"a feature grid of {grid_hw} does not cover an image of {image_hw}: it must not be finer")
    rows, columns = (_Axis(pixels, cells) for pixels, cells in zip(image_hw, grid_hw, strict=True))
    bounds = shapes.bounds()
    extent = np.minimum(bounds[:, 2:] - bounds[:, :2], image_hw[::-1]) + 2
    terms = 2 * extent[:, 1] * (extent[:, 0] * columns.cells / image_hw[1] + 2)  # at most, of each spot
    chunk = np.floor(np.cumsum(terms) / _CHUNK).astype(np.int64)
    blocks, counts = [scipy.sparse.csr_array((0, grid_hw[0] * grid_hw[1]))], [np.zeros(0, np.int64)]
    for number in np.unique(chunk):
        part = shapes[chunk == number]
        runs = pixel_runs(part, image_hw)
        blocks.append(_matrix(runs, len(part), rows, columns))
        counts.append(np.bincount(runs.spot, weights=runs.stop - runs.start, minlength=len(part)).astype(np.int64))
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr")), np.concatenate(counts)


def _matrix(runs: Runs, spots: int, rows: _Axis, columns: _Axis) -> scipy.sparse.csr_array:
    """`pooling_matrix` of some runs, summed in each spot's window of the grid."""
    shape = (spots, rows.cells * columns.cells)
    present, first = np.unique(runs.spot, return_index=True)  # spots that have pixels
    if not len(present):
        return scipy.sparse.csr_array(shape)
    low, high = columns.low[runs.start], np.minimum(columns.low[runs.stop - 1] + 1, columns.cells - 1)
    top = np.minimum.reduceat(rows.low[runs.row], first)
    bottom = np.minimum(np.maximum.reduceat(rows.low[runs.row], first) + 1, rows.cells - 1)
    left, right = np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)
    width = right - left + 1
    size = (bottom - top + 1) * width
    begin = np.cumsum(size) - size

    window = np.searchsorted(present, runs.spot)  # [R] position among the present
    owner, column = _between(low, high + 1)  # every run's cells along its row
    across = columns.sum(runs.start[owner], runs.stop[owner], column)
    window, row = window[owner], runs.row[owner]
    below = np.minimum(rows.low[row] + 1, rows.cells - 1)
    place = begin[window] + column - left[window]
    at, under = (place + (cell - top[window]) * width[window] for cell in (rows.low[row], below))
    part = rows.part[row]
    values = np.bincount(
        np.concatenate([at, under]),
        weights=np.concatenate([across * (1 - part), across * part]),
        minlength=int(size.sum()),
    )

    found = np.flatnonzero(values)
    window = np.searchsorted(begin, found, side="right") - 1
    place = found - begin[window]
    cell = (top[window] + place // width[window]) * columns.cells + left[window] + place % width[window]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(present[window], minlength=spots))])
    return scipy.sparse.csr_array((values[found], cell, indptr), shape=shape)
