"""The spots of tiles: as measured, or of another size, summed from the finest bins of the same slide.

A slide's sections (Visium HD has one for each bin size) share its tiles: the image is read and run through the model
once for the spots of all sizes. Sizes are micrometres: a disc's diameter, a square's side, and for a polygon the
diameter of the disc of its area.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from scipy.spatial import KDTree

from data_prep.dataset import PatchDataset, SectionTable
from data_prep.errors import InputError
from data_prep.section import DISC, POLYGON, SQUARE
from stjax.ops.spot_pool import Shapes, concatenate

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
class Spots:
    """Spots of one slide and one section, or of one size made from its bins.

    Attributes:
        section: the data set's section, or the slide's first section and the size.
        patient: whose tissue.
        slide_section: a section of the data set on the same slide.
        tile: [S] which of the slide's tiles holds each, ascending.
        shapes: [S] in pixels of that tile, pixel (i, j) being the point (j, i).
        size_um: [S].
        spot_xy: [S, 2] full-resolution pixels; spot_id: [S] str.
        counts: [S, G] raw counts, CSR; total: [S].
    """

    section: str
    patient: str
    slide_section: str
    tile: np.ndarray
    shapes: Shapes
    size_um: np.ndarray
    spot_xy: np.ndarray
    spot_id: np.ndarray
    counts: Any
    total: np.ndarray

    def __getitem__(self, index: Any) -> "Spots":
        """Some of them, by mask or ascending positions."""
        per_spot = ("tile", "shapes", "size_um", "spot_xy", "spot_id", "counts", "total")
        return dataclasses.replace(self, **{name: getattr(self, name)[index] for name in per_spot})


def slides(
    dataset: PatchDataset, names: Sequence[str], columns: np.ndarray, *, sizes_um: Sequence[float] = ()
) -> Iterator[tuple[list[Tile], list[Spots]]]:
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
        measured: list[Spots] = []
        for name in sections:
            entry, table = dataset.section(name), dataset.table(name)
            shapes, place = [], []
            for record in range(entry["records"]):
                content = source.record(first[name] + record, image=False)
                origin, scale = content["origin_xy"].astype(np.float64), float(content["px_scale"])
                key = (round(origin[0]), round(origin[1]), content["width"])
                tile = tiles.setdefault(key, (len(tiles), Tile(first[name] + record, origin, scale)))
                shapes.append(shapes_of(content))
                place.append(np.full(len(shapes[-1]), tile[0]))
            measured.append(_measured(entry, table, concatenate(*shapes), np.concatenate(place), tiles, columns))
        found = [tile for _, tile in tiles.values()]
        if not sizes_um:
            yield found, measured
            continue
        chosen = []
        for size in sizes_um:
            there = [spots[same_size(spots.size_um, size)] for spots in measured]
            there = [spots for spots in there if len(spots.tile)]
            chosen += there or [_made(size, measured, found, dataset, sections[0])]
        yield found, chosen


def same_size(size_um: Any, other_um: float) -> Any:
    """Whether sizes [...] of spots are, each, the other but for rounding."""
    return np.abs(size_um / other_um - 1) < _SAME_SIZE


def shapes_of(record: dict[str, Any]) -> Shapes:
    """A record's spots. Its coordinates count from the image's corner, shapes' from the first pixel's centre."""
    bounds, outlines = record["polygon_indptr"], record["polygon_xy"] - 0.5
    polygons = tuple(outlines[start:end] for start, end in itertools.pairwise(bounds))
    return Shapes(record["spot_kind"], record["spot_xy"] - 0.5, record["spot_size_px"], polygons)


def _measured(
    entry: dict[str, Any],
    table: SectionTable,
    shapes: Shapes,
    tile: np.ndarray,
    tiles: dict[Any, tuple[int, Tile]],
    columns: np.ndarray,
) -> Spots:
    scale = np.array([each.px_scale for _, each in tiles.values()])[tile] * entry["um_per_px"]
    order = np.argsort(tile, kind="stable")
    spots = Spots(
        section=entry["name"],
        patient=entry["patient"],
        slide_section=entry["name"],
        tile=tile,
        shapes=shapes,
        size_um=across_px(shapes) * scale,
        spot_xy=table.spot_xy,
        spot_id=table.spot_id,
        counts=_columns(table.counts, columns),
        total=table.total_counts,
    )
    return spots if np.all(order[1:] > order[:-1]) else spots[order]


def across_px(shapes: Shapes) -> np.ndarray:
    """[S] a disc's diameter, a square's side, the diameter of the disc of a polygon's area: in the shapes' pixels."""
    across = np.where(shapes.kind == DISC, 2 * shapes.size_px, shapes.size_px)
    for spot in np.flatnonzero(shapes.kind == POLYGON):
        across[spot] = 2 * np.sqrt(sum(map(_area, shapes.rings(spot))) / np.pi)
    return across


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def _columns(counts: Any, columns: np.ndarray) -> Any:
    """[S, genes of the data set] to [S, G] float32, CSR."""
    present = np.flatnonzero(columns >= 0)
    ones = np.ones(len(present), np.float32)
    to = scipy.sparse.csr_array((ones, (np.arange(len(present)), present)), shape=(len(present), len(columns)))
    return scipy.sparse.csr_array(counts[:, columns[present]] @ to, dtype=np.float32)


def _made(size_um: float, measured: Sequence[Spots], tiles: list[Tile], dataset: PatchDataset, section: str) -> Spots:
    """Spots of `size_um` on a grid over the slide, each the sum of the bins whose centre lies in it."""
    squares = [spots for spots in measured if np.all(spots.shapes.kind == SQUARE)]
    sizes = ", ".join(f"{size:g}" for spots in measured for size in np.unique(np.round(spots.size_um, 1)))
    finest = min(squares, key=lambda spots: float(np.median(spots.size_um)), default=None)
    if finest is None or float(np.median(finest.size_um)) * 2 > size_um:
        raise InputError(
            f"no spot of {size_um:g} um in section {section} ({sizes} um), nor bins of half that size to make it from"
        )
    um_per_px = dataset.section(finest.section)["um_per_px"]
    half, bin_px = size_um / um_per_px / 2, float(np.median(finest.size_um)) / um_per_px
    pitch = PITCH * 2 * half
    low, high = finest.spot_xy.min(axis=0) - bin_px / 2, finest.spot_xy.max(axis=0)  # squares begin where bins do
    grid = np.stack(np.meshgrid(*(np.arange(a + half, b, pitch) for a, b in zip(low, high, strict=True))), axis=-1)
    centres = grid.reshape(-1, 2)
    # The tile whose middle is nearest has the most room around the spot.
    side = dataset.size_px * tiles[0].px_scale
    middles = np.stack([tile.origin_xy for tile in tiles]) + side / 2
    found: Any = KDTree(middles).query(centres, p=np.inf)
    distance, tile = found
    inside = distance + half <= side / 2
    is_disc = size_um >= DISCS_FROM_UM
    members = KDTree(finest.spot_xy).query_ball_point(centres, half * (1 + _ROUNDING), p=2 if is_disc else np.inf)
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
    sums = scipy.sparse.csr_array(
        (np.ones(len(bins), np.float32), (rows, bins)), shape=(len(kept), len(finest.spot_id))
    )
    origin = np.stack([each.origin_xy for each in tiles])[tile[kept]]
    scale = np.array([each.px_scale for each in tiles])[tile[kept]]
    kind = np.full(len(kept), DISC if is_disc else SQUARE, np.uint8)
    across = half if is_disc else 2 * half
    name = finest.section.removesuffix(f"_{round(float(np.median(finest.size_um))):03d}um")
    return Spots(
        section=f"{name}_{size_um:03g}um",
        patient=finest.patient,
        slide_section=section,
        tile=tile[kept],
        shapes=Shapes(kind, (centres[kept] - origin) / scale[:, None] - 0.5, across / scale),
        size_um=np.full(len(kept), size_um),
        spot_xy=centres[kept],
        spot_id=np.array([f"{x:.0f}x{y:.0f}" for x, y in centres[kept]]),
        counts=scipy.sparse.csr_array(sums @ finest.counts, dtype=np.float32),
        total=sums @ finest.total,
    )
