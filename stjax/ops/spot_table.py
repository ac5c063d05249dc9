"""The weights of a tile's spots as tables of fixed shape, ready for the device: see `spot_pool`.

A table is a sparse matrix by rows. Rows of about the same number of entries stand side by side in a group, padded to
its width; a `Layout` fixes the groups, so that tiles with other spots fill arrays of the same shapes and one compiled
program serves them all.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse

from data_prep.errors import InputError
from data_prep.spots import Spots, ranges
from stjax.ops.spot_weights import pooling_matrix

Groups = tuple[tuple[int, int], ...]  # (width, rows) of each group of rows, ascending in width


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shapes of a table: tables of one layout run in one compiled program and stack into a batch.

    Attributes:
        spots, cells: rows of the two directions, spots that are only padding included.
        by_spot, by_cell: their groups. A single group of all rows is in their order.
    """

    spots: int
    cells: int
    by_spot: Groups
    by_cell: Groups


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A sparse matrix: row r is sum_j weight[j, p] * x[index[j, p]] where p is its place in one of the groups.

    Attributes:
        index, weight: [J, P] int32 and float, of each group.
        place: [R] int32, each row's place among all groups, one after the other; one beyond the last for a row without
            entries. None: one group, in order.
    """

    index: tuple[Any, ...]
    weight: tuple[Any, ...]
    place: Any

    @property
    def count(self) -> int:
        """R."""
        return (self.index[0] if self.place is None else self.place).shape[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpotTable:
    """What `spot_pool` needs to know of the spots of a tile, or (stacked) of each tile of a batch. A pytree of arrays.

    Attributes:
        count: [N] float, pixels of each spot inside the image; 0 for padding and for a spot that covers none.
        by_spot, by_cell: the weights, in both directions.
    """

    count: Any
    by_spot: Rows
    by_cell: Rows


def spot_table(
    spots: Spots,
    *,
    image_hw: tuple[int, int],
    grid_hw: tuple[int, int],
    layout: Layout | None = None,
    outside: str = "raise",
    dtype: Any = np.float32,
) -> SpotTable:
    """The table of some spots, as NumPy arrays; computed in float64, then rounded to `dtype`.

    Args:
        spots: in pixels of the image, counted from its corner; see `data_prep.spots`.
        image_hw: H, W, rows and columns of the image.
        grid_hw: h, w of the feature grid that covers it.
        layout: shapes to fill, as of `merge_layouts`; default what fits these spots.
        outside: "raise" on a spot that lies outside the image, or "zero": it has no pixels and sums to 0.
        dtype: of the weights; float64 needs JAX's x64 mode.

    Raises:
        InputError: a spot outside the image, a grid that does not fit it, or spots that do not fit the layout.
    """
    matrix, count = spot_matrix(spots, image_hw=image_hw, grid_hw=grid_hw, outside=outside)
    return table_of_matrix(matrix, count, layout=layout, dtype=dtype)


def spot_matrix(
    spots: Spots, *, image_hw: tuple[int, int], grid_hw: tuple[int, int], outside: str = "raise"
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """`pooling_matrix`, refusing spots that lie outside the image unless `outside` is "zero"."""
    if outside not in ("raise", "zero"):
        raise InputError(f"outside is {outside!r}; choose raise or zero")
    bounds = spots.bounds()
    beside: Any = (bounds[:, 2:] < 0).any(axis=1) | (bounds[:, :2] > np.array(image_hw[::-1])).any(axis=1)
    if outside == "raise" and beside.any():
        raise InputError(
            f"outside the image of {image_hw[1]} x {image_hw[0]} px: {spots.named(beside)} of {len(spots)}; check "
            "coordinates and scale, drop them, or pass outside='zero'"
        )
    return pooling_matrix(spots, image_hw=image_hw, grid_hw=grid_hw)


def table_of_matrix(
    matrix: Any, count: np.ndarray, *, layout: Layout | None = None, dtype: Any = np.float32
) -> SpotTable:
    """The table of what `spot_matrix` returned. Raises InputError when it does not fit the layout."""
    layout = layout or layout_of(matrix)
    if len(count) > layout.spots or matrix.shape[1] != layout.cells:
        raise InputError(
            f"{len(count)} spots on {matrix.shape[1]} cells do not fit a layout of {layout.spots} spots on "
            f"{layout.cells} cells; merge the layouts of all tiles first"
        )
    padded = np.zeros(layout.spots, dtype)
    padded[: len(count)] = count
    by_spot = _fill(matrix, layout.by_spot, layout.spots, dtype)
    by_cell = _fill(scipy.sparse.csr_array(matrix.T.tocsr()), layout.by_cell, layout.cells, dtype)
    return SpotTable(padded, by_spot, by_cell)


def layout_of(matrix: Any) -> Layout:
    """The layout that fits one pooling matrix (of `spot_matrix`) best."""
    spots, cells = matrix.shape
    of_cell = np.bincount(matrix.indices, minlength=cells)
    by_spot = _groups(np.diff(matrix.indptr), most_padding=1.5)
    # The gradient is the larger array, and grouping it costs a second one.
    return Layout(spots, cells, by_spot, _groups(of_cell, most_padding=4))


def merge_layouts(layouts: Sequence[Layout]) -> Layout:
    """A layout that every table of the given layouts fits; row counts are rounded up, so that few layouts differ."""
    spots, cells = _round_up(max(layout.spots for layout in layouts)), layouts[0].cells
    by_spot = _merge([(layout.by_spot, layout.spots) for layout in layouts], spots)
    return Layout(spots, cells, by_spot, _merge([(layout.by_cell, cells) for layout in layouts], cells))


def stack_tables(tables: Sequence[SpotTable]) -> SpotTable:
    """Tables of one layout as one of a batch, a leading axis on every array."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *tables)


