"""PNG: one gene over the tissue, beside its measurement where there is one."""

from pathlib import Path

import numpy as np

from stjax.inference.prediction import SectionPrediction
from stjax.outputs._map import write_map
from stjax.trained import Trained

SUFFIX, ONE_GENE = ".png", True


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    del genes
    write_map(path, prediction, model, gene=shown)
