"""Slide images: regions as uint8 RGB, whatever the file format, and the physical scale the file itself states.

JPEG and PNG are decoded once and kept; OME-Zarr is read chunk by chunk; TIFF and OME-TIFF tile by tile through
`tifffile`, vendor pyramids through OpenSlide (both in the extra `wsi`); without the extra, TIFF goes whole through
Pillow. Which reader is used is decided by the file's first bytes, never by its name alone, and all give the same
pixels. They are never rotated: spot coordinates refer to the pixels as stored, so an orientation tag (TIFF, EXIF) is
not applied, but known as `Slide.orientation`. Colour profiles are not applied either.
"""

import contextlib
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
    VENDOR_SUFFIXES,
    WSI_HINT,
    Slide,
    check_budget,
    decoding,
    drop_alpha,
    one_scale,
    scale_from_density,
    scale_from_tiff,
)
from data_prep.slide_limits import check_decoding, check_scans
from data_prep.slide_tiff import TiffSlide
from data_prep.slide_tiff_pages import Storage, load_stored, orientation_of, seek_slide, stored_size
from data_prep.slide_tiff_scan import check_directories
from data_prep.slide_zarr import OmeZarrSlide

__all__ = ["DEFAULT_MAX_PIXELS", "Slide", "open_slide"]

simplejpeg: Any
try:
    import simplejpeg
except ImportError:  # a platform without wheels: Pillow gives the same bytes, three times slower
    simplejpeg = None

DEFAULT_MAX_PIXELS = 1_000_000_000  # 3 GB of RGB: what one read may decode at once
FORMATS = "JPEG, PNG, TIFF, OME-TIFF, OME-Zarr or a whole-slide format OpenSlide reads"

_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_HEAD, _PNG_HEAD = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_HDF5_HEAD = b"\x89HDF\r\n\x1a\n"
_BAND_PX = 1 << 22
_HARMLESS_JPEG = ("extraneous bytes", "Invalid SOS parameters", "Adobe color transform")


