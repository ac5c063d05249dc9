"""Outlines of cells or nuclei from a segmentation: GeoJSON polygons, or a label image, in pixels of the slide."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from data_prep import budgets, files, json_files
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _text
from data_prep.slide_base import decoding
from data_prep.spots import Spots

GEOJSON, IMAGES = (".geojson", ".geojson.gz", ".json", ".json.gz"), (".tif", ".tiff", ".png")
_REMEDY = "export the segmentation again"
_TYPES = {"Polygon": 0, "MultiPolygon": 1}  # how many levels of lists lie above rings
_MODES = {"L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.int32}  # of Pillow; labels are positive


class Feature(NamedTuple):
    """One outline of a GeoJSON file: its rings [V, 2], what it is called there ("" where it is not), its properties."""

    rings: list[np.ndarray]
    id: str
    properties: dict[str, Any]


def read(path: Path) -> tuple[Spots, tuple[str, ...]]:
    """The polygons of a segmentation, and notes.

    They keep the ids of a GeoJSON's features where all have one of their own, and are numbered from 1 where not; of a
    label image they are called by their label.

    Raises:
        InputError: neither GeoJSON nor a label image, damaged, or without any polygon.
    """
    if path.name.casefold().endswith(GEOJSON):
        features, notes = read_geojson(path)
        ids = [feature.id for feature in features]
        if len(set(ids)) < len(ids) or not all(ids):
            ids = [str(number) for number in range(1, len(features) + 1)]
        return Spots.polygons([feature.rings for feature in features], np.array(ids, str)), notes
    labels = _labels(path)
    spots = trace(labels)
    if not len(spots):
        raise InputError(f"{path}: holds no label but 0; expected an image with a number for each nucleus; {_REMEDY}")
    return spots, ()


def read_geojson(path: Path) -> tuple[list[Feature], tuple[str, ...]]:
    """The polygons of a GeoJSON file, a collection of features or a list of them, and notes.

    Raises:
        InputError: damaged, another kind of JSON, a feature that is no polygon, or none at all.
    """
    text = _text.read_text(path, budgets.GEOJSON_TEXT)
    if text.lstrip()[:1] == "[":  # as QuPath writes it
        text = f'{{"features": {text}}}'
    listed = json_files.parse(text, str(path), remedy=_REMEDY).get("features")
    if not isinstance(listed, list):
        raise InputError(f"{path}: has no list of features, as GeoJSON has; {_REMEDY}")
    found = [_feature(path, number, feature) for number, feature in enumerate(listed, 1)]
    whole = [feature for feature in found if feature.rings]
    if not whole:
        raise InputError(f"{path}: holds {len(found)} features and no polygon of 3 points or more; {_REMEDY}")
    lost = len(found) - len(whole)
    return whole, (counted(lost, f"outlines of fewer than 3 points in {path.name} were left out"),) if lost else ()


def _feature(path: Path, number: int, feature: Any) -> Feature:
    """One feature; without rings where none has three points."""
    where = f"{path}: feature {number}"
    feature = feature if isinstance(feature, dict) else {}
    geometry = feature.get("geometry")
    geometry = geometry if isinstance(geometry, dict) else {}
    kind = geometry.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InputError(f"{where} is {files.shown(str(kind))[:60]}, expected Polygon or MultiPolygon; {_REMEDY}")
    rings = geometry.get("coordinates")
    if _TYPES[kind] and isinstance(rings, list) and all(isinstance(part, list) for part in rings):
        rings = [ring for part in rings for ring in part]
    if not isinstance(rings, list):
        raise InputError(f"{where} has no list of rings; {_REMEDY}")
    properties = feature.get("properties")
    return Feature(
        [ring for ring in (_ring(where, ring) for ring in rings) if len(ring) > 2],
        _name(where, feature.get("id")),
        properties if isinstance(properties, dict) else {},
    )


def _name(where: str, name: Any) -> str:
    """What a feature calls itself, "" where it does not."""
    if name is None:
        return ""
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise InputError(f"{where} has an id that is neither text nor a whole number; {_REMEDY}")
    files.check_lengths([str(name)], f"{where}: id")
    return str(name)


def _ring(where: str, points: Any) -> np.ndarray:
    """[V, 2] vertices, the last of which does not repeat the first."""
    try:
        ring: Any = np.asarray([point[:2] for point in points])
    except (TypeError, ValueError, IndexError, KeyError):
        ring = np.zeros(0)
    if ring.ndim != 2 or ring.shape[1] != 2 or ring.dtype.kind not in "iuf" or not np.isfinite(ring).all():
        raise InputError(f"{where} has a ring that is no list of x and y; {_REMEDY}")
    ring = ring.astype(np.float64)
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def _labels(path: Path) -> np.ndarray:
    """[H, W] whole numbers, 0 where there is nothing."""
    plugins = {".png": PngImagePlugin.PngImageFile}
    with decoding(path), path.open("rb") as file:
        plugin = plugins.get(path.suffix.casefold(), TiffImagePlugin.TiffImageFile)
        with plugin(file) as image:  # not Image.open: our budget is checked here, Pillow's is one for the process
            if image.mode not in _MODES:
                raise InputError(
                    f"{path}: an image of {_shown_mode(image)}, expected one channel of whole numbers, a label for "
                    f"each nucleus and 0 between them; {_REMEDY}"
                )
            budgets.LABELS.check(path, 4 * image.width * image.height)
            return np.asarray(image).astype(_MODES[image.mode], copy=False)


def _shown_mode(image: Image.Image) -> str:
    kinds = {"F": "fractions", "1": "black and white", "P": "a palette"}
    return kinds.get(image.mode, f"{len(image.getbands())} channels")


def trace(labels: np.ndarray) -> Spots:
    """The outlines of the labels of an image, along the borders of its pixels: a polygon holds the pixels of its label.

    Args:
        labels: [H, W] whole numbers; 0 is nothing.

    Returns:
        A polygon for each label, in their order, called by it; one of several pieces or with holes has several rings.
    """
    wide = np.pad(labels, 1)
    start, stop, label = (np.concatenate(parts) for parts in zip(*_borders(wide), strict=True))
    order = np.lexsort((start, label))
    start, stop, label = start[order], stop[order], label[order]
    # Every corner of a label has as many borders coming as going: the n-th that comes goes on as the n-th that goes.
    following = np.empty(len(label), np.int64)
    following[np.lexsort((stop, label))] = np.arange(len(label))
    names, first = np.unique(label, return_index=True)
    outlines = []
    for begin, end in zip(first.tolist(), [*first[1:].tolist(), len(label)], strict=False):
        corners = _linked(start[begin:end].tolist(), (following[begin:end] - begin).tolist())
        places = (np.divmod(np.array(ring), wide.shape[1] + 1) for ring in corners)
        outlines.append([_turns(np.column_stack([column, row]) - 1.0) for row, column in places])
    return Spots.polygons(outlines, names.astype(str))


def _linked(corners: list[int], following: list[int]) -> list[list[int]]:
    """The rings that borders make up: the corners at which those of each begin.

    Args:
        corners: where each border begins.
        following: which border each leads on to.
    """
    rings, seen = [], [False] * len(corners)
    for first in range(len(corners)):
        ring, border = [], first
        while not seen[border]:
            seen[border] = True
            ring.append(corners[border])
            border = following[border]
        if ring:
            rings.append(ring)
    return rings


def _borders(wide: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Borders between a label's pixels and others, with the label to the right of each: the corners where it begins and
    ends, and the label.

    Args:
        wide: [H, W] labels with a border of 0; corners are numbered row by row, W + 1 a row.
    """
    width = wide.shape[1] + 1
    found = []
    # (of the pixel at row, column) which neighbour differs, and the corners its border leads from and to
    for axis, step, begin, end in ((0, -1, 0, 1), (1, 1, 1, width + 1), (0, 1, width + 1, width), (1, -1, width, 0)):
        differs = (wide > 0) & (wide != np.roll(wide, -step, axis))
        row, column = np.nonzero(differs)
        corner = row * width + column
        found.append((corner + begin, corner + end, wide[row, column].astype(np.int64)))
    return found


def _turns(ring: np.ndarray) -> np.ndarray:
    """The points of a ring [V, 2] at which it turns."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[np.any(before != after, axis=1)]
