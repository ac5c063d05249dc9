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
from spatialdata.transformations import Identity, Scale

from data_prep.files import whole
from data_prep.spots import DISC
from stjax.inference.prediction import SectionPrediction
from stjax.outputs import file_name
from stjax.outputs.h5ad import to_anndata
from stjax.trained import Trained

SpatialData: Any = importlib.import_module("spatialdata").SpatialData  # which this module's own name hides

SUFFIX = ".spatialdata.zarr"
_REGION, _SPOT = "region", "spot"


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    with whole(path) as temporary:
        to_spatialdata(prediction, model, genes=genes).write(temporary)


def to_spatialdata(prediction: SectionPrediction, model: Trained, *, genes: np.ndarray) -> Any:
    """A `SpatialData` of image `<section>_image`, shapes `<section>_spots` and table `table`, in the coordinate system
    "global": pixels of the slide at full resolution."""
    name = file_name(prediction.section)
    full = 1 / prediction.thumbnail_scale
    image = Image2DModel.parse(
        np.moveaxis(prediction.thumbnail, -1, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={"global": Scale([full, full], axes=("x", "y"))},
    )
    adata = to_anndata(prediction, model, genes=genes)
    del adata.uns["spatial"]  # the picture and its scale are elements of their own here
    index = adata.obs_names.to_numpy()
    spots = prediction.spots
    if (spots.kind == DISC).all():
        radius = spots.across_px() / 2
        shapes = ShapesModel.parse(
            spots.xy, geometry=0, radius=radius, index=index, transformations={"global": Identity()}
        )
    else:
        rings = (spots.outline(spot) for spot in range(len(index)))
        outlines = [shapely.Polygon(shell, holes) for shell, *holes in rings]
        frame = geopandas.GeoDataFrame({"geometry": outlines}, index=index)
        shapes = ShapesModel.parse(frame, transformations={"global": Identity()})
    region = f"{name}_spots"
    adata.obs[_REGION] = region
    adata.obs[_REGION] = adata.obs[_REGION].astype("category")
    adata.obs[_SPOT] = index
    table = TableModel.parse(adata, region=region, region_key=_REGION, instance_key=_SPOT)
    return SpatialData(images={f"{name}_image": image}, shapes={region: shapes}, tables={"table": table})
