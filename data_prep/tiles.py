"""Tiles: large windows on a grid over the slide, for dense models; each holds the spots whose centre its core owns."""

import numpy as np

from data_prep.errors import InputError

_ROWS = 1 << 20  # spots placed together
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
    cell = np.empty((len(rows), 2), np.int64)  # column, row of the owning tile
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        cell[part] = np.floor(spot_xy[rows[part]] / core)
    low = cell.min(axis=0)
    across, down = (cell.max(axis=0) - low + 1).tolist()
    if across * down > _MOST_CELLS:  # of places far apart
        cells, owner = np.unique(cell[:, ::-1], axis=0, return_inverse=True)
        owner = owner.ravel()
    else:
        number = cell[:, 1] * across + cell[:, 0] - (low[1] * across + low[0])
        del cell
        there = np.flatnonzero(np.bincount(number, minlength=across * down))
        cells = np.column_stack([there // across, there % across]) + low[::-1]
        rank = np.zeros(across * down, np.min_scalar_type(len(there)))
        rank[there] = np.arange(len(there))
        owner = rank[number]
        del number
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(1, len(cells)))
    return cells[:, ::-1] * core - context_px * px_scale, np.split(rows[order], bounds)
