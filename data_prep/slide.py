"""Slide images: regions as uint8 RGB, whatever the file format, and the physical scale the file itself states.

JPEG and PNG are decoded once and kept; TIFF and OME-TIFF are read tile by tile through `tifffile`, vendor pyramids
through OpenSlide (both in the extra `wsi`); without the extra, TIFF goes whole through Pillow. Which reader is used is
decided by the file's first bytes, never by its name alone. Pixels are never rotated: spot coordinates refer to the
pixels as stored, so an EXIF orientation is not applied. Colour profiles are not applied either.
"""

import contextlib
import hashlib
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from data_prep.errors import InputError

try:
    import simplejpeg
except ImportError:  # a platform without wheels: Pillow gives the same bytes, three times slower
    simplejpeg = None

DEFAULT_MAX_PIXELS = 1_000_000_000  # 3 GB of RGB: what one read may decode at once
WSI_HINT = "install the extra for whole slides: pip install 'stjax[wsi]'"
FORMATS = "JPEG, PNG, TIFF, OME-TIFF or a whole-slide format OpenSlide reads"

# A stored resolution is taken for a physical scale only in the range of microscopes. It leaves out the 72, 96, 300
# dots per inch every camera and editor writes (85 um per pixel and more), which say nothing about the tissue.
_PLAUSIBLE_UM_PER_PX = (0.02, 10.0)
_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "inch": 25_400.0}
_TIFF_UNITS = {2: "inch", 3: "cm"}
_OPENSLIDE_ONLY = {".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".zvi", ".czi", ".dcm"}
_HARMLESS_JPEG = ("extraneous bytes", "Invalid SOS parameters", "Adobe color transform")


class Slide:
    """An open slide image. Use as a context manager, or call `close`.

    Attributes:
        path: the file.
        width, height: full-resolution pixels.
        um_per_px: what the file states, or None.
        format: "jpeg", "png", "tiff" or "openslide:<vendor>".
        max_pixels: the most pixels one read may decode.
    """

    format = ""

    def __init__(self, path: Path, width: int, height: int, um_per_px: float | None, max_pixels: int) -> None:
        if width < 1 or height < 1:
            raise InputError(f"{path}: the image is {width} x {height} px, expected at least one pixel")
        self.path, self.width, self.height = path, width, height
        self.um_per_px, self.max_pixels = um_per_px, max_pixels

    def _read_inside(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """uint8 [height, width, 3] of a region that lies inside the image."""
        raise NotImplementedError

    def _reduced(self, factor: float) -> tuple[np.ndarray, tuple[float, float]]:
        """The whole image made smaller by at most `factor`, streamed in row strips.

        Returns:
            uint8 [h, w, 3], and the (width, height) in its pixels that the image covers: the last ones may be partial.
        """
        step = max(1, int(factor / 3))  # the rest is left to a filter that weighs fractions of a pixel
        rows = max(step, (1 << 24) // max(self.width, 1) // step * step)  # 16 Mpx a strip
        small = [np.asarray(Image.fromarray(strip).reduce(step)) for _, strip in self.strips(rows)]
        return np.concatenate(small), (self.width / step, self.height / step)

    def read_region(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region at full resolution; what lies outside the image is white.

        Args:
            x, y: top-left corner, full-resolution pixels; may be negative.
            width, height: size in full-resolution pixels.

        Returns:
            uint8 [height, width, 3] RGB, contiguous; read-only where it shares memory with the decoded slide.

        Raises:
            InputError: the pixels cannot be decoded, or the region exceeds the pixel budget.
        """
        if width < 1 or height < 1:
            raise ValueError(f"a region needs a positive size, got {width} x {height}")
        check_budget(self.path, width, height, self.max_pixels, "the region")
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, self.width), min(y + height, self.height)
        if (x0, y0, x1 - x0, y1 - y0) == (x, y, width, height):
            return np.ascontiguousarray(self._read_inside(x, y, width, height))
        region = np.full((height, width, 3), 255, np.uint8)
        if x1 > x0 and y1 > y0:
            region[y0 - y : y1 - y, x0 - x : x1 - x] = self._read_inside(x0, y0, x1 - x0, y1 - y0)
        return region

    def strips(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(y, uint8 [<= rows, width, 3]) from top to bottom: the whole slide in bounded memory."""
        for y in range(0, self.height, rows):
            yield y, self.read_region(0, y, self.width, min(rows, self.height - y))

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        """uint8 [h, w, 3]: the whole slide, its longer side `max_side_px` pixels or the slide's own, if smaller."""
        if max_side_px < 1:
            raise ValueError(f"a thumbnail needs a positive size, got {max_side_px}")
        factor = max(1.0, max(self.width, self.height) / max_side_px)
        size = (max(1, round(self.width / factor)), max(1, round(self.height / factor)))
        pixels, covered = self._reduced(factor)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=(0, 0, *covered)))

    def close(self) -> None:
        """Release the file and the decoded pixels."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _WholeSlide(Slide):
    """JPEG, PNG, or plain TIFF: decoded whole at the first read."""

    def __init__(self, path: Path, plugin: type[Any], name: str, max_pixels: int) -> None:
        self.format, self._plugin = name, plugin
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()
        with decoding(path), plugin(path) as image:
            width, height = image.size
            if name == "tiff":
                tags = image.tag_v2
                if "<OME" in str(tags.get(270, "")) and image.mode == "L" and getattr(image, "n_frames", 1) > 1:
                    raise InputError(f"{path}: the colour channels of this OME-TIFF are separate pages; {WSI_HINT}")
                um_per_px = scale_from_tiff(tags.get(282), tags.get(283), tags.get(296, 2), tags.get(270, ""))
            else:
                dots = image.info.get("dpi")
                um_per_px = _scale_from_density(dots, "inch") if dots else None
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
            with self._plugin(self.path) as image:
                image.load()
                return _to_rgb(image)

    def _read_inside(self, x: int, y: int, width: int, height: int) -> np.ndarray:
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
        self.format = f"openslide:{properties.get(openslide.PROPERTY_NAME_VENDOR, 'unknown')}"
        super().__init__(path, width, height, _one_scale(mpp), max_pixels)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        with decoding(self.path):
            return _to_rgb(self._slide.read_region((x, y), level, (width, height)))

    def _read_inside(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._read_level(0, x, y, width, height)

    def _reduced(self, factor: float) -> tuple[np.ndarray, tuple[float, float]]:
        level = self._slide.get_best_level_for_downsample(factor * 1.01)
        if level == 0:
            return super()._reduced(factor)
        width, height = self._slide.level_dimensions[level]
        check_budget(self.path, width, height, self.max_pixels, "the pyramid level")
        return self._read_level(level, 0, 0, width, height), (width, height)

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


def file_sha256(path: str | Path) -> str:
    """SHA-256 of the file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_tiff(path: Path, max_pixels: int) -> Slide:
    try:
        import tifffile
    except ImportError:
        tifffile = None
    if tifffile is None:
        try:
            return _WholeSlide(path, TiffImagePlugin.TiffImageFile, "tiff", max_pixels)
        except InputError as error:
            raise InputError(f"{error}; if it is a pyramid, {WSI_HINT}") from error
    with contextlib.suppress(ImportError, OSError):  # a vendor's pyramid under the name .tif: OpenSlide knows its scale
        import openslide

        if openslide.OpenSlide.detect_format(str(path)) not in (None, "generic-tiff"):
            return _OpenSlideSlide(path, openslide, max_pixels)
    from data_prep.slide_tiff import TiffSlide

    return TiffSlide(path, tifffile, max_pixels)


def _open_with_openslide(path: Path, max_pixels: int) -> Slide:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise InputError(
            f"{path}: {path.suffix} slides are read through OpenSlide, not found here; {WSI_HINT}"
        ) from error
    if openslide.OpenSlide.detect_format(str(path)) is None:
        raise InputError(
            f"{path}: OpenSlide does not recognise this {path.suffix} file, expected a complete slide with its "
            "companion files; copy or download it again"
        )
    return _OpenSlideSlide(path, openslide, max_pixels)


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one `InputError` that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything from struct.error to SyntaxError on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        missing = f"; {WSI_HINT}" if "imagecodecs" in reason else "; copy or download it again, or convert it"
        raise InputError(f"{path}: the image cannot be read ({reason}); it is damaged or truncated{missing}") from error


def check_budget(path: Path, width: int, height: int, max_pixels: int, what: str) -> None:
    """Raise `InputError` when `what`, width x height pixels, is more than may be decoded at once."""
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {what} is {width} x {height} = {width * height:,} px, over the budget of {max_pixels:,}; "
            "convert the slide to a tiled TIFF (read by regions), or raise max_pixels"
        )


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]; transparent pixels over white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return drop_alpha(np.asarray(image.convert("RGBA")))
    if image.mode not in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):
        raise ValueError(f"found pixels of mode {image.mode}, expected 8-bit RGB or grey")
    return np.array(image.convert("RGB"))


