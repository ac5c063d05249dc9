"""The images of a data set's records under a shift: as they are stored, or cut anew from the slides."""

import abc
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_prep import patches, stain
from data_prep.colour import colour_counts, count_colours
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.slide import open_slide
from data_prep.slide_base import Slide
from data_prep.stain_vectors import tissue_stains
from data_prep.tissue import Transform
from stjax.data.images import Images
from stjax.features.images import PATCH, Window, find_slides
from stjax.shifts import Seen, Shift
from stjax.trained import Trained

MOST_IMAGES = 256  # of a section, that its stains are fitted to


class Pixels(contextlib.ExitStack, abc.ABC):
    """Where images come from, open until it is left.

    Attributes:
        origin: what they are, for tables.
    """

    origin: str

    def __init__(self, dataset: PatchDataset):
        super().__init__()
        self._dataset = dataset.whole
        self._seen: dict[str, Seen] = {}

    def seen(self, section: str) -> Seen:
        """Scale and stains of a section's unchanged images, as shifts take them."""
        if section not in self._seen:
            um_per_px, colours, counts = self._unshifted(section)
            self._seen[section] = Seen(um_per_px, tissue_stains(colours, counts, f"section {section}"))
        return self._seen[section]

    @abc.abstractmethod
    def image(self, shift: Shift, images: Images, index: int, window: Window = PATCH) -> np.ndarray:
        """uint8 [H, W, 3] in the place of an image of the data set, or of a window around it: shifted, and then
        normalised where it is known how."""

    @abc.abstractmethod
    def _unshifted(self, section: str) -> tuple[float, np.ndarray, np.ndarray]:
        """Micrometres per pixel of what is shifted, its distinct colours, and how many pixels have each."""


class Stored(Pixels):
    """Images as the data set has them: after stain normalisation, where it was built with it."""

    def __init__(self, dataset: PatchDataset):
        super().__init__(dataset)
        self.origin = "images as the data set stores them"
        if (method := dataset.manifest["parameters"]["stain"]) != "none":
            self.origin += (
                f", which {method} normalised BEFORE the shift: a real slide is normalised after it; give --source, "
                "the raw data, for that"
            )

    def image(self, shift: Shift, images: Images, index: int, window: Window = PATCH) -> np.ndarray:
        """As `Pixels` says."""
        if window != PATCH:
            raise InputError(
                "the model sees the tissue around each spot too, and a data set holds the spots' own alone: give "
                "--source, the raw data that the data set was built from"
            )
        record = images.whole(index)
        return shift.apply(record["image"][None], self.seen(record["section"]))[0]

    def _unshifted(self, section: str) -> tuple[float, np.ndarray, np.ndarray]:
        entry, source = self._dataset.section(section), self._dataset.source((section,))
        chosen = np.unique(np.linspace(0, len(source) - 1, MOST_IMAGES).astype(int))
        colours = count_colours(source[int(record)]["image"] for record in chosen)
        return entry["um_per_px"] * entry["px_scale"], *colours


class FromSlides(Pixels):
    """Windows cut from slides that are shifted first, then normalised as new slides are: to a fit of what they are
    after a shift of colours, of what they were before another."""

    def __init__(self, dataset: PatchDataset, slides: Mapping[str, Path], model: Trained):
        super().__init__(dataset)
        self._slides = {name: self.enter_context(open_slide(path)) for name, path in slides.items()}
        self._fold, self._normalisers = model.fold, dict[str, tuple[Shift, Transform | None]]()
        method = model.fold.parameters["stain"]
        self.origin = f"slides, shifted, then {'left as they are' if method == 'none' else f'normalised by {method}'}"

    @classmethod
    def found(cls, dataset: PatchDataset, source: Path, model: Trained) -> Self:
        """With the slides of a data set below a folder, told by their SHA-256. Raises InputError where one is not."""
        return cls(dataset, find_slides(source, dataset.whole), model)

    def image(self, shift: Shift, images: Images, index: int, window: Window = PATCH) -> np.ndarray:
        """As `Pixels` says."""
        record = images.whole(index, image=False)
        section, origin, size = record["section"], record["origin_xy"], self._dataset.size_px
        px_scale = self._dataset.section(section)["px_scale"]
        if shift.factor != 1 or window != PATCH:
            middle = origin + size * px_scale / 2  # which an enlarged slide keeps
            px_scale /= shift.factor
            middle = middle + size * px_scale * np.array([window.x, window.y])
            px_scale *= window.side
            origin = middle - size * px_scale / 2
        how: dict[str, Any] = {
            "size_px": size,
            "px_scale": px_scale,
            "transform": self._transform(shift, section, px_scale),
        }
        return patches.cut_window(self._slides[section], origin, **how)[0]

    def _transform(self, shift: Shift, section: str, px_scale: float) -> Transform:
        """What is done to a region of its slide, of the level that windows of such pixels are cut from: the shift,
        unless it is one of scale, and what maps the stains."""
        slide, seen = self._slides[section], self.seen(section)
        if self._normalisers.get(section, (None,))[0] is not shift:
            self._normalisers[section] = shift, self._normaliser(shift, slide, section)
        normalise = self._normalisers[section][1]
        seen = seen._replace(um_per_px=seen.um_per_px * slide.coarser(px_scale)[1])

        def transform(region: np.ndarray) -> np.ndarray:
            shifted = region if shift.factor != 1 else shift.apply(region[None], seen)[0]
            return shifted if normalise is None else normalise(shifted)

        return transform

    def _normaliser(self, shift: Shift, slide: Slide, section: str) -> Transform | None:
        fold, seen = self._fold, self.seen(section)
        if fold.stain_target is None:
            return None
        target, standardise = stain.profile_from(fold.stain_target), fold.parameters["stain_standardise"]
        recolour: Callable[[np.ndarray], np.ndarray] | None = None
        if shift.by_colour:
            recolour = lambda colours: shift.apply(colours[None, None], seen)[0, 0]  # noqa: E731
        method = fold.parameters["stain"]
        return stain.fit_transform_for(method, slide, target, standardise=standardise, recolour=recolour)

    def _unshifted(self, section: str) -> tuple[float, np.ndarray, np.ndarray]:
        return self._dataset.section(section)["um_per_px"], *colour_counts(self._slides[section])
