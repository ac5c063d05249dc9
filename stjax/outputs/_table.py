"""The table that CSV and Parquet share: a row a spot, where it is, and a column a gene."""

import numpy as np
import pandas as pd

from stjax.inference.prediction import SectionPrediction
from stjax.trained import Trained

SET = "set:"  # in front of a gene set's name, which may be a gene's


def table(prediction: SectionPrediction, model: Trained, genes: np.ndarray) -> pd.DataFrame:
    """Section, spot id, centre in pixels and micrometres, size, then the genes' predictions in float32, and scores of
    gene sets, each as "set:" and its name."""
    xy = prediction.spots.xy
    where = pd.DataFrame(
        {
            "section": prediction.section,
            "spot_id": prediction.spots.id,
            "x_px": xy[:, 0],
            "y_px": xy[:, 1],
            "x_um": xy[:, 0] * prediction.um_per_px,
            "y_um": xy[:, 1] * prediction.um_per_px,
            "spot_size_um": prediction.size_um,
        }
    )
    values = np.asarray(prediction.expression[:, genes], np.float32)
    parts = [where, pd.DataFrame(values, columns=model.fold.panel.labels[genes])]
    if (sets := prediction.gene_sets) is not None:
        parts.append(pd.DataFrame(sets.predicted, columns=pd.Index([f"{SET}{name}" for name in sets.names])))
    return pd.concat(parts, axis=1)
