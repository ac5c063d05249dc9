"""What a model predicts of an image, as tables, pictures and files."""

import dataclasses
import html
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax.inference.prediction import SectionPrediction, gene_columns
from stjax.trained import Trained

if TYPE_CHECKING:
    import anndata
    import pandas as pd

_SHOWN_ROWS = 5


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Predicted expression of the spots of an image.

    Attributes:
        expression: [N, G] float32 in `units`; NaN for spots that could not be predicted.
        genes: [G] names.
        spots: [N] in pixels of the image.
        predicted: [N] bool.
        units: protocol and target transform.
        um_per_px: of the image.
        section: of the spots predicted and all genes, as `stjax.outputs` writes it: pictures, hashes, layers.
        model: what predicted it.
    """

    expression: np.ndarray
    genes: tuple[str, ...]
    spots: Spots
    predicted: np.ndarray
    units: str
    um_per_px: float
    section: SectionPrediction
    model: Trained

    @classmethod
    def of(cls, found: SectionPrediction, spots: Spots, columns: np.ndarray, model: Trained) -> "Prediction":
        """Of all spots [N] asked for, what was found of some; the genes are `columns` of the model's."""
        predicted = np.isin(spots.id, found.spots.id)
        expression = np.full((len(predicted), len(columns)), np.nan, np.float32)
        expression[predicted] = found.expression[:, columns]
        genes = tuple(model.fold.panel.labels[columns].tolist())
        return cls(expression, genes, spots, predicted, model.units, found.um_per_px, found, model)

    def __len__(self) -> int:
        return len(self.expression)

    def __getitem__(self, gene: str) -> np.ndarray:
        """[N] expression of one gene, by its name."""
        if gene not in self.genes:
            column = int(gene_columns(self.model, [gene])[0])  # offers the nearest names of an unknown one
            name = str(self.model.fold.panel.labels[column])
            if name not in self.genes:
                raise InputError(f"{gene} is none of the genes asked for: {', '.join(self.genes)}")
            gene = name
        return self.expression[:, self.genes.index(gene)]

    def to_dataframe(self) -> "pd.DataFrame":
        """Columns x and y (pixels of the image) and one a gene; a row a spot, those not predicted included."""
        import pandas as pd

        frame = pd.DataFrame(self.expression, columns=pd.Index(self.genes, name="gene"))
        frame.insert(0, "x", self.spots.xy[:, 0])
        frame.insert(1, "y", self.spots.xy[:, 1])
        return frame

    def to_anndata(self) -> "anndata.AnnData":
        """The spots predicted, as `stjax predict` writes them to .h5ad: coordinates, picture of the slide, units and
        hashes included; scanpy and squidpy read it."""
        from stjax.outputs import h5ad

        return h5ad.to_anndata(self.section, self.model, genes=gene_columns(self.model, self.genes))

    def __repr__(self) -> str:
        lost = "" if self.predicted.all() else f" ({int((~self.predicted).sum())} not predicted)"
        synthetic = unfinished(self.model)
        synthetic += ", SYNTHETIC" if self.section.synthetic or self.model.fold.synthetic else ""
        return f"<stjax.Prediction: {len(self)} spots{lost} x {len(self.genes)} genes, {self.units}{synthetic}>"

    def _repr_html_(self) -> str:
        """For notebooks: what it is, and the first rows."""
        shown = self.to_dataframe().iloc[:_SHOWN_ROWS, : _SHOWN_ROWS + 5]
        table: Any = shown.to_html(float_format="{:.3f}".format)
        return f"<p><code>{html.escape(repr(self))}</code></p>{table}"


def unfinished(model: Trained) -> str:
    """What is said of a model whose training was stopped, "" of another."""
    return f", NOT FINISHED: {model.progress}" if model.progress.finished is False else ""
