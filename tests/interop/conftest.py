"""What the tests of the extra `interop` share: a run with random weights, and its prediction of a small slide."""

import numpy as np
import pytest
from PIL import Image

from data_prep.spots import Spots
from stjax.inference.prediction import SectionPrediction
from tests.inference.test_dense import make_run

WIDTH, HEIGHT, UM = 700, 500, 0.5


@pytest.fixture(scope="session")
def run():
    return make_run(devices=1)


@pytest.fixture(scope="session")
def prediction(run):
    """A slide whose left half is dark, with 48 spots; each gene grows to the right, each by a step of its own,
    so that a picture, or a swapped axis, shows at once."""
    pixels = np.full((HEIGHT, WIDTH, 3), (240, 236, 242), np.uint8)
    pixels[100:400, 50:350] = (150, 80, 160)
    pixels[100:400, 350:650] = (225, 160, 195)
    column, row = (index.ravel() for index in np.meshgrid(np.arange(8), np.arange(6)))
    xy = np.stack([105 + 70 * column, 125 + 50 * row], axis=1).astype(np.float64)
    genes = run.fold.panel.num_main
    expression = (column[:, None] * (1 + np.arange(genes)) / 8).astype(np.float32)
    thumbnail = np.asarray(Image.fromarray(pixels).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BOX))
    return SectionPrediction(
        section="S1",
        patient="P",
        spots=Spots.discs(xy, 20.0, np.array([f"{c}x{r}" for c, r in zip(column, row, strict=True)])),
        slide="5" * 64,
        um_per_px=UM,
        expression=expression,
        truth=None,
        total=np.full(len(xy), np.nan),
        synthetic=True,
        data_sha256="5" * 64,
        thumbnail=thumbnail,
        thumbnail_scale=0.5,
        layers={"symmetry_sd": np.full_like(expression, 0.25)},
        columns={"array_row": row, "array_col": column},
    )
