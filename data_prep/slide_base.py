"""What every kind of slide shares: regions with white outside, thumbnails, one error, the scale a file states."""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from data_prep.errors import InputError

WSI_HINT = "install the extra for whole slides: pip install 'stjax[wsi]'"

# Names that slides have, in lower case; what a file is, its first bytes say (`data_prep.slide.open_slide`).
VENDOR_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm")
SLIDE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".btf", ".tf8", *VENDOR_SUFFIXES)
OME_ZARR = ".ome.zarr"  # of a folder

# A stored resolution is taken for a physical scale only in the range of microscopes. It leaves out the 72, 96, 300
# dots per inch every camera and editor writes (85 um per pixel and more), which say nothing about the tissue.
_PLAUSIBLE_UM_PER_PX = (0.02, 10.0)
ABSURD_UM_PER_PX = 100.0  # and more is no scale of a picture of tissue, but most likely a number of nanometres
# 10,000 and 1,000 pixels per cm, and the 1 um of an OME-XML whose writer knew no size.
_DEFAULTS_UM_PER_PX = (1.0, 10.0)
DEFAULT_SCALE_DOUBT = "the image file says exactly {:g} um per px, which programs write where they know no scale"
_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "inch": 25_400.0}
_BLOCK_PX = 1 << 22  # of a thumbnail, read at a time
_MOST_REASON = 160  # letters
_TIFF_UNITS = {2: "inch", 3: "cm"}


