"""How what is given is predicted: one image, the sections of a folder, or features."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import InputError
from data_prep.patch_slide import open_image
from data_prep.section import Section
from data_prep.slide import Slide
from data_prep.spots import Spots
from stjax.api.given import Given, places
from stjax.api.result import Prediction
from stjax.inference import grid
from stjax.inference.slide_prediction import lay_spots, of_expression, predict_slide, symmetric
from stjax.inference.sources import open_source
from stjax.inference.vectors import predict_vectors
from stjax.trained import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What is made of each image.

    Attributes:
        loaded: the model as it is loaded.
        columns: [G] of its main panel, the genes of the result.
        array, min_tissue: of grids, see `grid.lay_grid`.
        symmetries: predict means over the eight symmetries.
    """

    loaded: Trained
    columns: np.ndarray
    array: grid.Array
    min_tissue: float
    symmetries: bool

    def image(self, given: Given, spots: Any = None) -> Prediction:
        """Predicts the spots of an image: those it was given with, centres [N, 2], `Spots`, or a grid on its tissue."""
        if isinstance(spots, Spots):
            given, spots = dataclasses.replace(given, spots=spots), None
        xy = None if spots is None else places(spots)
        with given.opened(xy, self.array.spot_um) as (section, slide):
            return self._found(section, slide, given, bare=not len(section.spots))

    def sections(self, path: Path, um_per_px: float | None) -> dict[str, Prediction]:
        """Predicts the slides of a folder, or the raw sections in it with their spots, by name."""
        aliases = self.loaded.fold.parameters.get("resolve_aliases", False)
        source = open_source(path, layout="auto", sections=(), um_per_px=um_per_px, resolve_aliases=aliases)
        print(f"{path}: {source.about}")
        result = {}
        for name in source.names:
            section = source.read(name)
            with open_image(section) as slide:
                result[name] = self._found(section, slide, Given(section.image_path, None), bare=source.bare)
        return result

    def features(self, vectors: np.ndarray, spots: Any, given: Given | None) -> Prediction:
        """Predicts features [N, D]; with the image they are of and their spots in it, the result can be drawn."""
        if self.symmetries:
            raise InputError("features are of patches as they lie, which cannot be turned; leave out symmetries")
        expression = predict_vectors(self.loaded, vectors)
        if given is None:
            return Prediction.of_features(expression, self.columns, self.loaded)
        xy = places(spots)
        if len(xy) != len(vectors):
            raise InputError(f"there are {len(vectors)} features and {len(xy)} spots; give one spot for each")
        with given.opened(xy, self.array.spot_um) as (section, slide):
            found = of_expression(self.loaded, section, slide, expression)
        return Prediction.of(found, section.spots, self.columns, self.loaded)

    def _found(self, section: Section, slide: Slide, given: Given, *, bare: bool) -> Prediction:
        model, plain = symmetric(self.loaded.on_slides, self.symmetries)
        known: dict[str, np.ndarray] = {}
        if bare:
            section, laid = lay_spots(model, section, slide, self.array, min_tissue=self.min_tissue)
            known = laid.columns
        found, spots = predict_slide(model, section, slide, plain=plain, columns=known), section.spots
        if given.zoom != 1:  # back to own pixels
            assert given.spots is not None
            spots = given.spots
            found = dataclasses.replace(
                found,
                spots=spots[np.isin(spots.id, found.spots.id)],
                um_per_px=found.um_per_px * given.zoom,
                thumbnail_scale=found.thumbnail_scale * given.zoom,
            )
        return Prediction.of(found, spots, self.columns, model, given.system)
