"""TIFF and OME-TIFF slides through `tifffile`: only the tiles or strips a region touches are decoded."""

import contextlib
import functools
import importlib.util
import logging
import lzma
import math
import mmap
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import budgets
from data_prep.errors import InputError
from data_prep.slide_base import Slide, decoding, drop_alpha, scale_from_tiff
from data_prep.slide_limits import check_scans
from data_prep.slide_tiff_pages import JPEG, Storage, orientation_of, straight_alpha

# What it logs of a damaged file is raised too, as one message.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_CACHE_BYTES = 32 << 20  # decoded tiles kept, so that overlapping patches do not decode a tile again
_CACHE_ROW_BYTES = 384 << 20  # the same for a thumbnail of large tiles, all that a row of its blocks touches
_LARGE_PX = 1 << 20  # a tile of which few fill a thumbnail's block, so that blocks would decode it again and again
_LZMA_BYTES = 256 << 20  # what unpacking LZMA may take itself
_SLACK_BYTES = 64 << 10  # besides the pixels of a tile or strip
# Kinds of files that tifffile knows, no bright-field slides, some of which lead it to other files.
_NOT_SLIDES = ("lsm", "mmstack", "ndtiff", "fluoview", "stk", "sis", "eer", "scanimage", "nih", "mdgel")


