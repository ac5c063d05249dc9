"""Predictions as files: AnnData for every tool, and a PNG of one gene over the tissue."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from stjax.panel import Panel
from stjax.predictor import Predictor


@dataclasses.dataclass(frozen=True, eq=False)
class SectionPrediction:
    """Predicted expression of one section's spots, and the measured one where it is known.

    Attributes:
        spot_id: [S] str; spot_xy: [S, 2] full-resolution pixels of the slide.
        spot_radius_px: of the discs, full-resolution pixels.
        spot_size_um: [S], a disc's diameter or a square's side.
        slide: what tells slides apart, the SHA-256 of the image.
        expression: [S, M] float32, in the protocol's expression units.
        truth: [S, M] or None; NaN for genes that the section's data lacks.
        total: [S] measured reads.
        predicted_total: [S] expected reads, of models that predict them.
        synthetic: whether the tissue is the demo's.
        data_sha256: of the data set's manifest or, for a raw section, of its image.
        thumbnail: [h, w, 3] uint8 picture of the slide; thumbnail_scale: its pixels per full-resolution pixel.
    """

    section: str
    patient: str
    spot_id: np.ndarray
    spot_xy: np.ndarray
    spot_radius_px: float
    spot_size_um: np.ndarray
    slide: str
    um_per_px: float
    expression: np.ndarray
    truth: np.ndarray | None
    total: np.ndarray
    synthetic: bool
    data_sha256: str
    thumbnail: np.ndarray
    thumbnail_scale: float
    predicted_total: np.ndarray | None = None


def provenance(model: Predictor, *, data_sha256: str, synthetic: bool) -> dict[str, Any]:
    """Where predictions come from, for results files.

    Args:
        data_sha256: of what is predicted.
        synthetic: whether that is the demo's tissue.
    """
    return {
        "units": f"{model.data.protocol}: {model.protocol.target}",
        "protocol": model.data.protocol,
        "protocol_sha256": model.data.protocol_hash,
        "data_sha256": data_sha256,
        "trained_on_sha256": model.data.content_hash,
        "model": model.model_name,
        "checkpoint_step": model.step,
        "mean_over_symmetries": model.protocol.test_symmetries,
        "synthetic": synthetic or model.data.synthetic,
    }


def gene_names(panel: Panel) -> np.ndarray:
    """[M] unique str: symbols of the main genes, with the Ensembl id added where several share a symbol."""
    names = panel.names[: panel.num_main]
    values, times = np.unique(names, return_counts=True)
    shared = set(values[times > 1])
    ids = panel.ensembl_id[: panel.num_main]
    return np.array([f"{name} ({ids[i]})" if name in shared else name for i, name in enumerate(names)])


def file_name(name: str) -> str:
    """A gene's name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def write_h5ad(path: Path, prediction: SectionPrediction, model: Predictor, *, genes: np.ndarray) -> None:
    """Writes one section, whole or not at all: `X` and `layers["truth"]` [S, G], `obsm["spatial"]`, `uns["stjax"]`.

    Args:
        genes: columns of the main panel to write.
    """
    panel = model.data.panel
    adata = anndata.AnnData(
        X=prediction.expression[:, genes].astype(np.float32),
        obs=pd.DataFrame(
            {"section": prediction.section, "patient": prediction.patient},
            index=pd.Index(prediction.spot_id.astype(str), name="spot_id"),
        ),
        var=pd.DataFrame(
            {"symbol": panel.symbol[genes], "ensembl_id": panel.ensembl_id[genes]},
            index=pd.Index(gene_names(panel)[genes], name="gene"),
        ),
        uns={
            "stjax": provenance(model, data_sha256=prediction.data_sha256, synthetic=prediction.synthetic),
            "spatial": {
                prediction.section: {
                    "images": {"lowres": prediction.thumbnail},
                    "scalefactors": {
                        "tissue_lowres_scalef": prediction.thumbnail_scale,
                        "spot_diameter_fullres": 2 * prediction.spot_radius_px,
                        "microns_per_pixel": prediction.um_per_px,
                    },
                }
            },
        },
    )
    adata.obsm["spatial"] = prediction.spot_xy.astype(np.float64)
    if prediction.truth is not None:
        adata.layers["truth"] = prediction.truth[:, genes].astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    adata.write_h5ad(temporary, compression="gzip")
    os.replace(temporary, path)


def write_map(path: Path, prediction: SectionPrediction, model: Predictor, *, gene: int) -> None:
    """Draws one gene over the part of the slide with spots: truth, where known, and prediction, on one colour scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import EllipseCollection

    panels = [("prediction", prediction.expression[:, gene])]
    if prediction.truth is not None:
        panels.insert(0, ("truth", prediction.truth[:, gene]))
    values = np.concatenate([panel for _, panel in panels])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, (0.02, 0.98)) if len(values) else (0.0, 1.0)
    centres = prediction.spot_xy * prediction.thumbnail_scale
    height, width = prediction.thumbnail.shape[:2]
    margin = 0.08 * np.ptp(centres, axis=0).max() + 2 * prediction.spot_radius_px * prediction.thumbnail_scale
    (left, top), (right, bottom) = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    size = (5.2 * len(panels), 5.2 * (bottom - top) / (right - left) + 1.0)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    collection = None
    for axis, (name, panel) in zip(axes[0], panels, strict=True):
        axis.imshow(prediction.thumbnail, alpha=0.7)
        # Spots of a few micrometres are drawn large enough to be seen.
        diameter = max(2 * prediction.spot_radius_px * prediction.thumbnail_scale, (right - left) / 120)
        collection = EllipseCollection(
            np.full(len(panel), diameter),
            np.full(len(panel), diameter),
            np.zeros(len(panel)),
            units="xy",
            offsets=centres,
            offset_transform=axis.transData,
            array=panel,
            cmap="viridis",
        )
        collection.set_clim(low, max(high, low + 1e-9))
        axis.add_collection(collection)
        axis.set_xlim(left, right)
        axis.set_ylim(bottom, top)
        axis.set_title(name)
        axis.set_axis_off()
    if collection is not None:
        figure.colorbar(collection, ax=axes[0].tolist(), shrink=0.8, label=model.protocol.target)
    synthetic = "  (SYNTHETIC tissue)" if prediction.synthetic or model.data.synthetic else ""
    figure.suptitle(f"{gene_names(model.data.panel)[gene]}, section {prediction.section}{synthetic}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
