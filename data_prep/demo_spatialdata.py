"""Write synthetic sections as SpatialData stores, as spatialdata-io makes them of Visium: image, circles, table."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from PIL import Image

from data_prep import demo_layouts
from data_prep.demo_layouts import NOTICE, DemoSection

_LEVELS, _CHUNK_PX = 3, 512
_DIAMETER_UM = 65.0  # of Visium's spots, as Space Ranger states it


def write_image(
    folder: Path,
    image: np.ndarray,
    *,
    levels: int = _LEVELS,
    um_per_px: float = 0.0,
    steps: Any = (),
    version: str = "0.5",
    **said: Any,
) -> None:
    """An OME-Zarr image of version 0.5 with its pyramid, each level half as large as the one before it.

    Args:
        image: [H, W, 3] uint8.
        um_per_px: 0 leaves it unsaid.
        steps: the transformations of all levels, as `coordinateTransformations` has them.
        version: what is said to be OME-Zarr's.
        said: further attributes of the folder.
    """
    import zarr

    unit = {"unit": "micrometer"} if um_per_px else {}
    group = zarr.open_group(folder, mode="w")
    datasets, small = [], image
    for level in range(levels):
        if level:
            size = (math.ceil(small.shape[1] / 2), math.ceil(small.shape[0] / 2))
            small = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BOX))
        chunks = (3, *(min(_CHUNK_PX, side) for side in small.shape[:2]))
        group.create_array(str(level), data=np.ascontiguousarray(np.moveaxis(small, -1, 0)), chunks=chunks)
        factors = [um_per_px * full / side if um_per_px else full / side
                   for full, side in zip(image.shape, small.shape, strict=False)][:2]  # fmt: skip
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [1.0, *factors]}]}
        )
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space", **unit} for axis in "yx")]
    entry = {"axes": axes, "datasets": datasets, "name": folder.name}
    entry |= {"coordinateTransformations": list(steps)} if steps else {}
    omero = {"channels": [{"label": colour} for colour in "rgb"]}
    group.attrs.update({"ome": {"version": version, "multiscales": [entry], "omero": omero}, **said})


def write_spatialdata(root: Path, section: DemoSection) -> str:
    """A store of one section: the slide with its pyramid, a small picture, circles in the pixels of both, the table."""
    import zarr

    name = section.name
    store, on = root / f"{name}.zarr", section.in_tissue
    small, scale = demo_layouts.reduced(section.image, 600)
    zarr.open_group(store, mode="w").attrs["spatialdata_attrs"] = {"version": "0.2"}
    for kind in ("images", "shapes", "tables"):
        zarr.open_group(store / kind, mode="w")
    said = {"spatialdata_attrs": {"version": "0.3"}, "notice": NOTICE}
    of_images = {**said, "version": "0.5-dev-spatialdata"}
    hires = f"{name}_downscaled_hires"
    for picture, pixels, system in (("full", section.image, name), ("hires", small, hires)):
        folder = store / "images" / f"{name}_{picture}_image"
        write_image(
            folder, pixels, levels=_LEVELS if picture == "full" else 1, steps=[_step("cyx", system)], **of_images
        )
    table = demo_layouts.spot_table(section, name, demo_layouts.barcodes(section.rng, int(on.sum())))
    del table.uns["spatial"]
    order = section.rng.permutation(len(table))  # shapes have an order of their own
    table.obs["spot_id"], table.obs["region"] = np.arange(len(table)), pd.Categorical([name] * len(table))
    steps = [_step("xy", name), _step("xy", hires, scale=[scale, scale])]
    radius = np.full(len(table), _DIAMETER_UM / 2 / section.um_per_px)
    _write_circles(store / "shapes" / name, section.spot_xy[on][order], radius, order, steps, said)
    _write_table(store / "tables", table, {"region": name, "region_key": "region", "instance_key": "spot_id"})
    return name


def _step(axes: str, system: str, **of_scale: Any) -> dict[str, Any]:
    """A transformation into a coordinate system: identity, or a scale."""
    listed = [{"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", "unit": "unit"}
              for axis in axes]  # fmt: skip
    ends = {"input": {"name": axes, "axes": listed}, "output": {"name": system, "axes": listed}}
    return {"type": "scale" if of_scale else "identity", **of_scale, **ends}


def _write_circles(
    folder: Path, xy: np.ndarray, radius: np.ndarray, ids: np.ndarray, steps: list[Any], said: dict[str, Any]
) -> None:
    import pyarrow
    import pyarrow.parquet
    import zarr

    about = {"encoding-type": "ngff:shapes", "axes": ["x", "y"], "coordinateTransformations": steps}
    zarr.open_group(folder, mode="w").attrs.update(about | said)
    blobs = [struct.pack("<BIdd", 1, 1, *place) for place in xy.tolist()]
    frame = pd.DataFrame({"geometry": blobs, "radius": radius}, index=pd.Index(ids, name="spot_id"))
    made = pyarrow.Table.from_pandas(frame)
    column = {"encoding": "WKB", "crs": None, "geometry_types": ["Point"]}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    made = made.replace_schema_metadata({**made.schema.metadata, "geo": json.dumps(geo), "notice": NOTICE})
    pyarrow.parquet.write_table(made, folder / "shapes.parquet")


def _write_table(folder: Path, table: anndata.AnnData, keys: dict[str, str]) -> None:
    import zarr

    table.uns["spatialdata_attrs"] = keys
    group = zarr.open_group(folder, mode="a")
    anndata.io.write_elem(group, "table", table, dataset_kwargs={"shards": None})
    group["table"].attrs.update({"spatialdata-encoding-type": "ngff:regions_table", "version": "0.2", **keys})
