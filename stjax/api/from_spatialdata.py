"""A SpatialData in memory: an image, shapes and the table that annotates them, in one coordinate system.

Results are in pixels of the image at its full resolution; `Prediction.to_spatialdata` puts them back into the
coordinate system.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _arrays, _h5ad_geometry, _sdata_shapes
from data_prep.slide import DEFAULT_MAX_PIXELS
from stjax.api.given import Given, pixels

_WHERE = "the SpatialData"
_GLOBAL = "global"
_AXES = ("x", "y")


def given(
    sdata: Any, image: str | None, shapes: str | None, coordinate_system: str | None, um_per_px: float | None
) -> Given:
    """What a SpatialData says.

    Args:
        image, shapes: names of elements; None where the coordinate system has one of a kind. Without any shapes a grid
            is laid.
        coordinate_system: None takes "global", or the only one with images.
        um_per_px: of the image's pixels; None takes Visium's pitch, where the table says how spots lie on the array.

    Raises:
        InputError: no such element or coordinate system, several to choose from, no scale, or a transformation under
            which pixels are not square, or circles no circles.
    """
    system = _system(sdata, coordinate_system)
    image = _element(sdata.images, "image", image, system)
    assert image is not None
    picture = _pixels(sdata.images[image], image)
    to_system = _affine(sdata.images[image], system)
    if not _sdata_shapes.is_similarity(to_system):
        raise InputError(
            f"{_WHERE}: pixels of image {image!r} are not square in coordinate system {system!r}, so that its scale is "
            "not one number; resample the image to square pixels"
        )
    shapes = _element(sdata.shapes, "shapes", shapes, system, needed=shapes is not None)
    obs, spots = pd.DataFrame(), None
    if shapes is not None:
        obs, frame = _annotated(sdata, shapes)
        into_image = np.linalg.inv(to_system) @ _affine(sdata.shapes[shapes], system)
        radius = frame["radius"].to_numpy(np.float64) if "radius" in frame else None
        ids = obs.index.astype(str).to_numpy(dtype=str)
        spots = _sdata_shapes.spots(_WHERE, shapes, frame.geometry.to_wkb().tolist(), radius, into_image, ids)
    array, notes = (None, ()) if spots is None else _arrays.of_table(obs, spots.xy, _WHERE)
    value, source, scale_notes = _h5ad_geometry.scale(image, array, {}, user_um=um_per_px, image_um=None)
    print(
        f"{_WHERE}: image {image!r}, " + ("no shapes" if shapes is None else f"shapes {shapes!r}") + f" in {system!r}"
    )
    for note in (*notes, *scale_notes):
        print(f"note: {image}: {note}")
    return Given(picture, value, spots, image, 1.0, "spatialdata", source, (system, to_system))


def _system(sdata: Any, asked: str | None) -> str:
    """The coordinate system to work in."""
    of_images = [name for name in sorted(sdata.coordinate_systems) if _names_in(sdata.images, name)]
    if asked is not None:
        if asked not in of_images:
            raise InputError(
                f"{_WHERE} has no image in coordinate system {asked!r}; choose of {', '.join(of_images) or 'none'}"
            )
        return asked
    both = [name for name in of_images if _names_in(sdata.shapes, name)] or of_images
    if not both:
        raise InputError(f"{_WHERE} has no image; add one, or give the slide itself and the spots in its pixels")
    if _GLOBAL not in both and len(both) > 1:
        raise InputError(f"{_WHERE} has images in {', '.join(both)}; choose one with coordinate_system")
    return _GLOBAL if _GLOBAL in both else both[0]


def _element(
    elements: Mapping[str, Any], kind: str, asked: str | None, system: str, *, needed: bool = True
) -> str | None:
    """Name of the one element of a kind in a coordinate system, or of the one asked for."""
    argument = "image" if kind == "image" else "spots"
    there = _names_in(elements, system)
    if asked is not None and asked not in there:
        raise InputError(
            f"{_WHERE} has no {kind} {asked!r} in coordinate system {system!r}; it has {', '.join(there) or 'none'}"
        )
    if asked is None and len(there) > 1:
        raise InputError(
            f"{_WHERE} has several {kind} elements in coordinate system {system!r}: {', '.join(there)}; name one with "
            f"{argument}"
        )
    if asked is None and not there and needed:
        raise InputError(f"{_WHERE} has no {kind} in coordinate system {system!r}")
    return asked or (there[0] if there else None)


def _names_in(elements: Mapping[str, Any], system: str) -> list[str]:
    get = importlib.import_module("spatialdata.transformations").get_transformation
    return [name for name, element in elements.items() if system in get(element, get_all=True)]


def _affine(element: Any, system: str) -> np.ndarray:
    """[3, 3] from an element's own coordinates (x, y) to a coordinate system."""
    get = importlib.import_module("spatialdata.transformations").get_transformation
    matrix = np.asarray(get(element, to_coordinate_system=system).to_affine_matrix(_AXES, _AXES), np.float64)
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix[:2, :2])) > 0):
        raise InputError(f"{_WHERE}: a transformation to coordinate system {system!r} cannot be turned round: {matrix}")
    return matrix


