"""Which page of a TIFF is the slide, and how its pixels are stored: one rule, whatever library then decodes them.

Libraries differ in what they take for the picture of a file (the first page or the largest), and in what they make of
16 bits, palettes, other colour spaces and unnamed fourth channels; some turn pixels by the orientation tag. One file
has to give one set of patches, so what they would read differently is refused, or undone.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from data_prep.errors import InputError
from data_prep.slide_base import WSI_HINT

GREY, RGB, YCBCR = 1, 2, 6  # photometric interpretation
JPEG = (7, 33003, 33004, 33005, 34712)  # compression whose decoders turn YCbCr into RGB: JPEG and JPEG 2000
_UNNAMED, _PREMULTIPLIED = 0, 1  # extra samples

# What Pillow's reader does by the orientation tag, undone.
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """How a page stores its pixels, by its tags.

    Attributes:
        bits, sample_format: of each sample.
        samples: per pixel.
        extra: kinds of the samples beyond the colour.
    """

    bits: tuple[int, ...]
    sample_format: tuple[int, ...]
    photometric: int
    compression: int
    samples: int
    extra: tuple[int, ...]

    @classmethod
    def of(cls, value: Any) -> "Storage":
        """By tags.

        Args:
            value: gives a tag's value by its number and a default, a number or a sequence of numbers.
        """
        samples = _numbers(value(277, 1))[0]
        return cls(
            bits=_numbers(value(258, 1)),
            sample_format=_numbers(value(339, 1)),
            photometric=_numbers(value(262, 0))[0],
            compression=_numbers(value(259, 1))[0],
            samples=samples,
            extra=_numbers(value(338, ())),
        )

    def check(self, path: Path) -> None:
        """Raises InputError unless pixels are 8-bit grey or RGB, with or without alpha."""
        expected = "expected 8-bit RGB or grey; convert the slide to 8-bit RGB"
        if set(self.bits) != {8} or set(self.sample_format) != {1}:
            kind = {1: "", 2: "signed ", 3: "floating point "}.get(self.sample_format[0], "other ")
            raise InputError(f"{path}: found {kind}pixels of {self.bits[0]} bits a sample, {expected}")
        plain = self.photometric in (GREY, RGB) or (self.photometric == YCBCR and self.compression in JPEG)
        if not plain:
            names = {0: "white is zero", 3: "a palette", 5: "CMYK", YCBCR: "YCbCr that is not JPEG", 8: "CIELab"}
            found = names.get(self.photometric, str(self.photometric))
            raise InputError(f"{path}: found pixels of photometric interpretation {found}, {expected}")
        if self.samples not in ((1,) if self.photometric == GREY else (3, 4)):
            raise InputError(
                f"{path}: found {self.samples} channels, expected one RGB or grey image (histology in bright field); "
                "export the RGB image as its own file"
            )

    @property
    def has_alpha(self) -> bool:
        """Whether a fourth sample is alpha: named so, or not named at all; one said to be something else is not."""
        return self.samples == 4 and self.extra != (_UNNAMED,)

    @property
    def premultiplied(self) -> bool:
        """Whether colours are stored times alpha."""
        return self.has_alpha and self.extra == (_PREMULTIPLIED,)


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in (value if isinstance(value, tuple | list | np.ndarray) else (value,)))


def straight_alpha(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4] with colours times alpha to colours as they are, by Pillow's arithmetic."""
    colour, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
    straight = np.minimum(colour * 255 // np.maximum(alpha, 1), 255)
    return np.concatenate([np.where(alpha == 0, 0, straight), alpha], axis=2).astype(np.uint8)


def orientation_of(tag: Any, xmp: Any = b"") -> int:
    """1 to 8, by the tag, or without it by XMP, as viewers do."""
    if tag is None and (
        match := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp if isinstance(xmp, bytes) else b"")
    ):
        tag = int(match[1])
    return tag if isinstance(tag, int) and tag in _UNDO else 1


def seek_slide(path: Path, image: TiffImagePlugin.TiffImageFile) -> None:
    """Turn to the page that is the slide: the largest, by stored size.

    Raises:
        InputError: several such pages, a stack or the colour channels of one image.
    """
    pages = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        storage = Storage.of(image.tag_v2.get)
        pages.append((stored_size(image), (storage.photometric, storage.samples, storage.bits)))
    largest = max(pages, key=lambda page: page[0][0] * page[0][1])
    if (same := pages.count(largest)) > 1:
        width, height = largest[0]
        raise InputError(
            f"{path}: found {same} pages of {width} x {height} px, expected one RGB or grey image (histology in bright "
            f"field); if they are its colour channels, {WSI_HINT}"
        )
    image.seek(pages.index(largest))


def stored_size(image: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    """(width, height) of the pixels as stored."""
    return int(image.tag_v2[256]), int(image.tag_v2[257])


def load_stored(image: TiffImagePlugin.TiffImageFile) -> Image.Image:
    """The decoded page, its pixels as stored."""
    turned = int(image.getexif().get(274, 1))  # what Pillow goes by, gone once it has
    image.load()
    return image.transpose(_UNDO[turned]) if turned in _UNDO else image
