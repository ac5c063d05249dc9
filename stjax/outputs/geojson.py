"""GeoJSON for QuPath: a detection a spot, its outline in full-resolution pixels, its genes as measurements.

What QuPath reads is written down nowhere but in its source, qupath.lib.io.QuPathTypeAdapters (v0.4 and newer): a
feature's `id` is a UUID, `properties` has `objectType`, `name`, `measurements` (name to number) and `metadata` (name to
string), and coordinates count pixels from the image's top left corner.
"""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import whole
from stjax.inference.prediction import SectionPrediction, about
from stjax.outputs._table import SET
from stjax.trained import Trained

SUFFIX = ".geojson"
_DIGITS = 7  # of a measurement: all that float32 has


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`. A line a spot, so that memory does not grow with the file."""
    origin = about(prediction, model)
    names = model.fold.panel.labels[genes].tolist()
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "stjax": {json.dumps(origin)}, "features": [\n')
        for spot in range(len(prediction.spots)):
            values = dict(zip(names, prediction.expression[spot, genes], strict=True))
            if (sets := prediction.gene_sets) is not None:
                of_sets = zip(sets.names, sets.predicted[spot], strict=True)
                values |= {f"{SET}{name}": value for name, value in of_sets if np.isfinite(value)}
            feature = _feature(prediction, spot, values)
            file.write(("" if spot == 0 else ",\n") + json.dumps(feature, allow_nan=False))
        file.write("\n]}\n")


def _feature(prediction: SectionPrediction, spot: int, values: dict[str, Any]) -> dict[str, Any]:
    name = str(prediction.spots.id[spot])
    rings = [np.round(ring, 2).tolist() for ring in prediction.spots.outline(spot)]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{prediction.slide} {prediction.section} {name}")),
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
        "properties": {
            "objectType": "detection",
            "name": name,
            "measurements": {gene: float(f"{value:.{_DIGITS}g}") for gene, value in values.items()},
            "metadata": {"section": prediction.section},
        },
    }