class Slide:
    """An open slide image. Use as a context manager, or call `close`.

    Attributes:
        path: the file, or the folder of an OME-Zarr image.
        width, height: full-resolution pixels.
        um_per_px: what the file states, or None.
        format: "jpeg", "png", "tiff", "ome-zarr", "patches" or "openslide:<vendor>".
        max_pixels: the most pixels one read may decode.
        segment_px: (width, height) of what is decoded together: a tile or strip of the file, or all of the image.
        orientation: the TIFF or EXIF tag, 1 to 8, by which viewers turn the picture; pixels are given as stored.
        notes: what is odd about the file.
        patch_px: side of the patches that it has in place of a whole image; 0 where there is an image.
        patch_scale: full-resolution pixels per pixel of these.
    """

    format = ""
    orientation = 1
    patch_px = 0
    patch_scale = 1.0
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, width: int, height: int, um_per_px: float | None, max_pixels: int) -> None:
        if width < 1 or height < 1:
            raise InputError(f"{path}: the image is {width} x {height} px, expected at least one pixel")
        self.path, self.width, self.height = path, width, height
        self.um_per_px, self.max_pixels = um_per_px, max_pixels
        self.segment_px = (width, height)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """uint8 [height, width, 3] of a region that lies inside a level, in its pixels; level 0 is the slide itself."""
        raise NotImplementedError

    def _level_size(self, level: int) -> tuple[int, int]:
        """Width and height of a level."""
        raise NotImplementedError

    def _level(self, factor: float) -> tuple[int, int, int]:
        """Number, width and height of the coarsest stored level that is at most `factor` coarser than the slide."""
        del factor
        return 0, self.width, self.height

    def coarser(self, px_scale: float) -> tuple[int, float]:
        """The stored level to read for pixels that are `px_scale` full-resolution pixels across: the coarsest that is
        not coarser than these, or 0, the slide itself.

        Returns:
            Its number, for `read_region`, and how many full-resolution pixels one of its pixels is across.
        """
        level, width, height = self._level(px_scale) if px_scale > 1 else (0, self.width, self.height)
        times = _times_coarser((self.width, self.height), (width, height)) if level else None
        return (0, 1.0) if times is None else (level, times)

    def patch(self, name: str) -> np.ndarray:
        """uint8 [P, P, 3] the patch of a spot, where there are patches in place of a whole image."""
        raise NotImplementedError

    def patch_around(self, xy: np.ndarray) -> np.ndarray:
        """uint8 [P, P, 3] the patch of the spot at a place, [2] in full-resolution pixels.

        Raises:
            InputError: there is none.
        """
        raise NotImplementedError

    def read_region(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> np.ndarray:
        """Read a region; what lies outside the image is white.

        Args:
            x, y: top-left corner, pixels of the level; may be negative.
            width, height: size in pixels of the level.
            level: 0, full resolution, or one that `coarser` gave.

        Returns:
            uint8 [height, width, 3] RGB, contiguous; read-only where it shares memory with the decoded slide.

        Raises:
            InputError: the pixels cannot be decoded, or the region exceeds the pixel budget.
        """
        if width < 1 or height < 1:
            raise ValueError(f"a region needs a positive size, got {width} x {height}")
        check_budget(self.path, width, height, self.max_pixels, "the region")
        whole_w, whole_h = self._level_size(level) if level else (self.width, self.height)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, whole_w), min(y + height, whole_h)
        if (x0, y0, x1 - x0, y1 - y0) == (x, y, width, height):
            return np.ascontiguousarray(self._read_level(level, x, y, width, height))
        region = np.full((height, width, 3), 255, np.uint8)
        if x1 > x0 and y1 > y0:
            region[y0 - y : y1 - y, x0 - x : x1 - x] = self._read_level(level, x0, y0, x1 - x0, y1 - y0)
        return region

    def strips(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(y, uint8 [<= rows, width, 3]) from top to bottom: the whole slide in bounded memory."""
        for y in range(0, self.height, rows):
            yield y, self.read_region(0, y, self.width, min(rows, self.height - y))

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        """uint8 [h, w, 3]: the whole slide, its longer side `max_side_px` pixels or the slide's own, if smaller.

        Made block by block, in memory that does not grow with the slide; the blocks do not show.
        """
        factor, size = self._small(max_side_px)
        level, *within = self._level(factor)
        scale = (within[0] / size[0], within[1] / size[1])
        step = max(1, int(min(scale) / 6))  # the rest is left to a filter that weighs fractions of a pixel
        block_w = within[0]  # whole rows of strips, which are decoded whole; squares of tiles
        if self.segment_px[0] < self.width:
            block_w = min(block_w, max(math.isqrt(_BLOCK_PX), self.segment_px[0]))
        across, down = (max(1, int(side / s)) for side, s in zip((block_w, _BLOCK_PX / block_w), scale, strict=True))
        small = np.empty((size[1], size[0], 3), np.uint8)
        band = across * self._blocks_abreast(block_w, _BLOCK_PX // block_w)
        for left, top in _in_bands(size, across, down, band):
            x, x_end, x_box = _reach(left, min(left + across, size[0]), scale[0], step, within[0])
            y, y_end, y_box = _reach(top, min(top + down, size[1]), scale[1], step, within[1])
            block = Image.fromarray(self._read_level(level, x, y, x_end - x, y_end - y))
            block = block if step == 1 else block.reduce(step)
            here = small[top : top + down, left : left + across]
            box = (x_box[0], y_box[0], x_box[1], y_box[1])
            size_here = (here.shape[1], here.shape[0])
            here[...] = np.asarray(block.resize(size_here, Image.Resampling.BILINEAR, box=box))
        return small

    def preview(self, max_side_px: int) -> np.ndarray:
        """As `thumbnail`, but faster where the file allows it, its values then a few levels off: to look at a slide of
        which nothing else is read."""
        return self.thumbnail(max_side_px)

    def _small(self, max_side_px: int) -> tuple[float, tuple[int, int]]:
        """How many times smaller a thumbnail is than the slide, and its width and height."""
        if max_side_px < 1:
            raise ValueError(f"a thumbnail needs a positive size, got {max_side_px}")
        factor = max(1.0, max(self.width, self.height) / max_side_px)
        return factor, (max(1, round(self.width / factor)), max(1, round(self.height / factor)))

    def _blocks_abreast(self, block_w: int, block_h: int) -> int:
        """How many of a thumbnail's blocks are made from left to right before those below them; by default, all."""
        del block_w, block_h
        return self.width

    def close(self) -> None:
        """Release the file and the decoded pixels."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_slide(path: Path) -> bool:
    """Whether there is a file, or folder, that is called as slides are."""
    name = path.name.lower()
    return path.is_dir() if name.endswith(OME_ZARR) else path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()


def stem(path: Path) -> str:
    """The name of a slide without its ending."""
    return path.name[: -len(OME_ZARR)] if path.name.lower().endswith(OME_ZARR) else path.stem


def _times_coarser(whole: tuple[int, int], level: tuple[int, int]) -> float | None:
    """How many times coarser a level of (width, height) is than the slide; None where it differs by axis.

    A level's last pixels are left out or filled up, so that its size alone says 4.0002 for 4: a whole number that its
    size allows is taken.
    """
    across, down = (side / stored for side, stored in zip(whole, level, strict=True))
    nearest = max(1, round(across))
    if all(side // nearest <= stored <= -(-side // nearest) for side, stored in zip(whole, level, strict=True)):
        return float(nearest)
    # Sizes are rounded to whole pixels, on either axis.
    return math.sqrt(across * down) if abs(across / down - 1) <= 2 / min(level) else None


def _in_bands(size: tuple[int, int], across: int, down: int, band: int) -> Iterator[tuple[int, int]]:
    """(left, top) of blocks of `across` x `down` in a picture of (width, height): in bands, row by row in each."""
    for first in range(0, size[0], band):
        for top in range(0, size[1], down):
            for left in range(first, min(first + band, size[0]), across):
                yield left, top


def _reach(first: int, last: int, scale: float, step: int, limit: int) -> tuple[int, int, tuple[float, float]]:
    """What a thumbnail's pixels `first` to `last` are made of, on one axis.

    Returns:
        Start and end in a level of `limit` pixels, the start a multiple of `step`; and where the thumbnail's pixels lie
        in it, in units of `step`. A linear filter reaches one pixel of the thumbnail to either side.
    """
    start = max(0, math.floor((first - 1) * scale) // step * step)
    end = min(limit, math.ceil((last + 1) * scale) + step)
    return start, end, ((first * scale - start) / step, (min(last * scale, limit) - start) / step)


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{path}: decoding needs more memory than there is; it is damaged, or needs converting to tiled TIFF, "
            "which is read by regions"
        ) from error
    except Exception as error:  # decoders raise anything from struct.error to SyntaxError on damaged files
        reason = _clean(str(error)) or type(error).__name__
        if "imagecodecs" in reason:
            remedy = "its compression needs a decoder: pip install imagecodecs"
        else:
            remedy = "it is damaged or truncated; copy or download it again, or convert it"
        raise InputError(f"{path}: the image cannot be read ({reason}); {remedy}") from error


def _clean(text: str) -> str:
    """A decoder's message on one short line, without what a terminal would take for a command."""
    line = " ".join(text.split())
    shown = "".join(letter if letter.isprintable() else "?" for letter in line)
    return shown if len(shown) <= _MOST_REASON else shown[:_MOST_REASON] + "..."


def check_budget(path: Path, width: int, height: int, max_pixels: int, what: str) -> None:
    """Raise `InputError` when `what`, width x height pixels, is more than may be decoded at once."""
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {what} is {width} x {height} = {width * height:,} px, over the budget of {max_pixels:,}; "
            "convert the slide to a tiled TIFF (read by regions), or raise max_pixels"
        )


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


