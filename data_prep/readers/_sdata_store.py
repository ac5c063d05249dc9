"""A SpatialData store on disk: its images, shapes and tables, and the maps that lead from each into coordinate systems.

Read without the library of that name, by what its format says (versions 0.1 and 0.2 of the container).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import files, json_files, zarr_store
from data_prep.errors import InputError
from data_prep.slide_zarr import read_image

_REMEDY = "write the store again with spatialdata"
_KINDS = ("images", "shapes", "tables")
_STEP = {"type": json_files.TEXT}
Systems = dict[str, np.ndarray]  # coordinate system: [3, 3] from an element's own coordinates (x, y) into it


class Table(NamedTuple):
    """A table: its folder, the elements whose rows it has, and the columns that name a row's element and instance."""

    folder: Path
    regions: tuple[str, ...]
    region_key: str
    instance_key: str


class Store(NamedTuple):
    """What a store holds: of images and shapes the systems they lie in; tables that annotate something."""

    path: Path
    images: dict[str, Systems]
    shapes: dict[str, Systems]
    tables: dict[str, Table]

    def image_folder(self, name: str) -> Path:
        """Of an image, an OME-Zarr folder."""
        return self.path / "images" / name

    def shapes_file(self, name: str) -> Path:
        """Of shapes, in Parquet. Raises InputError where they are of a format that has none."""
        file = self.path / "shapes" / name / "shapes.parquet"
        if not files.is_there(file):
            raise InputError(f"{file.parent}: shapes.parquet not found, as of SpatialData before 0.2; {_REMEDY}")
        return file


def is_store(path: Path) -> bool:
    """Whether a folder is a SpatialData store."""
    return _is_node(path) and any(_is_node(path / kind) for kind in _KINDS)


def _is_node(path: Path) -> bool:
    return (path / zarr_store.META).is_file() or (path / zarr_store.GROUP).is_file()


def open_store(path: Path) -> Store:
    """What a store holds.

    Raises:
        InputError: it is damaged, or of a format that is not read.
    """
    images = {}
    for name, folder in _elements(path, "images").items():
        image = read_image(folder)
        if image is not None:
            images[name] = _systems(folder, image.entry.get("coordinateTransformations", []), image.axes)
    shapes = {}
    for name, folder in _elements(path, "shapes").items():
        about = zarr_store.attributes(folder) or {}
        shapes[name] = _systems(folder, about.get("coordinateTransformations", []), ("x", "y"))
    tables = {name: _table(folder) for name, folder in _elements(path, "tables").items()}
    return Store(path, images, shapes, {name: table for name, table in tables.items() if table is not None})


def _elements(path: Path, kind: str) -> dict[str, Path]:
    """Elements of a kind by their names."""
    folder = path / kind
    found = sorted(entry for entry in folder.iterdir() if _is_node(entry)) if folder.is_dir() else []
    return {files.check_name(entry.name, f"{folder}: element"): entry for entry in found}


def _table(folder: Path) -> Table | None:
    """A table; None where it annotates nothing."""
    about = zarr_store.attributes(folder) or {}
    if about.get("region") is None:
        return None
    regions = about["region"] if isinstance(about["region"], list) else [about["region"]]
    keys = {"region_key": json_files.TEXT, "instance_key": json_files.TEXT}
    json_files.require(about, keys, f"{folder} is damaged", remedy=_REMEDY)
    json_files.require(regions, json_files.TEXTS, f"{folder} is damaged: region", remedy=_REMEDY)
    return Table(folder, tuple(regions), about["region_key"], about["instance_key"])


# ----------------------------------------------------------------------------------------------------- transformations


def _systems(folder: Path, steps: Any, axes: Sequence[str]) -> Systems:
    """Where an element lies. Raises InputError for a transformation that is none, or cannot be turned round."""
    where = f"{folder}: coordinateTransformations"
    json_files.require(steps, [_STEP], where, remedy=_REMEDY)
    found = {}
    for step in steps:
        output = step.get("output")
        if isinstance(output, dict) and isinstance(output.get("name"), str):
            try:
                affine = _affine(step, axes)
            except (LookupError, TypeError, ValueError) as error:
                reason = files.shown(str(error)) if str(error) else type(error).__name__
                raise InputError(f"{where}: {files.shown(step['type'])} cannot be read ({reason}); {_REMEDY}") from None
            if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:2, :2])) > 0):
                raise InputError(f"{where}: into {output['name']!r} it cannot be turned round; {_REMEDY}")
            found[output["name"]] = affine
    return found


def _affine(step: Any, axes: Sequence[str], depth: int = 0) -> np.ndarray:
    """[3, 3] of a transformation, from (x, y) to (x, y).

    Args:
        axes: of what goes in, unless it says so itself; x and y are picked by their names, and other axes left alone.

    Raises:
        LookupError, TypeError, ValueError: it is damaged, or of a kind that is not read.
    """
    axes, kind = _axes(step.get("input"), axes), step["type"]
    affine = np.eye(3)
    if kind == "sequence":
        if depth > 8:
            raise ValueError("sequences within sequences")
        for inner in step["transformations"]:
            affine = _affine(inner, axes, depth + 1) @ affine
            axes = _axes(inner.get("output"), axes)
        return affine
    x, y = axes.index("x"), axes.index("y")
    if kind == "scale":
        return np.diag([float(step["scale"][x]), float(step["scale"][y]), 1.0])
    if kind == "translation":
        affine[:2, 2] = [step["translation"][x], step["translation"][y]]
        return affine
    out = _axes(step.get("output"), axes)
    if kind in ("affine", "rotation"):
        matrix = np.asarray(step[kind], np.float64)
        rows, columns = [out.index("x"), out.index("y")], [x, y]
        affine[:2, :2] = matrix[np.ix_(rows, columns)]
        if kind == "affine":
            affine[:2, 2] = matrix[rows, len(axes)]
        return affine
    if kind == "mapAxis":
        to = step["mapAxis"]
        return np.array([[to["x"] == "x", to["x"] == "y", 0], [to["y"] == "x", to["y"] == "y", 0], [0, 0, 1]], float)
    if kind != "identity":
        raise ValueError("expected identity, scale, translation, rotation, affine, mapAxis or a sequence of them")
    return affine


def _axes(system: Any, otherwise: Sequence[str]) -> list[str]:
    """Names of a coordinate system's axes, where it says them."""
    listed = system.get("axes") if isinstance(system, dict) else None
    return [str(axis["name"]) for axis in listed] if listed else list(otherwise)
