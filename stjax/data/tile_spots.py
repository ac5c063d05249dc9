"""The spots of tiles: as measured, or of another size, summed from the finest bins of the same slide.

A slide's sections (Visium HD has one for each bin size) share its tiles: the image is read and run through the model
once for the spots of all sizes. Sizes are micrometres: a disc's diameter, a square's side, and for a polygon the
diameter of the disc of its area.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from scipy.spatial import KDTree

from data_prep import csr, records
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section_table import SectionTable
from data_prep.spots import DISC, POLYGON, SQUARE, Spots

_SAME_SIZE = 0.05  # sizes that differ by less are one
DISCS_FROM_UM = 50.0  # a size that is not in the data is made of discs from here up, of squares below
PITCH = 2.0  # of made spots, in sizes: that of spatial transcriptomics arrays
_ROUNDING = 1e-9  # a bin whose centre is on the edge is in
MIN_COVERED = 0.9  # of a made spot's area must be bins on tissue


@dataclasses.dataclass(frozen=True)
class Tile:
    """A window of a slide.

    Attributes:
        record: its place in the data set's source of the sections asked for.
        origin_xy: [2] full-resolution pixel of its top-left corner.
        px_scale: full-resolution pixels per pixel of the tile.
    """

    record: int
    origin_xy: np.ndarray
    px_scale: float


@dataclasses.dataclass(frozen=True)
class TileSpots:
    """Spots of one slide and one section, or of one size made from its bins.

    Attributes:
        section: the data set's section, or the slide's first section and the size.
        slide_section: a section of the data set on the same slide.
        tile: [S] which of the slide's tiles holds each, ascending.
        spots: [S] in full-resolution pixels of the slide.
        within: [S] the same in pixels of their tiles.
        size_um: [S].
        counts: [S, G] raw counts, CSR; total: [S].
    """

    section: str
    slide_section: str
    tile: np.ndarray
    spots: Spots
    within: Spots
    size_um: np.ndarray
    counts: Any
    total: np.ndarray

    def __len__(self) -> int:
        return len(self.tile)

    def __getitem__(self, index: Any) -> "TileSpots":
        """Some of them, by mask or ascending positions."""
        per_spot = ("tile", "spots", "within", "size_um", "counts", "total")
        return dataclasses.replace(self, **{name: getattr(self, name)[index] for name in per_spot})


def slides(
    dataset: PatchDataset, names: Sequence[str], columns: np.ndarray, *, sizes_um: Sequence[float] = ()
) -> Iterator[tuple[list[Tile], list[TileSpots]]]:
    """Tiles and spots of each slide that the sections named are of.

    Args:
        columns: [G] columns of the data set's genes to keep, -1 for a gene without counts.
        sizes_um: the sizes wanted; those that the slide lacks are made from its finest bins. Default all there are.

    Raises:
        InputError: a size that neither is there nor can be made.
    """
    first, offset = {}, 0
    by_slide: dict[tuple[str, str], list[str]] = {}
    for name in names:
        entry = dataset.section(name)
        by_slide.setdefault((entry["image"]["sha256"], entry["patient"]), []).append(name)
        first[name] = offset
        offset += entry["records"]
    source = dataset.source(tuple(names))
    for sections in by_slide.values():
        tiles: dict[tuple[int, int, int], tuple[int, Tile]] = {}
        measured: list[TileSpots] = []
        for name in sections:
            entry, table = dataset.section(name), dataset.table(name)
            within, place = [], []
            for record in range(entry["records"]):
                content = source.record(first[name] + record, image=False)
                origin, scale = content["origin_xy"].astype(np.float64), float(content["px_scale"])
                key = (round(origin[0]), round(origin[1]), content["width"])
                tile = tiles.setdefault(key, (len(tiles), Tile(first[name] + record, origin, scale)))
                within.append(records.spots_of(content))
                place.append(np.full(len(within[-1]), tile[0]))
            rows = dataset.rows(name)
            in_tiles, of_tile = Spots.concatenate(within)[rows], np.concatenate(place)[rows]
            measured.append(_measured(entry, table, in_tiles, of_tile, columns))
        found = [tile for _, tile in tiles.values()]
        if not sizes_um:
            yield found, measured
            continue
        chosen = []
        for size in sizes_um:
            there = [spots[same_size(spots.size_um, size)] for spots in measured]
            there = [spots for spots in there if len(spots)]
            chosen += there or [_made(size, measured, found, dataset, sections[0])]
        yield found, chosen


def same_size(size_um: Any, other_um: float) -> Any:
    """Whether sizes [...] of spots are, each, the other but for rounding."""
    return np.abs(size_um / other_um - 1) < _SAME_SIZE


def sizes_um(spots: Spots, um_per_px: float) -> np.ndarray:
    """[S] float64: how wide each is; polygons, of which no two are alike, as wide as the median one."""
    across, outlined = spots.across_um(um_per_px), spots.kind == POLYGON
    if outlined.any():
        across[outlined] = np.median(across[outlined])
    return across


def rounded(size_um: np.ndarray) -> np.ndarray:
    """Sizes to three digits: spots of the same array share one."""
    scale = 10 ** (2 - np.floor(np.log10(np.maximum(size_um, 1e-9))))
    return np.round(size_um * scale) / scale


def _measured(
    entry: dict[str, Any],
    table: SectionTable,
    within: Spots,
    tile: np.ndarray,
    columns: np.ndarray,
) -> TileSpots:
    order = np.argsort(tile, kind="stable")
    spots = TileSpots(
        section=entry["name"],
        slide_section=entry["name"],
        tile=tile,
        spots=table.spots,
        within=within,
        size_um=sizes_um(table.spots, entry["um_per_px"]),
        counts=csr.take_columns(table.counts, columns),
        total=table.total_counts,
    )
    return spots if np.all(order[1:] > order[:-1]) else spots[order]


def _made(
    size_um: float, measured: Sequence[TileSpots], tiles: list[Tile], dataset: PatchDataset, section: str
) -> TileSpots:
    """Spots of `size_um` on a grid over the slide, each the sum of the bins whose centre lies in it."""
    squares = [each for each in measured if np.all(each.spots.kind == SQUARE)]
    sizes = ", ".join(f"{size:g}" for spots in measured for size in np.unique(np.round(spots.size_um, 1)))
    finest = min(squares, key=lambda spots: float(np.median(spots.size_um)), default=None)
    if finest is None or float(np.median(finest.size_um)) * 2 > size_um:
        raise InputError(
            f"no spot of {size_um:g} um in section {section} ({sizes} um), nor bins of half that size to make it from"
        )
    um_per_px = dataset.section(finest.section)["um_per_px"]
    half, bin_px = size_um / um_per_px / 2, float(np.median(finest.size_um)) / um_per_px
    pitch = PITCH * 2 * half
    low, high = finest.spots.xy.min(axis=0) - bin_px / 2, finest.spots.xy.max(axis=0)  # squares begin where bins do
    grid = np.stack(np.meshgrid(*(np.arange(a + half, b, pitch) for a, b in zip(low, high, strict=True))), axis=-1)
    centres = grid.reshape(-1, 2)
    # Of the tiles that hold spots, the one whose middle is nearest has the most room around this one.
    side, held = dataset.size_px * tiles[0].px_scale, np.unique(np.concatenate([spots.tile for spots in measured]))
    middles = np.stack([tiles[tile].origin_xy for tile in held]) + side / 2
    found: Any = KDTree(middles).query(centres, p=np.inf)
    distance, tile = found[0], held[found[1]]
    inside = distance + half <= side / 2
    is_disc = size_um >= DISCS_FROM_UM
    members = KDTree(finest.spots.xy).query_ball_point(centres, half * (1 + _ROUNDING), p=2 if is_disc else np.inf)
    covered = np.array([len(rows) for rows in members]) * bin_px**2 / ((np.pi if is_disc else 4) * half**2)
    kept = np.flatnonzero((covered >= MIN_COVERED) & inside)
    if not len(kept):
        raise InputError(
            f"section {section} has no place for spots of {size_um:g} um: "
            + ("no tile holds one whole; build with a larger --context-px" if np.any(covered >= MIN_COVERED) else
               "nowhere are enough bins on tissue")
        )  # fmt: skip
    kept = kept[np.argsort(tile[kept], kind="stable")]
    rows = np.repeat(np.arange(len(kept)), [len(members[spot]) for spot in kept])
    bins = np.concatenate([np.asarray(members[spot], np.int64) for spot in kept])
    sums = scipy.sparse.csr_array((np.ones(len(bins), np.float32), (rows, bins)), shape=(len(kept), len(finest)))
    origin = np.stack([each.origin_xy for each in tiles])[tile[kept]]
    scale = np.array([each.px_scale for each in tiles])[tile[kept]]
    ids = np.array([f"{x:.0f}x{y:.0f}" for x, y in centres[kept]])
    kind, across = (DISC, half) if is_disc else (SQUARE, 2 * half)
    name = finest.section.removesuffix(f"_{round(float(np.median(finest.size_um))):03d}um")
    return TileSpots(
        section=f"{name}_{size_um:03g}um",
        slide_section=section,
        tile=tile[kept],
        spots=Spots.alike(kind, centres[kept], across, ids),
        within=Spots.alike(kind, (centres[kept] - origin) / scale[:, None], across / scale, ids),
        size_um=np.full(len(kept), size_um),
        counts=scipy.sparse.csr_array(sums @ finest.counts, dtype=np.float32),
        total=sums @ finest.total,
    )
