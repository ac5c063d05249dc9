"""Outlines of a synthetic section's cells and of their nuclei, and which molecules lie in them.

The outline of a cell is a polygon of `CORNERS` corners around its centre, of the size of its type and no larger than
leaves its neighbours theirs; its nucleus is a smaller one.
"""

import numpy as np
import scipy.sparse
import scipy.spatial

from data_prep.demo_tissue import FAT, Cells

CORNERS = 12
CELL_UM, FAT_CELL_UM, NUCLEUS = 6.0, 28.0, 0.6  # radii of the corners, and a nucleus's share of its cell's


def radii_um(cells: Cells, *, share: float = 1.0) -> np.ndarray:
    """[C] float64: how far the corners of each cell are from its centre, or those of its nucleus at `share`."""
    distance = scipy.spatial.KDTree(cells.xy_um).query(cells.xy_um, k=2)[0]
    nearest = distance[:, 1]
    return share * np.minimum(np.where(cells.type == FAT, FAT_CELL_UM, CELL_UM), 0.499 * nearest)


def outlines_um(cells: Cells, *, share: float = 1.0) -> np.ndarray:
    """[C, CORNERS, 2] float64: the cells' outlines (x, y), or those of their nuclei at `share`."""
    turn = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    corners = np.column_stack([np.cos(turn), np.sin(turn)])
    return cells.xy_um[:, None].astype(float) + radii_um(cells, share=share)[:, None, None] * corners


def owner(cells: Cells, xy_um: np.ndarray, *, share: float = 1.0) -> np.ndarray:
    """[N] int64: the cell, or nucleus, whose outline each point (x, y) is in; -1 for none.

    A regular polygon holds what is nearer than its sides are in the direction of every one of them.
    """
    radius = radii_um(cells, share=share)
    found = scipy.spatial.KDTree(cells.xy_um).query(xy_um, distance_upper_bound=FAT_CELL_UM)
    distance, cell = (np.asarray(values) for values in found)
    near = np.flatnonzero(np.isfinite(distance))
    offset, cell = xy_um[near] - cells.xy_um[cell[near]], cell[near]
    turn = (np.arange(CORNERS) + 0.5) * (2 * np.pi / CORNERS)
    reach = np.max(offset @ np.stack([np.cos(turn), np.sin(turn)]), axis=1)
    inside = reach <= radius[cell] * np.cos(np.pi / CORNERS)
    owners = np.full(len(xy_um), -1)
    owners[near[inside]] = cell[inside]
    return owners


def counts(cell: np.ndarray, gene: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """[C, G] int32 counts, from the cell of each molecule (-1 for none) and its gene."""
    inside = cell >= 0
    entries = (np.ones(int(inside.sum()), np.int32), (cell[inside], gene[inside].astype(np.int64)))
    found = scipy.sparse.csr_array(entries, shape=shape)
    found.sum_duplicates()
    return found