def _pixels(element: Any, name: str) -> np.ndarray:
    """uint8 [H, W, 3] of an image at its full resolution."""
    data = element if hasattr(element, "dims") and "c" in element.dims else next(iter(element["scale0"].values()))
    data = data.transpose("c", "y", "x")
    colours = [str(value).lower() for value in data.coords["c"].values] if "c" in data.coords else []
    chosen = [colours.index(each) for each in "rgb"] if set("rgb") <= set(colours) else list(range(data.shape[0]))
    plain = [str(number) for number in range(len(colours))]
    if len(chosen) not in (1, 3, 4) or (set(colours) - set("rgba") and colours != plain):
        raise InputError(
            f"{_WHERE}: image {name!r} has channels {', '.join(colours) or data.shape[0]}, expected r, g, b: "
            "brightfield H&E"
        )
    height, width = data.shape[1:]
    if height * width > DEFAULT_MAX_PIXELS:
        raise InputError(
            f"{_WHERE}: image {name!r} is {width} x {height} px, at most {DEFAULT_MAX_PIXELS:,} are taken into memory; "
            "predict the slide's file, with the spots in its pixels"
        )
    return pixels(np.moveaxis(np.asarray(data[chosen].data), 0, -1), f"image {name!r} of {_WHERE}")


def _annotated(sdata: Any, shapes: str) -> tuple[pd.DataFrame, Any]:
    """Annotation of the spots, by their ids, and the shapes in that order: as the one table of these shapes lists them,
    or all, by their own index."""
    frame = sdata.shapes[shapes]
    found = []
    for table in sdata.tables.values():
        attributes = table.uns.get("spatialdata_attrs", {})
        regions = attributes.get("region", ())
        if shapes in ([regions] if isinstance(regions, str) else list(regions)):
            found.append((table, attributes))
    if len(found) != 1:
        if found:
            print(f"note: {len(found)} tables annotate {shapes!r}; its spots are taken by their own index")
        return pd.DataFrame(index=frame.index.astype(str)), frame
    table, attributes = found[0]
    obs = table.obs[(table.obs[attributes["region_key"]] == shapes).to_numpy()]
    rows = frame.index.get_indexer(obs[attributes["instance_key"]])
    if (rows < 0).any():
        raise InputError(
            f"{_WHERE}: the table names {counted(int((rows < 0).sum()), 'spots')} that shapes {shapes!r} lacks, "
            f"{obs[attributes['instance_key']][rows < 0].iloc[0]!r} for instance; match them to one another"
        )
    if len(obs) < len(frame):
        print(
            f"note: {len(frame) - len(obs)} of {len(frame)} shapes of {shapes!r} are not in the table and are left out"
        )
    return obs, frame.iloc[rows]
