"""SpatialData (zarr): the slide's picture, the spots' outlines and the table, all in full-resolution pixels.

Needs the extra `interop`. The picture is the thumbnail, scaled: the slide itself stays where it is.
"""

import importlib
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence

from data_prep.files import whole
from data_prep.spots import DISC
from stjax.inference.prediction import SectionPrediction
from stjax.outputs import file_name
from stjax.outputs.h5ad import to_anndata
from stjax.trained import Trained

SpatialData: Any = importlib.import_module("spatialdata").SpatialData  # which this module's own name hides

SUFFIX = ".spatialdata.zarr"
_AXES = ("x", "y")
_REGION, _SPOT = "region", "spot"


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    with whole(path) as temporary:
        to_spatialdata(prediction, model, genes=genes).write(temporary)


def to_spatialdata(
    prediction: SectionPrediction,
    model: Trained,
    *,
    genes: np.ndarray,
    system: tuple[str, np.ndarray] | None = None,
) -> Any:
    """A `SpatialData` of image `<section>_image`, shapes `<section>_spots` and table `table`.

    Args:
        system: a coordinate system, and [3, 3] from pixels of the slide at full resolution into it; default "global",
            those pixels.
    """
    place, into = ("global", Identity()) if system is None else (system[0], Affine(system[1], _AXES, _AXES))
    name = file_name(prediction.section)
    full = 1 / prediction.thumbnail_scale
    image = Image2DModel.parse(
        np.moveaxis(prediction.thumbnail, -1, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={place: Sequence([Scale([full, full], axes=_AXES), into])},
    )
    adata = to_anndata(prediction, model, genes=genes)
    del adata.uns["spatial"]  # the picture and its scale are elements of their own here
    index = adata.obs_names.to_numpy()
    spots = prediction.spots
    if (spots.kind == DISC).all():
        radius = spots.across_px() / 2
        shapes = ShapesModel.parse(spots.xy, geometry=0, radius=radius, index=index, transformations={place: into})
    else:
        rings = (spots.outline(spot) for spot in range(len(index)))
        outlines = [shapely.Polygon(shell, holes) for shell, *holes in rings]
        frame = geopandas.GeoDataFrame({"geometry": outlines}, index=index)
        shapes = ShapesModel.parse(frame, transformations={place: into})
    region = f"{name}_spots"
    adata.obs[_REGION] = region
    adata.obs[_REGION] = adata.obs[_REGION].astype("category")
    adata.obs[_SPOT] = index
    table = TableModel.parse(adata, region=region, region_key=_REGION, instance_key=_SPOT)
    return SpatialData(images={f"{name}_image": image}, shapes={region: shapes}, tables={"table": table})