class _WholeSlide(Slide):
    """JPEG, PNG, or plain TIFF: decoded whole at the first read."""

    def __init__(self, path: Path, plugin: type[Any], name: str, max_pixels: int) -> None:
        self.format, self._plugin = name, plugin
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()
        with decoding(path), path.open("rb") as file, plugin(file) as image:
            if name == "tiff":
                description = image.tag_v2.get(270, "")  # OME-XML stands in the first page
                seek_slide(path, image)
                tags = image.tag_v2
                Storage.of(tags.get).check(path)
                width, height = stored_size(image)
                um_per_px = scale_from_tiff(tags.get(282), tags.get(283), tags.get(296, 2), description)
            else:
                width, height = image.size
                if name == "png" and _png_bits(path) == 16:
                    raise InputError(
                        f"{path}: found 16 bits a sample, expected 8-bit RGB or grey; convert it to 8 bits"
                    )
                dots = image.info.get("dpi")
                um_per_px = scale_from_density(dots, "inch") if dots else None
            check_budget(path, width, height, max_pixels, "the image")
            check_decoding(path, image)
            self._by_simplejpeg = name == "jpeg" and image.mode != "CMYK" and simplejpeg is not None
            self.orientation = _exif_orientation(image)  # decodes a PNG, whose EXIF may stand behind its pixels
        super().__init__(path, width, height, um_per_px, max_pixels)

    def _decode(self, *, reduced: int = 1) -> np.ndarray:
        """The pixels; of a JPEG that simplejpeg decodes also `reduced` 2, 4 or 8 times, which is cheaper."""
        # The plugin's class, not Image.open: our budget is checked above, Pillow's process-wide one is left alone.
        with decoding(self.path), self.path.open("rb") as file, self._plugin(file) as image:
            if self.format == "tiff":
                seek_slide(self.path, image)
                return self._checked(_to_rgb(load_stored(image)))
            if self.format == "jpeg":
                data = self.path.read_bytes()
                check_decoding(self.path, image, scans=check_scans(self.path, data))
                if self._by_simplejpeg:
                    return self._checked(_decode_jpeg(data, image.size, reduced), reduced)
            image.load()
            return self._checked(_to_rgb(image))

    def _checked(self, pixels: np.ndarray, reduced: int = 1) -> np.ndarray:
        if pixels.shape != (-(-self.height // reduced), -(-self.width // reduced), 3):
            raise ValueError(f"decoded to {pixels.shape[1]} x {pixels.shape[0]} px")
        return pixels

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        del level  # one only
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
                self._pixels.flags.writeable = False
        return self._pixels[y : y + height, x : x + width]

    def preview(self, max_side_px: int) -> np.ndarray:
        """As `Slide` says: a JPEG is decoded at a half, a fourth or an eighth of its size."""
        factor, size = self._small(max_side_px)
        reduced = next(times for times in (8, 4, 2, 1) if times <= factor)
        if reduced == 1 or not self._by_simplejpeg:
            return self.thumbnail(max_side_px)
        whole = Image.fromarray(self._decode(reduced=reduced))
        box = (0, 0, self.width / reduced, self.height / reduced)  # its last pixels may reach beyond the slide
        return np.asarray(whole.resize(size, Image.Resampling.BILINEAR, box=box))

    def close(self) -> None:
        """Release the file and the decoded pixels."""
        self._pixels = None


def _decode_jpeg(data: bytes, size: tuple[int, int], reduced: int) -> np.ndarray:
    """uint8 [H, W, 3] of a JPEG whose size, as Pillow found it, has been checked; `reduced` so many times."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    if (width, height) != size or colours == "CMYK":
        raise ValueError(f"two headers, {size[0]} x {size[1]} px and {width} x {height} px in {colours}")
    least = {"min_height": -(-height // reduced), "min_width": -(-width // reduced)}
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **least)
    except ValueError as error:
        if not any(word in str(error) for word in _HARMLESS_JPEG):
            raise
        return simplejpeg.decode_jpeg(data, "RGB", **least, strict=False)


class _OpenSlideSlide(Slide):
    """Vendor pyramids (Aperio, Hamamatsu, MIRAX, Leica, ...) through OpenSlide."""

    def __init__(self, path: Path, openslide: Any, max_pixels: int) -> None:
        with decoding(path), contextlib.ExitStack() as stack:
            self._slide = stack.enter_context(openslide.OpenSlide(str(path)))
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
            stack.pop_all()  # opened: from here on `close` closes the file

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        with decoding(self.path):
            downsample = self._slide.level_downsamples[level]
            corner = (round(x * downsample), round(y * downsample))
            return _to_rgb(self._slide.read_region(corner, level, (width, height)))

    def _level_size(self, level: int) -> tuple[int, int]:
        return self._slide.level_dimensions[level]

    def _level(self, factor: float) -> tuple[int, int, int]:
        with decoding(self.path):
            level = self._slide.get_best_level_for_downsample(factor * 1.01)
            return level, *self._slide.level_dimensions[level]

    def close(self) -> None:
        """Release the file and the decoded pixels."""
        self._slide.close()


def open_slide(path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Slide:
    """Open a slide image.

    Args:
        path: JPEG, PNG, TIFF, OME-TIFF, the folder of an OME-Zarr image, or a whole-slide format OpenSlide reads.
        max_pixels: the most pixels to decode at once: the whole image for JPEG, PNG and TIFF without the extra `wsi`,
            one region for pyramids (whose own size is not limited).

    Raises:
        InputError: no such file, not an image of an allowed format, damaged, over the budget, or a missing extra.
    """
    path = Path(path)
    if path.is_dir():
        return OmeZarrSlide(path, max_pixels)
    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected a slide image")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise InputError(f"{path}: the file is empty, expected {FORMATS}; copy or download it again")
    if path.suffix.lower() in VENDOR_SUFFIXES:
        return _open_vendor(path, head, max_pixels)
    return _open_by_content(path, head, max_pixels)


def _open_by_content(path: Path, head: bytes, max_pixels: int) -> Slide:
    if head.startswith(_JPEG_HEAD):
        return _WholeSlide(path, JpegImagePlugin.JpegImageFile, "jpeg", max_pixels)
    if head.startswith(_PNG_HEAD):
        return _WholeSlide(path, PngImagePlugin.PngImageFile, "png", max_pixels)
    if head[:4] in _TIFF_HEADS:
        return _open_tiff(path, max_pixels)
    if head.startswith(_HDF5_HEAD):
        raise InputError(f"{path}: an HDF5 file, such as patches are kept in, and no slide; expected {FORMATS}")
    raise InputError(
        f"{path}: not an image of an allowed format (first bytes {head[:8]!r}), expected {FORMATS}; convert it, or "
        "download it again if it should be one"
    )


def _png_bits(path: Path) -> int:
    """Bits a sample, as the header says; Pillow would cut 16 to 8 in RGB without a word."""
    with path.open("rb") as file:
        head = file.read(25)
    if head[12:16] != b"IHDR":
        raise ValueError("it does not begin with a header")
    return head[24]


def _exif_orientation(image: Image.Image) -> int:
    try:
        return orientation_of(image.getexif().get(274))
    except Exception:  # Pillow raises anything on damaged EXIF, which tells nothing about the pixels
        return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]; transparent pixels over white. Made band by band, as some copies take more than the picture."""
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if not transparent and image.mode not in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):
        raise ValueError(f"found pixels of mode {image.mode}, expected 8-bit RGB or grey")
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PX // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        here = pixels[top : top + rows]
        here[...] = drop_alpha(np.asarray(band.convert("RGBA"))) if transparent else np.asarray(band.convert("RGB"))
    return pixels


def _open_tiff(path: Path, max_pixels: int) -> Slide:
    openslide, tifffile = _optional("openslide"), _optional("tifffile")
    vendor = _vendor(path, openslide)
    if vendor not in (None, "generic-tiff"):  # a vendor's pyramid under the name .tif: OpenSlide knows its layout
        return _open_pyramid(path, openslide, vendor, max_pixels)
    if not tifffile:
        try:
            check_directories(path)
            return _WholeSlide(path, TiffImagePlugin.TiffImageFile, "tiff", max_pixels)
        except InputError as error:
            hint = f"; if it is a pyramid, {WSI_HINT}" if "cannot be read" in str(error) else ""
            raise InputError(f"{error}{hint}") from error
    check_directories(path)
    with contextlib.ExitStack() as stack:
        slide = stack.enter_context(TiffSlide(path, tifffile, max_pixels))
        other = None if slide.decodable else _open_undecodable(slide, openslide if vendor else None)
        if other is None:
            stack.pop_all()  # it stays open
        return other or slide


def _open_undecodable(slide: TiffSlide, openslide: ModuleType | None) -> Slide | None:
    """A TIFF whose codec tifffile lacks (JPEG and LZW without imagecodecs) through OpenSlide or Pillow, which bring
    their own; None where they lack it too, and the slide says what is missing once it is read."""
    if openslide and slide.interleaved:
        found = _OpenSlideSlide(slide.path, openslide, slide.max_pixels)
        found.orientation, found.um_per_px = slide.orientation, slide.um_per_px
        return found
    with contextlib.suppress(InputError):
        return _WholeSlide(slide.path, TiffImagePlugin.TiffImageFile, "tiff", slide.max_pixels)
    return None


def _open_pyramid(path: Path, openslide: Any, vendor: str, max_pixels: int) -> Slide:
    """A vendor's file, which is often a TIFF; but in Hamamatsu's, offsets are not where TIFF has them."""
    with path.open("rb") as file:
        is_tiff = file.read(4) in _TIFF_HEADS
    if is_tiff and vendor != "hamamatsu":
        check_directories(path)
    return _OpenSlideSlide(path, openslide, max_pixels)


def _vendor(path: Path, openslide: ModuleType | None) -> str | None:
    """Whose format it is, as far as OpenSlide knows."""
    if openslide is None:
        return None
    with decoding(path):
        return openslide.OpenSlide.detect_format(str(path))


def _open_vendor(path: Path, head: bytes, max_pixels: int) -> Slide:
    """A file named as a vendor's: through OpenSlide, unless it is a plain image under such a name."""
    openslide = _optional("openslide")
    vendor = _vendor(path, openslide)
    if vendor not in (None, "generic-tiff"):
        return _open_pyramid(path, openslide, vendor, max_pixels)
    suffix = path.suffix.lower()
    picture = head.startswith((_JPEG_HEAD, _PNG_HEAD)) and suffix != ".mrxs"  # whose file is a preview, in JPEG
    reason = ""
    if picture or (head[:4] in _TIFF_HEADS and (openslide or _is_plain_svs(path))):
        try:
            slide = _open_by_content(path, head, max_pixels)
        except InputError as error:
            reason = f", and as a plain image it is refused: {str(error).removeprefix(f'{path}: ')}"
        else:
            kind = "JPEG" if slide.format == "jpeg" else "PNG" if slide.format == "png" else "TIFF"
            slide.notes += (f"{path.name} is named as a vendor's slide, but is a plain {kind} image and read as one",)
            return slide
    if openslide is None:
        raise InputError(f"{path}: {path.suffix} slides are read through OpenSlide, not found here{reason}; {WSI_HINT}")
    raise InputError(
        f"{path}: OpenSlide does not recognise this {path.suffix} file, expected a complete slide with its "
        f"companion files{reason or '; copy or download it again'}"
    )


def _is_plain_svs(path: Path) -> bool:
    """Whether a TIFF under the name .svs lacks the mark by which OpenSlide tells Aperio's."""
    if path.suffix.lower() != ".svs":
        return False
    with contextlib.suppress(InputError), decoding(path), path.open("rb") as file:
        return not str(TiffImagePlugin.TiffImageFile(file).tag_v2.get(270, "")).startswith("Aperio")
    return False


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
