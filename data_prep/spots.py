"""Spots: the measured areas of a slide, from the reader to the report: discs, squares or polygons.

Coordinates are pixels of an image, counted from the corner of its first pixel: pixel (row i, column j) is the area
[j, j + 1) x [i, i + 1), and (x, y) = (j + 0.5, i + 0.5) is its centre.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep import files, on_disk
from data_prep.errors import InputError
from data_prep.names import texts

DISC, SQUARE, POLYGON = 0, 1, 2  # kinds
_NAMED = 5  # spots in a message
_CORNERS = 32  # of the polygon that stands for a disc

ARRAYS = {  # in a file: the kinds of their types, and dimensions
    "spot_id": ("U", 1),
    "spot_xy": ("f", 2),
    "spot_kind": ("u", 1),
    "spot_size_px": ("f", 1),
}
OUTLINES = {"ring_spot": ("iu", 1), "ring_start": ("iu", 1), "ring_xy": ("f", 2)}  # where there are polygons

Outline = np.ndarray | Sequence[Any]  # of a polygon: one ring [V, 2], or several


@dataclasses.dataclass(frozen=True, eq=False)
class Spots:
    """S spots of one image.

    A polygon has one ring or several; a point is inside where it lies in an odd number of them, so that a ring within a
    ring is a hole, whichever way it turns. The first vertex need not be repeated.

    Attributes:
        id: [S] str, or bytes of a whole slide's millions of bins, see `data_prep.names`.
        xy: [S, 2] float64, centres (x, y); of a polygon, a point that stands for it.
        kind: [S] uint8, DISC, SQUARE or POLYGON.
        size_px: [S] float32 or float64, a disc's radius or a square's side; 0 of a polygon.
        ring_spot: [R] int64, ascending, the polygon that each ring is of.
        ring_start: [R + 1] int64, where each ring begins in `ring_xy`, and where the last ends.
        ring_xy: [V, 2] float64, vertices (x, y).

    Raises:
        InputError: parts that do not fit together, a coordinate that is no finite number, a negative size, a ring of
            fewer than 3 vertices.
    """

    id: np.ndarray
    xy: np.ndarray
    kind: np.ndarray
    size_px: np.ndarray
    ring_spot: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    ring_start: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1, np.int64))
    ring_xy: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))

    def __post_init__(self) -> None:
        if fault := self._fault():
            raise InputError(fault)
        size = np.asarray(self.size_px)
        types: dict[str, Any] = {"xy": np.float64, "kind": np.uint8, "ring_xy": np.float64}
        types |= {"size_px": size.dtype if size.dtype == np.float32 else np.float64}
        for name, dtype in (types | {"ring_spot": np.int64, "ring_start": np.int64}).items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        if getattr(self.id, "dtype", np.dtype(object)).kind != "S":
            object.__setattr__(self, "id", np.asarray(self.id, str))

    @classmethod
    def alike(cls, kind: int, xy: Any, size_px: Any, ids: Any = None) -> "Spots":
        """Discs or squares.

        Args:
            xy: [S, 2] centres.
            size_px: [S] or one for all: radius of the discs, side of the squares.
            ids: [S] str; positions by default.
        """
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        ids = np.arange(len(xy)).astype(str) if ids is None else ids
        return cls(ids, xy, np.full(len(xy), kind, np.uint8), np.broadcast_to(size_px, len(xy)).copy())

    @classmethod
    def discs(cls, xy: Any, radius_px: Any, ids: Any = None) -> "Spots":
        """Discs around `xy` [S, 2], of radius `radius_px` [S] or one for all."""
        return cls.alike(DISC, xy, radius_px, ids)

    @classmethod
    def squares(cls, xy: Any, side_px: Any, ids: Any = None) -> "Spots":
        """Squares along the axes around `xy` [S, 2], of side `side_px` [S] or one for all."""
        return cls.alike(SQUARE, xy, side_px, ids)

    @classmethod
    def polygons(cls, outlines: Sequence[Outline], ids: Any = None) -> "Spots":
        """Polygons of these outlines; the centre is the middle of their bounds."""
        rings = [_rings(outline) for outline in outlines]
        if any(ring.ndim != 2 or ring.shape[1] != 2 for spot in rings for ring in spot):
            raise InputError("an outline has a ring that is not [V, 2]; give x and y of each vertex")
        every = [ring for spot in rings for ring in spot]
        ids = np.arange(len(rings)).astype(str) if ids is None else ids
        made = cls(
            ids,
            np.zeros((len(rings), 2)),
            np.full(len(rings), POLYGON, np.uint8),
            np.zeros(len(rings)),
            np.repeat(np.arange(len(rings)), [len(spot) for spot in rings]),
            np.cumsum([0, *(len(ring) for ring in every)]),
            np.concatenate([*every, np.zeros((0, 2))]),
        )
        bounds = made.bounds()
        return dataclasses.replace(made, xy=(bounds[:, :2] + bounds[:, 2:]) / 2)

    @classmethod
    def concatenate(cls, parts: Sequence["Spots"]) -> "Spots":
        """The spots of at least one part after the other."""
        names = ("id", "xy", "kind", "size_px", "ring_xy")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        first_spot = np.cumsum([0, *(len(part) for part in parts)])
        first_vertex = np.cumsum([0, *(len(part.ring_xy) for part in parts)])
        numbered = list(zip(parts, first_spot, first_vertex, strict=False))
        return cls(
            **joined,
            ring_spot=np.concatenate([part.ring_spot + spot for part, spot, _ in numbered]),
            ring_start=np.append(
                np.concatenate([part.ring_start[:-1] + vertex for part, _, vertex in numbered]), first_vertex[-1]
            ),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], *, origin: str, remedy: str) -> "Spots":
        """What `to_arrays` gave, read from a file.

        Args:
            origin, remedy: the file, and what to do when it is damaged, for messages.

        Raises:
            InputError: the arrays are no spots.
        """
        outlines = {name: arrays[name] for name in OUTLINES if name in arrays}
        if (arrays["spot_kind"] == POLYGON).any() and len(outlines) < len(OUTLINES):
            raise InputError(f"{origin}: polygons without outlines, of an earlier version; build it again")
        try:
            return cls(**{name.removeprefix("spot_"): arrays[name] for name in ARRAYS}, **outlines)
        except InputError as error:
            raise InputError(f"{origin}: {error}; {remedy}") from None

    def to_arrays(self, *, as_text: bool = True) -> dict[str, np.ndarray]:
        """`ARRAYS`, and `OUTLINES` where there are any.

        Args:
            as_text: whether ids are to be text where they are bytes.
        """
        outlines = {name: getattr(self, name) for name in OUTLINES if len(self.ring_spot)}
        each = {name: getattr(self, name.removeprefix("spot_")) for name in ARRAYS}
        return each | ({"spot_id": self.names} if as_text else {}) | outlines

    @property
    def names(self) -> np.ndarray:
        """[S] str: the ids."""
        return texts(self.id)

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: Any) -> "Spots":
        """Some of the spots: a mask, positions in any order, or a slice."""
        of_slice = isinstance(rows, slice)
        rows = np.arange(*rows.indices(len(self))) if of_slice else np.atleast_1d(np.arange(len(self))[rows])
        chosen = (on_disk.take(self.id, rows), on_disk.take(self.xy, rows), self.kind[rows], self.size_px[rows])
        if not len(self.ring_spot):
            return Spots(*chosen)
        first, stop = (np.searchsorted(self.ring_spot, rows, side) for side in ("left", "right"))
        spot, ring = ranges(first, stop)
        _, vertex = ranges(self.ring_start[ring], self.ring_start[ring + 1])
        start = np.cumsum(np.append(0, np.diff(self.ring_start)[ring]))
        return Spots(*chosen, spot, start, self.ring_xy[vertex])

    def rings(self, spot: int) -> tuple[np.ndarray, ...]:
        """The rings [V, 2] of a polygon; none of a disc or square."""
        first, stop = np.searchsorted(self.ring_spot, [spot, spot + 1])
        return tuple(self.ring_xy[self.ring_start[ring] : self.ring_start[ring + 1]] for ring in range(first, stop))

    def outline(self, spot: int) -> tuple[np.ndarray, ...]:
        """Rings [V, 2] of a spot of any kind; of a disc, of a polygon that looks like it."""
        if self.kind[spot] == POLYGON:
            return self.rings(spot)
        half = float(self.across_px()[spot]) / 2
        if self.kind[spot] == SQUARE:
            return (self.xy[spot] + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]),)
        turn = np.arange(_CORNERS) * (2 * np.pi / _CORNERS)
        return (self.xy[spot] + half * np.stack([np.cos(turn), np.sin(turn)], axis=1),)

    def within(self, origin_xy: Any, px_scale: float) -> "Spots":
        """The same spots in pixels of a window.

        Args:
            origin_xy: [2] the window's top-left corner, in pixels of the image.
            px_scale: pixels of the image per pixel of the window.
        """
        scale = float(px_scale)
        return dataclasses.replace(
            self,
            xy=(self.xy - origin_xy) / scale,
            size_px=self.size_px / np.asarray(scale, self.size_px.dtype),
            ring_xy=(self.ring_xy - origin_xy) / scale,
        )

    def bounds(self) -> np.ndarray:
        """[S, 4] float64: least x, least y, greatest x, greatest y."""
        half = np.where(self.kind == DISC, 1, 0.5) * self.size_px.astype(np.float64)
        bounds = np.concatenate([self.xy - half[:, None], self.xy + half[:, None]], axis=1)
        if len(self.ring_spot):
            polygon, ring = np.unique(self.ring_spot, return_index=True)
            first = self.ring_start[ring]
            bounds[polygon, :2] = np.minimum.reduceat(self.ring_xy, first)
            bounds[polygon, 2:] = np.maximum.reduceat(self.ring_xy, first)
        return bounds

    def reach_px(self) -> np.ndarray:
        """[S] float64: how far each extends from its centre along an axis."""
        reach = np.where(self.kind == DISC, 1, 0.5) * self.size_px.astype(np.float64)
        is_polygon = self.kind == POLYGON
        bounds, xy = self[is_polygon].bounds(), self.xy[is_polygon]
        reach[is_polygon] = np.maximum(xy - bounds[:, :2], bounds[:, 2:] - xy).max(axis=1)
        return reach

    def across_px(self) -> np.ndarray:
        """[S] float64: a disc's diameter, a square's side, the diameter of the disc of a polygon's area."""
        across = np.where(self.kind == DISC, 2, 1) * self.size_px.astype(np.float64)
        is_polygon = self.kind == POLYGON
        across[is_polygon] = 2 * np.sqrt(self._polygon_areas()[is_polygon] / np.pi)
        return across

    def across_um(self, um_per_px: float) -> np.ndarray:
        """[S] float64: `across_px` in micrometres."""
        return self.across_px() * um_per_px

    def _polygon_areas(self) -> np.ndarray:
        """[S] float64, square pixels; 0 of discs and squares. Rings are taken not to cross each other."""
        if not len(self.ring_spot):
            return np.zeros(len(self))
        start, stop = self.ring_start[:-1], self.ring_start[1:]
        following = np.arange(1, len(self.ring_xy) + 1)
        following[stop - 1] = start
        x, y = (
            self.ring_xy - np.repeat(self.ring_xy[start], stop - start, axis=0)
        ).T  # small numbers lose fewer digits
        area = np.abs(np.add.reduceat(x * y[following] - x[following] * y, start)) / 2  # [R]
        for spot in np.flatnonzero(np.bincount(self.ring_spot) > 1).tolist():
            rings, first = self.rings(spot), np.searchsorted(self.ring_spot, spot)
            for place, ring in enumerate(rings):
                around = sum(_holds(other, ring[0]) for number, other in enumerate(rings) if number != place)
                area[first + place] *= (-1) ** around  # a hole, or an island in one
        return np.bincount(self.ring_spot, weights=area, minlength=len(self))

    def _fault(self) -> str:
        """Why these are no spots, "" if they are."""
        spots = len(self.kind)
        per_spot = {"id": (spots,), "xy": (spots, 2), "kind": (spots,), "size_px": (spots,)}
        found = {name: np.shape(getattr(self, name)) for name in per_spot}
        if found != per_spot:
            shapes = ", ".join(f"{name} {shape}" for name, shape in found.items())
            return f"spots have {shapes}; expected [S], [S, 2], [S] and [S]"
        xy, kind, size = np.asarray(self.xy), np.asarray(self.kind), np.asarray(self.size_px)
        wrong = {
            "a centre that is no finite number": lambda rows: ~np.isfinite(xy[rows]).all(axis=1),
            "a radius or side that is negative or no number": lambda rows: (
                ~(np.isfinite(size[rows]) & (size[rows] >= 0))
            ),
            f"no kind (disc is {DISC}, square {SQUARE}, polygon {POLYGON})": lambda rows: (
                ~np.isin(kind[rows], (DISC, SQUARE, POLYGON))
            ),
        }
        for text, is_wrong in wrong.items():
            found = [is_wrong(rows) for rows in on_disk.blocks(spots, xy)]
            if any(part.any() for part in found):
                return f"{self.named(np.concatenate(found))}: {text}; correct or drop what is wrong"
        return self._fault_of_rings(kind == POLYGON)

    def _fault_of_rings(self, is_polygon: np.ndarray) -> str:
        spot, start, xy = (np.asarray(values) for values in (self.ring_spot, self.ring_start, self.ring_xy))
        if spot.ndim != 1 or start.shape != (len(spot) + 1,) or xy.ndim != 2 or xy.shape[1] != 2:
            return f"outlines have ring_spot {spot.shape}, ring_start {start.shape} and ring_xy {xy.shape}"
        if start[0] != 0 or start[-1] != len(xy) or (spot[1:] < spot[:-1]).any():
            return "the outlines of the spots do not fit together"
        if (short := np.diff(start) < 3).any():
            return f"the outline of spot {spot[short][0]} has a ring of fewer than 3 vertices; correct or drop it"
        if not np.isfinite(xy).all():
            ring = int(np.searchsorted(start, np.flatnonzero(~np.isfinite(xy).all(axis=1))[0], side="right")) - 1
            return f"the outline of spot {spot[ring]} has vertices that are no finite numbers; correct or drop it"
        outlined = np.zeros(len(is_polygon), bool)
        if len(spot) and not 0 <= spot[0] <= spot[-1] < len(outlined):
            return f"outlines are of spots {spot[0]} to {spot[-1]} of {len(outlined)}"
        outlined[spot] = True
        if (differs := outlined != is_polygon).any():
            return f"{self.named(differs)}: polygons have an outline, discs and squares have none; correct or drop it"
        return ""

    def named(self, which: np.ndarray) -> str:
        """[S] bool to "spots 'a', 'b' and 7 more", for messages."""
        found = np.flatnonzero(which)
        named = ", ".join(files.shown(str(texts(self.id[spot]))) for spot in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return f"spot{'s' if len(found) > 1 else ''} {named}{more}"


def _rings(outline: Outline) -> tuple[np.ndarray, ...]:
    rings = (outline,) if isinstance(outline, np.ndarray) and outline.ndim == 2 else tuple(outline)
    return tuple(np.asarray(ring, np.float64) for ring in rings)


def ranges(first: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers first <= k < stop of every pair, one after the other: the pair's position, and k."""
    count = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + first[owner]


def moved(xy: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Points (x, y) [N, 2] under an affine map, [2, 3] or [3, 3]; float64."""
    return np.asarray(xy, np.float64) @ affine[:2, :2].T + affine[:2, 2]


def _holds(ring: np.ndarray, point: np.ndarray) -> bool:
    """Whether a point [2] lies in a ring [V, 2]."""
    (x, y), (x_next, y_next) = ring.T, np.roll(ring, -1, axis=0).T
    on = (y <= point[1]) != (y_next <= point[1])  # edges that a line to the right of the point may cross
    crossing = x[on] + (point[1] - y[on]) * (x_next[on] - x[on]) / (y_next[on] - y[on])
    return bool(np.sum(point[0] < crossing) % 2)