class TableCache:
    """Tables of tiles by key, made once and kept while they fit `max_bytes`; the least recently used go first.

    Any number of threads may share it.
    """

    def __init__(self, max_bytes: int = 2 << 30):
        self.max_bytes, self.bytes = max_bytes, 0
        self._tables: OrderedDict[Hashable, tuple[SpotTable, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tables)

    def get(self, key: Hashable, make: Callable[[], SpotTable]) -> SpotTable:
        """The table kept under `key`; `make` makes it where there is none."""
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key][0]
        table = make()  # outside the lock: other tiles need not wait; at worst two threads make the same one
        size = sum(array.nbytes for array in jax.tree.leaves(table))
        with self._lock:
            if key not in self._tables:
                self._tables[key] = table, size
                self.bytes += size
            while self.bytes > self.max_bytes and len(self._tables) > 1:
                _, (_, freed) = self._tables.popitem(last=False)
                self.bytes -= freed
        return table


def _round_up(value: int) -> int:
    """To the next of four steps an octave, at least 8: ..., 8, 10, 12, 14, 16, 20, ..."""
    step = 1 << max(value.bit_length() - 3, 1)
    return max(8, -(-value // step) * step)


def _width(entries: np.ndarray) -> np.ndarray:
    """Each row's group: the next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... entries."""
    octave = np.exp2(np.ceil(np.log2(np.maximum(entries, 1)))).astype(np.int64)
    return np.where((octave >= 4) & (entries <= octave * 3 // 4), octave * 3 // 4, octave)


def _groups(entries: np.ndarray, *, most_padding: float) -> Groups:
    """Groups for rows of so many entries each: one in order while its size is at most `most_padding` times that of
    several, which take a further gather."""
    widest = max(1, int(entries.max(initial=0)))
    widths, rows = np.unique(_width(entries[entries > 0]), return_counts=True)
    if widest <= 16 or widest * len(entries) <= most_padding * int(widths @ rows):
        return ((widest, len(entries)),)
    return tuple(zip(widths.tolist(), rows.tolist(), strict=True))


def _in_order(groups: Groups, total: int) -> bool:
    return len(groups) == 1 and groups[0][1] == total


def _merge(parts: Sequence[tuple[Groups, int]], total: int) -> Groups:
    if all(_in_order(groups, own) for groups, own in parts):
        return ((max(groups[0][0] for groups, _ in parts), total),)
    most: dict[int, int] = {}
    for groups, _ in parts:
        for width, rows in groups:
            most[width] = max(most.get(width, 0), rows)
    return tuple((width, _round_up(rows)) for width, rows in sorted(most.items()))


def _fill(matrix: scipy.sparse.csr_array, groups: Groups, total: int, dtype: Any) -> Rows:
    """A matrix's rows in the groups: those of fewest entries in the narrowest, what does not fit in the next."""
    entries = np.diff(matrix.indptr)
    in_order = _in_order(groups, total)
    left = np.arange(len(entries)) if in_order else np.argsort(entries, kind="stable")
    left = left if in_order else left[entries[left] > 0]
    place = np.full(total, sum(rows for _, rows in groups), np.int32)
    indices, weights, offset = [], [], 0
    for width, rows in groups:
        chosen = left[:rows][entries[left[:rows]] <= width]
        left = left[len(chosen) :]
        place[chosen] = offset + np.arange(len(chosen))
        offset += rows
        index, weight = np.zeros((width, rows), np.int32), np.zeros((width, rows), dtype)
        count = entries[chosen]
        # What pads a row repeats its first entry, which is at hand.
        index[:, : len(chosen)][:, count > 0] = matrix.indices[matrix.indptr[chosen[count > 0]]]
        at, source = ranges(matrix.indptr[chosen], matrix.indptr[chosen + 1])
        entry = source - matrix.indptr[chosen][at]
        index[entry, at], weight[entry, at] = matrix.indices[source], matrix.data[source]
        indices.append(index)
        weights.append(weight)
    if len(left):
        raise InputError(
            f"{len(left)} rows of the spots' weights do not fit the layout; merge the layouts of all tiles"
        )
    return Rows(tuple(indices), tuple(weights), None if in_order else place)
