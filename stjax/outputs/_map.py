"""The picture of one gene over the tissue, which PNG and SVG share."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from PIL import Image

from data_prep.files import whole
from stjax import metrics
from stjax.inference.prediction import SectionPrediction
from stjax.targets import FORMULAS
from stjax.trained import Trained

_PICTURE_PX = 1000
_VECTOR_SPOTS = 20_000  # more are drawn as pixels in an SVG too, which else takes longer to open than to predict


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`. Draws the part of the slide with spots, alone and under the gene `shown`: measured, where it
    is known, and predicted, on one colour scale; the file's ending says its kind.
    """
    with whole(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "stjax"}):  # the same bytes every time
        undated: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
        _figure(prediction, model, shown).savefig(temporary, dpi=110, **undated)


def _figure(prediction: SectionPrediction, model: Trained, gene: int) -> Figure:
    panels = [("predicted", prediction.expression[:, gene])]
    pcc = np.nan
    if prediction.truth is not None:
        panels.insert(0, ("measured", prediction.truth[:, gene]))
        pcc = metrics.pearson_per_gene(prediction.expression[:, [gene]], prediction.truth[:, [gene]])[0]
    constant = [bool(metrics.constant(panel[:, None])[0]) for _, panel in panels]
    # Rounding errors are no pattern: what does not vary is drawn in one colour.
    panels = [
        (f"{name}: does not vary", np.full_like(panel, panel.mean())) if same else (name, panel)
        for (name, panel), same in zip(panels, constant, strict=True)
    ]
    low, high = _ends(np.concatenate([panel for _, panel in panels]))
    centres = prediction.spots.xy * prediction.thumbnail_scale
    height, width = prediction.thumbnail.shape[:2]
    margin = 0.08 * np.ptp(centres, axis=0).max() + prediction.diameter_px * prediction.thumbnail_scale
    (left, top), (right, bottom) = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    # Matplotlib works on pictures in floating point, and the page has no use for more pixels.
    picture = Image.fromarray(prediction.thumbnail).reduce(math.ceil(max(height, width) / _PICTURE_PX))
    columns = 1 + len(panels)
    figure = Figure((4.2 * columns, 4.2 * (bottom - top) / (right - left) + 1.0), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.imshow(picture, alpha=1.0 if axis is axes[0] else 0.7, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axis.set_xlim(left, right)
        axis.set_ylim(bottom, top)
        axis.set_axis_off()
    axes[0].set_title("slide (H&E)")
    collection = None
    for axis, (name, panel) in zip(axes[1:], panels, strict=True):
        # Spots of a few micrometres are drawn large enough to be seen.
        diameter = max(prediction.diameter_px * prediction.thumbnail_scale, (right - left) / 120)
        collection = EllipseCollection(
            np.full(len(panel), diameter),
            np.full(len(panel), diameter),
            np.zeros(len(panel)),
            units="xy",
            offsets=centres,
            offset_transform=axis.transData,
            array=panel,
            cmap="viridis",
            rasterized=len(panel) > _VECTOR_SPOTS,
        )
        collection.set_clim(low, high)
        axis.add_collection(collection)
        axis.set_title(f"{name} (PCC {pcc:.2f})" if np.isfinite(pcc) and axis is axes[-1] else name)
    if collection is not None:
        figure.colorbar(collection, ax=axes.tolist(), shrink=0.8, label=FORMULAS[model.protocol.target])
    synthetic = "  (SYNTHETIC tissue)" if prediction.synthetic or model.fold.synthetic else ""
    unfinished = f"\nNOT FINISHED: trained for {model.progress}" if model.progress.finished is False else ""
    figure.suptitle(f"{model.fold.panel.labels[gene]}, section {prediction.section}{synthetic}{unfinished}")
    return figure


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Of the colour scale of some values: the middle 96 % of them, so that single spots do not wash out the rest."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = (float(end) for end in np.quantile(values, (0.02, 0.98)))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    return low, high
