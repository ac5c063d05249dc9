"""Tiles of many spots as records: what `input_pipeline.PatchRecords` is for patches."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse

from data_prep import cli, json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Kind
from stjax import metrics
from stjax.data import tile_spots
from stjax.data.images import Images
from stjax.data.panel import Panel
from stjax.models.pixnet import STRIDE
from stjax.ops.spot_pool import (
    Layout,
    Shapes,
    SpotTable,
    TableCache,
    concatenate,
    layout_of,
    merge_layouts,
    spot_matrix,
    stack_tables,
    table_of_matrix,
)
from stjax.protocols import Protocol

Batch = dict[str, Any]  # see `input_pipeline`
_ROWS = 1 << 16  # spots whose expression is computed at a time


class TileTables:
    """The pooling tables of some tiles, made when asked for, kept while they fit, stacked into batches.

    Attributes:
        layout: of every table; may be set to a wider one before the first is asked for.
        pixels: [S] float64 of each tile, how many pixels each spot covers.
    """

    def __init__(self, shapes: Sequence[Shapes], *, size_px: int):
        """
        Args:
            shapes: the spots of each tile.
            size_px: side of the tiles.
        """
        self._shapes, self._size_px, self._cache = shapes, size_px, TableCache()

        def measured(spots: Shapes) -> tuple[Layout, np.ndarray]:
            matrix, count = self._matrix(spots)
            return layout_of(matrix), count

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(measured, shapes)
            if len(shapes) > 100:
                found = cli.progress(found, total=len(shapes), description="spots", unit="tile")
            layouts, self.pixels = (list(part) for part in zip(*found, strict=True))
        self.layout = merge_layouts(layouts)

    def _matrix(self, spots: Shapes) -> tuple[Any, np.ndarray]:
        side, grid = self._size_px, self._size_px // STRIDE
        return spot_matrix(spots, image_hw=(side, side), grid_hw=(grid, grid), outside="zero")

    def stacked(self, index: Sequence[int] | np.ndarray, size: int) -> SpotTable:
        """The tables of the tiles `index` and, up to `size`, of tiles without spots."""
        found = [self._cache.get(int(i), lambda i=i: self._table(self._shapes[i])) for i in index]
        return stack_tables(found + [self._table(self._shapes[0][:0])] * (size - len(found)))

    def _table(self, spots: Shapes) -> SpotTable:
        return table_of_matrix(*self._matrix(spots), layout=self.layout)


class TileRecords:
    """The tiles of some sections with the spots that a protocol uses, addressable by position.

    Attributes:
        left_out: spots of these sections that are not used: few reads, no pixel of the tile, or not drawn.
        images: of the tiles, by position.
        tables: of the tiles' spots.
        start: [tiles + 1] where each tile's spots begin.
        spot_id [N] str, spot_xy [N, 2] full-resolution pixels, size_um [N], total [N] float32 reads, section [N] and
            slide_section [N], a section of the data set on the same slide: of all spots in tile order.
        shapes: of each tile.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        sections: Sequence[str],
        panel: Panel,
        protocol: Protocol,
        *,
        sizes_um: Sequence[float] = (),
        max_spots: int = 0,
    ):
        """
        Args:
            sizes_um: as `tile_spots.slides` takes them.
            max_spots: of a section, drawn at random with a fixed seed; 0 takes all.

        Raises:
            InputError: no spot is left.
        """
        columns = panel.columns(dataset.genes)[: panel.num_main]
        self._absent = columns < 0
        self.size_px, self.left_out = dataset.size_px, 0
        tiles: list[tile_spots.Tile] = []
        parts: list[tile_spots.Spots] = []
        for found, every in tile_spots.slides(dataset, sections, columns, sizes_um=sizes_um):
            for spots in every:
                kept = np.flatnonzero(spots.total >= protocol.min_counts)
                if 0 < max_spots < len(kept):
                    kept = np.sort(np.random.default_rng(0).choice(kept, max_spots, replace=False))
                self.left_out += len(spots.tile) - len(kept)
                chosen = spots[kept]
                parts.append(dataclasses.replace(chosen, tile=chosen.tile + len(tiles)))
            tiles += found
        tile = np.concatenate([part.tile for part in parts])
        order = np.argsort(tile, kind="stable")
        used, first = np.unique(tile[order], return_index=True)
        if not len(used):
            raise InputError(
                f"no spot of {', '.join(sections)} has the {protocol.min_counts} reads that protocol {protocol.name} "
                "asks for; choose another protocol, or sections with more reads"
            )
        shapes = concatenate(*(part.shapes for part in parts))[order]
        bounds = [*first, len(order)]
        by_tile = [shapes[start:end] for start, end in itertools.pairwise(bounds)]
        self.tables = TileTables(by_tile, size_px=dataset.size_px)
        covers = np.concatenate(self.tables.pixels) > 0
        if not covers.all():
            self.left_out += int(np.sum(~covers))
            order = order[covers]
            by_tile = [each[pixels > 0] for each, pixels in zip(by_tile, self.tables.pixels, strict=True)]
            self.tables = TileTables(by_tile, size_px=dataset.size_px)
        self.shapes = by_tile
        self._tiles = [tiles[i] for i in used]
        self.images = Images(dataset.source(tuple(sections)), np.array([tile.record for tile in self._tiles]))
        self.start = np.concatenate([[0], np.cumsum([len(each) for each in by_tile])])
        self._counts: Any = scipy.sparse.csr_array(scipy.sparse.vstack([part.counts for part in parts]))[order]
        self.total = np.concatenate([part.total for part in parts])[order].astype(np.float32)
        self.size_um = np.concatenate([part.size_um for part in parts])[order]
        self.spot_xy = np.concatenate([part.spot_xy for part in parts])[order]
        self.spot_id = np.concatenate([part.spot_id for part in parts])[order]
        self.section = np.repeat([part.section for part in parts], [len(part.tile) for part in parts])[order]
        self.slide_section = np.repeat([part.slide_section for part in parts], [len(part.tile) for part in parts])[
            order
        ]
        self._weight = size_weights(self.size_um)

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def num_spots(self) -> int:
        """N."""
        return len(self.total)

    def describe(self, index: int) -> str:
        """Names a tile, for messages."""
        x, y = self._tiles[index].origin_xy
        return f"tile of {self.section[self.start[index]]} at {x:.0f}, {y:.0f}"

    def batch(self, images: np.ndarray, index: np.ndarray, *, size: int) -> Batch:
        """A batch of `size` tiles; missing ones, and missing spots of a tile, are zeros under a zero mask."""
        most = self.tables.layout.spots
        batch: Batch = {
            "image": np.zeros((size, *images.shape[1:]), np.uint8),
            "counts": np.zeros((size, most, self._counts.shape[1]), np.float32),
            "total": np.zeros((size, most, 1), np.float32),
            "mask": np.zeros((size, most), np.float32),
            "spots": self.tables.stacked(index, size),
        }
        batch["image"][: len(index)] = images
        for place, tile in enumerate(index):
            rows = slice(self.start[tile], self.start[tile + 1])
            count = rows.stop - rows.start
            batch["counts"][place, :count] = self._counts[rows].toarray()
            batch["total"][place, :count, 0] = self.total[rows]
            batch["mask"][place, :count] = self._weight[rows]
        return batch

    def main_counts(self, rows: Any = slice(None)) -> np.ndarray:
        """[R, M] float64 of the spots at `rows`: raw counts of the main genes, NaN for those not in the data."""
        counts = self._counts[rows].toarray().astype(np.float64)
        counts[:, self._absent] = np.nan
        return counts

    def expression(self, panel: Panel, protocol: Protocol, rows: Any) -> np.ndarray:
        """[R, M] float64 of the spots at `rows`: measured expression in the protocol's units, NaN for genes that the
        data set lacks."""
        total = self.total[rows].astype(np.float64)[:, None]
        return protocol.transform(self.main_counts(rows), total, panel.num_genes)

    def main_expression(self, panel: Panel, protocol: Protocol) -> np.ndarray:
        """[N, M] float64, `expression` of all spots."""
        return self.expression(panel, protocol, slice(None))

    def refit(self, panel: Panel, protocol: Protocol) -> Panel:
        """The panel with the target statistics of these spots, in which every size counts the same."""
        weight = self._weight.astype(np.float64)[:, None] / self.num_spots

        def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            total = np.zeros(panel.num_main)
            for start in range(0, self.num_spots, _ROWS):
                rows = slice(start, start + _ROWS)
                total += np.sum(weight[rows] * function(self.expression(panel, protocol, rows)), axis=0)
            return total

        mean = mean_of(lambda values: values)
        target_mean, target_std = panel.target_mean.copy(), panel.target_std.copy()
        if protocol.standardise_main:
            variance = mean_of(lambda values: np.square(values - mean))
            known = metrics.varies(variance, np.square(mean) + variance)
            target_mean[: panel.num_main] = mean
            target_std[: panel.num_main] = np.where(known, np.sqrt(variance), 1.0)  # as `metrics.scale_of`
        return dataclasses.replace(panel, target_mean=target_mean, target_std=target_std, train_mean=mean)

    def facts(self) -> "TileFacts":
        """What a model must know of the spots it is trained on."""
        pixels = np.concatenate(self.tables.pixels)
        genes = np.asarray(self._counts.sum(axis=0), np.float64).ravel()
        reads = np.append(genes, max(float(self.total.sum(dtype=np.float64)) - genes.sum(), 0.0))
        return TileFacts(
            layout=self.tables.layout,
            pixels_per_spot=float(np.average(pixels, weights=self._weight)),
            base_rates=np.maximum(reads, 1e-8 * reads.sum()) / pixels.sum(),
            sizes_um=tuple(float(size) for size in np.unique(rounded(self.size_um))),
        )


