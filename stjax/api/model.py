"""A trained model, loaded, which predicts images."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import numpy as np
from PIL import Image

from data_prep.errors import InputError
from stjax import trained
from stjax.api.given import ANNDATA, FEATURES, FOLDER, LIST, SPATIALDATA, Given, check_arguments, kind_of
from stjax.api.predicting import Job
from stjax.api.result import Prediction, unfinished
from stjax.api.wording import in_python
from stjax.inference import grid
from stjax.inference.model_folder import is_model_folder
from stjax.inference.prediction import gene_columns
from stjax.trained import Trained

if TYPE_CHECKING:
    import pandas as pd


class How(TypedDict, total=False):
    """The keywords of `Model.predict`."""

    image: Any
    coordinate_system: str | None
    um_per_px: float | None
    genes: str | Sequence[str]
    array: str | grid.Array
    spot_um: float | None
    min_tissue: float
    symmetries: bool


@in_python(weights="encoder_weights")
def load(path: str | Path, *, encoder_weights: str | Path | None = None) -> "Model":
    """Opens a trained model.

    Args:
        path: a work directory of `stjax train`, or a folder that `stjax export` wrote, which may be on the Hugging Face
            Hub: hf://NAME/MODEL[@REVISION].
        encoder_weights: of a model of features, the file of its encoder's weights; default that of its training.

    Raises:
        InputError: there is no trained model, or a damaged one.

    Warns:
        UserWarning: its training was stopped before its end (`Model.finished`).

    Example:
        >>> model = stjax.load("runs/enet_b0_aux")
        >>> model.genes[:3]
        ('ACTB', 'ACTG1', 'APOE')
    """
    model = trained.load(Path(path), encoder_weights=None if encoder_weights is None else Path(encoder_weights))
    if model.progress.finished is False:
        warnings.warn(model.progress.warning(str(path)), stacklevel=2)
    return Model(model)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained model.

    Attributes:
        model: what is loaded, for what this class does not offer.
    """

    model: Trained

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes it predicts, in order."""
        return tuple(self.model.fold.panel.labels.tolist())

    @property
    def ensembl_ids(self) -> tuple[str, ...]:
        """Their Ensembl ids; "" where the training data had none."""
        panel = self.model.fold.panel
        return tuple(panel.ensembl_id[: panel.num_main].tolist())

    @property
    def units(self) -> str:
        """What the predictions are in: the protocol and its target transform."""
        return self.model.units

    @property
    def um_per_px(self) -> float:
        """The scale it was trained at, to which images are resampled."""
        return self.model.fold.um_per_px

    @property
    def trained(self) -> str:
        """How far it was trained: "30 of 30 epochs"."""
        return str(self.model.progress)

    @property
    def finished(self) -> bool | None:
        """Whether its training came to its end, planned or by early stopping; None where that is not known."""
        return self.model.progress.finished

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on the demo's generated tissue."""
        return self.model.fold.synthetic

    @property
    def metrics(self) -> dict[str, Any]:
        """What evaluation found on the sections held out, as metrics.json has it: `metrics["methods"]["model"]` has the
        model's figures, the other methods those of the baselines; docs/evaluation.md says what each means.

        Raises:
            InputError: the model is not evaluated yet, or is an exported one, which has no figures with it.
        """
        return self._scores()[0]

    @property
    def per_gene(self) -> "pd.DataFrame":
        """A row a gene, as per_gene.csv has it: "pcc", its interval, errors, the baselines' PCC; see `metrics`."""
        return self._scores()[1].set_index("gene")

    def _scores(self) -> tuple[dict[str, Any], "pd.DataFrame"]:
        from stjax.reporting.read import read_scores

        folder = self.model.folder
        if is_model_folder(folder):
            raise InputError(
                f"{folder} is an exported model, without an evaluation; load the work directory of its run"
            )
        metrics, genes = read_scores(folder, self.model.fold.protocol)
        if metrics.get("model_sha256") != self.model.model_sha256:
            raise InputError(
                f"the evaluation in {folder} is of another state of the model; score it again with "
                f"stjax evaluate --workdir={folder}"
            )
        return metrics, genes

    @overload
    def predict(
        self, source: list[Any] | tuple[Any, ...], spots: None = None, **how: Unpack[How]
    ) -> list[Prediction]: ...

    @overload
    def predict(self, source: np.ndarray | Image.Image, spots: Any = None, **how: Unpack[How]) -> Prediction: ...

    @overload
    def predict(self, source: Any, spots: Any = None, **how: Unpack[How]) -> Any: ...

    @in_python(source_um_per_px="um_per_px", weights="encoder_weights")
    def predict(
        self,
        source: Any,
        spots: Any = None,
        *,
        image: Any = None,
        coordinate_system: str | None = None,
        um_per_px: float | None = None,
        genes: str | Sequence[str] = (),
        array: str | grid.Array = "st",
        spot_um: float | None = None,
        min_tissue: float = grid.MIN_TISSUE,
        symmetries: bool = False,
    ) -> Any:
        """Predicts the expression of spots of an image, matched in scale and stain to the training slides.

        Args:
            source: one of
                the path of a slide, a PIL image, or uint8 [H, W, 3] RGB;
                an AnnData: its spots in `obsm["spatial"]`, and the picture and scale in `uns["spatial"]`;
                a SpatialData: an image, shapes and their table, in one coordinate system;
                features, float [N, D], of the patches around N spots, for a model of features;
                a list of these, or the path of a folder of slides or of raw sections with spots.
            spots: [N, 2] centres (x, y) in pixels of the image, x to the right, y down, (0, 0) its upper left corner; a
                DataFrame with columns x and y; or `data_prep.spots.Spots`. None lays a grid on the tissue. Of a
                SpatialData, the name of the shapes.
            image: of an AnnData or of features, the full-resolution slide; of a SpatialData, the name of the image.
            coordinate_system: of a SpatialData; default "global", or the only one with images.
            um_per_px: micrometres per pixel of the image (of an AnnData: of full-resolution pixels), where source does
                not state it; what is stated otherwise is noted, and this is used.
            genes: any names of theirs (HER2 is ERBB2), or Ensembl ids, or a single one; default all the model knows.
            array: of the grid: "st" (100 um spots, 200 um apart), "visium" (55 and 100), or `grid.Array(...)`.
            spot_um: diameter of the spots in place of the array's; of a model of patches it matters to pictures alone.
            min_tissue: of the grid, the least share of a spot that is tissue.
            symmetries: predict means over the eight symmetries of the square: eight times the work, steadier.

        Returns:
            A `Prediction` with a row for each spot, NaN where a spot is too near the border to be predicted; of a list,
            a list of them; of a folder, a dictionary of them by name.

        Raises:
            InputError: an image or spots that are none, a scale that nothing tells, a gene the model does not predict
                (with what it may mean, or the nearest names), or no spot that can be predicted; of a model of features,
                no weights of its encoder, or others.

        Example:
            >>> found = model.predict(image, [[512, 400], [800, 420]], um_per_px=0.5, genes=["ERBB2", "GNAS"])
            >>> found.expression.shape
            (2, 2)
        """
        columns = gene_columns(self.model, [genes] if isinstance(genes, str) else genes)
        if um_per_px is not None and not 0 < um_per_px < float("inf"):
            raise InputError(f"um_per_px is {um_per_px}, expected a positive number of micrometres per pixel")
        chosen = _array(array, spot_um)
        grid.check(chosen, min_tissue=min_tissue)
        job = Job(self.model, columns, chosen, min_tissue, symmetries)
        what = kind_of(source)
        check_arguments(what, spots=spots, image=image, coordinate_system=coordinate_system, spot_um=spot_um)
        if what == LIST:
            how: How = {"um_per_px": um_per_px, "genes": genes, "array": array, "spot_um": spot_um}
            how |= {"min_tissue": min_tissue, "symmetries": symmetries}
            return [self.predict(each, **how) for each in source]
        if what == FOLDER:
            return job.sections(Path(source), um_per_px)
        if what == FEATURES:
            given = None if image is None else Given(image, um_per_px)
            return job.features(np.asarray(source), spots, given)
        if what == ANNDATA:
            from stjax.api import from_anndata  # with anndata, which arrays and slides do not need

            return job.image(from_anndata.given(source, image, um_per_px))
        if what == SPATIALDATA:
            from stjax.api import from_spatialdata

            return job.image(from_spatialdata.given(source, image, spots, coordinate_system, um_per_px))
        return job.image(Given(source, um_per_px), spots)

    def __repr__(self) -> str:
        data = self.model.fold
        kind = self.model.view.items
        synthetic = unfinished(self.model) + (", SYNTHETIC" if self.synthetic else "")
        return (
            f"<stjax.Model {self.model.model_name}: {len(self.genes)} genes ({self.units}) from {kind} of "
            f"{data.image_size_px} px at {self.um_per_px:.3g} um per px, {self.model.folder}{synthetic}>"
        )


def _array(array: str | grid.Array, spot_um: float | None) -> grid.Array:
    if isinstance(array, str):
        if array not in grid.PRESETS:
            raise InputError(f"array is {array!r}, expected {' or '.join(grid.PRESETS)}, or a grid.Array")
        array = grid.PRESETS[array]
    if spot_um is None:
        return array
    if not 0 < spot_um < float("inf"):
        raise InputError(f"spot_um is {spot_um}, expected a positive number of micrometres")
    return dataclasses.replace(array, spot_um=spot_um)
