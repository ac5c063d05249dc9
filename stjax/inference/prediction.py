"""What is predicted of a section, with where it comes from, on its way to files, figures and the report."""

import dataclasses
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

from data_prep.section import POLYGON, SQUARE
from stjax import metrics
from stjax.data.panel import Panel
from stjax.inference.predictor import Predictor

_CORNERS = 32  # of the polygon that stands for a disc


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
        total: [S] measured reads; NaN where nothing was measured.
        predicted_total: [S] expected reads, of models that predict them.
        synthetic: whether the tissue is the demo's.
        data_sha256: of the data set's manifest or, for a raw section, of its image.
        thumbnail: [h, w, 3] uint8 picture of the slide; thumbnail_scale: its pixels per full-resolution pixel.
        spot_kind: [S] DISC, SQUARE or POLYGON; None: all are discs.
        polygons: the ring [V, 2] of each spot that is a polygon, by its place among the spots.
        layers: what else is known of each spot and gene, [S, M] each: the predictions' uncertainty, for instance.
        columns: what else is known of each spot, [S] each: its place in the array, for instance.
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
    spot_kind: np.ndarray | None = None
    polygons: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    layers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def outline(self, spot: int) -> np.ndarray:
        """[V, 2] the corners of a spot, full-resolution pixels; of a disc, of a polygon that looks like it."""
        kind = -1 if self.spot_kind is None else self.spot_kind[spot]
        if kind == POLYGON:
            return self.polygons[spot]
        half = self.spot_size_um[spot] / self.um_per_px / 2
        if kind == SQUARE:
            return self.spot_xy[spot] + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        turn = np.arange(_CORNERS) * (2 * np.pi / _CORNERS)
        return self.spot_xy[spot] + half * np.stack([np.cos(turn), np.sin(turn)], axis=1)


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
        "model_sha256": model.model_sha256,
        "checkpoint_step": model.step,
        **model.progress.facts(),
        "mean_over_symmetries": model.protocol.test_symmetries,
        "synthetic": synthetic or model.data.synthetic,
        "stjax_version": metadata.version("stjax"),
    }


def about(prediction: SectionPrediction, model: Predictor) -> dict[str, Any]:
    """`provenance` of a section's prediction, and how many of the model's genes do not vary over its spots."""
    constant = int(metrics.constant(prediction.expression).sum())
    return provenance(model, data_sha256=prediction.data_sha256, synthetic=prediction.synthetic) | {
        "genes_constant": constant
    }


def gene_names(panel: Panel) -> np.ndarray:
    """[M] unique str: symbols of the main genes, with the Ensembl id added where several share a symbol."""
    names = panel.names[: panel.num_main]
    values, times = np.unique(names, return_counts=True)
    shared = set(values[times > 1])
    ids = panel.ensembl_id[: panel.num_main]
    return np.array([f"{name} ({ids[i]})" if name in shared else name for i, name in enumerate(names)])
