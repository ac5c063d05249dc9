"""TIFF and OME-TIFF slides through `tifffile`: only the tiles or strips a region touches are decoded."""

import contextlib
import logging
import mmap
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import InputError
from data_prep.slide_base import Slide, decoding, drop_alpha, scale_from_tiff
from data_prep.slide_tiff_pages import Storage, orientation_of, straight_alpha

# What it logs of a damaged file is raised too, as one message.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_CACHE_BYTES = 32 << 20  # decoded tiles kept, so that overlapping patches do not decode a tile again


class TiffSlide(Slide):
    """TIFF and OME-TIFF through `tifffile`, segment by segment, lower levels of a pyramid for thumbnails.

    Attributes:
        decodable: whether tifffile has the codec of these pixels; JPEG and LZW need `imagecodecs`.
    """

    format = "tiff"

    def __init__(self, path: Path, tifffile: Any, max_pixels: int) -> None:
        self._lock = threading.RLock()
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        with decoding(path), contextlib.ExitStack() as stack:
            self._file = stack.enter_context(tifffile.TiffFile(path))
            series = max(self._file.series, key=lambda s: s.keyframe.imagewidth * s.keyframe.imagelength)
            self._levels = [self._planes(path, level) for level in series.levels]
            page = self._levels[0][0]
            tiff = tifffile.TIFF
            self.decodable = _has(tiff.DECOMPRESSORS, page.compression) and page.predictor in tiff.UNPREDICTORS
            tags = {
                code: tag.value for code in (270, 274, 282, 283, 296, 700) if (tag := page.tags.get(code)) is not None
            }
            description = self._file.ome_metadata or tags.get(270, "")
            um_per_px = scale_from_tiff(tags.get(282), tags.get(283), int(tags.get(296, 2)), description)
            self.orientation = orientation_of(tags.get(274), tags.get(700))
            self._storage = Storage.of(lambda code, default: tag.value if (tag := page.tags.get(code)) else default)
            stack.pop_all()  # opened: from here on `close` closes the file
        super().__init__(path, page.imagewidth, page.imagelength, um_per_px, max_pixels)
        self.segment_px = self._segment_size(page)

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
            return [p.aspage() for p in pages]
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

    def _segment(self, page: Any, index: int) -> np.ndarray | None:
        """uint8 [h, w, samples] of tile or strip `index`, None where the file stores none."""
        key = (page.index, index)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            offset, size = page.dataoffsets[index], page.databytecounts[index]
            if size == 0:
                return None
            handle = self._file.filehandle
            handle.seek(offset)
            data = handle.read(size)
            if len(data) < size:
                raise ValueError("the file ends in the middle of the image")
            decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
            if decoded is None:
                return None
            segment = _own_pages(np.asarray(decoded)[0])
            self._cache[key] = segment
            self._cached_bytes += segment.nbytes
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
            return segment

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

    def _level(self, factor: float) -> tuple[int, int, int]:
        fitting = [i for i, planes in enumerate(self._levels) if self.width / planes[0].imagewidth <= factor * 1.01]
        page = self._levels[fitting[-1]][0]
        return fitting[-1], page.imagewidth, page.imagelength

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
