"""The arrays that a model was trained on, and lattices like theirs through spots that lie otherwise.

A model of sections knows spots a pitch apart. Of finer ones it is asked on virtual lattices of that pitch, laid in
parallel so that each spot has a place on one. In every place of such a lattice stands the spot whose cell it lies in.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from data_prep import json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Lacking
from stjax.data import lattice
from stjax.data.lattice import Lattice
from stjax.data.sections import GRID, NEAR, OF_SECTION, Around

FACTS = {
    "sizes_um": Lacking(json_files.numbers(0)),
    "arrays": Lacking([{"pitch_um": json_files.POSITIVE, "hexagonal": json_files.FLAG}]),
}
"""The sizes of the training spots, and the lattices that they lie on; earlier versions kept neither."""

_SAME_PITCH = 1.25  # times: arrays whose pitches differ by less are alike
_SLACK = 1e-6  # of a pitch, for rounding


def of_sections(dataset: PatchDataset, names: Sequence[str]) -> list[dict[str, Any]]:
    """The lattices of some sections as `FACTS` has them, each kind and pitch once; none of spots anywhere."""
    found: list[dict[str, Any]] = []
    for name in names:
        on = lattice.find(dataset.table(name).spots.xy)
        if on is None or len(on.places) < 2:
            continue
        array = {"pitch_um": on.pitch_px * dataset.section(name)["um_per_px"], "hexagonal": on.hexagonal}
        if not any(each["hexagonal"] == on.hexagonal and _alike(array, each["pitch_um"]) for each in found):
            found.append(array)
    return sorted(found, key=lambda each: (each["pitch_um"], each["hexagonal"]))


def coarser(arrays: Sequence[Mapping[str, Any]], pitch_um: float) -> Mapping[str, Any] | None:
    """The finest array that is coarser than spots so far apart; None where one is alike, or none is known.

    Raises:
        InputError: all are finer.
    """
    if not arrays or any(_alike(each, pitch_um) for each in arrays):
        return None
    if found := next((each for each in arrays if each["pitch_um"] > pitch_um), None):
        return found
    raise InputError(
        f"its spots are {pitch_um:.3g} um apart, those that the model was trained on {arrays[-1]['pitch_um']:.3g} um, "
        "and it has to see others between them; choose finer spots, or a model that was trained on such"
    )


def _alike(array: Mapping[str, Any], pitch_um: float) -> bool:
    return max(array["pitch_um"] / pitch_um, pitch_um / array["pitch_um"]) < _SAME_PITCH


@dataclasses.dataclass(frozen=True, eq=False)
class Through:
    """A virtual lattice.

    Attributes:
        rows: [N] the spot at each of its places, ascending; a spot may stand at two.
        own: [N] bool, whether this is the spot's own place: each has one, on one of the lattices.
        lattice: of these places.
    """

    rows: np.ndarray
    own: np.ndarray
    lattice: Lattice


def through(spots: Lattice, pitch_px: float, *, hexagonal: bool) -> list[Through]:
    """Lattices of a pitch through spots [S] that lie on a finer one, parallel to it and to each other.

    Between the places of one lattice lie those of the others, no farther apart than the spots are: no two spots have
    one place, and every place that lies in a spot's cell has it.
    """
    unit, steps = lattice.kind(hexagonal=hexagonal)
    unit = unit * pitch_px
    at = spots.places * spots.unit_px  # [S, 2]
    parts = np.ceil(unit / spots.unit_px - _SLACK).astype(np.int64)
    step = unit / parts
    own = np.floor(at / step + 0.5).astype(np.int64)  # [S, 2] among the places of all lattices
    size = own.max(axis=0, initial=0) + 1
    every = np.stack(np.unravel_index(np.arange(size.prod()), size), axis=1)
    reach = (1 + _SLACK) * spots.pitch_px / math.sqrt(3 if spots.hexagonal else 2)  # from the middle of a spot's cell
    row = np.asarray(KDTree(at).query(every * step, distance_upper_bound=reach)[1])
    of_own = np.ravel_multi_index(tuple(own.T), tuple(size))
    row[of_own] = np.arange(len(at))
    is_own = np.zeros(len(row), bool)
    is_own[of_own] = True

    part, place = every % parts, every // parts
    odd = place.sum(axis=1) % 2 if hexagonal else np.zeros(len(place), np.int64)
    place[:, 0] += odd  # every other place is one
    which = (part[:, 0] * parts[1] + part[:, 1]) * 2 + odd
    there = np.flatnonzero(row < len(at))
    there = there[np.lexsort((row[there], which[there]))]
    found = []
    for each in np.split(there, np.flatnonzero(np.diff(which[there])) + 1):
        if is_own[each].any():
            places = place[each] - place[each].min(axis=0)
            found.append(Through(row[each], is_own[each], Lattice(places, steps, pitch_px)))
    return found


def around(
    name: str, xy: np.ndarray, used: np.ndarray, um_per_px: float, needs: frozenset[str], facts: Mapping[str, Any]
) -> list[Around]:
    """What a model needs to know of the spots of a section as far as their places say: of all at once, or, where they
    are finer than its training's, of those on each of the lattices through them.

    Args:
        xy: [S, 2] of all spots.
        used: [U] positions of those that are used.
        facts: of the model: `FACTS`, and how far lattices go, where it knows.

    Raises:
        InputError: they lie on no lattice, on one that the model does not know, or are coarser than its training's.
    """
    every = Around(np.arange(len(used)), np.ones(len(used), bool))
    if not needs & set(OF_SECTION):
        return [every]
    whole = lattice.find(xy)
    on = None if whole is None else whole[used]
    try:
        array = None if on is None or len(xy) < 2 else coarser(facts.get("arrays", ()), on.pitch_px * um_per_px)
    except InputError as error:
        raise InputError(f"Section {name!r}: {error}") from None
    if on is None or array is None or not len(used):
        return [_placed(every, name, xy[used], on, needs, facts)]
    virtual = through(on, array["pitch_um"] / um_per_px, hexagonal=array["hexagonal"])
    parts = [(Around(each.rows, each.own), each.lattice) for each in virtual]
    return [_placed(part, name, xy[used][part.rows], each, needs, facts) for part, each in parts]


def _placed(
    part: Around, name: str, xy: np.ndarray, on: Lattice | None, needs: frozenset[str], facts: Mapping[str, Any]
) -> Around:
    found: dict[str, Any] = {}
    if GRID in needs:
        found["places"] = _places(name, on, facts)
    if NEAR in needs:
        found["near"] = lattice.near(xy, on)
    return dataclasses.replace(part, **found)


def _places(name: str, found: Lattice | None, facts: Mapping[str, Any]) -> np.ndarray:
    """[N, 2] places of a section's spots. Raises InputError where there are none, or none that the model knows."""
    if found is None:
        raise InputError(
            f"Section {name!r}: its spots lie on no square or hexagonal lattice, and this model needs their "
            "places on one; leave the section out, or choose another model"
        )
    size, most = found.places.max(axis=0, initial=0) + 1, np.array(facts.get("grid_size", (np.inf, np.inf)))
    if np.any(size > most):
        raise InputError(
            f"Section {name!r}: its array has {size[0]} x {size[1]} places, those of the data set that the model "
            f"was trained on at most {most[0]} x {most[1]}; train on one that has such arrays too"
        )
    return found.places


def looked_up(xy: np.ndarray, um_per_px: float, arrays: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """[S] for spots that are finer than a training's array, which of them is nearest to a place of one such lattice:
    what could be said of each without being asked of all. None of spots that are not finer, or lie on no lattice."""
    on = lattice.find(xy) if len(xy) > 1 else None
    try:
        array = None if on is None else coarser(arrays, on.pitch_px * um_per_px)
    except InputError:
        return None
    if on is None or array is None:
        return None
    virtual = through(on, array["pitch_um"] / um_per_px, hexagonal=array["hexagonal"])
    middle = xy.mean(axis=0)  # the one with most places, of several the one in the midst
    best = max(virtual, key=lambda each: (len(each.rows), -np.linalg.norm(xy[each.rows].mean(axis=0) - middle)))
    rows = np.unique(best.rows)
    return rows[KDTree(xy[rows]).query(xy)[1]]
