"""What a model predicts of an image, as tables, pictures and files."""

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax import outputs
from stjax.inference.prediction import SectionPrediction, gene_columns
from stjax.trained import Trained

if TYPE_CHECKING:
    import anndata
    import pandas as pd
    from matplotlib.figure import Figure

_SHOWN_ROWS = 5


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Predicted expression of the spots of an image.

    Attributes:
        expression: [N, G] float32 in `units`; NaN for spots that could not be predicted.
        genes: [G] names.
        spots: [N] in pixels of the image; None of features without an image.
        predicted: [N] bool.
        units: protocol and target transform.
        um_per_px: of the image; None of features without an image.
        section: of the spots predicted and all genes, as `stjax.outputs` writes it: pictures, hashes, layers, and the
            measured expression where the source had it. None of features without an image.
        model: what predicted it.
        columns: [G] of the model's main panel.
        system: coordinate system of the SpatialData that the image is from, and [3, 3] from its pixels into it.
    """

    expression: np.ndarray
    genes: tuple[str, ...]
    spots: Spots | None
    predicted: np.ndarray
    units: str
    um_per_px: float | None
    section: SectionPrediction | None
    model: Trained
    columns: np.ndarray
    system: tuple[str, np.ndarray] | None = None

    @classmethod
    def of(
        cls,
        found: SectionPrediction,
        spots: Spots,
        columns: np.ndarray,
        model: Trained,
        system: tuple[str, np.ndarray] | None = None,
    ) -> "Prediction":
        """Of all spots [N] asked for, what was found of some; the genes are `columns` of the model's."""
        predicted = np.isin(spots.id, found.spots.id)
        expression = np.full((len(predicted), len(columns)), np.nan, np.float32)
        expression[predicted] = found.expression[:, columns]
        genes = tuple(model.fold.panel.labels[columns].tolist())
        return cls(expression, genes, spots, predicted, model.units, found.um_per_px, found, model, columns, system)

    @classmethod
    def of_features(cls, expression: np.ndarray, columns: np.ndarray, model: Trained) -> "Prediction":
        """Of features [N] without an image: expression [N, M] of all the model's genes."""
        genes, predicted = tuple(model.fold.panel.labels[columns].tolist()), np.ones(len(expression), bool)
        return cls(expression[:, columns], genes, None, predicted, model.units, None, None, model, columns)

    def __len__(self) -> int:
        return len(self.expression)

    @overload
    def __getitem__(self, gene: str) -> np.ndarray: ...

    @overload
    def __getitem__(self, gene: list[str] | tuple[str, ...]) -> "Prediction": ...

    def __getitem__(self, gene: str | list[str] | tuple[str, ...]) -> "np.ndarray | Prediction":
        """[N] expression of one gene, by any of its names; of a list of names, the prediction of these genes alone."""
        places = [self._place(name) for name in ([gene] if isinstance(gene, str) else gene)]
        if isinstance(gene, str):
            return self.expression[:, places[0]]
        if not places:
            raise InputError("the list of genes is empty; name at least one")
        genes = tuple(self.genes[place] for place in places)
        return dataclasses.replace(
            self, genes=genes, expression=self.expression[:, places], columns=self.columns[places]
        )

    def _place(self, gene: str) -> int:
        """Of a gene among those of this prediction."""
        if gene in self.genes:
            return self.genes.index(gene)
        column = int(gene_columns(self.model, [gene])[0])  # offers the nearest names of an unknown one
        if column not in self.columns:
            raise InputError(f"{gene} is none of the genes asked for: {', '.join(self.genes)}")
        return int(np.flatnonzero(self.columns == column)[0])

    def to_dataframe(self) -> "pd.DataFrame":
        """Columns x and y (pixels of the image, where there is one) and one a gene; a row a spot, by its id, those not
        predicted included."""
        import pandas as pd

        index = None if self.spots is None else pd.Index(self.spots.id, name="spot_id")
        frame = pd.DataFrame(self.expression, columns=pd.Index(self.genes, name="gene"), index=index)
        if self.spots is not None:
            frame.insert(0, "x", self.spots.xy[:, 0])
            frame.insert(1, "y", self.spots.xy[:, 1])
        return frame

    def to_anndata(self) -> "anndata.AnnData":
        """The spots predicted, as `stjax predict` writes them to .h5ad: coordinates, picture of the slide, units and
        hashes included; scanpy and squidpy read it."""
        from stjax.outputs import h5ad

        return h5ad.to_anndata(self._section(), self.model, genes=self.columns)

    def to_spatialdata(self) -> Any:
        """The spots predicted, as `stjax predict` writes them in the format `spatialdata`: picture, shapes and table,
        in the coordinate system of the SpatialData that was predicted, else "global", pixels of the image.

        Raises:
            InputError: the extra `interop` is not installed.
        """
        section, writer = self._section(), outputs.get_formats(["spatialdata"])["spatialdata"]
        return writer.to_spatialdata(section, self.model, genes=self.columns, system=self.system)

    def plot(self, genes: str | Sequence[str] = ()) -> "Figure":
        """Maps over the tissue: predicted expression, beside the measured where the source has it, with their PCC over
        these spots. Colours are in `units`, the bar is in micrometres.

        Args:
            genes: which; default those asked for, up to a dozen, else the one that varies most.

        Returns:
            A Matplotlib figure, which notebooks show; `savefig` writes it.
        """
        from stjax.outputs import _map

        chosen = self[[genes] if isinstance(genes, str) else list(genes)] if len(genes) else self
        section, asked = self._section(), len(chosen.columns) < self.model.fold.panel.num_main
        return _map.figure(section, self.model, outputs.drawn(section.expression, chosen.columns, asked=asked))

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the spots predicted in the format that the ending names: .h5ad, .csv, .parquet, .geojson (QuPath),
        .zarr (SpatialData), .png or .svg (what `plot` draws).

        Args:
            overwrite: replace a folder that is there, of .zarr; a file is replaced in any case.

        Raises:
            InputError: another ending, a format whose extra is not installed, or a folder that is there.
        """
        path, section = Path(path), self._section()
        writer = outputs.by_suffix(path)
        if path.is_dir() and not overwrite:
            raise InputError(f"{path} is a folder that is there already; choose another name, or give overwrite=True")
        if getattr(writer, "ONE_GENE", False):
            from stjax.outputs import _map

            _map.save(path, self.plot())
        else:
            writer.write(path, section, self.model, genes=self.columns, shown=int(self.columns[0]))
        return path

    def _section(self) -> SectionPrediction:
        if self.section is None:
            raise InputError(
                "features alone do not say where the spots are; give image and spots to predict for more than a table"
            )
        return self.section

    def __repr__(self) -> str:
        lost = "" if self.predicted.all() else f" ({int((~self.predicted).sum())} not predicted)"
        of_demo = self.model.fold.synthetic or (self.section is not None and self.section.synthetic)
        synthetic = unfinished(self.model) + (", SYNTHETIC" if of_demo else "")
        size = f"{counted(len(self), 'spots')}{lost} x {counted(len(self.genes), 'genes')}"
        return f"<stjax.Prediction: {size}, {self.units}{synthetic}>"

    def _repr_html_(self) -> str:
        """For notebooks: what it is, and the first rows."""
        shown = self.to_dataframe().iloc[:_SHOWN_ROWS, : _SHOWN_ROWS + 5]
        table: Any = shown.to_html(float_format="{:.3f}".format)
        return f"<p><code>{html.escape(repr(self))}</code></p>{table}"


def unfinished(model: Trained) -> str:
    """What is said of a model whose training was stopped, "" of another."""
    return f", NOT FINISHED: {model.progress}" if model.progress.finished is False else ""
