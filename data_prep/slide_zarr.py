"""OME-Zarr slides (NGFF 0.4 and 0.5): one RGB image with its pyramid; only the chunks a region touches are decoded.

The images of a SpatialData store are such folders too.
"""

import functools
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import files, json_files, zarr_store
from data_prep.errors import InputError
from data_prep.slide_base import Slide, decoding, one_scale

_REMEDY = "write the image again, for instance with bioformats2raw or ome-zarr"
_VERSIONS = ("0.4", "0.5")
_UM = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6, "angstrom": 1e-4}
_AXES = [{"name": json_files.one_of("t", "c", "z", "y", "x")}]
_DATASETS = [{"path": json_files.PLACE}]
_NO_NAME = re.compile(r"^(?:channel\W*)?[\d:]*$")  # of a channel
_LEAST_PX, _CACHE_BYTES = 512, 32 << 20  # side of what is read together, at least; what is kept of it


class Image(NamedTuple):
    """What an OME-Zarr image says of itself.

    Attributes:
        folder: the image's, in which the levels lie.
        axes: their names in the arrays' order.
        levels: paths of the levels, the finest first.
        units: [axes] "" where not said.
        scale: [axes] size of a pixel of the finest level, in these units.
        entry: all of it, as `multiscales` has it.
        channels: what the channels are called, where that is said.
    """

    folder: Path
    axes: tuple[str, ...]
    levels: tuple[str, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    entry: dict[str, Any]
    channels: tuple[str, ...]


class OmeZarrSlide(Slide):
    """An OME-Zarr image, chunk by chunk; lower levels of its pyramid for thumbnails."""

    format = "ome-zarr"

    def __init__(self, path: Path, max_pixels: int) -> None:
        image, self.notes = _find(path)
        self._axes = image.axes
        self._levels = [zarr_store.open_array(image.folder / level) for level in image.levels]
        for name, array in zip(image.levels, self._levels, strict=True):
            _check(path, image, name, array)
        sizes = [self._level_size(level) for level in range(len(self._levels))]
        if any(np.less(before, after).any() for before, after in itertools.pairwise(sizes)):
            raise InputError(f"{path}: a level of its pyramid is larger than the one before it; {_REMEDY}")
        sides = [(unit, scale) for axis, unit, scale in zip(image.axes, image.units, image.scale, strict=True)
                 if axis in "yx"]  # fmt: skip
        known = all(unit in _UM for unit, _ in sides)
        um_per_px = one_scale([_UM[unit] * scale for unit, scale in sides]) if known else None
        super().__init__(path, *sizes[0], um_per_px, max_pixels)
        self.segment_px = self._segment_size(0)
        kept = max(4, _CACHE_BYTES // (3 * math.prod(self.segment_px)))
        self._segment = functools.lru_cache(kept)(self._read)

    def _level_size(self, level: int) -> tuple[int, int]:
        """Width and height of a level."""
        shape = self._levels[level].shape
        return shape[self._axes.index("x")], shape[self._axes.index("y")]

    def _segment_size(self, level: int) -> tuple[int, int]:
        """Width and height of what is read together: a chunk, or several of small ones."""
        chunks = self._levels[level].chunks
        width, height = (chunks[self._axes.index(axis)] * -(-_LEAST_PX // chunks[self._axes.index(axis)])
                         for axis in "xy")  # fmt: skip
        return width, height

    def _read(self, level: int, column: int, row: int) -> np.ndarray:
        """uint8 [h, w, 3] of the part at a column and row of parts."""
        width, height = self._segment_size(level)
        of_axis = {
            "x": slice(column * width, (column + 1) * width),
            "y": slice(row * height, (row + 1) * height),
            "c": slice(None),
        }
        found = self._levels[level][tuple(of_axis.get(axis, 0) for axis in self._axes)]
        order = [axis for axis in self._axes if axis in of_axis]
        return np.ascontiguousarray(np.transpose(found, [order.index(axis) for axis in "yxc"]))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        part_w, part_h = self._segment_size(level)
        region = np.empty((height, width, 3), np.uint8)
        with decoding(self.path):
            for row in range(y // part_h, (y + height - 1) // part_h + 1):
                for column in range(x // part_w, (x + width - 1) // part_w + 1):
                    part = self._segment(level, column, row)
                    left, top = column * part_w, row * part_h
                    x0, y0 = max(x, left), max(y, top)
                    x1, y1 = min(x + width, left + part.shape[1]), min(y + height, top + part.shape[0])
                    region[y0 - y : y1 - y, x0 - x : x1 - x] = part[y0 - top : y1 - top, x0 - left : x1 - left]
        return region

    def _level(self, factor: float) -> tuple[int, int, int]:
        sizes = [self._level_size(level) for level in range(len(self._levels))]
        level = max(number for number, size in enumerate(sizes) if self.width / size[0] <= factor * 1.01)
        return level, *sizes[level]

    def close(self) -> None:
        """Release what has been read."""
        self._segment.cache_clear()


def read_image(folder: Path) -> Image | None:
    """What the image in a folder says of itself; None where the folder holds no OME-Zarr image.

    Raises:
        InputError: it is damaged, a plate or labels, or of a version that is not read.
    """
    attributes = zarr_store.attributes(folder)
    if attributes is None:
        return None
    about = attributes.get("ome", attributes)
    about = json_files.require(about, json_files.OBJECT, f"{folder}: ome", remedy=_REMEDY)
    for key, what in (("plate", "a plate"), ("well", "a well of a plate"), ("image-label", "an image of labels")):
        if key in about:
            raise InputError(f"{folder}: {what}, expected one slide; give the folder of an RGB image")
    if "multiscales" not in about:
        return None
    json_files.require(about["multiscales"], [json_files.OBJECT], f"{folder}: multiscales", remedy=_REMEDY)
    if len(about["multiscales"]) != 1:
        raise InputError(f"{folder}: {len(about['multiscales'])} images in one, expected one; {_REMEDY}")
    entry = about["multiscales"][0]
    version = str(about.get("version", entry.get("version", _VERSIONS[0])))
    if not version.startswith(_VERSIONS):
        raise InputError(f"{folder}: OME-Zarr {files.shown(version)}, expected {' or '.join(_VERSIONS)}; {_REMEDY}")
    json_files.require(entry, {"axes": _AXES, "datasets": _DATASETS}, f"{folder}: multiscales", remedy=_REMEDY)
    axes = tuple(axis["name"] for axis in entry["axes"])
    if len(set(axes)) < len(axes) or not {"x", "y"} <= set(axes) or not entry["datasets"]:
        raise InputError(
            f"{folder}: {len(entry['datasets'])} levels with axes {', '.join(axes)}, expected a level, and x and y "
            f"among its axes; {_REMEDY}"
        )
    units = tuple(str(axis.get("unit", "")) for axis in entry["axes"])
    scale = np.prod([_scale(folder, part, len(axes)) for part in (entry["datasets"][0], entry)], axis=0)
    levels = tuple(dataset["path"] for dataset in entry["datasets"])
    channels = about.get("omero", {}).get("channels", []) if isinstance(about.get("omero"), dict) else []
    named = [str(each.get("label", "")) for each in channels if isinstance(each, dict)]
    return Image(folder, axes, levels, units, tuple(scale.tolist()), entry, tuple(named))


def _scale(folder: Path, part: dict[str, Any], axes: int) -> Sequence[float]:
    """The scale that a level, or all levels together, are given; 1 where it is not, or leads elsewhere."""
    steps = part.get("coordinateTransformations", [])
    json_files.require(steps, [json_files.OBJECT], f"{folder}: coordinateTransformations", remedy=_REMEDY)
    found = [
        step["scale"] for step in steps if step.get("type") == "scale" and "output" not in step and "scale" in step
    ]
    for scale in found:
        json_files.require(scale, json_files.numbers(length=axes), f"{folder}: scale", remedy=_REMEDY)
    return found[0] if found else [1.0] * axes


def _find(path: Path) -> tuple[Image, tuple[str, ...]]:
    """The image in a folder, or the first of several that bioformats2raw wrote; and notes."""
    if found := read_image(path):
        return found, ()
    attributes = zarr_store.attributes(path) or {}
    if "bioformats2raw.layout" in attributes.get("ome", attributes) and (found := read_image(path / "0")):
        others = sorted(entry.name for entry in path.iterdir() if entry.name.isdigit() and entry.name != "0")
        note = f"it holds {len(others) + 1} images (label and overview, as a rule): the first is read"
        return found, (note,) if others else ()
    what = "a SpatialData store; its slides are in images/" if "spatialdata_attrs" in attributes else "a folder"
    raise InputError(f"{path}: found {what}, expected a slide image")


def _check(path: Path, image: Image, level: str, array: Any) -> None:
    """Raises InputError where a level is no RGB image."""
    if len(array.shape) != len(image.axes):
        raise InputError(f"{path}: level {level} has {len(array.shape)} axes, expected {len(image.axes)}; {_REMEDY}")
    size = dict(zip(image.axes, array.shape, strict=True))
    colours = {name.casefold() for name in image.channels}
    named = not colours or colours & {"r", "red"} or all(_NO_NAME.match(name) for name in colours)
    if array.dtype != np.uint8 or size.get("c") != 3 or size.get("t", 1) != 1 or size.get("z", 1) != 1 or not named:
        sides = ", ".join(f"{axis} {number}" for axis, number in size.items())
        says = files.shown(", ".join(image.channels)) if image.channels else "not named"
        raise InputError(
            f"{path}: level {level} is {array.dtype} with {sides}, channels {says}; "
            "expected uint8 with 3 channels, red, green and blue, in one plane: brightfield H&E"
        )
    if not all(array.shape):
        raise InputError(f"{path}: level {level} has no pixels; {_REMEDY}")
