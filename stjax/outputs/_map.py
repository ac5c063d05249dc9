"""The picture of one gene over the tissue, which PNG and SVG share."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from PIL import Image

from data_prep.files import whole
from data_prep.spots import Spots
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
    measured = {} if prediction.truth is None else {"measured": prediction.truth[:, gene]}
    figure = draw(
        prediction.thumbnail,
        prediction.thumbnail_scale,
        prediction.spots,
        measured | {"predicted": prediction.expression[:, gene]},
        unit=f"expression, {FORMULAS[model.protocol.target]}",
    )
    synthetic = "  (SYNTHETIC tissue)" if prediction.synthetic or model.fold.synthetic else ""
    unfinished = f"\nNOT FINISHED: trained for {model.progress}" if model.progress.finished is False else ""
    figure.suptitle(f"{model.fold.panel.labels[gene]}, section {prediction.section}{synthetic}{unfinished}")
    return figure


def draw(
    slide: np.ndarray,
    scale: float,
    spots: Spots,
    panels: Mapping[str, np.ndarray],
    *,
    unit: str,
    panel_inches: float = 4.2,
) -> Figure:
    """The part of a slide with spots, and values of the spots over it, all panels on one colour scale.

    Args:
        slide: [h, w, 3] uint8, with `scale` of its pixels a full-resolution pixel.
        panels: {title: [S]}, finite; the PCC of "predicted" and "measured" is added where both are there.
        unit: of the values, for the colour bar.
        panel_inches: width of a panel; letters look larger in smaller ones.
    """
    pcc = np.nan
    if {"measured", "predicted"} <= panels.keys():
        pcc = metrics.pearson_per_gene(panels["predicted"][:, None], panels["measured"][:, None])[0]
    constant = {name for name, values in panels.items() if metrics.constant(values[:, None])[0]}
    # Rounding errors are no pattern: what does not vary is drawn in one colour.
    panels = {name: np.full_like(of, of.mean()) if name in constant else of for name, of in panels.items()}
    low, high = _ends(np.concatenate(list(panels.values())))
    centres, across = spots.xy * scale, float(np.median(spots.across_px())) * scale
    height, width = slide.shape[:2]
    margin = 0.08 * np.ptp(centres, axis=0).max() + across
    (left, top), (right, bottom) = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    # Matplotlib works on pictures in floating point, and the page has no use for more pixels.
    picture = Image.fromarray(slide).reduce(math.ceil(max(height, width) / _PICTURE_PX))
    panel_height = panel_inches * (bottom - top) / (right - left)
    figure = Figure((panel_inches * (1 + len(panels)), panel_height + panel_inches / 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    for axis in axes:
        axis.imshow(picture, alpha=1.0 if axis is axes[0] else 0.7, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axis.set_xlim(left, right)
        axis.set_ylim(bottom, top)
        axis.set_axis_off()
    axes[0].set_title("slide (H&E)")
    # Spots of a few micrometres are drawn large enough to be seen.
    diameter = np.full(len(spots), max(across, (right - left) / 120))
    for axis, (name, values) in zip(axes[1:], panels.items(), strict=True):
        collection = EllipseCollection(
            diameter,
            diameter,
            np.zeros(len(spots)),
            units="xy",
            offsets=centres,
            offset_transform=axis.transData,
            array=values,
            cmap="viridis",
            rasterized=len(spots) > _VECTOR_SPOTS,
        )
        collection.set_clim(low, high)
        axis.add_collection(collection)
        with_pcc = f" (PCC {pcc:.2f})" if np.isfinite(pcc) and axis is axes[-1] else ""
        axis.set_title(f"{name}: does not vary" if name in constant else f"{name}{with_pcc}")
        if axis is axes[-1]:
            figure.colorbar(collection, ax=axes.tolist(), shrink=0.8, label=unit)
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
