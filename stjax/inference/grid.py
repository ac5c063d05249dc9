"""A grid of spots over the tissue of a bare slide, laid as a capture array of that kind would have been."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from data_prep import tissue
from data_prep.errors import InputError
from data_prep.slide import Slide

SQUARE_GRID, HEXAGONAL_GRID = "square", "hexagonal"
EDGE_TO_EDGE = "squares"
MIN_TISSUE = 0.5  # BrST-Net leaves out what is at least half bright

_CELL_UM = 10.0  # of the tissue mask, unless spots are small
_CELLS_PER_SPOT = 8
_MASK_PX = 4096  # its longer side at most: memory does not grow with the slide
# Grey levels between the largest and smallest channel, mean over a class of the mask's pixels. Measured on four her2st
# sections, three of 10x Genomics and the demo: glass 2 to 19, tissue 34 to 100.
_COLOURED = 27
_STAINED = 45  # a pixel so coloured is tissue however pale: 1 % of the glass of those slides reaches 41
_BLACK = 20  # what scanners put where they did not scan; the darkest tissue of those slides is 40
_SAMPLES = 64  # points of a spot that its share of tissue is taken from
_CHUNK = 1 << 16  # spots at a time
_MOST = 10_000_000  # places of a grid


@dataclasses.dataclass(frozen=True)
class Array:
    """A capture array: discs of `spot_um` diameter whose centres are `pitch_um` apart, in a "square" pattern or a
    "hexagonal" one: rows 0.87 pitches apart, every other one shifted by half a pitch. Of pattern "squares" it has
    squares of side `spot_um` instead of discs, which lie edge to edge where the pitch is the same."""

    spot_um: float
    pitch_um: float
    pattern: str


PRESETS = {
    "st": Array(100.0, 200.0, SQUARE_GRID),  # Spatial Transcriptomics (Stahl et al. 2016)
    "visium": Array(55.0, 100.0, HEXAGONAL_GRID),  # 10x Genomics
}


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """N places of a capture array, row by row.

    Attributes:
        xy: [N, 2] float64 centres (x, y), full-resolution pixels.
        column, row: [N] int64 of the array, from 0. In a hexagonal one, as in Visium's, columns are half a pitch wide
            and a row has every other one.
    """

    xy: np.ndarray
    column: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def id(self) -> np.ndarray:
        """[N] str, "<column>x<row>"."""
        return np.char.add(np.char.add(self.column.astype(str), "x"), self.row.astype(str))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Each place in the array, as AnnData names it."""
        return {"array_row": self.row, "array_col": self.column}

    def take(self, rows: np.ndarray) -> "Grid":
        """Some of the places: [N] bool or indices."""
        return Grid(self.xy[rows], self.column[rows], self.row[rows])


class TissueMask(NamedTuple):
    """Where a slide shows tissue: [h, w] bool, and the full-resolution pixels along one of its pixels (x, y)."""

    mask: np.ndarray
    px: tuple[float, float]

    def share(self, xy: np.ndarray, radius_px: float) -> np.ndarray:
        """[N] share of each disc that is tissue.

        Args:
            xy: [N, 2] centres; radius_px: both in full-resolution pixels.
        """
        turn = np.arange(_SAMPLES) * math.pi * (3 - math.sqrt(5))  # Vogel's spiral: even over the disc
        reach = radius_px * np.sqrt((np.arange(_SAMPLES) + 0.5) / _SAMPLES)
        offset = reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)  # [K, 2]
        limit = np.array(self.mask.shape[::-1]) - 1
        shares = np.empty(len(xy))
        for start in range(0, len(xy), _CHUNK):
            points = xy[start : start + _CHUNK, None, :] + offset  # [N, K, 2]
            column, row = np.moveaxis(np.clip((points / self.px).astype(np.int64), 0, limit), -1, 0)
            shares[start : start + _CHUNK] = self.mask[row, column].mean(axis=1)
        return shares


