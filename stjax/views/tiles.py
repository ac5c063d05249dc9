"""Tiles: an item is a window of the slide that holds many spots, of any sizes. PixNet."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from data_prep import cli, csr, json_files, patches, tiles
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.json_files import Kind
from data_prep.section import Section
from data_prep.section_table import SectionSpots
from data_prep.slide import Slide
from data_prep.spots import Spots
from stjax import baselines, metrics, views
from stjax.data import tile_spots
from stjax.data.images import Images
from stjax.data.items import Blocks
from stjax.data.panel import Panel
from stjax.data.section_spots import Tile, TileSpots
from stjax.data.selection import Selection
from stjax.models import expression
from stjax.ops import spot_table as tables
from stjax.ops.spot_pool import ADDITIVE, MEAN, STRIDE, SUM, spot_pool
from stjax.ops.spot_table import Layout, SpotTable, merge_layouts
from stjax.protocols import Protocol
from stjax.symmetries import mean_over_symmetries, turn, turn_back

if TYPE_CHECKING:
    from stjax.data.fold import Fold

SURROUNDINGS_PX = 64  # at least, around a spot, that the colour statistics are of
_ROWS = 1 << 16  # spots whose expression is computed at a time
_REMEDY = "train or export the model again"


_GROUPS = Kind(
    "a list of pairs of whole numbers",
    lambda value: (
        isinstance(value, list | tuple)
        and all(json_files.numbers(0, whole=True, length=2).fits(list(pair)) for pair in value)
    ),
)
FACTS = {
    "layout": {"spots": json_files.COUNT, "cells": json_files.COUNT, "by_spot": _GROUPS, "by_cell": _GROUPS},
    "pixels_per_spot": json_files.POSITIVE,
    "base_rates": json_files.numbers(0),
    "sizes_um": json_files.numbers(0),
}
"""What a model of tiles and its training know of the training tiles' spots: the layout that every tile's table fits,
the mean number of pixels of a spot (every size counting the same), [M + 1] counts a pixel of each main gene and of all
others together, and the sizes of the spots."""


class TileWindows(views.Windows):
    """Tiles and the pooling tables of their spots: made when asked for, kept while they fit, stacked into batches.

    Attributes:
        spots: of each tile, in its pixels.
        layout: of every table; may be set to a wider one before the first is asked for.
        pixels: [N] float64, how many pixels each spot covers.
    """

    def __init__(self, spots: Sequence[Spots], *, size_px: int):
        """
        Args:
            size_px: side of the tiles.
        """
        super().__init__(np.cumsum([0, *map(len, spots)]))
        self.spots, self._size_px, self._cache = spots, size_px, tables.TableCache()

        def measured(spots: Spots) -> tuple[Layout, np.ndarray]:
            matrix, count = self._matrix(spots)
            return tables.layout_of(matrix), count

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(measured, spots)
            if len(spots) > 100:
                found = cli.progress(found, total=len(spots), description="spots", unit="tile")
            layouts, pixels = (list(part) for part in zip(*found, strict=True))
        self.layout, self.pixels = merge_layouts(layouts), np.concatenate(pixels)

    @property
    def most_spots(self) -> int:
        """S, room for the spots of any tile that fits the layout."""
        return self.layout.spots

    def inputs(self, images: np.ndarray, index: Sequence[int] | np.ndarray, size: int) -> views.Batch:
        """The images, and the spots' pooling tables."""
        found = [self._cache.get(int(i), lambda i=i: self._table(self.spots[i])) for i in index]
        spots = tables.stack_tables(found + [self._table(self.spots[0][:0])] * (size - len(found)))
        return super().inputs(images, index, size) | {"spots": spots}

    def _matrix(self, spots: Spots) -> tuple[Any, np.ndarray]:
        side, grid = self._size_px, self._size_px // STRIDE
        return tables.spot_matrix(spots, image_hw=(side, side), grid_hw=(grid, grid), outside="zero")

    def _table(self, spots: Spots) -> SpotTable:
        return tables.table_of_matrix(*self._matrix(spots), layout=self.layout)


