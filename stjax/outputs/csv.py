"""CSV: a row a spot, a column a gene. Where it comes from stands in the section's record beside it."""

from pathlib import Path

import numpy as np

from stjax.inference.prediction import SectionPrediction
from stjax.inference.predictor import Predictor
from stjax.outputs import whole
from stjax.outputs._table import table

SUFFIX = ".csv"


def write(path: Path, prediction: SectionPrediction, model: Predictor, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    del shown
    with whole(path) as temporary:
        table(prediction, model, genes).to_csv(temporary, index=False, float_format="%.7g")
