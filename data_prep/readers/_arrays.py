"""How spots lie: on Visium's hexagonal array, a square one, or none; and whether two arrays lie on one another."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import scipy.spatial

from data_prep.errors import InputError
from data_prep.readers import _array_fit

HEXAGONAL = np.array([0.5, np.sqrt(3) / 2])  # (column, row) steps on the array, in units of the pitch
_SQRT3 = np.sqrt(3)
_TOLERANCE = 0.1  # of the ratio of its steps; 1 and the square root of 3 are far apart
_RIGHT_ANGLE = 0.1  # cosine, at most
_SAMPLE = 20_000  # spots are plenty to see how they lie
_MOST = 0.75  # of the spots, that follow an array before the others are wrong and not the array
_LOOSE = 0.2  # pitches: spots that are typically farther off were numbered by where they lie, and form no array


@dataclasses.dataclass(frozen=True)
class Array:
    """An array that spots lie on.

    Attributes:
        kind: "hexagonal" (rows set off by half a step, as Visium's), "square", or "unknown".
        pitch_px: distance between neighbours, pixels.
        turned_degrees: how far its rows are from the nearest axis of the image, 0 to 45.
        units: [2] pitches per step of column and row.
    """

    kind: Literal["hexagonal", "square", "unknown"]
    pitch_px: float
    turned_degrees: float
    units: np.ndarray


def of_table(obs: pd.DataFrame, spot_xy: np.ndarray, path: Path | str) -> tuple[Array | None, tuple[str, ...]]:
    """The array that `array_row` and `array_col` describe, or Seurat's `row` and `col`, if they are there; and notes.

    Args:
        obs: [S rows] annotation.
        spot_xy: [S, 2] pixels.
        path: the file, for messages.

    Raises:
        InputError: spots that do not lie where the array puts them, although it is one: single ones, or all, where rows
            were reordered.
    """
    names = next((names for names in (("array_col", "array_row"), ("col", "row")) if set(names) <= set(obs)), None)
    if names is None:
        return None, ()
    array_xy = obs[list(names)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    known = np.isfinite(array_xy).all(axis=1)
    array_xy, spot_xy = array_xy[known], spot_xy[known]
    array = measure(array_xy, spot_xy)
    if array is None or (array.kind == "unknown" and names == ("col", "row")):
        return None, ()
    grid_xy = array_xy * array.units
    found = _array_fit.fit(grid_xy, spot_xy)
    if found is None or not found.misplaced.any():
        return array, ()
    follow = ~found.misplaced
    few = bool(np.mean(follow) >= _MOST and np.median(found.off[follow]) < _LOOSE)
    if few or _array_fit.neighbours_are_apart(grid_xy, spot_xy):
        row, column = names[::-1]
        remedy = (
            f"correct obsm['spatial'], or remove obs[{row!r}] and obs[{column!r}] where spots were moved on purpose"
        )
        ids = obs.index.astype(str).to_numpy(dtype=str)[known]
        raise InputError(_array_fit.describe(path, ids, grid_xy, spot_xy, found, remedy=remedy))
    note = f"obs[{names[1]!r}] and obs[{names[0]!r}] do not tell where spots lie in the image and are not used"
    return dataclasses.replace(array, kind="unknown", pitch_px=nearest_px(spot_xy)), (note,)


def measure(array_xy: np.ndarray, spot_xy: np.ndarray) -> Array | None:
    """The array that (column, row) places [S, 2] form in the image [S, 2 pixels]; None where they span no plane.

    Visium numbers every other column in each row, so that column and row are even or odd together; a step of one row is
    then the square root of 3 times as long as a step of one column. On a square array both are of one length.
    """
    found = _array_fit.fit(array_xy, spot_xy)
    if found is None or not np.isfinite(found.affine).all():
        return None
    affine = found.affine
    followed = array_xy[~found.misplaced] if np.mean(found.misplaced) < 0.5 else array_xy
    lengths = np.linalg.norm(affine, axis=1)  # pixels per column and per row
    if not lengths.all():
        return None
    step = np.array([_common_step(axis - axis.min()) for axis in followed.T])
    ratio = float(lengths.max() / lengths.min())
    upright = abs(float(affine[0] @ affine[1])) <= _RIGHT_ANGLE * float(lengths.prod())
    parity = followed.sum(axis=1) % 2
    units, kind = np.ones(2), "unknown"
    if upright and np.all(parity == parity[0]) and abs(ratio / _SQRT3 - 1) < _TOLERANCE:
        units, kind = HEXAGONAL[:: 1 if lengths[1] > lengths[0] else -1], "hexagonal"
    elif upright and abs(ratio - 1) < _TOLERANCE:
        units, kind = 1 / step, "square"
    in_pitches = _array_fit.fit(array_xy * units, spot_xy)
    if in_pitches is None or not 0 < (pitch := in_pitches.pitch_px) < np.inf:
        return None
    return Array(kind, nearest_px(spot_xy) if kind == "unknown" else pitch, _array_fit.turned_degrees(affine), units)


def nearest_px(spot_xy: np.ndarray) -> float:
    """Median distance to the nearest spot, 0 where there is none."""
    if len(spot_xy) < 2:
        return 0.0
    return float(np.median(scipy.spatial.KDTree(spot_xy).query(spot_xy[:_SAMPLE], k=2)[0][:, 1]))


def is_regular(spot_xy: np.ndarray) -> bool:
    """Whether spots [S, 2] lie on some array: most have three or more neighbours about as near as the nearest."""
    if len(spot_xy) < 9:
        return False
    distance = scipy.spatial.KDTree(spot_xy).query(spot_xy[:_SAMPLE], k=7)[0][:, 1:]
    return bool(np.median(np.sum(distance < 1.2 * distance[:, :1], axis=1)) >= 3)


def overlap(spot_xy: np.ndarray) -> bool:
    """Whether the spots [S, 2] look like two arrays on one another, listed one after the other.

    Each spot's nearest neighbour is then on the other array: a cut of the list parts them. In one array it does not,
    and more than three neighbours are about as near.
    """
    if len(spot_xy) < 20:
        return False
    tree = scipy.spatial.KDTree(spot_xy)
    rows = np.arange(len(spot_xy)) if len(spot_xy) <= _SAMPLE else np.linspace(0, len(spot_xy) - 1, _SAMPLE).astype(int)
    distance, neighbour = (np.asarray(found) for found in tree.query(spot_xy[rows], k=7))
    nearest = distance[:, 1]
    if np.mean(nearest == 0) > 0.02:
        return True  # spots of one array never share a place
    typical = np.percentile(nearest, 95)
    near = nearest < 0.75 * typical  # where two arrays overlap in part, spots there are nearer than elsewhere
    chosen = near if near.sum() >= max(10, 0.02 * len(rows)) else np.ones(len(rows), bool)
    equals = np.sum(distance[chosen, 1:] < 1.2 * nearest[chosen, None], axis=1)
    if np.median(equals) > 3:
        return False
    low, high = np.minimum(rows, neighbour[:, 1])[chosen], np.maximum(rows, neighbour[:, 1])[chosen]
    # Pairs that a cut before row k parts: those whose lower row is before it, less those whose upper row is too
    parted = np.searchsorted(np.sort(low), high, side="left") - np.searchsorted(np.sort(high), high, side="left")
    return bool(parted.max() > 0.75 * len(low))


def _common_step(values: np.ndarray) -> int:
    """The greatest step that whole numbers from 0 share; 1 where they are not whole."""
    whole = np.round(values).astype(np.int64)
    return int(np.gcd.reduce(whole)) or 1 if np.allclose(values, whole, atol=1e-6) else 1