class View(views.View):
    """Tiles of a data set, or laid over the spots of a slide; each goes through the model once, for all its spots."""

    item, items = "tile", "tiles"
    of_dataset, build_flag = "tiles", "--tile-size-px"
    what = "tiles of many spots"
    any_size, one_spot, maps = True, False, True
    ridge_spots = 3_000
    kinds = {  # noqa: RUF012
        SUM: "a map; a spot's sum over its pixels * target_std + target_mean of genes.csv is its expression",
        MEAN: "a map; a spot's mean over its pixels * target_std + target_mean of genes.csv is its expression",
        ADDITIVE: "a map of expected counts a pixel, of each gene and of all others; a spot's are sums over its pixels",
    }

    # ------------------------------------------------------------------------------------------- from a data set

    def measured(self, chosen: Selection) -> views.Measured:
        return _measured_of_sizes(chosen) if chosen.sizes_um else _measured(chosen)

    def open(self, chosen: Selection, panel: Panel) -> views.Items:
        dataset, protocol = chosen.dataset, chosen.protocol
        columns = panel.columns(dataset.genes)[: panel.num_main]
        of_tile, parts, left_out = _used_spots(chosen)
        tile = np.concatenate([part.tile for part in parts])
        order = np.argsort(tile, kind="stable")
        used, first = np.unique(tile[order], return_index=True)
        if not len(used):
            raise InputError(
                f"no spot of {', '.join(chosen.sections)} has the {protocol.min_counts} counts that protocol "
                f"{protocol.name} asks for; choose another protocol, or sections with more counts"
            )
        places = [part.places() for part in parts]
        within = Spots.concatenate([place.within for place in places])[order]
        by_tile = [within[start:end] for start, end in itertools.pairwise([*first, len(order)])]
        windows = TileWindows(by_tile, size_px=dataset.size_px)
        covers = windows.pixels > 0
        if not covers.all():
            left_out += int(np.sum(~covers))
            order = order[covers]
            by_tile = [each[covers[windows.rows(item)]] for item, each in enumerate(by_tile)]
            windows = TileWindows(by_tile, size_px=dataset.size_px)
        holding = [of_tile[i] for i in used]
        size_um = np.concatenate([part.size_um for part in parts])[order]
        length = [len(part) for part in parts]
        section = np.repeat([part.section for part in parts], length)[order]

        def describe(item: int) -> str:
            x, y = holding[item].origin_xy
            return f"tile of {section[windows.start[item]]} at {x:.0f}, {y:.0f}"

        return views.Items(
            images=Images(dataset.source(tuple(chosen.sections)), np.array([tile.record for tile in holding])),
            windows=windows,
            panel=panel,
            absent=columns < 0,
            counts=csr.stack([part.counts(columns) for part in parts])[order],
            weight=size_weights(size_um),
            left_out=left_out,
            describe=describe,
            spots=_named(Spots.concatenate([place.spots for place in places])[order]),
            size_um=size_um,
            total=np.concatenate([part.total for part in parts])[order].astype(np.float32),
            white=np.zeros(len(order)),
            section=section,
            slide_section=np.repeat([part.slide_section for part in parts], length)[order],
        )

    def fit(self, fold: "Fold", protocol: Protocol, train: views.Items, val: views.Items | None) -> "Fold":
        layouts = [_windows(items).layout for items in (train, val) if items is not None]
        pixels = _windows(train).pixels
        genes = np.asarray(train.main_sums(), np.float64)
        counts = np.append(genes, max(float(train.total.sum(dtype=np.float64)) - genes.sum(), 0.0))
        facts = {
            "layout": dataclasses.asdict(merge_layouts(layouts)),
            "pixels_per_spot": float(np.average(pixels, weights=train.weight)),
            "base_rates": (np.maximum(counts, 1e-8 * counts.sum()) / pixels.sum()).tolist(),
            "sizes_um": [float(size) for size in np.unique(tile_spots.rounded(train.size_um))],
        }
        return dataclasses.replace(_refitted(fold, protocol, train), facts=facts)

    def refit(self, fold: "Fold", chosen: Selection) -> "Fold":
        return _refitted(fold, chosen.protocol, self.open(chosen, fold.panel))

    def prepare(self, fold: "Fold", items: views.Items) -> None:
        saved = fold.facts["layout"]
        groups = {name: tuple((width, rows) for width, rows in saved[name]) for name in ("by_spot", "by_cell")}
        _windows(items).layout = Layout(spots=saved["spots"], cells=saved["cells"], **groups)

    def check_facts(self, fold: "Fold", name: str) -> None:
        json_files.require(fold.facts, FACTS, f"{name}: facts of tiles", remedy=_REMEDY)
        if len(fold.facts["base_rates"]) != fold.panel.num_main + 1:
            raise InputError(
                f"{name}: {len(fold.facts['base_rates'])} base rates for {fold.panel.num_main} main genes, expected "
                f"one more; {_REMEDY}"
            )

    def enlarged(self, windows: views.Windows, fold: "Fold", factor: float) -> tuple[views.Windows, np.ndarray]:
        assert isinstance(windows, TileWindows)
        side = fold.image_size_px
        spots = [each.within(side / 2 * (1 - 1 / factor), 1 / factor) for each in windows.spots]
        bounds = np.concatenate([each.bounds() for each in spots])
        return TileWindows(spots, size_px=side), np.all((bounds >= 0) & (bounds <= side), axis=1)

    def groups(self, sections: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(sections)]  # in one program, whose tables fit the tiles of all

    def colours(self, items: views.Items, item: int, image: np.ndarray) -> np.ndarray:
        return surroundings(image, _windows(items).spots[item])

    def centres(self, items: views.Items, item: int) -> np.ndarray:
        bounds = _windows(items).spots[item].bounds()
        return (bounds[:, :2] + bounds[:, 2:]) / 2

    # --------------------------------------------------------------------------------------------- from a bare slide

    def cut(self, fold: "Fold", section: Section, slide: Slide, px_scale: float) -> views.Cut:
        size = fold.image_size_px
        spots = dataclasses.replace(section.spots, size_px=section.spots.size_px.astype(np.float64))
        rows = np.arange(len(spots))
        reach = float(spots.reach_px().max(initial=0)) / px_scale
        margin = tiles.context_px(section.name, size, reach, fold.parameters["context_px"])
        origins, members = tiles.lay_out(spots.xy, rows, size_px=size, context_px=margin, px_scale=px_scale)
        side = size * px_scale
        in_order = patches.reading_order(slide, origins + side / 2, window_px=side, px_scale=px_scale)
        origins, members = origins[in_order], [members[tile] for tile in in_order]
        within = [spots[rows].within(origin, px_scale) for origin, rows in zip(origins, members, strict=True)]
        windows = TileWindows(within, size_px=size)
        if beside := int(np.sum(windows.pixels == 0)):
            lost = counted(beside, "spots cover no pixel and are not predicted")
            print(f"note: section {section.name}: {lost}")
        return views.Cut(windows, origins, np.concatenate(members), windows.pixels > 0)

    # ------------------------------------------------------------------------------------------------ on the device

    def model_options(self, fold: "Fold") -> dict[str, Any]:
        return super().model_options(fold) | {
            "pixels_per_spot": fold.facts["pixels_per_spot"],
            "base_rates": np.array(fold.facts["base_rates"], np.float64),
        }

    def inputs(self, batch: views.Batch, fold: "Fold", parts: jax.Array | None) -> dict[str, Any]:
        """The spots stay where they are while the images are turned: the features are turned back."""
        undo = None if parts is None else lambda features: turn_back(features, parts)
        return super().inputs(batch, fold, parts) | {"spots": batch["spots"], "undo": undo}

    # ---------------------------------------------------------------------------------------------------- exported

    def kind_of(self, model: Any) -> str:
        return model.head.aggregation

    def exported(self, graphdef: Any, fold: "Fold", protocol: Protocol) -> views.Function:
        """The map, which whoever calls it pools over spots."""
        from flax import nnx

        def function(state: dict[str, Any], images: jax.Array) -> jax.Array:
            def map_of(parts: jax.Array | None) -> jax.Array:
                model = nnx.merge(graphdef, state["params"], state["statistics"])
                if parts is None:
                    return model.gene_map(views.normalise(images, fold))
                return turn_back(model.gene_map(views.normalise(turn(images, parts), fold)), parts)

            return mean_over_symmetries(map_of) if protocol.test_symmetries else map_of(None)

        return function

    def given(self, fold: "Fold", kind: str) -> tuple[int, ...]:
        side = fold.image_size_px // STRIDE
        return (side, side, fold.panel.num_main + (kind == ADDITIVE))

    def predicted(
        self, call: views.Function, batch: views.Batch, fold: "Fold", protocol: Protocol, kind: str, *, turned: bool
    ) -> views.Outputs:
        images = batch["image"]
        found = (
            mean_over_symmetries(lambda parts: turn_back(call(turn(images, parts)), parts)) if turned else call(images)
        )
        spots = spot_pool(found, batch["spots"], aggregation=MEAN if kind == MEAN else SUM)
        return expression.predicted({"rates" if kind == ADDITIVE else "main": spots}, fold, protocol)


