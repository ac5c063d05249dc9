"""Cells that an instrument segmented: their outlines, joined with their counts by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from data_prep import files
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.names import places_of
from data_prep.readers._matrix import CountMatrix
from data_prep.spots import Spots


class Named(NamedTuple):
    """Whose each row of a table of outlines is.

    Attributes:
        cell: [N] int64, a number for each cell of the table.
        place: [N] int64, the cell's position in the matrix, -1 where it is not there.
        lost: how many cells are not there.
        example: a cell's name.
    """

    cell: np.ndarray
    place: np.ndarray
    lost: int
    example: str


def named(names: Sequence[Any], matrix: CountMatrix) -> Named:
    """Rows by the name of their cell, given as arrays of pyarrow's strings, at least one."""
    import pyarrow  # which an extra brings, as wherever it is imported late

    cell = pyarrow.chunked_array(list(names)).dictionary_encode().combine_chunks()
    number = np.asarray(cell.indices).astype(np.int64)
    known = np.asarray(cell.dictionary.to_numpy(zero_copy_only=False), str)
    place = places_of(known, matrix.barcode)
    return Named(number, place[number], int(np.sum(place < 0)), str(known[0]) if len(known) else "nothing")


def joined(
    path: Path, matrix: CountMatrix, rows: Named, xy: np.ndarray, start: np.ndarray, place: np.ndarray
) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    """The cells that have an outline, in the order of the matrix, their counts, and notes on the others.

    Args:
        path: the table of outlines; `rows`: whose its rows are.
        xy: [V, 2] vertices in pixels of the image, ring after ring, each of which may end as it begins.
        start: [R] where rings begin.
        place: [R] whose each ring is, a position in the matrix; -1 for nobody's.

    Raises:
        InputError: no cell of the table is in the matrix.
    """
    if rows.lost and np.all(rows.place < 0):
        raise InputError(
            f"{path}: none of its cells is in {matrix.path.name} (e.g. {files.shown(rows.example)} against "
            f"{files.shown(str(next(iter(matrix.barcode), 'nothing')))}); the two belong to different runs"
        )
    spots, row, short = _outlined(xy, start, place, matrix.barcode)
    if not len(spots):
        raise InputError(
            f"{path}: holds no outline of 3 points or more; copy it again, or pool with --areas squares:100"
        )
    texts = (
        (rows.lost, f"cells of {path.name} are not in {matrix.path.name} and were left out"),
        (short, "outlines of fewer than 3 points were left out"),
        (len(matrix.barcode) - len(row), f"cells of {matrix.path.name} have no boundary and were left out"),
    )
    return spots, matrix.counts[row], tuple(counted(number, text) for number, text in texts if number)


def _outlined(xy: np.ndarray, start: np.ndarray, place: np.ndarray, names: np.ndarray) -> tuple[Spots, np.ndarray, int]:
    """Polygons in the order of `names`, the position of each there, and how many rings are too short for one."""
    stop = np.append(start[1:], len(xy))
    closed = stop - start > 1
    closed[closed] = np.all(xy[start[closed]] == xy[stop[closed] - 1], axis=1)
    stop = stop - closed
    whole = stop - start > 2
    kept = np.flatnonzero(whole & (place >= 0))
    order = kept[np.argsort(place[kept], kind="stable")]
    of_cell: dict[int, list[np.ndarray]] = {}
    for ring in order.tolist():
        of_cell.setdefault(int(place[ring]), []).append(xy[start[ring] : stop[ring]])
    row = np.array(list(of_cell), np.int64)
    return Spots.polygons(list(of_cell.values()), names[row]), row, int(np.sum(~whole))
