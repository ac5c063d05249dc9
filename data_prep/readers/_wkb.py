"""Points and polygons in Well-Known Binary, as GeoParquet holds them."""

import struct
from collections.abc import Sequence

import numpy as np

from data_prep.spots import Outline

_POINT, _POLYGON, _MULTIPOLYGON = 1, 3, 6
_LITTLE, _HEAD = 1, struct.Struct("<BI")


def decode(blobs: Sequence[bytes]) -> np.ndarray | list[Outline]:
    """[N, 2] float64 of points; of polygons, and of several polygons that are one shape, rings [V, 2] of each, the last
    vertex of which does not repeat the first.

    Raises:
        ValueError: damaged, points among polygons, or something else.
    """
    kinds = {_head(blob, 0)[0] for blob in blobs}
    if kinds == {_POINT}:
        if any(len(blob) != _HEAD.size + 16 for blob in blobs):
            raise ValueError("a point that is no pair of numbers")
        return np.frombuffer(b"".join(blob[_HEAD.size :] for blob in blobs), "<f8").reshape(-1, 2)
    if not kinds <= {_POLYGON, _MULTIPOLYGON}:
        raise ValueError(f"geometries of types {', '.join(map(str, sorted(kinds)))}")
    return [_rings(blob) for blob in blobs]


def _head(blob: bytes, start: int) -> tuple[int, int]:
    """Type of the geometry that begins at a byte, and where its content does."""
    if len(blob) < start + _HEAD.size:
        raise ValueError("a geometry that ends too soon")
    order, kind = _HEAD.unpack_from(blob, start)
    if order != _LITTLE:
        raise ValueError("geometries in another order of bytes")
    return kind, start + _HEAD.size


def _rings(blob: bytes) -> list[np.ndarray]:
    kind, place = _head(blob, 0)
    parts = 1
    if kind == _MULTIPOLYGON:
        parts, place = _count(blob, place)
    rings = []
    for _ in range(parts):
        if kind == _MULTIPOLYGON:
            inner, place = _head(blob, place)
            if inner != _POLYGON:
                raise ValueError(f"a geometry of type {inner} among polygons")
        number, place = _count(blob, place)
        for _ in range(number):
            vertices, place = _count(blob, place)
            if len(blob) < place + 16 * vertices:
                raise ValueError("a polygon that ends too soon")
            ring = np.frombuffer(blob, "<f8", 2 * vertices, place).reshape(-1, 2)
            place += 16 * vertices
            rings.append(ring[:-1] if vertices > 1 and (ring[0] == ring[-1]).all() else ring)
    return rings


def _count(blob: bytes, place: int) -> tuple[int, int]:
    if len(blob) < place + 4:
        raise ValueError("a geometry that ends too soon")
    return struct.unpack_from("<I", blob, place)[0], place + 4