def _windows(items: views.Items) -> TileWindows:
    assert isinstance(items.windows, TileWindows)
    return items.windows


def _refitted(fold: "Fold", protocol: Protocol, items: views.Items) -> "Fold":
    """The fold with the target statistics of these spots, in which every size counts the same."""
    panel, weight = fold.panel, items.weight.astype(np.float64)[:, None] / items.num_spots

    def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        total = np.zeros(panel.num_main)
        for start in range(0, items.num_spots, _ROWS):
            rows = slice(start, start + _ROWS)
            total += np.sum(weight[rows] * function(items.main_expression(protocol, rows)), axis=0)
        return total

    mean = mean_of(lambda values: values)
    target_mean, target_std = fold.target_mean.copy(), fold.target_std.copy()
    if protocol.standardise_main:
        variance = mean_of(lambda values: np.square(values - mean))
        known = metrics.varies(variance, np.square(mean) + variance)
        target_mean[: panel.num_main] = mean
        target_std[: panel.num_main] = np.where(known, np.sqrt(variance), 1.0)  # as `metrics.scale_of`
    return dataclasses.replace(fold, target_mean=target_mean, target_std=target_std, train_mean=mean)


def _used_spots(chosen: Selection) -> tuple[list[Tile], list[TileSpots], int]:
    """The tiles of all slides, the spots chosen with the tile of each among them, and how many others there are."""
    tiles: list[Tile] = []
    parts: list[TileSpots] = []
    left_out = 0
    for slide in tile_spots.slides(chosen):
        parts += [dataclasses.replace(spots, tile=spots.tile + len(tiles)) for spots in slide.spots]
        tiles += slide.tiles
        left_out += slide.left_out
    return tiles, parts, left_out


