"""Write synthetic sections as SpatialData stores, as spatialdata-io makes them of Visium: image, circles, table."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_LEVELS, _CHUNK_PX = 3, 512


def write_image(
    folder: Path, image: np.ndarray, *, levels: int = _LEVELS, um_per_px: float = 0.0, steps: Any = (), **said: Any
) -> None:
    """An OME-Zarr image of version 0.5 with its pyramid, each level half as large as the one before it.

    Args:
        image: [H, W, 3] uint8.
        um_per_px: 0 leaves it unsaid.
        steps: the transformations of all levels, as `coordinateTransformations` has them.
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
    group.attrs.update({"ome": {"version": "0.5", "multiscales": [entry], "omero": omero}, **said})
