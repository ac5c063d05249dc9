"""Shapes of a SpatialData as spots in pixels of an image; from a store, or in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.errors import InputError
from data_prep.readers import _wkb
from data_prep.spots import Outline, Spots, moved

SQUARE = 0.01  # relative difference of two sides that are taken for one
_UPRIGHT = 1e-3  # of a side, that corners of a square along the axes may be off


def is_similarity(affine: np.ndarray) -> bool:
    """Whether a map [2 or 3, 3] scales all directions alike."""
    longest, shortest = np.linalg.svd(affine[:2, :2], compute_uv=False)
    return bool(longest / shortest - 1 <= SQUARE)


def zoom(affine: np.ndarray) -> float:
    """How many times longer a line is under a map that scales all directions alike."""
    return float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))


def read(path: Path) -> tuple[np.ndarray, list[bytes], np.ndarray | None]:
    """Ids [N], geometries and, of circles, radii [N] of a store's file of shapes.

    Raises:
        InputError: it is damaged, or geometries are not kept as Well-Known Binary.
    """
    from data_prep.readers import _parquet  # the one module that cannot be without pyarrow

    index, names = _parquet.index_of(path), _parquet.column_names(path)
    radius, text = ["radius"] if "radius" in names else [], [index] if isinstance(index, str) else []
    parts = list(_parquet.batches(path, blobs=["geometry"], numbers=radius, texts=text))
    blobs = [blob for part in parts for blob in part["geometry"]]
    if not blobs:
        raise InputError(f"{path}: holds no shape; choose other shapes")
    if isinstance(index, str):
        ids = np.concatenate([np.asarray(part[index].to_numpy(zero_copy_only=False), str) for part in parts])
    else:
        ids = np.array([str(number) for number in index])
    return ids, blobs, np.concatenate([part["radius"] for part in parts]) if "radius" in names else None


def spots(
    where: str, name: str, blobs: Sequence[bytes], radius: np.ndarray | None, affine: np.ndarray, ids: np.ndarray
) -> Spots:
    """Shapes in pixels of an image: circles as discs, squares along its axes as such, others as polygons.

    Args:
        where, name: whose they are and what they are called, for messages.
        blobs: [S] in Well-Known Binary; radius: [S] of points.
        affine: [2 or 3, 3] from their own coordinates (x, y) to pixels.
        ids: [S] str.

    Raises:
        InputError: neither circles nor polygons, or circles that are no circles in the image.
    """
    try:
        found = _wkb.decode(blobs)
    except ValueError as error:
        raise InputError(
            f"{where}: shapes {name!r} hold {error}, expected circles or polygons; write them again"
        ) from None
    if isinstance(found, list):
        outlines: list[Outline] = [[moved(ring, affine) for ring in rings] for rings in found]
        side = _square_sides(outlines)
        made = Spots.polygons(outlines, ids)
        return made if side is None else Spots.squares(made.xy, side, ids)
    if radius is None:
        raise InputError(f"{where}: shapes {name!r} are points without a radius, expected circles or polygons")
    if not is_similarity(affine):
        raise InputError(
            f"{where}: circles of {name!r} become ellipses in the image; convert them to polygons "
            "(spatialdata.to_polygons)"
        )
    return Spots.discs(moved(found, affine), radius * zoom(affine), ids)


def _square_sides(outlines: Sequence[Outline]) -> np.ndarray | None:
    """[S] sides where all outlines are squares along the axes, else None."""
    if any(len(rings) != 1 or len(rings[0]) != 4 for rings in outlines):
        return None
    corners = np.array([rings[0] for rings in outlines])  # [S, 4, 2]
    low, high = corners.min(axis=1), corners.max(axis=1)
    side = (high - low).mean(axis=1)
    near_low, near_high = (np.abs(corners - edge[:, None]) <= _UPRIGHT * side[:, None, None] for edge in (low, high))
    at_corner = (near_low | near_high).all(axis=(1, 2))
    four = near_low.sum(axis=1) == 2  # [S, 2]: two of the four are low, on either axis
    mixed = (near_low[..., 0] & near_low[..., 1]).sum(axis=1) == 1
    square = np.abs((high - low)[:, 0] - (high - low)[:, 1]) <= SQUARE * side
    return side if bool((at_corner & four.all(axis=1) & mixed & square & (side > 0)).all()) else None
