"""How far a slide is from what a model was trained on, by its scale and its colours: warned of, never corrected.

The limits are measured: an EfficientNet-Lite0 trained on three her2st sections (stain left as it is), on a fourth whose
images were changed. Given is the median PCC of its predictions with those for the unchanged images (docs/predict.md).
"""

from collections.abc import Iterable, Iterator

import numpy as np

from data_prep import stain
from data_prep.errors import InputError
from data_prep.genes import species_of
from data_prep.section import Section
from data_prep.slide import Slide
from data_prep.tissue import Transform
from stjax.data.fold import Fold
from stjax.trained import Trained

# A coarser slide lacks the detail: 1.5 times 0.96, 2 times 0.88, 3 times 0.69, 4 times 0.51.
COARSER_WARNED, COARSER_REFUSED = 1.5, 4.0
# Of the patches' mean, in the training pixels' standard deviations: the four sections 0.03 to 0.11; changed by up to
# 0.28 PCC above 0.90, by 0.33 to 0.48 0.79 to 0.96, by 0.56 to 0.85 0.73 to 0.90; the demo's tissue 0.53 to 0.89.
MEAN_SHIFT = 0.3
# Between the stains and the target's: sections of one slide up to 4, the demo's and her2st's 5 to 18; DAB for eosin 48.
STAIN_ANGLE_DEG = 20.0


def check_scale(model: Trained, slide: Slide, um_per_px: float) -> list[str]:
    """Warnings. Raises InputError when the slide is too coarse for the model."""
    coarser = um_per_px / model.fold.um_per_px
    about = f"{um_per_px:.3g} um per px, {coarser:.1f} times as coarse as the {model.fold.um_per_px:.3g} of training"
    if coarser > COARSER_REFUSED:
        raise InputError(
            f"{slide.path}: {about}, at most {COARSER_REFUSED:g} times is predicted; scan at a higher magnification, "
            "check the scale (--source-um-per-px), or use a model trained at such a scale"
        )
    return [f"{slide.path.name}: {about}; detail the model relies on is missing"] if coarser > COARSER_WARNED else []


def check_species(model: Trained, section: Section) -> list[str]:
    """A warning where a section's genes are of another species than the model's."""
    theirs, ours = species_of(section.genes)[0], model.fold.panel.species
    if not theirs or not ours or theirs == ours:
        return []
    return [
        f"section {section.name} is of {theirs} by its genes, the model of {ours}: what was measured cannot be "
        f"compared with what is predicted, and a model of {ours} tissue knows no other"
    ]


def check_stain(slide: Slide, transform: Transform | None) -> list[str]:
    """Warnings about a slide's stains, where they were fitted to normalise it."""
    if not isinstance(transform, stain.Normaliser) or not transform.source.stains:
        return []
    source, target = np.array(transform.source.stains), np.array(transform.target.stains)
    angle = np.degrees(np.arccos(np.clip((source * target).sum(axis=1), -1, 1)))
    return [
        f"{slide.path.name}: its {name} is {degrees:.0f} degrees from the training target's (at most "
        f"{STAIN_ANGLE_DEG:g} is usual); another stain than haematoxylin and eosin?"
        for name, degrees in zip(("haematoxylin", "eosin"), angle, strict=True)
        if degrees > STAIN_ANGLE_DEG
    ]


def shift_of(mean: np.ndarray, fold: Fold) -> np.ndarray:
    """[3] how far the mean colour of some images, 0 to 255, is from the training images', in the deviations of their
    pixels."""
    return (mean - fold.image_mean) / fold.image_std


def distance(mean: np.ndarray, fold: Fold) -> float:
    """How far images of a mean colour [3] are from the training images: the largest of the channels' shifts."""
    return float(np.abs(shift_of(mean, fold)).max())


class Colours:
    """The mean colour of the images predicted, gathered as they pass."""

    def __init__(self) -> None:
        self._total, self.count = np.zeros(3), 0

    def watched(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same images."""
        for image in images:
            self.watch(image)
            yield image

    def watch(self, image: np.ndarray) -> None:
        """Looks at every fourth pixel of every fourth row of an image, uint8 [H, W, 3]."""
        self._total += image[::4, ::4].mean(axis=(0, 1))
        self.count += 1

    @property
    def mean(self) -> np.ndarray:
        """[3] their mean red, green and blue."""
        return self._total / max(self.count, 1)

    def distance(self, model: Trained) -> np.ndarray:
        """[3] how far red, green and blue are from the training images', in standard deviations of those."""
        return shift_of(self.mean, model.fold)

    def check(self, model: Trained, slide: Slide) -> list[str]:
        """Warnings."""
        shift = self.distance(model)
        if np.abs(shift).max() <= MEAN_SHIFT:
            return []
        red, green, blue = shift
        remedy = "" if model.fold.stain_target else "; a model trained with --stain would be less sensitive"
        return [
            f"{slide.path.name}: its colours are not the training slides': red {red:+.2f}, green {green:+.2f}, blue "
            f"{blue:+.2f} standard deviations (at most {MEAN_SHIFT:g} is usual){remedy}"
        ]