def find_tissue(slide: Slide, *, um_per_px: float, spot_um: float = _CELL_UM * _CELLS_PER_SPOT) -> TissueMask:
    """Tissue against glass: Otsu's threshold (Otsu 1979) on the blurred grey slide, made small.

    On four her2st sections 97 to 99 % of the measured spots are tissue by it, and of 3,462 places more than a pitch
    away from any, one.

    Args:
        um_per_px: the slide's scale.
        spot_um: what is to be told tissue or glass; the mask's pixels are an eighth of it, 10 um at most.
    """
    cell_um = min(_CELL_UM, spot_um / _CELLS_PER_SPOT)
    longer = max(slide.width, slide.height)
    small = slide.thumbnail(max(1, min(_MASK_PX, round(longer * um_per_px / cell_um))))
    px = (slide.width / small.shape[1], slide.height / small.shape[0])
    margin = tissue.BLUR_MARGIN_PX
    grey = tissue.blur(np.pad(tissue.to_grey(small), margin, mode="edge"))
    colour = small.max(axis=2) - small.min(axis=2)
    scanned = grey >= _BLACK
    dark = scanned & (grey <= tissue.otsu_threshold(np.bincount(grey[scanned], minlength=256)))
    stained = scanned & (dark | (colour > _STAINED))  # pale stroma among dark nuclei
    bright = scanned & ~stained
    if not dark.any() or colour[dark].mean() < _COLOURED:
        return TissueMask(np.zeros_like(dark), px)  # only glass: Otsu split its noise, or uneven light
    if bright.any() and colour[bright].mean() >= _COLOURED:
        return TissueMask(scanned, px)  # only tissue: Otsu split nuclei from stroma
    return TissueMask(stained, px)


def lay_grid(
    slide: Slide, array: Array, *, um_per_px: float, min_tissue: float = MIN_TISSUE, window_px: float = 0.0
) -> Grid:
    """Spots on the tissue of a slide, on a grid centred in the image.

    Args:
        array: of which the spots are as they would have been laid there.
        um_per_px: the slide's scale.
        min_tissue: the share of a spot that must be tissue; 0 takes all of the image.
        window_px: side of the window around a spot, full-resolution pixels, that must lie inside the image; the spot
            itself always does.

    Raises:
        InputError: sizes that cannot be, a spot or window wider than the image, or no spot on tissue.
    """
    _check_positive("um_per_px", um_per_px)
    check(array, min_tissue=min_tissue)
    grid = _every_spot(slide, um_per_px, max(array.spot_um / um_per_px, window_px), array)
    if min_tissue > 0:
        mask = find_tissue(slide, um_per_px=um_per_px, spot_um=array.spot_um)
        share = mask.share(grid.xy, array.spot_um / um_per_px / 2)
        grid = grid.take(share >= min_tissue)
        if not len(grid):
            found = f"at most {share.max():.0%} of a spot is" if mask.mask.any() else "none of the image is"
            raise InputError(
                f"{slide.path}: no spot on tissue: {found}; expected stained tissue on bright glass. "
                "Check the image, or lower --min-tissue (0 takes all of the image)"
            )
    return grid


def check(array: Array, *, min_tissue: float) -> None:
    """Raises InputError for an array, or a least share of tissue, that cannot be."""
    _check_positive("spot_um", array.spot_um)
    _check_positive("pitch_um", array.pitch_um)
    patterns = (SQUARE_GRID, HEXAGONAL_GRID, EDGE_TO_EDGE)
    if array.pattern not in patterns:
        raise InputError(f"the grid's pattern is {array.pattern!r}, expected one of {', '.join(patterns)}")
    if not 0 <= min_tissue <= 1:
        raise InputError(f"min_tissue is {min_tissue:g}, expected a share from 0 to 1")


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} is {value}, expected a positive number of micrometres")


def _every_spot(slide: Slide, um_per_px: float, needed_px: float, array: Array) -> Grid:
    """Every place of the grid whose window of `needed_px` lies inside the image."""
    pitch = array.pitch_um / um_per_px
    sides = np.array([slide.width, slide.height])
    if needed_px > sides.min():
        raise InputError(
            f"{slide.path}: a window of {needed_px:.0f} px does not fit into the image of {slide.width} x "
            f"{slide.height} px; check the scale ({um_per_px:g} um per px, --source-um-per-px) and the spots' size"
        )
    step = pitch * (np.array([0.5, math.sqrt(3) / 2]) if array.pattern == HEXAGONAL_GRID else np.ones(2))  # x, y
    columns, rows = counts = ((sides - needed_px) / step).astype(np.int64) + 1
    if columns * rows > _MOST:
        raise InputError(
            f"{slide.path}: a pitch of {array.pitch_um:g} um gives {columns:,} x {rows:,} spots, expected at most "
            f"{_MOST:,}; give a larger --pitch-um, or predict the whole slide with --dense"
        )
    row, column = (index.ravel() for index in np.indices((rows, columns)))
    if array.pattern == HEXAGONAL_GRID:
        there = (row + column) % 2 == 0
        row, column = row[there], column[there]
    xy = (sides - (counts - 1) * step) / 2 + np.stack([column, row], axis=1) * step
    return Grid(xy, column, row)
