"""Slide images: regions as uint8 RGB, whatever the file format, and the physical scale the file itself states.

JPEG and PNG are decoded once and kept; TIFF and OME-TIFF are read tile by tile through `tifffile`, vendor pyramids
through OpenSlide (both in the extra `wsi`); without the extra, TIFF goes whole through Pillow. Which reader is used is
decided by the file's first bytes, never by its name alone. Pixels are never rotated: spot coordinates refer to the
pixels as stored, so an EXIF orientation is not applied. Colour profiles are not applied either.
"""

import importlib
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from data_prep.errors import InputError
from data_prep.slide_base import (
    WSI_HINT,
    Slide,
    check_budget,
    decoding,
    drop_alpha,
    one_scale,
    scale_from_density,
    scale_from_tiff,
)
from data_prep.slide_tiff import TiffSlide

__all__ = ["DEFAULT_MAX_PIXELS", "Slide", "open_slide"]

try:
    import simplejpeg
except ImportError:  # a platform without wheels: Pillow gives the same bytes, three times slower
    simplejpeg = None

DEFAULT_MAX_PIXELS = 1_000_000_000  # 3 GB of RGB: what one read may decode at once
FORMATS = "JPEG, PNG, TIFF, OME-TIFF or a whole-slide format OpenSlide reads"

_OPENSLIDE_ONLY = {".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm"}
_HARMLESS_JPEG = ("extraneous bytes", "Invalid SOS parameters", "Adobe color transform")


class _WholeSlide(Slide):
    """JPEG, PNG, or plain TIFF: decoded whole at the first read."""

    def __init__(self, path: Path, plugin: type[Any], name: str, max_pixels: int) -> None:
        self.format, self._plugin = name, plugin
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()
        with decoding(path), path.open("rb") as file, plugin(file) as image:
            width, height = image.size
            if name == "tiff":
                tags = image.tag_v2
                if "<OME" in str(tags.get(270, "")) and image.mode == "L" and getattr(image, "n_frames", 1) > 1:
                    raise InputError(f"{path}: the colour channels of this OME-TIFF are separate pages; {WSI_HINT}")
                um_per_px = scale_from_tiff(tags.get(282), tags.get(283), tags.get(296, 2), tags.get(270, ""))
            else:
                dots = image.info.get("dpi")
                um_per_px = scale_from_density(dots, "inch") if dots else None
        check_budget(path, width, height, max_pixels, "the image")
        super().__init__(path, width, height, um_per_px, max_pixels)

    def _decode(self) -> np.ndarray:
        with decoding(self.path):
            if self.format == "jpeg" and simplejpeg is not None:
                data = self.path.read_bytes()
                if simplejpeg.decode_jpeg_header(data, strict=False)[2] != "CMYK":
                    try:
                        return simplejpeg.decode_jpeg(data, "RGB")
                    except ValueError as error:
                        if not any(word in str(error) for word in _HARMLESS_JPEG):
                            raise
                        return simplejpeg.decode_jpeg(data, "RGB", strict=False)
            # The plugin's class, not Image.open: our budget is checked above, Pillow's process-wide one is left alone.
            with self.path.open("rb") as file, self._plugin(file) as image:
                image.load()
                return _to_rgb(image)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        del level  # one only
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
                self._pixels.flags.writeable = False
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Release the file and the decoded pixels."""
        self._pixels = None


class _OpenSlideSlide(Slide):
    """Vendor pyramids (Aperio, Hamamatsu, MIRAX, Leica, ...) through OpenSlide."""

    def __init__(self, path: Path, openslide: Any, max_pixels: int) -> None:
        with decoding(path):
            self._slide = openslide.OpenSlide(str(path))
            properties = self._slide.properties
            mpp = [
                float(properties[k])
                for k in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
                if k in properties
            ]
            width, height = self._slide.dimensions
            um_per_px = one_scale(mpp) if mpp else _scale_from_openslide_tiff(properties)
        self.format = f"openslide:{properties.get(openslide.PROPERTY_NAME_VENDOR, 'unknown')}"
        super().__init__(path, width, height, um_per_px, max_pixels)
        tile = (properties.get(f"openslide.level[0].tile-{side}") for side in ("width", "height"))
        self.segment_px = tuple(int(side or default) for side, default in zip(tile, self.segment_px, strict=True))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        downsample = self._slide.level_downsamples[level]
        with decoding(self.path):
            corner = (round(x * downsample), round(y * downsample))
            return _to_rgb(self._slide.read_region(corner, level, (width, height)))

    def _level(self, factor: float) -> tuple[int, int, int]:
        level = self._slide.get_best_level_for_downsample(factor * 1.01)
        return level, *self._slide.level_dimensions[level]

    def close(self) -> None:
        """Release the file and the decoded pixels."""
        self._slide.close()


def open_slide(path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Slide:
    """Open a slide image.

    Args:
        path: JPEG, PNG, TIFF, OME-TIFF, or a whole-slide format OpenSlide reads.
        max_pixels: the most pixels to decode at once: the whole image for JPEG, PNG and TIFF without the extra `wsi`,
            one region for pyramids (whose own size is not limited).

    Raises:
        InputError: no such file, not an image of an allowed format, damaged, over the budget, or a missing extra.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: found {'a folder' if path.is_dir() else 'no such file'}, expected a slide image")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise InputError(f"{path}: the file is empty, expected {FORMATS}; copy or download it again")
    if path.suffix.lower() in _OPENSLIDE_ONLY:
        return _open_with_openslide(path, max_pixels)
    if head.startswith(b"\xff\xd8\xff"):
        return _WholeSlide(path, JpegImagePlugin.JpegImageFile, "jpeg", max_pixels)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _WholeSlide(path, PngImagePlugin.PngImageFile, "png", max_pixels)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _open_tiff(path, max_pixels)
    raise InputError(
        f"{path}: not an image of an allowed format (first bytes {head[:8]!r}), expected {FORMATS}; convert it, or "
        "download it again if it should be one"
    )


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]; transparent pixels over white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return drop_alpha(np.asarray(image.convert("RGBA")))
    if image.mode not in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):
        raise ValueError(f"found pixels of mode {image.mode}, expected 8-bit RGB or grey")
    return np.array(image.convert("RGB"))


