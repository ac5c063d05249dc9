"""Images as other laboratories, scanners and files would have shown them, each changed in one stated way.

What `stjax.augmentation` draws at random for training is fixed here, to try a trained model on. What is changed:

`stain`: optical density is taken apart into the section's own haematoxylin and eosin (Macenko's, of its tissue) and
    what is orthogonal to both, and put together from another pair and what is orthogonal to that: amounts stay.
`intensity`: optical density, times this.
`brightness`: values, times this; what becomes more than white is white.
`gamma`: values between 0 and 1 to the power of this.
`blur`: a Gaussian of this deviation, micrometres.
`scale`: enlarged by this, as if a slide's stated scale were off. Of stored patches what then lies beyond them is their
    mirror image; of tiles the spots follow, and those that leave their tile are not scored, shifted or not.
`jpeg`: compressed as a file of this quality, colours at half the resolution (4:2:0), as most encoders do.

Pairs of stains, haematoxylin then eosin, as published (`STAINS`):

Ruifrok & Johnston: 2001, table 1; also in scikit-image (`rgb_from_hed`), HistomicsTK (`stain_color_map`), TIAToolbox.
ImageJ H&E, ImageJ H&E 2: G. Landini's Colour Deconvolution, part of Fiji.
QuPath: the default of its H&E images.
Macenko: the reference of M. Macenko's code, as in torchstain, MONAI and PathML.
HistomicsTK: `W_target` of its examples: Macenko's of TCGA-A2-A3XS-DX1 (breast; Amgad et al. 2019).
Slideflow v1, Slideflow v3: its presets for Macenko: of its example tile; mean over 450 slides of TCGA.
Slideflow Vahadane v1, v2: its presets for Vahadane (SPAMS): of its example tile; tuned by hand.
QuPath OS-1: QuPath's estimate of its example slide OS-1 (P. Bankhead, script of StarDist's illustration).
La Jolla: QuPath's estimate of a control slide of the La Jolla Institute (S. McArdle, script of staining quality, 2019).
"""

import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from data_prep.stain_vectors import RUIFROK
from stjax import augmentation

STAINS: dict[str, Any] = {
    "Ruifrok & Johnston": RUIFROK,
    "ImageJ H&E": ((0.644211, 0.716556, 0.266844), (0.092789, 0.954111, 0.283111)),
    "ImageJ H&E 2": ((0.49015734, 0.76897085, 0.41040173), (0.04615336, 0.8420684, 0.5373925)),
    "QuPath": ((0.65111, 0.70119, 0.29049), (0.2159, 0.8012, 0.5581)),
    "Macenko": ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)),
    "HistomicsTK": ((0.5807549, 0.71681094, 0.38588316), (0.08314027, 0.90081588, 0.42616716)),
    "Slideflow v1": ((0.63111544, 0.6962834, 0.34188122), (0.24816133, 0.8226449, 0.5115382)),
    "Slideflow v3": ((0.5062568, 0.75322306, 0.40691733), (0.2218694, 0.8652155, 0.42241502)),
    "Slideflow Vahadane v1": ((0.54176575, 0.75441414, 0.37060648), (0.17089975, 0.8640189, 0.4735658)),
    "Slideflow Vahadane v2": ((0.4435433, 0.7502863, 0.4902447), (0.27688965, 0.8088818, 0.5186929)),
    "QuPath OS-1": ((0.69981, 0.65301, 0.28957), (0.25545, 0.92531, 0.28027)),
    "La Jolla": ((0.606, 0.679, 0.415), (0.252, 0.947, 0.197)),
}
STRENGTHS: dict[str, tuple[tuple[float, str], ...]] = {
    "intensity": ((0.5, "x 0.5"), (0.75, "x 0.75"), (1.5, "x 1.5"), (2, "x 2")),
    "brightness": ((0.8, "x 0.8"), (0.9, "x 0.9"), (1.1, "x 1.1"), (1.2, "x 1.2")),
    "gamma": ((0.8, "0.8"), (1.25, "1.25")),
    "blur": ((1, "1 um"), (2, "2 um"), (4, "4 um")),
    "scale": ((0.8, "20 % smaller"), (0.9, "10 % smaller"), (1.1, "10 % larger"), (1.2, "20 % larger")),
    "jpeg": ((90, "quality 90"), (50, "quality 50"), (30, "quality 30")),
}
_OF_COLOUR = ("stain", "intensity", "brightness", "gamma")


