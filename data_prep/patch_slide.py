"""A section's image: its slide, or the file of its spots' patches where there is no slide."""

import contextlib
import functools

import numpy as np
from PIL import Image

from data_prep import patch_file
from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.slide import DEFAULT_MAX_PIXELS, open_slide
from data_prep.slide_base import Slide, decoding

_KEPT = 256  # patches: more than lie side by side
_REDUCED = 8.0  # times that a level is coarser than the one before it


def open_image(section: Section) -> Slide:
    """The image of a section, open; see `data_prep.slide.open_slide`.

    Raises:
        InputError: it cannot be read.
    """
    return PatchSlide(section) if section.patch_coords else open_slide(section.image_path)


class PatchSlide(Slide):
    """Patches where they were cut, on white: what the slide shows between them is not known."""

    format = "patches"

    def __init__(self, section: Section) -> None:
        with contextlib.ExitStack() as stack:
            found, file = stack.enter_context(patch_file.opened(section.image_path))
            if not found.side_px:
                raise InputError(f"{found.path}: the size of the patches at full resolution is not said")
            self._corner = found.centres(section.patch_coords) - found.side_px / 2  # [N, 2] x, y
            width, height = (max(1, int(np.ceil(end))) for end in (self._corner + found.side_px).max(axis=0, initial=1))
            super().__init__(found.path, width, height, found.um_per_px, DEFAULT_MAX_PIXELS)
            self._side, self.patch_px, self.patch_scale = found.side_px, found.size_px, found.side_px / found.size_px
            self._row = {name: row for row, name in enumerate(found.barcodes.tolist())}
            self._pixels, self._spots = file["img"], section.spots
            self._stored = functools.lru_cache(_KEPT)(self._read)
            self._file = stack.pop_all()  # opened: from here on `close` closes the file

    def _read(self, row: int) -> np.ndarray:
        with decoding(self.path):
            return np.asarray(self._pixels[row])

    def patch(self, name: str) -> np.ndarray:
        """uint8 [P, P, 3] the patch of a spot."""
        return self._read(self._row[name])

    def patch_around(self, xy: np.ndarray) -> np.ndarray:
        """As `Slide.patch_around`."""
        apart = np.abs(self._spots.xy - xy).max(axis=1)  # a few patches lie elsewhere than their spots
        if not len(apart) or apart.min() > 1:
            raise InputError(
                f"{self.path}: no patch lies around {xy[0]:.0f}, {xy[1]:.0f}, and there is no slide to cut one from"
            )
        return self.patch(str(self._spots.id[apart.argmin()]))

    def coarser(self, px_scale: float) -> tuple[int, float]:
        """The slide itself: in smaller ones, which are for thumbnails, patches lie on whole pixels."""
        del px_scale
        return 0, 1.0

    def _level(self, factor: float) -> tuple[int, int, int]:
        level = 0
        while _REDUCED ** (level + 1) <= factor:
            level += 1
        scale = _REDUCED**level
        return level, max(1, round(self.width / scale)), max(1, round(self.height / scale))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        scale = _REDUCED**level
        first = np.round(self._corner / scale).astype(np.int64) - (x, y)  # [N, 2] in the region
        side = max(1, round(self._side / scale))
        region = np.full((height, width, 3), 255, np.uint8)
        for row in np.flatnonzero(np.all((first > -side) & (first < (width, height)), axis=1)).tolist():
            patch = np.asarray(Image.fromarray(self._stored(row)).resize((side, side), Image.Resampling.BOX))
            left, top = first[row].tolist()
            shown = patch[max(-top, 0) : height - top, max(-left, 0) : width - left]
            region[max(top, 0) : top + side, max(left, 0) : left + side][: shown.shape[0], : shown.shape[1]] = shown
        return region

    def close(self) -> None:
        """Release the file and the decoded patches."""
        self._stored.cache_clear()
        self._file.close()
