"""What is predicted of a section, with where it comes from, on its way to files, plots and the report."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from data_prep.gene_lookup import GeneLookup
from data_prep.spots import Spots
from stjax import encoders, metrics
from stjax.gene_sets import GeneSets, SetScores
from stjax.trained import Trained

# Of `SectionPrediction.facts`: `domain.distance` of its images, by what the intervals' half-widths are multiplied for
# it, and the floor of `stjax.trust`.
DISTANCE, WIDENED, FLOOR = "training_distance", "interval_factor", "floor"


@dataclasses.dataclass(frozen=True, eq=False)
class SectionPrediction:
    """Predicted expression of one section's spots, and the measured one where it is known.

    Attributes:
        spots: [S] in full-resolution pixels of the slide.
        slide: what tells slides apart, the SHA-256 of the image.
        expression: [S, M] float32, in the protocol's expression units.
        truth: [S, M] or None; NaN for genes that the section's data lacks.
        total: [S] measured counts; NaN where nothing was measured.
        predicted_total: [S] expected counts, of models that predict them.
        synthetic: whether the tissue is the demo's.
        data_sha256: of the data set's manifest or, for a raw section, of its image.
        thumbnail: [h, w, 3] uint8 picture of the slide; thumbnail_scale: its pixels per full-resolution pixel.
        layers: what else is known of each spot and gene, [S, M] each: the predictions' uncertainty, for instance.
        columns: what else is known of each spot, [S] each: its place in the array, for instance.
        genes: what else is known of each gene, [M] each: how far it can be trusted (`stjax.trust`).
        facts: what else is known of the section, plain values: how far it is from the training sections.
        gene_sets: scores of its spots, where some were asked for.
    """

    section: str
    patient: str
    spots: Spots
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
    layers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    genes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gene_sets: SetScores | None = None

    @property
    def size_um(self) -> np.ndarray:
        """[S] float64, a disc's diameter, a square's side, the diameter of the disc of a polygon's area."""
        return self.spots.across_um(self.um_per_px)

    @property
    def depth(self) -> float:
        """Counts of a spot, the median; NaN where nothing was measured."""
        return float(np.median(self.total)) if len(self.total) else np.nan

    @property
    def diameter_px(self) -> float:
        """Of the spots, the median; full-resolution pixels."""
        return float(np.median(self.size_um)) / self.um_per_px


def provenance(model: Trained, *, data_sha256: str, synthetic: bool) -> dict[str, Any]:
    """Where predictions come from, for results files.

    Args:
        data_sha256: of what is predicted.
        synthetic: whether that is the demo's tissue.
    """
    return {
        "units": model.units,
        "protocol": model.fold.protocol,
        "target": model.protocol.target,
        "protocol_sha256": model.fold.protocol_hash,
        "data_sha256": data_sha256,
        "trained_on_sha256": model.fold.content_hash,
        "model": model.model_name,
        "model_sha256": model.model_sha256,
        **({"encoder": {key: encoder[key] for key in encoders.IN_RESULTS}} if (encoder := model.encoder) else {}),
        "checkpoint_step": model.step,
        **model.progress.facts(),
        "mean_over_symmetries": model.protocol.test_symmetries,
        "synthetic": synthetic or model.fold.synthetic,
        **({"caveat": caveat} if (caveat := model.fold.caveat) else {}),
        "stjax_version": metadata.version("stjax"),
    }


def about(prediction: SectionPrediction, model: Trained) -> dict[str, Any]:
    """`provenance` of a section's prediction, and how many of the model's genes do not vary over its spots."""
    constant = int(metrics.constant(prediction.expression).sum())
    origin = provenance(model, data_sha256=prediction.data_sha256, synthetic=prediction.synthetic)
    return origin | {"genes_constant": constant, **prediction.facts}


def gene_columns(model: Trained, genes: Sequence[str]) -> np.ndarray:
    """[G] columns of the main panel, each once, by any of a gene's names; says which were taken for which.

    Raises:
        InputError: a gene the model does not predict, or a name of several; see `data_prep.gene_lookup`.
    """
    panel = model.fold.panel
    if not genes:
        return np.arange(panel.num_main)
    main = slice(panel.num_main)
    lookup = GeneLookup(
        panel.ensembl_id[main].tolist(),
        panel.symbol[main].tolist(),
        labels=panel.labels.tolist(),
        what="the model does not predict gene",
        beside=panel.names[panel.num_main :].tolist(),
    )
    columns, notes = lookup.places(genes)
    for note in notes:
        print(f"note: gene {note}")
    return columns


def with_sets(prediction: SectionPrediction, model: Trained, sets: GeneSets) -> SectionPrediction:
    """The prediction with the scores of gene sets, and how well they were predicted on held-out sections, where an
    evaluation with the same sets says so."""
    about_sets = sets.with_trust(model.folder, model.model_sha256, symmetries=model.protocol.test_symmetries)
    predicted = sets.scores(prediction.expression)
    measured = None if prediction.truth is None else sets.scores(prediction.truth)
    return dataclasses.replace(prediction, gene_sets=SetScores(about_sets, predicted, measured))
