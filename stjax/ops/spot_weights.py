"""Which pixels a spot covers, and the weight each feature has on the sum over them. NumPy on the host, float64.

The dense map is a bilinear resize R of the feature grid, so the sum over a spot's pixels m_n is `w_n = R^T m_n` applied
to the features. R is separable, and a spot is a set of horizontal runs of pixels, so with C the running sum of the
column weights every run [start, stop) of row i adds `Ry[i] (x) (C[stop] - C[start])`: a few numbers a run, whatever
its length. `sum(w_n)` is the number of the spot's pixels inside the image.

A spot covers the pixels whose centre lies in it: discs closed, squares and polygons half-open, so that neighbours which
share an edge share no pixel. Spots count from the corner of the image (`data_prep.spots`); here, as in PixNet's
equation 5, pixel (row i, column j) is the point (x, y) = (j, i): `_by_centres` is the one place where they are moved.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.sparse

from data_prep.errors import InputError
from data_prep.spots import DISC, SQUARE, Spots, ranges

_CHUNK = 1 << 21  # terms summed at a time; bounds the memory, about 100 bytes a term

# --------------------------------------------------------------------------------------------------------- pixels


def _by_centres(spots: Spots) -> Spots:
    """The same spots where a pixel's centre has whole coordinates; sizes in float64."""
    return dataclasses.replace(spots, size_px=spots.size_px.astype(np.float64)).within((0.5, 0.5), 1.0)


class Runs(NamedTuple):
    """Horizontal runs of covered pixels, sorted by spot: columns start <= j < stop of a row."""

    spot: np.ndarray
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def pixel_runs(spots: Spots, image_hw: tuple[int, int]) -> Runs:
    """The pixels of an image of `image_hw` (rows, columns) that each spot covers."""
    spots = _by_centres(spots)
    parts = [_disc_runs(spots, image_hw), _square_runs(spots, image_hw), _polygon_runs(spots, image_hw)]
    spot, row, start, stop = (np.concatenate(column) for column in zip(*parts, strict=True))
    start, stop = np.clip(start, 0, image_hw[1]), np.clip(stop, 0, image_hw[1])
    order = np.argsort(spot, kind="stable")
    order = order[stop[order] > start[order]]
    return Runs(spot[order], row[order], start[order], stop[order])


def _whole(values: np.ndarray, limit: int) -> np.ndarray:
    return np.clip(values, -1, limit + 1).astype(np.int64)  # clipped first: a float may exceed every integer type


def _disc_runs(spots: Spots, image_hw: tuple[int, int]) -> Runs:
    which = np.flatnonzero(spots.kind == DISC)
    (x, y), r = spots.xy[which].T, spots.size_px[which]
    height, width = image_hw
    first, stop = _whole(np.ceil(y - r), height), _whole(np.floor(y + r) + 1, height)
    owner, row = ranges(np.maximum(first, 0), np.minimum(stop, height))
    x, y, r = x[owner], y[owner], r[owner]

    def inside(column: np.ndarray) -> np.ndarray:
        return (column - x) ** 2 + (row - y) ** 2 <= r**2

    half = np.sqrt(np.maximum(r**2 - (row - y) ** 2, 0))
    left, right = np.ceil(x - half), np.floor(x + half)
    # The root may round across a pixel; the definition decides.
    left += np.where(inside(left - 1), -1, np.where(inside(left), 0, 1))
    right += np.where(inside(right + 1), 1, np.where(inside(right), 0, -1))
    return Runs(which[owner], row, _whole(left, width), _whole(right + 1, width))


def _square_runs(spots: Spots, image_hw: tuple[int, int]) -> Runs:
    which = np.flatnonzero(spots.kind == SQUARE)
    (x, y), half = spots.xy[which].T, spots.size_px[which] / 2
    height, width = image_hw
    first, stop = _whole(np.ceil(y - half), height), _whole(np.ceil(y + half), height)
    owner, row = ranges(np.maximum(first, 0), np.minimum(stop, height))
    left, right = _whole(np.ceil(x - half), width), _whole(np.ceil(x + half), width)
    return Runs(which[owner], row, left[owner], right[owner])


def _polygon_runs(spots: Spots, image_hw: tuple[int, int]) -> Runs:
    of_edge, edges = _edges(spots)
    height, width = image_hw
    low, high = _whole(np.ceil(edges[:, 1]), height), _whole(np.ceil(edges[:, 3]), height)
    owner, row = ranges(np.maximum(low, 0), np.minimum(high, height))
    column = np.ceil(_crossing(edges[owner], row))
    order = np.lexsort((column, row, of_edge[owner]))  # every row of a spot holds an even number of crossings
    spot, row, column = of_edge[owner][order], row[order], _whole(column[order], width)
    return Runs(spot[::2], row[::2], column[::2], column[1::2])


def _edges(spots: Spots) -> tuple[np.ndarray, np.ndarray]:
    """[E] spot and [E, 4] x, y, x, y of every polygon edge, the end of lesser y first: neighbours round alike."""
    length = np.diff(spots.ring_start)
    following = np.arange(1, len(spots.ring_xy) + 1)
    following[spots.ring_start[1:] - 1] = spots.ring_start[:-1]  # a ring closes
    edges = np.concatenate([spots.ring_xy, spots.ring_xy[following]], axis=1)
    of_edge = np.repeat(spots.ring_spot, length)
    return of_edge, np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges)


def _crossing(edges: np.ndarray, row: np.ndarray) -> np.ndarray:
    """x at which edges [..., 4] cross their row; edges are not horizontal."""
    x, y, x_end, y_end = np.moveaxis(edges, -1, 0)
    return x + (row - y) * ((x_end - x) / (y_end - y))


def spot_masks(spots: Spots, image_hw: tuple[int, int]) -> np.ndarray:
    """[N, H, W] bool, straight from the definition of each kind: what `pixel_runs` and the weights are tested against,
    and the masks that `spot_pool_reference` takes."""
    spots = _by_centres(spots)
    row, column = np.arange(image_hw[0])[:, None], np.arange(image_hw[1])[None, :]
    masks = np.zeros((len(spots), *image_hw), bool)
    owner, edges = _edges(spots)
    for spot, (x, y) in enumerate(spots.xy):
        size = spots.size_px[spot]
        if spots.kind[spot] == DISC:
            masks[spot] = (column - x) ** 2 + (row - y) ** 2 <= size**2
        elif spots.kind[spot] == SQUARE:
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
    spots: Spots, *, image_hw: tuple[int, int], grid_hw: tuple[int, int]
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
    bounds = spots.bounds()
    extent = np.minimum(bounds[:, 2:] - bounds[:, :2], image_hw[::-1]) + 2
    terms = 2 * extent[:, 1] * (extent[:, 0] * columns.cells / image_hw[1] + 2)  # at most, of each spot
    chunk = np.floor(np.cumsum(terms) / _CHUNK).astype(np.int64)
    blocks, counts = [scipy.sparse.csr_array((0, grid_hw[0] * grid_hw[1]))], [np.zeros(0, np.int64)]
    for number in np.unique(chunk):
        part = spots[chunk == number]
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
    owner, column = ranges(low, high + 1)  # every run's cells along its row
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
