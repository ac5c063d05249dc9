"""CSV: a row a spot, a column a gene. Where it comes from stands in the section's record next to it."""

from pathlib import Path

import numpy as np

from stjax.inference.prediction import SectionPrediction
from stjax.outputs._table import table
from stjax.tables import write_csv
from stjax.trained import Trained

SUFFIX = ".csv"


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    write_csv(path, table(prediction, model, genes), float_format="%.7g")
