"""The lattice on which a capture array lays its spots, found from their places in the image alone; and who is next to
whom on it.

Places are whole numbers (x, y) from 0. On a hexagonal lattice, as in Visium's files, those along a row count half
pitches, so that a row has every other one; rows lie along x or y of the image, whichever they are nearer to.
"""

import dataclasses
import math

import numpy as np
from scipy.spatial import KDTree

MOST_NEAR = 8  # neighbours of a spot
REACH = 1.5  # pitches to a neighbour at most, where there is no lattice

_EDGE = 1.35  # nearest distances: longer ones lead past the next spot, to a square's diagonal
_LEAST_ORDER = 0.4  # how alike the edges' directions must be but for quarter or sixth turns; 0 of spots anywhere
_MOST_OFF = 0.25  # pitches, root mean square, from the places on the lattice; 0.41 of spots anywhere
_FEW = 12  # spots, below which a map is not bent: it turns and scales
_ROW = math.sqrt(3) / 2  # pitches between the rows of a hexagonal lattice
_SQUARE_STEPS = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
_HEXAGONAL_STEPS = [(2, 0), (-2, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
    """Where spots are on the lattice of their array.

    Attributes:
        places: [S, 2] int64 (x, y), from 0.
        steps: [K, 2] from a place to its neighbours: 8 of a square lattice, 6 of a hexagonal one.
        pitch_px: distance between neighbours.
    """

    places: np.ndarray
    steps: np.ndarray
    pitch_px: float

    @property
    def hexagonal(self) -> bool:
        """Whether it is one of triangles, not of squares."""
        return len(self.steps) == len(_HEXAGONAL_STEPS)

    @property
    def unit_px(self) -> np.ndarray:
        """[2] distance between whole numbers along x and y."""
        along_y = self.hexagonal and int(self.steps[:, 1].max()) > 1
        return kind(hexagonal=self.hexagonal, along_y=along_y)[0] * self.pitch_px

    def __getitem__(self, rows: np.ndarray) -> "Lattice":
        """Of some of the spots, in their old places."""
        return dataclasses.replace(self, places=self.places[rows])


def find(xy: np.ndarray) -> Lattice | None:
    """The lattice of spots [S, 2]; None where they lie on none, or two in one place."""
    xy = np.asarray(xy, np.float64)
    if len(xy) < 2:
        return Lattice(np.zeros((len(xy), 2), np.int64), np.array(_SQUARE_STEPS), 1.0)
    if (nearest := nearest_px(xy)) <= 0:
        return None
    pairs = KDTree(xy).query_pairs(_EDGE * nearest, output_type="ndarray")
    edges = (xy[pairs[:, 1]] - xy[pairs[:, 0]]) @ np.array([1, 1j])
    waves = {folds: complex(np.mean((edges / np.abs(edges)) ** folds)) for folds in (4, 6)}
    folds = max(waves, key=lambda each: abs(waves[each]))
    if abs(waves[folds]) < _LEAST_ORDER:
        return None
    turn = float(np.angle(waves[folds])) / folds  # of the direction that is nearest to x
    along_y = folds == 6 and abs(turn) > math.pi / 12
    if along_y:
        turn -= math.copysign(math.pi / 6, turn)  # of the normal to the rows, which is nearer to x than they are
    scale = float(np.median(np.abs(edges)))
    basis = scale * np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    unit, steps = kind(hexagonal=folds == 6, along_y=along_y)
    found = _grown(xy, basis, unit)
    if found is None:
        return None
    places, basis = found
    return Lattice(places - places.min(axis=0), steps, math.sqrt(abs(np.linalg.det(basis))))


def nearest_px(xy: np.ndarray) -> float:
    """Median distance of spots [S, 2], S > 1, to the nearest other one."""
    return float(np.median(np.asarray(KDTree(xy).query(xy, k=2)[0])[:, 1]))


def near(xy: np.ndarray, lattice: Lattice | None) -> np.ndarray:
    """[S, 8] int32 rows of each spot's neighbours, the nearest first; -1 where there are no more.

    Args:
        xy: [S, 2].
        lattice: of these spots; without one a neighbour is nearer than 1.5 times the median distance of the nearest.
    """
    found = np.full((len(xy), MOST_NEAR), -1, np.int32)
    if len(xy) < 2:
        return found
    if lattice is None:
        distance, rows = KDTree(xy).query(xy, k=MOST_NEAR + 1, distance_upper_bound=REACH * nearest_px(xy))
        other = np.isfinite(distance) & (rows != np.arange(len(xy))[:, None])
        distance = np.where(other, distance, np.inf)
    else:
        rows, distance = _next_to(xy, lattice)
    order = np.lexsort((rows, distance), axis=1)[:, :MOST_NEAR]
    rows, distance = np.take_along_axis(rows, order, axis=1), np.take_along_axis(distance, order, axis=1)
    found[:, : rows.shape[1]] = np.where(np.isfinite(distance), rows, -1)
    return found


def _next_to(xy: np.ndarray, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """[S, K] row of the spot a step away, and how far it is; infinite where there is none."""
    width = int(lattice.places[:, 0].max()) + 5  # no step leads into another row
    numbers = lattice.places @ np.array([1, width])
    order = np.argsort(numbers)
    wanted = numbers[:, None] + lattice.steps @ np.array([1, width])  # [S, K]
    rows = order[np.searchsorted(numbers[order], wanted).clip(max=len(xy) - 1)]
    distance = np.linalg.norm(xy[rows] - xy[:, None], axis=2)
    return rows, np.where(numbers[rows] == wanted, distance, np.inf)


def kind(*, hexagonal: bool, along_y: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """[2] pitches between whole numbers along x and y, and the steps [K, 2] to neighbours.

    Args:
        along_y: rows of a hexagonal lattice lie along y.
    """
    if not hexagonal:
        return np.ones(2), np.array(_SQUARE_STEPS)
    axis = -1 if along_y else 1
    return np.array([0.5, _ROW])[::axis], np.array(_HEXAGONAL_STEPS)[:, ::axis]


def _grown(xy: np.ndarray, basis: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The place of each spot, and the basis that fits them best: found in the midst of the spots, where a basis that is
    a little off does no harm, and from there outwards. None where they follow none.

    Args:
        basis: [2, 2] pixels of a pitch along the lattice's x and y, about right.
        unit: [2] pitches between whole numbers along these.
    """
    origin = xy[int(np.argmin(np.linalg.norm(xy - np.median(xy, axis=0), axis=1)))]
    away = np.linalg.norm(xy - origin, axis=1)
    reach, farthest = 3.0 * np.linalg.norm(basis[0]), float(away.max())
    while True:
        inside = away <= reach
        places = _rounded((xy - origin) @ np.linalg.inv(basis), unit)
        origin, basis = _refitted(places[inside] * unit, xy[inside], origin, basis)
        if reach >= farthest:
            break
        reach *= 1.5
    if abs(np.linalg.det(basis)) < 1e-9:
        return None
    pitches = (xy - origin) @ np.linalg.inv(basis)
    places = _rounded(pitches, unit)
    off = float(np.sqrt(np.mean(np.sum((pitches - places * unit) ** 2, axis=1))))
    if off > _MOST_OFF or len(np.unique(places, axis=0)) < len(xy):
        return None
    return places, basis


def _rounded(pitches: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """[S, 2] the nearest places to points in pitches; of a hexagonal lattice every other place is one."""
    places = np.round(pitches / unit).astype(np.int64)
    if unit[0] == unit[1]:
        return places
    corners = np.floor(pitches / unit).astype(np.int64)[:, None] + np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    distance = np.linalg.norm(corners * unit - pitches[:, None], axis=2)
    distance[corners.sum(axis=2) % 2 != 0] = np.inf
    return np.take_along_axis(corners, distance.argmin(axis=1)[:, None, None], axis=1)[:, 0]


def _refitted(
    pitches: np.ndarray, xy: np.ndarray, origin: np.ndarray, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Origin and basis by least squares; where spots span no plane, those given."""
    middle, centre = pitches.mean(axis=0), xy.mean(axis=0)
    centred, moved = pitches - middle, xy - centre
    if len(xy) >= _FEW and np.linalg.matrix_rank(centred) == 2:
        basis = np.linalg.lstsq(centred, moved, rcond=None)[0]
    elif np.any(centred):
        one, other = centred @ np.array([1, 1j]), moved @ np.array([1, 1j])
        turn = np.vdot(one, other) / np.vdot(one, one)
        basis = np.array([[turn.real, turn.imag], [-turn.imag, turn.real]])
    else:
        return origin, basis
    return centre - middle @ basis, basis
