"""Dense maps on disk: an OME-Zarr (NGFF 0.5) image with genes as channels, queried by spots.

A cell of the map covers 4 x 4 pixels of the image the model saw. What is kept is the head's map before it is resized to
the image: resize and sum are linear, so that any spot's value follows from it exactly, as the model itself gives it.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse

from data_prep.errors import InputError
from data_prep.gene_lookup import GeneLookup
from data_prep.spots import Spots
from stjax.inference.dense_format import CELL_PX, LEVEL, META, PROGRESS, REMEDY, attributes, open_level, progress
from stjax.ops.spot_table import spot_matrix
from stjax.targets import TRANSFORMS

_PORTION_CELLS = 1 << 21  # of the windows of spots worked on at a time: about 100 MB


@dataclasses.dataclass(frozen=True)
class DenseMap:
    """A finished map. `query` gives the expression of any spots on its slide.

    Attributes:
        about: where it is from and what its numbers are, see `docs/dense.md`.
        genes: [G] names, as the channels'.
        array: float32 [G or, of rates, G + 1, rows, columns], a zarr array.
    """

    path: Path
    about: dict[str, Any]
    genes: tuple[str, ...]
    array: Any

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises InputError when there is no map, an unfinished one, or one with parts missing."""
        path = Path(path)
        if not (path / META).exists() and (path / PROGRESS).exists():
            raise InputError(
                f"{path} is an interrupted map, {progress(path)['tiles']} tiles of it are done; give the same "
                "stjax.predict --dense again to complete it"
            )
        about = attributes(path)
        array = open_level(path, mode="r")
        side = [math.ceil(about[name] / about["px_scale"]) / CELL_PX for name in ("height", "width")]
        channels = len(about["genes"]) + (about["aggregation"] == "additive")
        if array.shape[0] != channels or any(not a <= b < a + 64 for a, b in zip(side, array.shape[1:], strict=True)):
            raise InputError(
                f"{path} is damaged: its array is {array.shape}, which is not {channels} channels of a slide of "
                f"{about['width']} x {about['height']} px; {REMEDY}"
            )
        rows, columns = (
            range(-(-size // shard)) for size, shard in zip(array.shape[1:], array.shards[1:], strict=True)
        )
        shards = [path / LEVEL / "c" / "0" / str(row) / str(column) for row in rows for column in columns]
        if absent := [shard for shard in shards if not shard.is_file()]:
            raise InputError(f"{path}: {len(absent)} of {len(shards)} parts are missing, {absent[0]} is; make it anew")
        return cls(path, about, tuple(about["genes"]), array)

    def query(self, spots: Spots, genes: Sequence[str] = ()) -> np.ndarray:
        """Expression of each spot, in the units of the model's protocol, as the model itself would predict it.

        Memory is that of the result, a tile of the map, and 300 bytes a cell (4 x 4 px) of the largest spot.

        Args:
            spots: in full-resolution pixels of the slide.
            genes: any names of theirs, each once; default all of the map's.

        Returns:
            [N, G] float32; NaN for a spot without the centre of any pixel.

        Raises:
            InputError: an unknown gene, a spot outside the slide, or a damaged map.
        """
        about, columns = self.about, self._columns(genes)
        beside: Any = spots.bounds()
        beside = (beside[:, 2:] <= 0).any(axis=1) | (beside[:, :2] >= [about["width"], about["height"]]).any(axis=1)
        if beside.any():
            raise InputError(
                f"{self.path}: outside its slide {about['slide']} of {about['width']} x {about['height']} px: "
                f"{spots.named(beside)} of {len(spots)}; check that they belong to this slide, and their scale"
            )
        additive = about["aggregation"] == "additive"
        channels = [*columns, len(self.genes)] if additive else list(columns)
        sums, count = self._sums(spots.within((0, 0), about["px_scale"]), channels)
        pixels = np.where(count > 0, count, np.nan)[:, None]
        if additive:
            rates = sums / pixels * pixels  # NaN where there is no pixel
            values = TRANSFORMS[about["target"]](rates[:, :-1], rates[:, -1:], about["num_genes"])
        else:
            values = sums / pixels * (pixels if about["aggregation"] == "sum" else 1)
            values = values * np.array(about["target_std"])[columns] + np.array(about["target_mean"])[columns]
        return values.astype(np.float32)

    def _columns(self, genes: Sequence[str]) -> np.ndarray:
        if not genes:
            return np.arange(len(self.genes))
        ids = self.about["ensembl_id"]
        symbols = [label.removesuffix(f" ({ensembl})") for label, ensembl in zip(self.genes, ids, strict=True)]
        return GeneLookup(ids, symbols, labels=self.genes, what=f"{self.path} has no gene").places(genes)[0]

    def _sums(self, spots: Spots, channels: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """[N, C] float64 sums of the resized map over each spot, and [N] its pixels; neighbours are done together."""
        grid_hw, tile = self.array.shape[1:], np.array(self.array.shards[1:]) * CELL_PX
        image_hw = tuple(CELL_PX * cells for cells in grid_hw)
        sums, count = np.zeros((len(spots), len(channels))), np.zeros(len(spots), np.int64)
        bounds = np.clip(spots.bounds(), 0, [*image_hw[::-1]] * 2)
        column, row = ((bounds[:, :2] + bounds[:, 2:]) / 2 // tile[::-1]).T
        order = np.lexsort((column, row))
        cells = np.prod((bounds[:, 2:] - bounds[:, :2]) / CELL_PX + 3, axis=1)[order]
        portion = np.floor(np.cumsum(cells) / _PORTION_CELLS)
        for number in np.unique(portion):
            index = order[portion == number]
            matrix, count[index] = spot_matrix(spots[index], image_hw=image_hw, grid_hw=grid_hw, outside="zero")
            sums[index] = self._product(matrix, channels)
        return sums, count

    def _product(self, matrix: Any, channels: list[int]) -> np.ndarray:
        """matrix [N, rows * columns] times the map, float64 [N, C]: a tile of the map at a time."""
        result = np.zeros((matrix.shape[0], len(channels)))
        first, last = min(channels), max(channels)  # read as one range: zarr takes ten times as long over a list
        place = np.array(channels) - first
        entries = matrix.tocoo()
        y, x = np.divmod(entries.col, self.array.shape[2])
        height, width = self.array.shards[1:]
        tile = y // height * -(-self.array.shape[2] // width) + x // width
        order = np.argsort(tile, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1) if len(order) else ():
            top, left = y[part[0]] // height * height, x[part[0]] // width * width
            try:
                block = self.array[first : last + 1, top : top + height, left : left + width][place]  # [C, h, w]
            except Exception as error:  # codecs raise all kinds
                raise InputError(f"{self.path}: the tile at {top}, {left} is damaged ({error}); make it anew") from None
            if not np.isfinite(block).all():  # a chunk that is not there
                raise InputError(
                    f"{self.path}: the tile at {top}, {left} is damaged (values are lacking); make it anew"
                )
            cell = (y[part] - top) * block.shape[2] + x[part] - left
            spots, row = np.unique(entries.row[part], return_inverse=True)
            shape = (len(spots), block.shape[1] * block.shape[2])
            weights = scipy.sparse.csr_array((entries.data[part], (row, cell)), shape=shape)
            result[spots] += weights @ block.reshape(len(channels), -1).T.astype(np.float64)
        return result