class TiffSlide(Slide):
    """TIFF and OME-TIFF through `tifffile`, segment by segment, lower levels of a pyramid for thumbnails and coarser
    patches.

    Attributes:
        decodable: whether tifffile has the codec of these pixels; JPEG and LZW need `imagecodecs`.
    """

    format = "tiff"

    def __init__(self, path: Path, tifffile: Any, max_pixels: int) -> None:
        self._lock = threading.RLock()
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached_bytes, self._most_cached = 0, _CACHE_BYTES
        with decoding(path), contextlib.ExitStack() as stack:
            others = {f"is_{kind}": False for kind in _NOT_SLIDES}
            self._file = stack.enter_context(tifffile.TiffFile(path, _multifile=False, **others))
            series = max(self._file.series, key=lambda s: s.keyframe.imagewidth * s.keyframe.imagelength)
            self._levels = [self._planes(path, level) for level in series.levels]
            page = self._levels[0][0]
            for smaller, *_ in self._levels:
                if not (0 < smaller.imagewidth <= page.imagewidth and 0 < smaller.imagelength <= page.imagelength):
                    raise ValueError(f"a level of {smaller.imagewidth} x {smaller.imagelength} px")
            tiff = tifffile.TIFF
            self.decodable = _has(tiff.DECOMPRESSORS, page.compression) and page.predictor in tiff.UNPREDICTORS
            tags = {
                code: tag.value for code in (270, 274, 282, 283, 296, 700) if (tag := page.tags.get(code)) is not None
            }
            description = self._file.ome_metadata or tags.get(270, "")
            um_per_px = scale_from_tiff(tags.get(282), tags.get(283), int(tags.get(296, 2)), description)
            self.orientation = orientation_of(tags.get(274), tags.get(700))
            self._storage = Storage.of(lambda code, default: tag.value if (tag := page.tags.get(code)) else default)
            # Kept even if they are larger than the cache: of one place, the tile or strip of each separate channel.
            self._channels = page.samplesperpixel if page.planarconfig == 2 else len(self._levels[0])
            self._bounded: dict[int, _Decompress] = {}
            for plane in (plane for level in self._levels for plane in level):
                stored = sum(size > 0 for size in plane.databytecounts)
                budgets.TIFF_STORED.check(path, stored * self._segment_bytes(plane))
                self._take_over(plane)
            stack.pop_all()  # opened: from here on `close` closes the file
        super().__init__(path, page.imagewidth, page.imagelength, um_per_px, max_pixels)
        self.segment_px = self._segment_size(page)

    def _take_over(self, page: Any) -> None:
        """Has a page's tiles unpacked here where tifffile would do so without a limit."""
        if page.compression not in _BOUNDED:
            return
        unpack = functools.partial(_unpack, _BOUNDED[page.compression])
        if page.fillorder == 2:  # bits from right to left
            page.fillorder = 1
            self._bounded[page.offset] = lambda data, most: unpack(data.translate(_REVERSED), most)
        else:
            self._bounded[page.offset] = unpack
        page.compression = 1  # for its `decode`, which is given what is no longer compressed

    @property
    def interleaved(self) -> bool:
        """Whether a pixel's three colour values lie together, in one page, and nothing else with them."""
        page = self._levels[0][0]
        return len(self._levels[0]) == 1 and page.samplesperpixel == 3 and page.planarconfig == 1

    @staticmethod
    def _planes(path: Path, level: Any) -> list[Any]:
        """The pages that make up one level: one interleaved RGB(A) or grey page, or three single-channel ones."""
        pages = [page for page in level.pages if page is not None]
        page = pages[0].aspage()
        Storage.of(lambda code, default: tag.value if (tag := page.tags.get(code)) else default).check(path)
        if page.samplesperpixel == 1 and len(pages) == 3:
            planes = [p.aspage() for p in pages]
            if len({(p.imagewidth, p.imagelength, *TiffSlide._segment_size(p)) for p in planes}) > 1:
                raise ValueError("colour channels of several sizes")
            return planes
        if len(pages) > 1:
            raise InputError(
                f"{path}: found {page.samplesperpixel * len(pages)} channels or planes, expected one RGB or grey "
                "image (histology in bright field); export the RGB plane as its own file"
            )
        return [page]

    @staticmethod
    def _segment_size(page: Any) -> tuple[int, int]:
        """(width, height) of a tile or strip."""
        if page.is_tiled:
            return page.tilewidth, page.tilelength
        return page.imagewidth, min(page.rowsperstrip, page.imagelength)

    @staticmethod
    def _segment_bytes(page: Any) -> int:
        """What a tile or strip unpacks to."""
        width, height = TiffSlide._segment_size(page)
        return width * height * (1 if page.planarconfig == 2 else page.samplesperpixel)

    def _segment(self, page: Any, index: int) -> np.ndarray | None:
        """uint8 [h, w, samples] of tile or strip `index`, None where the file stores none."""
        key = (page.offset, index)  # not `page.index`: pages below pages count from 0 again
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            offset, size = page.dataoffsets[index], page.databytecounts[index]
            if size == 0:
                return None
            handle = self._file.filehandle
            if offset + size > handle.size:
                raise ValueError("the file ends in the middle of the image")
            width, height = self._segment_size(page)
            declared = self._segment_bytes(page)
            handle.seek(offset)
            data = handle.read(min(size, 2 * declared + _SLACK_BYTES))  # none is twice as long as its pixels
            if (bounded := self._bounded.get(page.offset)) is not None:
                data = bounded(data, declared + _SLACK_BYTES)
            elif page.compression in JPEG:
                check_scans(self.path, data)
            decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
            if decoded is None:
                return None
            segment = np.asarray(decoded)[0]
            if segment.shape[0] > height or segment.shape[1] > width:
                raise ValueError(
                    f"a tile or strip of {segment.shape[1]} x {segment.shape[0]} px among {width} x {height}"
                )
            segment = _own_pages(segment)
            self._cache[key] = segment
            self._cached_bytes += segment.nbytes
            self._shrink()
            return segment

    def _shrink(self) -> None:
        while self._cached_bytes > self._most_cached and len(self._cache) > self._channels:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        """See `Slide.thumbnail`; large tiles are decoded once, or a few twice if the slide is very wide."""
        with self._lock:
            self._most_cached = _CACHE_ROW_BYTES if self._has_large_tiles() else _CACHE_BYTES
            try:
                return super().thumbnail(max_side_px)
            finally:
                self._most_cached = _CACHE_BYTES
                self._shrink()

    def _has_large_tiles(self) -> bool:
        return self.segment_px[0] < self.width and math.prod(self.segment_px) >= _LARGE_PX

    def _blocks_abreast(self, block_w: int, block_h: int) -> int:
        """As many blocks as leave all large tiles that a row of them touches in the cache, for the row below."""
        if not self._has_large_tiles():
            return super()._blocks_abreast(block_w, block_h)
        tile_w, tile_h = self.segment_px
        rows = -(-block_h // tile_h) + 1  # a block begins and ends within tiles
        across = _CACHE_ROW_BYTES // (rows * tile_w * tile_h * 3) - 1
        return max(1, across * tile_w // block_w)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        with decoding(self.path):
            return self._assembled(level, x, y, width, height)

    def _assembled(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        planes = self._levels[level]
        page = planes[0]
        separate = page.planarconfig == 2 and page.samplesperpixel > 1
        samples = 1 if separate else page.samplesperpixel
        tile_w, tile_h = self._segment_size(page)
        across, down = -(-page.imagewidth // tile_w), -(-page.imagelength // tile_h)
        sources = (
            [(page, k * across * down) for k in range(4 if self._storage.has_alpha else 3)]
            if separate
            else [(p, 0) for p in planes]
        )
        channels = []
        for source, first in sources:
            out = np.full((height, width, samples), 255, np.uint8)
            for row in range(y // tile_h, (y + height - 1) // tile_h + 1):
                for column in range(x // tile_w, (x + width - 1) // tile_w + 1):
                    tile = self._segment(source, first + row * across + column)
                    if tile is None:
                        continue
                    top, left = row * tile_h, column * tile_w
                    y0, x0 = max(y, top), max(x, left)
                    y1, x1 = min(y + height, top + tile.shape[0]), min(x + width, left + tile.shape[1])
                    out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
            channels.append(out)
        pixels = channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2)
        if pixels.shape[2] == 4 and not self._storage.has_alpha:
            pixels = np.ascontiguousarray(pixels[..., :3])
        return drop_alpha(straight_alpha(pixels) if self._storage.premultiplied else pixels)

    def _level_size(self, level: int) -> tuple[int, int]:
        page = self._levels[level][0]
        return page.imagewidth, page.imagelength

    def _level(self, factor: float) -> tuple[int, int, int]:
        fitting = [i for i, planes in enumerate(self._levels) if self.width / planes[0].imagewidth <= factor * 1.01]
        return fitting[-1], *self._level_size(fitting[-1])

    def close(self) -> None:
        """Release the file and the decoded tiles."""
        self._cache.clear()
        self._file.close()


def _has(codecs: Any, number: int) -> bool:
    """Whether tifffile has a codec; of one that is not installed it may only know when it is called."""
    try:
        codecs[number](b"")
    except (KeyError, ImportError):
        return False
    except Exception:  # nothing is no image: the codec is there, and says so
        return True
    return True


def _own_pages(pixels: np.ndarray) -> np.ndarray:
    """A copy outside the heap, which tiles that stay, among blocks that come and go, would have grow."""
    copy = np.frombuffer(mmap.mmap(-1, pixels.nbytes), np.uint8).reshape(pixels.shape)
    copy[...] = pixels
    return copy


def _unpack(begin: Callable[[], Any], data: bytes, most: int) -> bytes:
    """Packed data, unpacked to at most `most` bytes by the stream that `begin` gives."""
    stream = begin()
    unpacked = stream.decompress(data, most + 1)
    if len(unpacked) > most:
        raise ValueError("a tile or strip unpacks to more than its pixels")
    if not stream.eof:
        raise ValueError("a tile or strip is incomplete")
    return unpacked


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_Decompress = Callable[[bytes, int], bytes]
_LZMA = functools.partial(lzma.LZMADecompressor, memlimit=_LZMA_BYTES)
# Codecs whose decoders in tifffile unpack without a limit; those of imagecodecs have one.
_BOUNDED: dict[int, Callable[[], Any]] = (
    {} if importlib.util.find_spec("imagecodecs") else {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: _LZMA}
)