def is_default_scale(um_per_px: float) -> bool:
    """Whether a scale is one that programs write where they know none."""
    return any(abs(um_per_px / default - 1) < 1e-4 for default in _DEFAULTS_UM_PER_PX)


def check_stated_scale(um_per_px: float, flag: str) -> None:
    """Raise `InputError` when what the user states as a scale, by `flag`, is none."""
    if not (math.isfinite(um_per_px) and um_per_px > 0):
        raise InputError(f"{flag} is {um_per_px}, expected a positive number of micrometres")
    if um_per_px > ABSURD_UM_PER_PX:
        nearest = f"; did you mean {um_per_px / 1000:.4g}?" if um_per_px < 10 * ABSURD_UM_PER_PX else ""
        raise InputError(f"{flag} is {um_per_px:g} um per px, expected about 0.2 to 10{nearest}")


def one_scale(um_per_px: list[float]) -> float | None:
    """The mean of x and y; None when absent, not square within 1 %, or outside the range of microscopes.

    The range holds for OME-XML and `mpp` too: converters turn 72 dots per inch into 353 um there.
    """
    if not um_per_px or not all(math.isfinite(v) and v > 0 for v in um_per_px):
        return None
    scale = sum(um_per_px) / len(um_per_px)
    square = max(um_per_px) <= 1.01 * min(um_per_px)
    return scale if square and _PLAUSIBLE_UM_PER_PX[0] <= scale <= _PLAUSIBLE_UM_PER_PX[1] else None


def scale_from_density(density: tuple[float, ...], unit: str) -> float | None:
    """um per pixel from pixels per `unit` (x, y)."""
    return one_scale([_UM[unit] / float(d) if d and float(d) > 0 else math.nan for d in density])


def scale_from_tiff(x_density: Any, y_density: Any, unit: int, description: Any) -> float | None:
    """um per pixel from TIFF tags: OME-XML, then Aperio's MPP, then ImageJ's unit, then the resolution tags."""
    text = str(description)
    # Without a pattern that would go over a long text again and again.
    pixels = re.search(r"<(?:\w{1,99}:)?Pixels\b", text)
    element = text[pixels.end() :].partition(">")[0] if pixels else ""
    ome = dict(re.findall(r"""(PhysicalSize[XYZ](?:Unit)?)=["']([^"']*)["']""", element))
    if ome:
        with contextlib.suppress(KeyError, ValueError):  # a unit that is no length ("pixel"), or one size missing
            return one_scale(
                [float(ome[f"PhysicalSize{a}"]) * _UM[ome.get(f"PhysicalSize{a}Unit", "µm")] for a in "XY"]
            )
        return None
    if aperio := re.search(r"\bMPP\s*=\s*([\d.]+)", text):
        with contextlib.suppress(ValueError):
            return one_scale([float(aperio.group(1))])
    if not x_density or not y_density:
        return None
    density = (_ratio(x_density), _ratio(y_density))
    imagej = re.search(r"\bunit=(\S+)", text) if text.startswith("ImageJ=") else None
    name = imagej.group(1).replace("\\u00B5", "µ") if imagej else _TIFF_UNITS.get(int(unit), "")
    return scale_from_density(density, name) if name in _UM else None


def _ratio(value: Any) -> float:
    """A TIFF rational, which tifffile gives as (numerator, denominator) and Pillow as a number."""
    if isinstance(value, tuple):
        return value[0] / value[1] if value[1] else 0.0
    return float(value)