_GROUPS = Kind(
    "a list of pairs of whole numbers",
    lambda value: isinstance(value, list) and all(json_files.numbers(0, whole=True, length=2).fits(v) for v in value),
)
TILE_FACTS = {  # their plain values
    "layout": {"spots": json_files.COUNT, "cells": json_files.COUNT, "by_spot": _GROUPS, "by_cell": _GROUPS},
    "pixels_per_spot": json_files.POSITIVE,
    "base_rates": json_files.numbers(0),
    "sizes_um": json_files.numbers(0),
}


@dataclasses.dataclass(frozen=True)
class TileFacts:
    """What a model and its training must know of the training tiles' spots.

    Attributes:
        layout: that every tile's table fits.
        pixels_per_spot: mean over spots, every size counting the same.
        base_rates: [M + 1] reads a pixel of each main gene, and of all others together.
        sizes_um: of the spots.
    """

    layout: Layout
    pixels_per_spot: float
    base_rates: np.ndarray
    sizes_um: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact."""
        return dataclasses.asdict(self) | {"base_rates": self.base_rates.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TileFacts":
        """What `to_json` returned, as facts again."""
        saved = values["layout"]
        groups = {name: tuple((width, rows) for width, rows in saved[name]) for name in ("by_spot", "by_cell")}
        return cls(
            layout=Layout(spots=saved["spots"], cells=saved["cells"], **groups),
            pixels_per_spot=values["pixels_per_spot"],
            base_rates=np.array(values["base_rates"], np.float64),
            sizes_um=tuple(values["sizes_um"]),
        )


def rounded(size_um: np.ndarray) -> np.ndarray:
    """Sizes to three digits: spots of the same array share one."""
    scale = 10 ** (2 - np.floor(np.log10(np.maximum(size_um, 1e-9))))
    return np.round(size_um * scale) / scale


def size_weights(size_um: np.ndarray) -> np.ndarray:
    """[N] float32 of mean 1, such that the spots of every size weigh the same together: there are thousands of times
    more bins of 2 um than spots of 100 um."""
    _, which, count = np.unique(rounded(size_um), return_inverse=True, return_counts=True)
    return (len(size_um) / (len(count) * count))[which.ravel()].astype(np.float32)