def _named(spots: Spots) -> Spots:
    """With names as text, but where they are millions."""
    return spots if len(spots) > _ROWS else dataclasses.replace(spots, id=spots.names)


def _measured(chosen: Selection) -> views.Measured:
    dataset, names = chosen.dataset, chosen.sections

    def used(table: SectionSpots) -> np.ndarray:
        return chosen.protocol.uses(table.total_counts, train=chosen.train)

    def read() -> Iterator[Any]:
        return (table.counts[used(table)] for name in names for table in dataset.tables(name, names=False))

    total, moments = [], []
    for table in (table for name in names for table in dataset.spot_tables(name, names=False)):
        record = np.unique(table.record_of_spot[used(table)])
        total.append(table.total_counts[used(table)])
        moments.append((table.channel_mean[record], table.channel_mean_square[record]))
    mean, mean_square = (np.concatenate(parts) for parts in zip(*moments, strict=True))
    return views.Measured(Blocks(read), np.concatenate(total), mean, mean_square)


def _measured_of_sizes(chosen: Selection) -> views.Measured:
    tiles, parts, _ = _used_spots(chosen)
    used = np.unique(np.concatenate([part.tile for part in parts]))
    rows = np.unique([tiles[tile].record for tile in used]).astype(np.int64)  # of the sections' records, one by one
    moments = [chosen.dataset.image_moments(name) for name in chosen.sections]
    mean, mean_square = (np.concatenate(each)[rows] for each in zip(*moments, strict=True))
    every = np.arange(len(chosen.dataset.genes))
    blocks = Blocks(lambda: (block.astype(np.int32) for part in parts for block in part.blocks(every)))
    return views.Measured(blocks, np.concatenate([part.total for part in parts]), mean, mean_square)


def surroundings(image: np.ndarray, spots: Spots) -> np.ndarray:
    """[S, D] colour statistics around each spot of a tile."""
    bounds = spots.bounds() - 0.5  # of pixels' centres
    reach = np.maximum((bounds[:, 2:] - bounds[:, :2]).max(axis=1) / 2, SURROUNDINGS_PX / 2)
    middle = (bounds[:, :2] + bounds[:, 2:]) / 2
    low = np.clip(np.floor(middle - reach[:, None]), 0, np.array(image.shape[1::-1]) - SURROUNDINGS_PX // 2)
    low, high = low.astype(int), np.ceil(middle + reach[:, None]).astype(int)
    windows = (image[y0 : max(y1, y0 + 2), x0 : max(x1, x0 + 2)] for (x0, y0), (x1, y1) in zip(low, high, strict=True))
    return np.concatenate([baselines.colour_statistics(window[None]) for window in windows])


def size_weights(size_um: np.ndarray) -> np.ndarray:
    """[N] float32 of mean 1, such that the spots of every size weigh the same together: there are thousands of times
    more bins of 2 um than spots of 100 um."""
    _, which, count = np.unique(tile_spots.rounded(size_um), return_inverse=True, return_counts=True)
    return (len(size_um) / (len(count) * count))[which.ravel()].astype(np.float32)