def drop_alpha(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1|3|4] -> uint8 [H, W, 3]: grey repeated, RGBA composed over white."""
    if pixels.shape[2] == 3:
        return pixels
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if np.all(alpha == 255):
        return np.ascontiguousarray(colour)
    weight = alpha.astype(np.uint16)
    return ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _one_scale(um_per_px: list[float]) -> float | None:
    """The mean of x and y, or None when absent, not a positive number, or not square within 1 %."""
    if not um_per_px or not all(math.isfinite(v) and v > 0 for v in um_per_px):
        return None
    return sum(um_per_px) / len(um_per_px) if max(um_per_px) <= 1.01 * min(um_per_px) else None


def _scale_from_density(density: tuple[float, ...], unit: str) -> float | None:
    """um per pixel from pixels per `unit` (x, y), None outside the range of microscopes."""
    scale = _one_scale([_UM[unit] / float(d) if d and float(d) > 0 else math.nan for d in density])
    return scale if scale is not None and _PLAUSIBLE_UM_PER_PX[0] <= scale <= _PLAUSIBLE_UM_PER_PX[1] else None


def scale_from_tiff(x_density: Any, y_density: Any, unit: int, description: Any) -> float | None:
    """um per pixel from TIFF tags: OME-XML, then Aperio's MPP, then ImageJ's unit, then the resolution tags."""
    text = str(description)
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    if pixels:
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', pixels.group()))
        with contextlib.suppress(KeyError, ValueError):  # a unit that is no length ("pixel"), or no size given
            return _one_scale(
                [
                    float(attributes[f"PhysicalSize{a}"]) * _UM[attributes.get(f"PhysicalSize{a}Unit", "µm")]
                    for a in "XY"
                ]
            )
        return None
    if aperio := re.search(r"\bMPP\s*=\s*([\d.]+)", text):
        with contextlib.suppress(ValueError):
            return _one_scale([float(aperio.group(1))])
    if not x_density or not y_density:
        return None
    density = tuple(d[0] / d[1] if isinstance(d, tuple) and d[1] else d for d in (x_density, y_density))
    imagej = re.search(r"\bunit=(\S+)", text) if text.startswith("ImageJ=") else None
    name = imagej.group(1).replace("\\u00B5", "µ") if imagej else _TIFF_UNITS.get(int(unit))
    return _scale_from_density(density, name) if name in _UM else None  # type: ignore[arg-type]
