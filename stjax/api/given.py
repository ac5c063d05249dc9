"""What a model is given to predict: an image, and the spots in it, wherever they come from."""

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from data_prep import files
from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.slide import Slide, open_slide
from data_prep.slide_base import OME_ZARR, drop_alpha
from data_prep.spots import Spots
from stjax.inference.sources import SLIDES, open_source, with_spots

ANNDATA, SPATIALDATA, FEATURES = "an AnnData", "a SpatialData", "features"
LIST, FOLDER, IMAGE = "a list", "a folder", "an image"


def kind_of(source: Any) -> str:
    """What a source is."""
    for kind, package, name in ((ANNDATA, "anndata", "AnnData"), (SPATIALDATA, "spatialdata", "SpatialData")):
        module = sys.modules.get(package)  # an object of it has imported it
        if module is not None and isinstance(source, getattr(module, name)):
            return kind
    if isinstance(source, list | tuple):
        return LIST
    if isinstance(source, str | Path):
        name = Path(source).name.lower()
        if name.endswith(OME_ZARR):
            return IMAGE
        return FOLDER if Path(source).is_dir() or name.endswith((".h5ad", ".h5ad.gz", ".zarr")) else IMAGE
    floats = isinstance(source, np.ndarray) and source.ndim == 2 and source.dtype.kind == "f"
    return FEATURES if floats else IMAGE


def check_arguments(kind: str, *, spots: Any, image: Any, coordinate_system: str | None, spot_um: float | None) -> None:
    """Raises InputError for arguments that say nothing of a source of this kind, or contradict it."""
    if coordinate_system is not None and kind != SPATIALDATA:
        raise InputError(f"coordinate_system is for a SpatialData, the source is {kind}; leave it out")
    if image is not None and kind not in (ANNDATA, SPATIALDATA, FEATURES):
        raise InputError(f"image is for an AnnData, a SpatialData or features, the source is {kind}; leave it out")
    if spots is not None and kind in (ANNDATA, LIST, FOLDER):
        raise InputError(f"the source is {kind}, which has its own spots or is given a grid; leave out spots")
    if kind == SPATIALDATA and not all(isinstance(name, str | None) for name in (spots, image)):
        raise InputError("the source is a SpatialData: spots and image are names of its elements, or left out")
    if spot_um is not None and kind in (ANNDATA, SPATIALDATA):
        raise InputError(f"the source is {kind}, which has its own spots; leave out spot_um")
    if kind == FEATURES and (spots is None) != (image is None):
        raise InputError("features are drawn with both the image they are of and the spots in it; give both, or none")


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """An image to predict, with what is known of it. Own pixels are those that spots and results are in.

    Attributes:
        image: path of a slide, a PIL image, or uint8 [H, W, 3].
        um_per_px: of own pixels; None where the image's file is to state it.
        spots: in own pixels; None where a grid is to be laid.
        name: of the section; "" takes the file's.
        zoom: pixels of the image per own pixel: 1 but for the reduced picture of a slide.
        layout: `sources.SLIDES`, or what kind of object spots and scale are from.
        source: where the scale is from, as `Section.um_per_px_source`.
        system: coordinate system of a SpatialData, and [3, 3] from own pixels into it.
    """

    image: Any
    um_per_px: float | None
    spots: Spots | None = None
    name: str = ""
    zoom: float = 1.0
    layout: str = SLIDES
    source: str = "user"
    system: tuple[str, np.ndarray] | None = None

    @contextlib.contextmanager
    def opened(self, xy: np.ndarray | None, spot_um: float) -> Iterator[tuple[Section, Slide]]:
        """The image as a slide, and its section: with the spots of this, discs of `spot_um` at `xy` [N, 2], or none.

        What is in memory goes through an uncompressed file: slides of any origin are then read, hashed and predicted by
        the same code.

        Raises:
            InputError: no image, none whose scale is known, or no spot within it.
        """
        with contextlib.ExitStack() as stack:
            name = self.name if self.name and not files.fault_of_name(self.name) else "image"
            if isinstance(self.image, str | Path):
                path = Path(self.image)
            else:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stjax-"))) / f"{name}.tif"
                picture(self.image).save(path)
            slide = stack.enter_context(open_slide(path))
            if slide.um_per_px is None and self.um_per_px is None:
                raise InputError(
                    "the scale of the image is not known; give um_per_px, the micrometres per pixel (of most scanners "
                    "0.25 at 40x, 0.5 at 20x)"
                )
            scale = None if self.um_per_px is None else self.um_per_px / self.zoom
            source = open_source(path, layout=SLIDES, sections=(), um_per_px=scale, resolve_aliases=False)
            section = source.read(source.names[0])
            if self.name:
                section = dataclasses.replace(section, name=name)
            if self.layout != SLIDES:
                section = dataclasses.replace(section, layout=self.layout, um_per_px_source=self.source, notes=())
            spots = self.spots
            if xy is not None:
                spots = Spots.discs(xy, np.float32(spot_um / 2 / section.um_per_px))
            yield section if spots is None else with_spots(section, spots.within((0, 0), 1 / self.zoom), slide), slide


def picture(image: Any) -> Image.Image:
    """uint8 [H, W, 3], or a PIL image, as the latter in RGB. Raises InputError for anything else."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(
            f"the image is an array of shape {array.shape} and type {array.dtype}, expected uint8 [H, W, 3] RGB, a PIL "
            "image, or the path of a slide"
        )
    return Image.fromarray(array)


def pixels(array: Any, what: str) -> np.ndarray:
    """uint8 [H, W, 3] of a picture as scanpy and SpatialData keep it: uint8, or floats from 0 to 1, which `imread`
    makes of a PNG; grey, RGB or RGBA, over white. Raises InputError for another."""
    found = np.asarray(array)
    if found.ndim != 3 or found.shape[2] not in (1, 3, 4) or not found.size:
        raise InputError(f"{what} has shape {found.shape}, expected [H, W, 3], RGB")
    if found.dtype.kind == "f" and np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1:
        found = np.rint(found * np.float64(255)).astype(np.uint8)
    if found.dtype != np.uint8:
        raise InputError(
            f"{what} has values of {found.dtype} from {found.min():g} to {found.max():g}, expected uint8, or floats "
            "from 0 to 1; convert it"
        )
    return drop_alpha(found)


def places(spots: Any) -> np.ndarray:
    """[N, 2] float64 centres of what a user gives as such. Raises InputError for what is none."""
    if isinstance(spots, pd.DataFrame):
        if lacking := [name for name in ("x", "y") if name not in spots]:
            raise InputError(
                f"the table of spots has no column {' and '.join(lacking)} (it has {', '.join(map(str, spots))}); "
                "name the centres' columns x and y, pixels of the image"
            )
        spots = spots[["x", "y"]]
    try:
        xy = np.asarray(spots, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"spots are no numbers ({error}), expected [N, 2]: x and y in pixels of the image") from None
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy) or not np.all(np.isfinite(xy)):
        raise InputError(f"spots have shape {xy.shape}, expected [N, 2] finite numbers: x and y in pixels of the image")
    return xy
