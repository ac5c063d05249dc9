"""The picture of one gene over the tissue, which PNG and SVG share."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from data_prep.files import whole
from data_prep.overlay import scale_bar
from data_prep.spots import Spots
from stjax import metrics
from stjax.gene_sets import UNITS
from stjax.inference.prediction import FLOOR, SectionPrediction
from stjax.outputs import MOST_MAPS, file_name
from stjax.targets import FORMULAS
from stjax.trained import Trained
from stjax.trust import MARK

_PICTURE_PX, _DPI, _PANEL_INCHES = 1000, 110, 4.2
_GREY = "0.55"  # titles of genes that are not to be believed
_VECTOR_SPOTS = 20_000  # more are drawn as pixels in an SVG too, which else takes longer to open than to predict


class Picture(Figure):
    """A figure that notebooks show, whatever backend they have."""

    def _repr_jpeg_(self) -> bytes:
        """A photograph in PNG would take several times as much of the notebook's file."""
        drawn = io.BytesIO()
        self.savefig(drawn, format="jpeg", dpi=_DPI)
        return drawn.getvalue()


class _View(NamedTuple):
    """The part of a slide with spots: its picture, small, the size of the whole, and limits in its pixels."""

    picture: Image.Image
    size: tuple[int, int]
    left: float
    right: float
    top: float
    bottom: float

    @classmethod
    def of(cls, slide: np.ndarray, scale: float, spots: Spots) -> "_View":
        centres, across = spots.xy * scale, float(np.median(spots.across_px())) * scale
        height, width = slide.shape[:2]
        margin = 0.08 * np.ptp(centres, axis=0).max() + across
        (left, top), (right, bottom) = centres.min(axis=0) - margin, centres.max(axis=0) + margin
        # Matplotlib works on pictures in floating point, and the page has no use for more pixels.
        picture = Image.fromarray(slide).reduce(math.ceil(max(height, width) / _PICTURE_PX))
        return cls(picture, (width, height), max(left, 0), min(right, width), max(top, 0), min(bottom, height))

    def inches(self, panels: int, panel_inches: float) -> tuple[float, float]:
        """Width and height of a row of panels, the slide alone among them."""
        height = panel_inches * (self.bottom - self.top) / (self.right - self.left)
        return panel_inches * panels, height + panel_inches / 4


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`. Draws the gene `shown`; the file's ending says its kind."""
    save(path, figure(prediction, model, [shown]))


def save(path: Path, drawn: Figure) -> None:
    """Writes a figure, whole or not at all."""
    with whole(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "stjax"}):  # the same bytes every time
        undated: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
        drawn.savefig(temporary, dpi=_DPI, **undated)


class _Row(NamedTuple):
    """What a row of maps shows: its title, values of the spots by name, their unit, and why they are not to be
    believed, "" of others."""

    title: str
    panels: Mapping[str, np.ndarray]
    unit: str
    doubt: str


def figure(prediction: SectionPrediction, model: Trained, genes: Sequence[int] | np.ndarray) -> Figure:
    """The part of the slide with spots, alone and, a row a gene of the main panel, under its expression: measured,
    where it is known, and predicted, on one colour scale, with their PCC over these spots."""
    unit, marked = f"expression, {FORMULAS[model.protocol.target]}", prediction.genes.get(MARK)
    rows = [
        _Row(
            str(model.fold.panel.labels[gene]),
            _panels(prediction.expression, prediction.truth, gene),
            unit,
            doubt(prediction, int(gene)) if marked is not None and marked[gene] else "",
        )
        for gene in genes
    ]
    return _rows(prediction, model, rows)


def figure_of_set(prediction: SectionPrediction, model: Trained, place: int) -> Figure:
    """As `figure`, of the score of a gene set."""
    sets = prediction.gene_sets
    assert sets is not None
    about = sets.table.iloc[place]
    title = f"{about['gene_set']}: {about['genes_predicted']} of {about['genes_listed']} genes"
    if np.isfinite(pcc := float(about["pcc"])):
        title += f", PCC {pcc:.2f} on held-out sections"
    row = _Row(title, _panels(sets.predicted, sets.measured, place), UNITS, "")
    return _rows(prediction, model, [row])


def write_sets(out: Path, prediction: SectionPrediction, model: Trained, *, suffix: str) -> list[str]:
    """Draws gene sets, those that vary most where there are many, a file each; returns the files' names."""
    sets, written = prediction.gene_sets, []
    assert sets is not None
    for place in np.argsort(-np.nan_to_num(sets.predicted.std(axis=0)), kind="stable")[:MOST_MAPS]:
        written.append(f"{prediction.section}_set_{file_name(sets.names[place])}{suffix}")
        save(out / written[-1], figure_of_set(prediction, model, int(place)))
    return written


def _panels(predicted: np.ndarray, measured: np.ndarray | None, column: int) -> dict[str, np.ndarray]:
    known = {} if measured is None else {"measured": measured[:, column]}
    return known | {"predicted": predicted[:, column]}


def _rows(prediction: SectionPrediction, model: Trained, shown: Sequence[_Row]) -> Figure:
    scale, spots = prediction.thumbnail_scale, prediction.spots
    view = _View.of(prediction.thumbnail, scale, spots)
    width, height = view.inches(2 if prediction.truth is None else 3, _PANEL_INCHES)
    drawn = Picture((width, height * len(shown)), layout="constrained")
    rows: Any = [drawn] if len(shown) == 1 else drawn.subfigures(len(shown), 1)
    synthetic = "  (SYNTHETIC tissue)" if prediction.synthetic or model.fold.synthetic else ""
    unfinished = f"\nNOT FINISHED: trained for {model.progress}" if model.progress.finished is False else ""
    for row, of in zip(rows, shown, strict=True):
        axes = _fill(row, view, scale, spots, of.panels, unit=of.unit)
        _scale_bar(axes[0], view, prediction.um_per_px / scale)
        title = f"{of.title}, section {prediction.section}{synthetic}{unfinished}"
        row.suptitle(f"{title}\n{of.doubt}" if of.doubt else title, color=_GREY if of.doubt else None)
    return drawn


def doubt(prediction: SectionPrediction, gene: int) -> str:
    """What is said of a gene that is marked."""
    pcc, low = (float(prediction.genes[name][gene]) for name in ("pcc_normalised", "pcc_normalised_low"))
    found = f"PCC {pcc:.2f}, at least {low:.2f}" if np.isfinite(low) else "PCC not known"
    return f"below the floor of {prediction.facts[FLOOR]:g}: {found} on held-out sections"


def draw(
    slide: np.ndarray,
    scale: float,
    spots: Spots,
    panels: Mapping[str, np.ndarray],
    *,
    unit: str,
    panel_inches: float = _PANEL_INCHES,
) -> Figure:
    """The part of a slide with spots, and values of the spots over it, all panels on one colour scale.

    Args:
        slide: [h, w, 3] uint8, with `scale` of its pixels a full-resolution pixel.
        panels: {title: [S]}, finite; the PCC of "predicted" and "measured" is added where both are there.
        unit: of the values, for the colour bar.
        panel_inches: width of a panel; letters look larger in smaller ones.
    """
    view = _View.of(slide, scale, spots)
    drawn = Picture(view.inches(1 + len(panels), panel_inches), layout="constrained")
    _fill(drawn, view, scale, spots, panels, unit=unit)
    return drawn


def _fill(
    row: Any, view: _View, scale: float, spots: Spots, panels: Mapping[str, np.ndarray], *, unit: str
) -> np.ndarray:
    """`draw`, into a figure or a part of one; returns the axes, the slide's first."""
    pcc = np.nan
    if {"measured", "predicted"} <= panels.keys():
        pcc = metrics.pearson_per_gene(panels["predicted"][:, None], panels["measured"][:, None])[0]
    constant = {name for name, values in panels.items() if metrics.constant(values[:, None])[0]}
    # Rounding errors are no pattern: what does not vary is drawn in one colour.
    panels = {name: np.full_like(of, of.mean()) if name in constant else of for name, of in panels.items()}
    low, high = _ends(np.concatenate(list(panels.values())))
    centres, across = spots.xy * scale, float(np.median(spots.across_px())) * scale
    width, height = view.size
    axes = row.subplots(1, 1 + len(panels), squeeze=False)[0]
    for axis in axes:
        alpha = 1.0 if axis is axes[0] else 0.7
        axis.imshow(view.picture, alpha=alpha, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axis.set_xlim(view.left, view.right)
        axis.set_ylim(view.bottom, view.top)
        axis.set_axis_off()
    axes[0].set_title("slide (H&E)")
    # Spots of a few micrometres are drawn large enough to be seen.
    diameter = np.full(len(spots), max(across, (view.right - view.left) / 120))
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
            row.colorbar(collection, ax=axes.tolist(), shrink=0.8, label=unit)
    return axes


def _scale_bar(axis: Any, view: _View, um_per_px: float) -> None:
    """A bar of a round number of micrometres, about a fifth of the picture's width, in its lower left corner.

    Args:
        um_per_px: of the thumbnail.
    """
    across, down = view.right - view.left, view.bottom - view.top
    length, text = scale_bar(across / 4 * um_per_px)
    x, y, thick = view.left + 0.04 * across, view.bottom - 0.05 * down, 0.012 * across
    axis.add_patch(Rectangle((x, y), length / um_per_px, thick, facecolor="black", edgecolor="white", linewidth=0.8))
    outline = [withStroke(linewidth=2, foreground="white")]
    axis.text(x + length / um_per_px / 2, y - thick / 2, text, ha="center", va="bottom", path_effects=outline)


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
