"""The spots of tiles: as measured, or of another size, summed from the finest bins of the same slide.

A slide's sections (Visium HD has one for each bin size) share its tiles: the image is read and run through the model
once for the spots of all sizes. Sizes are micrometres: a disc's diameter, a square's side, and for a polygon the
diameter of the disc of its area.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stjax.data import made_spots
from stjax.data.section_spots import Section, Tile, Tiles, TileSpots
from stjax.data.selection import Selection

_SAME_SIZE = 0.05  # sizes that differ by less are one


class SlideSpots(NamedTuple):
    """The tiles of a slide, the spots chosen, and how many others there are."""

    tiles: list[Tile]
    spots: list[TileSpots]
    left_out: int


def slides(chosen: Selection) -> Iterator[SlideSpots]:
    """Tiles and chosen spots of each slide that the sections chosen are of.

    Raises:
        InputError: a size that neither is there nor can be made.
    """
    dataset, first, offset = chosen.dataset, {}, 0
    by_slide: dict[tuple[str, str], list[str]] = {}
    for name in chosen.sections:
        entry = dataset.section(name)
        by_slide.setdefault((entry["image"]["sha256"], entry["patient"]), []).append(name)
        first[name] = offset
        offset += entry["records"]
    source = dataset.source(tuple(chosen.sections))
    for names in by_slide.values():
        found: Tiles = {}
        sections = [Section(dataset, name, source, first[name], found) for name in names]
        tiles = [tile for _, tile in found.values()]
        every: list[TileSpots] = [section.spots() for section in sections]
        if chosen.sizes_um:
            every = [spots for size in chosen.sizes_um for spots in _of_size(size, every, sections, tiles)]
        kept = [_drawn(chosen, spots.total) for spots in every]
        left_out = sum(len(spots) - len(places) for spots, places in zip(every, kept, strict=True))
        yield SlideSpots(tiles, [spots[places] for spots, places in zip(every, kept, strict=True)], left_out)


def _drawn(chosen: Selection, total: np.ndarray) -> np.ndarray:
    """Positions of the spots, of these totals, that the protocol uses, or of as many of them as are wanted."""
    kept = np.flatnonzero(chosen.protocol.uses(total, train=chosen.train))
    if 0 < chosen.max_spots < len(kept):
        kept = np.sort(np.random.default_rng(0).choice(kept, chosen.max_spots, replace=False))
    return kept


def _of_size(
    size_um: float, every: Sequence[TileSpots], sections: Sequence[Section], tiles: list[Tile]
) -> list[TileSpots]:
    """The spots of a size in the sections of a slide, or those made of its bins."""
    places = [np.flatnonzero(same_size(spots.size_um, size_um)) for spots in every]
    there = [spots[of_size] for spots, of_size in zip(every, places, strict=True) if len(of_size)]
    return there or [made_spots.make(size_um, sections, tiles)]


def same_size(size_um: Any, other_um: float) -> Any:
    """Whether sizes [...] of spots are, each, the other but for rounding."""
    return np.abs(size_um / other_um - 1) < _SAME_SIZE


def rounded(size_um: np.ndarray) -> np.ndarray:
    """Sizes to three digits: spots of the same array share one."""
    scale = 10 ** (2 - np.floor(np.log10(np.maximum(size_um, 1e-9))))
    return np.round(size_um * scale) / scale
