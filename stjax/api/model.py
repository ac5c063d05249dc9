"""A trained model, loaded, which predicts images."""

import contextlib
import dataclasses
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from PIL import Image

from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.slide import Slide, open_slide
from data_prep.spots import Spots
from stjax import trained
from stjax.api.result import Prediction, unfinished
from stjax.api.wording import in_python
from stjax.inference import grid
from stjax.inference.model_folder import is_model_folder
from stjax.inference.prediction import gene_columns
from stjax.inference.slide_prediction import predict_slide, window_px
from stjax.inference.sources import SLIDES, open_source, place_spots
from stjax.trained import Trained

if TYPE_CHECKING:
    import pandas as pd


@in_python(weights="encoder_weights")
def load(path: str | Path, *, encoder_weights: str | Path | None = None) -> "Model":
    """Opens a trained model.

    Args:
        path: a work directory of `stjax train`, or a folder that `stjax export` wrote.
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

    @in_python(source_um_per_px="um_per_px")
    def predict(
        self,
        image: "np.ndarray | Image.Image | str | Path",
        spots: Any = None,
        *,
        um_per_px: float | None = None,
        genes: Sequence[str] = (),
        array: str | grid.Array = "st",
        spot_um: float | None = None,
        min_tissue: float = grid.MIN_TISSUE,
        symmetries: bool = False,
    ) -> "Prediction":
        """Predicts the expression of spots of an image, matched in scale and stain to the training slides.

        Args:
            image: uint8 [H, W, 3] RGB, a PIL image, or the path of a slide.
            spots: [N, 2] centres (x, y) in pixels of the image, x to the right, y down, (0, 0) its upper left corner;
                None lays a grid on the tissue.
            um_per_px: micrometres per pixel of the image; of a path, where the file does not state it.
            genes: any names of theirs (HER2 is ERBB2), or Ensembl ids; default all the model knows.
            array: of the grid: "st" (100 um spots, 200 um apart), "visium" (55 and 100), or `grid.Array(...)`.
            spot_um: diameter of the spots in place of the array's; of a model of patches it matters to pictures alone.
            min_tissue: of the grid, the least share of a spot that is tissue.
            symmetries: predict means over the eight symmetries of the square: eight times the work, steadier.

        Returns:
            A row for each spot; NaN where a spot is too near the border to be predicted.

        Raises:
            InputError: an image or spots that are none, a scale that nothing tells, a gene the model does not predict
                (with what it may mean, or the nearest names), or no spot that can be predicted; of a model of features,
                no weights of its encoder, or others.

        Example:
            >>> found = model.predict(image, [[512, 400], [800, 420]], um_per_px=0.5, genes=["ERBB2", "GNAS"])
            >>> found.expression.shape
            (2, 2)
        """
        columns = gene_columns(self.model, genes)
        model = self.model.on_slides.over_symmetries() if symmetries else self.model.on_slides
        chosen = _array(array, spot_um)
        with _opened(image, um_per_px) as (path, slide, scale):
            source = open_source(path, layout=SLIDES, sections=(), um_per_px=scale, resolve_aliases=False)
            section = source.read(source.names[0])
            if spots is None:
                window = window_px(model, section.um_per_px)
                section, _ = place_spots(section, slide, chosen, min_tissue=min_tissue, window_px=window)
            else:
                section = _with_spots(section, _checked_spots(spots, slide), chosen.spot_um)
            found = predict_slide(model, section, slide)
        return Prediction.of(found, section.spots, columns, model)

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


@contextlib.contextmanager
def _opened(image: Any, um_per_px: float | None) -> Iterator[tuple[Path, Slide, float | None]]:
    """The image as a slide. What is in memory goes through an uncompressed file: slides of any origin are then read,
    hashed and predicted by the same code."""
    if um_per_px is not None and not 0 < um_per_px < float("inf"):
        raise InputError(f"um_per_px is {um_per_px}, expected a positive number of micrometres per pixel")
    with contextlib.ExitStack() as stack:
        if isinstance(image, str | Path):
            path = Path(image)
        else:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stjax-"))) / "image.tif"
            _picture(image).save(path)
        slide = stack.enter_context(open_slide(path))
        if slide.um_per_px is None and um_per_px is None:
            raise InputError(
                "the scale of the image is not known; give um_per_px, the micrometres per pixel (of most scanners 0.25 "
                "at 40x, 0.5 at 20x)"
            )
        yield path, slide, um_per_px


def _picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(
            f"the image is an array of shape {array.shape} and type {array.dtype}, expected uint8 [H, W, 3] RGB, a PIL "
            "image, or the path of a slide"
        )
    return Image.fromarray(array)


def _with_spots(section: Section, xy: np.ndarray, spot_um: float) -> Section:
    """A bare slide's section with discs at [N, 2]."""
    counts = scipy.sparse.csr_array((len(xy), 0), dtype=np.int32)
    spots = Spots.discs(xy, np.float32(spot_um / 2 / section.um_per_px))
    return dataclasses.replace(section, counts=counts, spots=spots)


def _checked_spots(spots: Any, slide: Slide) -> np.ndarray:
    """[N, 2] float64."""
    try:
        xy = np.asarray(spots, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"spots are no numbers ({error}), expected [N, 2]: x and y in pixels of the image") from None
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy) or not np.all(np.isfinite(xy)):
        raise InputError(f"spots have shape {xy.shape}, expected [N, 2] finite numbers: x and y in pixels of the image")
    outside = ((xy < 0) | (xy > [slide.width, slide.height])).any(axis=1)
    if outside.all():
        raise InputError(
            f"every spot lies outside the image of {slide.width} x {slide.height} px; expected x and y in its pixels"
        )
    return xy