def _open_tiff(path: Path, max_pixels: int) -> Slide:
    openslide, tifffile = _optional("openslide"), _optional("tifffile")
    vendor = openslide.OpenSlide.detect_format(str(path)) if openslide else None
    if vendor not in (None, "generic-tiff"):  # a vendor's pyramid under the name .tif: OpenSlide knows its layout
        return _OpenSlideSlide(path, openslide, max_pixels)
    if tifffile:
        slide = TiffSlide(path, tifffile, max_pixels)
        if slide.decodable or not (vendor and slide.interleaved):
            return slide
        slide.close()  # without imagecodecs, tifffile has no JPEG or LZW; OpenSlide brings its own
        return _OpenSlideSlide(path, openslide, max_pixels)
    try:
        return _WholeSlide(path, TiffImagePlugin.TiffImageFile, "tiff", max_pixels)
    except InputError as error:
        raise error if WSI_HINT in str(error) else InputError(f"{error}; if it is a pyramid, {WSI_HINT}") from error


def _open_with_openslide(path: Path, max_pixels: int) -> Slide:
    openslide = _optional("openslide")
    if openslide is None:
        raise InputError(f"{path}: {path.suffix} slides are read through OpenSlide, not found here; {WSI_HINT}")
    if openslide.OpenSlide.detect_format(str(path)) is None:
        raise InputError(
            f"{path}: OpenSlide does not recognise this {path.suffix} file, expected a complete slide with its "
            "companion files; copy or download it again"
        )
    return _OpenSlideSlide(path, openslide, max_pixels)


def _scale_from_openslide_tiff(properties: Mapping[str, str]) -> float | None:
    unit = {"inch": 2, "centimeter": 3}.get(properties.get("tiff.ResolutionUnit", ""), 1)
    x, y = properties.get("tiff.XResolution"), properties.get("tiff.YResolution")
    return scale_from_tiff(x, y, unit, properties.get("tiff.ImageDescription", ""))


def _optional(name: str) -> ModuleType | None:
    """A module of the extra `wsi`, or None: not installed, or (OSError) its shared library does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None
