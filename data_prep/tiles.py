"""Tiles: large windows on a grid over the slide, for dense models; each holds the spots whose centre its core owns."""

from collections.abc import Iterator

import numpy as np

from data_prep import on_disk
from data_prep.errors import InputError

_MOST_CELLS = 1 << 20  # of a grid whose every cell is counted


def context_px(name: str, size_px: int, reach_px: float, asked_px: int | None) -> int:
    """The margin of a tile, record pixels: as asked, or an eighth of the tile, and enough for a spot to fit whole.

    Args:
        name: of the section, for messages.
        size_px: side of the tile.
        reach_px: how far a spot extends from its centre, record pixels.
        asked_px: `--context-px`, or None.

    Raises:
        InputError: spots would be cut at the tile's edge, or nothing would be left of the tile.
    """
    needed = int(np.ceil(reach_px))
    margin = max(size_px // 8, needed) if asked_px is None else asked_px
    if margin < needed:
        raise InputError(
            f"Section {name!r}: spots reach {needed} px from their centre, so --context-px {margin} would cut them at "
            f"the tile's edge; give at least {needed}"
        )
    if 2 * margin >= size_px:
        raise InputError(
            f"Section {name!r}: a margin of {margin} px on each side leaves nothing of a tile of {size_px} px; "
            f"give --tile-size-px of at least {4 * margin}"
        )
    return margin


def lay_out(
    spot_xy: np.ndarray, rows: np.ndarray, *, size_px: int, context_px: int, px_scale: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Tiles whose cores partition the slide, those that own a spot, in row-major order.

    Args:
        spot_xy: [N, 2] full-resolution pixels.
        rows: [S] the spots to place.
        size_px, context_px: side and margin of a tile, record pixels; the core is what lies within the margin.
        px_scale: full-resolution pixels per record pixel.

    Returns:
        [R, 2] float64 top-left corners (a margin may lie outside the image), and the R arrays of owned rows.
    """
    if not len(rows):
        return np.zeros((0, 2)), []
    core = (size_px - 2 * context_px) * px_scale

    def owning() -> Iterator[tuple[slice, np.ndarray]]:
        """Some of the spots at a time, and [n, 2] int64: column and row of the tile that owns each."""
        for part in on_disk.blocks(len(rows), spot_xy):
            yield part, np.floor(spot_xy[rows[part]] / core).astype(np.int64)

    ends = np.array([(cell.min(axis=0), cell.max(axis=0)) for _, cell in owning()])  # [blocks, 2, 2]
    low, high = ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)
    across, down = (high - low + 1).tolist()
    if across * down > _MOST_CELLS:  # of places far apart
        every = np.concatenate([cell for _, cell in owning()])
        cells, owner = np.unique(every[:, ::-1], axis=0, return_inverse=True)
        owner = owner.ravel()
    else:
        numbered = np.zeros(across * down, np.int64)  # of each cell of the grid, how many spots it owns
        for _, cell in owning():
            numbered += np.bincount(_number(cell, low, across), minlength=len(numbered))
        there = np.flatnonzero(numbered)
        cells = np.column_stack([there // across, there % across]) + low[::-1]
        rank = np.zeros(across * down, np.min_scalar_type(len(there)))
        rank[there] = np.arange(len(there))
        owner = np.empty(len(rows), rank.dtype)
        for part, cell in owning():
            owner[part] = rank[_number(cell, low, across)]
    order = np.argsort(owner, kind="stable")
    bounds = np.cumsum(np.bincount(owner, minlength=len(cells)))[:-1]
    return cells[:, ::-1] * core - context_px * px_scale, np.split(rows[order], bounds)


def _number(cell: np.ndarray, low: np.ndarray, across: int) -> np.ndarray:
    """[N] the number of each cell [N, 2] (column, row) in a grid `across` cells wide whose first cell is `low`."""
    return (cell[:, 1] - low[1]) * across + cell[:, 0] - low[0]