class Seen(NamedTuple):
    """What must be known of an image: micrometres per pixel, and its section's own stains [2, 3]."""

    um_per_px: float
    stains: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Shift:
    """One change.

    Attributes:
        kind: a key of `STRENGTHS`, "stain", or "" of none.
        name: which of its kind, for tables.
        value: how far; of stains the pair [2, 3].
    """

    kind: str
    name: str
    value: Any

    @property
    def title(self) -> str:
        """As tables have it."""
        return f"{self.kind} {self.name}".strip()

    @property
    def by_colour(self) -> bool:
        """Whether a pixel is changed by its colour alone."""
        return self.kind in _OF_COLOUR

    @property
    def factor(self) -> float:
        """What images are enlarged by."""
        return self.value if self.kind == "scale" else 1.0

    def apply(self, images: np.ndarray, seen: Seen) -> np.ndarray:
        """Images uint8 [B, H, W, 3], changed: as many of the same size."""
        return _CHANGES[self.kind](images, self.value, seen) if self.kind else images


NONE = Shift("", "unshifted", None)


def every(own: Mapping[str, np.ndarray]) -> list[Shift]:
    """All shifts.

    Args:
        own: further pairs of stains [2, 3], by name.
    """
    stains = [Shift("stain", name, np.asarray(pair)) for name, pair in {**STAINS, **own}.items()]
    return stains + [Shift(kind, name, value) for kind, values in STRENGTHS.items() for value, name in values]


def restain(images: np.ndarray, stains: Any, seen: Seen) -> np.ndarray:
    """Images uint8 [B, H, W, 3], of the stains `seen`, with others [2, 3]."""
    ours, theirs = (augmentation.with_residual(np.asarray(pair)) for pair in (seen.stains, stains))
    return np.asarray(_restained(images, np.linalg.inv(ours).astype(np.float32), theirs.astype(np.float32)))


def _one(step: str) -> Callable[[np.ndarray, Any, Seen], np.ndarray]:
    """A step of `augmentation.changed` by a given value."""

    def change(images: np.ndarray, value: Any, seen: Seen) -> np.ndarray:
        del seen
        return np.asarray(_changed(images, {step: np.full(len(images), value, np.float32)}))

    return change


def _intensity(images: np.ndarray, factor: float, seen: Seen) -> np.ndarray:
    del seen
    drawn = np.array([[factor] * 3, [0] * 3], np.float32)  # of all three stains, whichever: of optical density
    return np.asarray(_changed(images, {"stain": np.broadcast_to(drawn, (len(images), 2, 3))}))


def _blur(images: np.ndarray, sigma_um: float, seen: Seen) -> np.ndarray:
    sigma_px = sigma_um / seen.um_per_px
    return np.asarray(_changed(images, {"blur_px": np.full(len(images), sigma_px, np.float32)}, most_blur_px=sigma_px))


def _jpeg(images: np.ndarray, quality: int, seen: Seen) -> np.ndarray:
    del seen
    result = np.empty_like(images)
    for image, compressed in zip(images, result, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        compressed[:] = np.asarray(Image.open(file))
    return result


_changed = jax.jit(augmentation.changed, static_argnames="most_blur_px")


@jax.jit
def _restained(images: jax.Array, unmix: jax.Array, stains: jax.Array) -> jax.Array:
    return augmentation.eight_bits(augmentation.restained(images.astype(jnp.float32), unmix, stains))


_CHANGES: dict[str, Callable[[np.ndarray, Any, Seen], np.ndarray]] = {
    "stain": restain,
    "intensity": _intensity,
    "brightness": _one("brightness"),
    "gamma": _one("gamma"),
    "blur": _blur,
    "scale": _one("scale"),
    "jpeg": _jpeg,
}
