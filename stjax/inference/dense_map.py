"""Dense maps on disk: an OME-Zarr (NGFF 0.5) image with genes as channels, written tile by tile, queried by shapes.

<map>.ome.zarr/zarr.json      written last: multiscales, physical scale, gene names, and under "stjax" where it is from
<map>.ome.zarr/0              float32 [c, y, x], one shard a tile, a checksum in every chunk
<map>.ome.zarr/progress.json  of an unfinished map only: what it is of, and how many tiles are whole

A cell of the map covers 4 x 4 pixels of the image the model saw. What is kept is the head's map before it is resized to
the image: resize and sum are linear, so that any shape's value follows from it exactly, as the model itself gives it.
"""

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from data_prep import files, json_files
from data_prep.errors import InputError
from data_prep.gene_lookup import GeneLookup
from data_prep.json_files import Lacking
from data_prep.section import POLYGON
from stjax import metrics
from stjax.ops.spot_table import spot_matrix
from stjax.ops.spot_weights import Shapes, spot_names
from stjax.targets import TRANSFORMS

FORMAT, VERSION = "stjax-dense-map", 1
CELL_PX = 4  # model pixels along a cell of the map
TOTAL = "total of all genes"  # the last channel of a map of rates
_META, _PROGRESS, _LEVEL = "zarr.json", "progress.json", "0"
_CHUNK_CHANNELS, _CHUNK_CELLS = 8, 128  # at most, of what is compressed together
_PORTION_CELLS = 1 << 21  # of the windows of shapes worked on at a time: about 100 MB


_REMEDY = "remove the map and make it anew"
_ABOUT = {  # what a map says of itself, as far as it is read
    "genes": json_files.TEXTS,
    "ensembl_id": json_files.TEXTS,
    "aggregation": json_files.one_of("sum", "mean", "additive"),
    "slide": json_files.TEXT,
    "width": json_files.SIZE_PX,
    "height": json_files.SIZE_PX,
    "px_scale": json_files.POSITIVE,
}
_OF_RATES = {"target": json_files.one_of(*TRANSFORMS), "num_genes": json_files.whole_number(1)}
_OF_TARGETS = {"target_mean": json_files.numbers(), "target_std": json_files.numbers()}
_SIDES = json_files.numbers(1, whole=True, length=3)
_CODEC = {"name": json_files.TEXT, "configuration": Lacking(json_files.OBJECT)}
_ARRAY = {  # its zarr.json
    "zarr_format": json_files.one_of(3),
    "node_type": json_files.one_of("array"),
    "shape": _SIDES,
    "data_type": json_files.one_of("float32"),
    "chunk_grid": {"name": json_files.one_of("regular"), "configuration": {"chunk_shape": _SIDES}},
    "chunk_key_encoding": {
        "name": json_files.one_of("default"),
        "configuration": {"separator": json_files.one_of("/")},
    },
    "fill_value": json_files.one_of("NaN"),
    "codecs": [
        {
            "name": json_files.one_of("sharding_indexed"),
            "configuration": {
                "chunk_shape": _SIDES,
                "codecs": [_CODEC],
                "index_codecs": [_CODEC],
                "index_location": json_files.one_of("end"),
            },
        }
    ],
}
_BLOSC = {"configuration": {"cname": json_files.one_of("zstd"), "clevel": json_files.whole_number(0, 9)}}
_LITTLE_ENDIAN = {"endian": "little"}
_CODECS = {"codecs": ["bytes", "blosc", "crc32c"], "index_codecs": ["bytes", "crc32c"]}


class MapWriter:
    """An unfinished map, whose tiles are written in order; after a kill, a new one on the same folder goes on.

    Use as a context manager, or call `close`: until then no other process may write the folder, as the lock beside
    it says.

    Attributes:
        done: tiles that are whole on disk.
        tiles: of the whole map.
    """

    def __init__(self, path: Path, description: dict[str, Any], *, shape: tuple[int, int, int], core: tuple[int, int]):
        """Opens the folder, and clears away what was left half done.

        Args:
            description: what the map is of, plain values: a folder with another is refused.
            shape: channels, rows and columns.
            core: rows and columns of a tile; those at the end may be smaller.

        Raises:
            InputError: the folder holds a map of something else, or no map, or another process writes it.
        """
        self.path, self.shape, self.core = path, shape, core
        self.description = json.loads(json.dumps(description, allow_nan=False))
        self._across = -(-shape[2] // core[1])
        self.tiles = self._across * -(-shape[1] // core[0])
        self._low, self._high = np.full(shape[0], np.inf), np.full(shape[0], -np.inf)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} exists and is no dense map; choose another place, or remove it")
        self._held = contextlib.ExitStack()
        busy = f"another process is writing {path}; wait for it, or choose another place"
        self._held.enter_context(files.lock(path.with_name(f".{path.name}.lock"), busy=busy))
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.done = self._begin()
            if self.done < self.tiles:
                self._array: Any = self._open_array()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> int:
        if (self.path / _META).exists():
            self._check_same(_attributes(self.path))
            (self.path / _PROGRESS).unlink(missing_ok=True)
            return self.tiles
        if (self.path / _PROGRESS).exists():
            progress = _progress(self.path)
            self._check_same(progress["of"])
            limits = (progress.get("low", []), progress.get("high", []))
            known = [len(limit) == self.shape[0] for limit in limits] if progress["tiles"] else [True]
            if progress["tiles"] > self.tiles or not all(known):
                raise InputError(f"{self.path / _PROGRESS} is damaged (not of such a map); {_REMEDY}")
            if progress["tiles"]:
                self._low, self._high = np.array(progress["low"]), np.array(progress["high"])
            return progress["tiles"]
        if any(self.path.iterdir()):
            raise InputError(f"{self.path} holds something else than a dense map; choose another place")
        self._save_progress(0)
        return 0

    def close(self) -> None:
        """Lets other processes write the folder."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_same(self, other: dict[str, Any]) -> None:
        differing = [key for key in sorted(self.description | other) if self.description.get(key) != other.get(key)]
        if differing:
            raise InputError(
                f"{self.path} holds a dense map of something else: {', '.join(differing)} differ; choose another "
                "place, or remove it"
            )

    def _open_array(self) -> Any:
        folder = self.path / _LEVEL
        if self.done:
            whole = {self._shard(tile) for tile in range(self.done)}
            for file in (folder / "c").rglob("*"):
                if file.is_file() and file not in whole:
                    file.unlink()
            array = _open_level(self.path, mode="r+")
            if array.shape != self.shape or array.shards[1:] != self.core:
                raise InputError(f"{folder} is damaged (an array of {array.shape}, expected {self.shape}); {_REMEDY}")
            return array
        shutil.rmtree(folder, ignore_errors=True)
        groups = -(-self.shape[0] // _CHUNK_CHANNELS)
        chunk = (-(-self.shape[0] // groups), *(_divisor(cells) for cells in self.core))
        return zarr.create_array(
            folder,
            shape=self.shape,
            chunks=chunk,
            shards=(groups * chunk[0], *self.core),
            dtype="float32",
            # NaN: a part that is missing must not pass for a value.
            fill_value=float("nan"),
            compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()],
            dimension_names=("c", "y", "x"),
        )

    def _shard(self, tile: int) -> Path:
        row, column = divmod(tile, self._across)
        return self.path / _LEVEL / "c" / "0" / str(row) / str(column)

    def write(self, block: np.ndarray) -> None:
        """Writes the next tile, float32 [channels, rows, columns]. Raises FloatingPointError on NaN or infinity."""
        if not np.isfinite(block).all():
            raise FloatingPointError(f"{self.path}: the model's values are not finite; its training has diverged")
        row, column = divmod(self.done, self._across)
        y, x = row * self.core[0], column * self.core[1]
        self._array[:, y : y + block.shape[1], x : x + block.shape[2]] = block
        self._low = np.minimum(self._low, block.min(axis=(1, 2)))
        self._high = np.maximum(self._high, block.max(axis=(1, 2)))
        self._save_progress(self.done + 1)
        self.done += 1

    def constant(self) -> np.ndarray:
        """[channels] bool: which do not vary over the map as far as it is written, see `metrics.varies`."""
        if not self.done or not np.isfinite(self._low).all():  # a map that was finished before
            return np.zeros(self.shape[0], bool)
        # No deviation is larger than half of the range.
        largest = np.maximum(np.abs(self._low), np.abs(self._high))
        return ~metrics.varies(np.square(self._high - self._low) / 4, np.square(largest))

    def _shown(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the grey scale that viewers begin with, [channels] each: one grey for what does not vary."""
        half = np.where(self.constant(), np.maximum(np.abs(self._low), np.abs(self._high)) / 2, 0.0)
        half = np.where(self.constant() & (half == 0), 0.5, half)
        return self._low - half, self._high + half

    def _save_progress(self, tiles: int) -> None:
        limits = {"low": self._low.tolist(), "high": self._high.tolist()} if tiles else {}
        json_files.write(self.path / _PROGRESS, {"of": self.description, "tiles": tiles, **limits})

    def finish(self, *, name: str, channels: Sequence[str], um_per_cell: float, um_offset: float) -> None:
        """Makes the folder a map: its metadata, without which nothing takes it for one.

        Args:
            name: of the image.
            um_offset: of the first cell's centre from the centre of the slide's first pixel.
        """
        if (self.path / _META).exists():
            return
        if absent := [tile for tile in range(self.tiles) if not self._shard(tile).exists()]:
            raise InputError(
                f"{self.path}: {len(absent)} tiles are gone since they were written; remove it, start anew"
            )
        axes = [{"name": "c", "type": "channel"}]
        axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
        transformations = [
            {"type": "scale", "scale": [1.0, um_per_cell, um_per_cell]},
            {"type": "translation", "translation": [0.0, um_offset, um_offset]},
        ]
        level = {"path": _LEVEL, "coordinateTransformations": transformations}
        windows = [
            {
                "label": label,
                "color": "FFFFFF",
                "active": number == 0,
                "window": {"min": low, "max": high, "start": start, "end": end},
            }
            for number, (label, low, high, start, end) in enumerate(
                zip(channels, self._low, self._high, *self._shown(), strict=True)
            )
        ]
        ome = {
            "version": "0.5",
            "multiscales": [{"name": name, "axes": axes, "datasets": [level]}],
            "omero": {"channels": windows},
        }
        attributes = {"ome": ome, "stjax": self.description}
        json_files.write(self.path / _META, {"zarr_format": 3, "node_type": "group", "attributes": attributes})
        (self.path / _PROGRESS).unlink()


@dataclasses.dataclass(frozen=True)
class DenseMap:
    """A finished map. `query` gives the expression of any shapes on its slide.

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
        if not (path / _META).exists() and (path / _PROGRESS).exists():
            raise InputError(
                f"{path} is an interrupted map, {_progress(path)['tiles']} tiles of it are done; give the same "
                "stjax.predict --dense again to complete it"
            )
        about = _attributes(path)
        array = _open_level(path, mode="r")
        side = [math.ceil(about[name] / about["px_scale"]) / CELL_PX for name in ("height", "width")]
        channels = len(about["genes"]) + (about["aggregation"] == "additive")
        if array.shape[0] != channels or any(not a <= b < a + 64 for a, b in zip(side, array.shape[1:], strict=True)):
            raise InputError(
                f"{path} is damaged: its array is {array.shape}, which is not {channels} channels of a slide of "
                f"{about['width']} x {about['height']} px; {_REMEDY}"
            )
        rows, columns = (
            range(-(-size // shard)) for size, shard in zip(array.shape[1:], array.shards[1:], strict=True)
        )
        shards = [path / _LEVEL / "c" / "0" / str(row) / str(column) for row in rows for column in columns]
        if absent := [shard for shard in shards if not shard.is_file()]:
            raise InputError(f"{path}: {len(absent)} of {len(shards)} parts are missing, {absent[0]} is; make it anew")
        return cls(path, about, tuple(about["genes"]), array)

    def query(self, shapes: Shapes, genes: Sequence[str] = ()) -> np.ndarray:
        """Expression of each shape, in the units of the model's protocol, as the model itself would predict it.

        Memory is that of the result, a tile of the map, and 300 bytes a cell (4 x 4 px) of the largest shape.

        Args:
            shapes: discs, squares, polygons, in full-resolution pixels of the slide counted from its corner, as spots
                are (`spot_xy`): the first pixel's centre is (0.5, 0.5).
            genes: any names of theirs, each once; default all of the map's.

        Returns:
            [N, G] float32; NaN for a shape without the centre of any pixel.

        Raises:
            InputError: an unknown gene, a shape beside the slide, or a damaged map.
        """
        about, columns = self.about, self._columns(genes)
        beside: Any = shapes.bounds()
        beside = (beside[:, 2:] <= 0).any(axis=1) | (beside[:, :2] >= [about["width"], about["height"]]).any(axis=1)
        if beside.any():
            raise InputError(
                f"{self.path}: outside its slide {about['slide']} of {about['width']} x {about['height']} px: "
                f"{spot_names(beside)} of {len(shapes)}; check that they belong to this slide, and their scale"
            )
        additive = about["aggregation"] == "additive"
        sums, count = self._sums(self._in_pixels(shapes), [*columns, len(self.genes)] if additive else list(columns))
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

    def _in_pixels(self, shapes: Shapes) -> Shapes:
        """Shapes in the model's pixels: the data's are counted from the corner, `spot_pool`'s from the first centre."""
        scale = 1 / self.about["px_scale"]
        return Shapes(
            shapes.kind,
            shapes.xy * scale - 0.5,
            np.where(shapes.kind == POLYGON, shapes.size_px, shapes.size_px * scale),
            tuple(tuple(np.asarray(ring) * scale - 0.5 for ring in polygon) for polygon in shapes.polygons),
        )

    def _sums(self, shapes: Shapes, channels: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """[N, C] float64 sums of the resized map over each shape, and [N] its pixels; neighbours are done together."""
        grid_hw, tile = self.array.shape[1:], np.array(self.array.shards[1:]) * CELL_PX
        image_hw = tuple(CELL_PX * cells for cells in grid_hw)
        sums, count = np.zeros((len(shapes), len(channels))), np.zeros(len(shapes), np.int64)
        bounds = np.clip(shapes.bounds(), 0, [*image_hw[::-1]] * 2)
        column, row = ((bounds[:, :2] + bounds[:, 2:]) / 2 // tile[::-1]).T
        order = np.lexsort((column, row))
        cells = np.prod((bounds[:, 2:] - bounds[:, :2]) / CELL_PX + 3, axis=1)[order]
        portion = np.floor(np.cumsum(cells) / _PORTION_CELLS)
        for number in np.unique(portion):
            index = order[portion == number]
            matrix, count[index] = spot_matrix(shapes[index], image_hw=image_hw, grid_hw=grid_hw, outside="zero")
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


def _divisor(cells: int) -> int:
    """The largest part of a tile's side that is small enough for a chunk."""
    return next(part for part in range(min(cells, _CHUNK_CELLS), 0, -1) if cells % part == 0)


def _attributes(path: Path) -> dict[str, Any]:
    if not (path / _META).is_file():
        raise InputError(f"{path} is no dense map; make one with stjax.predict --dense")
    name = str(path / _META)
    content = json_files.read(path / _META, remedy=f"{name} is damaged: {_REMEDY}")
    json_files.require(content, {"attributes": {"stjax": json_files.OBJECT}}, f"{name} is damaged", remedy=_REMEDY)
    about = content["attributes"]["stjax"]
    if (about.get("format"), about.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{path} is no dense map of this version of stjax; make it anew with stjax.predict --dense")
    json_files.require(about, _ABOUT, f"{name} is damaged", remedy=_REMEDY)
    more = _OF_RATES if about["aggregation"] == "additive" else _OF_TARGETS
    json_files.require(about, more, f"{name} is damaged", remedy=_REMEDY)
    lengths = {key: len(about[key]) for key in ("genes", "ensembl_id", *more) if isinstance(about[key], list)}
    if len(set(lengths.values())) > 1 or not about["genes"]:
        raise InputError(f"{name} is damaged: lists of {lengths}, expected one length; {_REMEDY}")
    return about


def _progress(path: Path) -> dict[str, Any]:
    """What an unfinished map says of itself."""
    name, limits = path / _PROGRESS, Lacking(json_files.numbers())
    content = json_files.read(name, remedy=f"{name} is damaged: {_REMEDY}")
    expected = {"of": json_files.OBJECT, "tiles": json_files.COUNT, "low": limits, "high": limits}
    return json_files.require(content, expected, f"{name} is damaged", remedy=_REMEDY)


def _open_level(path: Path, *, mode: Literal["r", "r+"]) -> Any:
    """The map's array, if it is of the kind that `MapWriter` makes."""
    name = str(path / _LEVEL / _META)
    content = json_files.read(path / _LEVEL / _META, remedy=f"{name} is damaged: {_REMEDY}")
    json_files.require(content, _ARRAY, f"{name} is damaged", remedy=_REMEDY)
    if len(content["codecs"]) != 1:
        raise InputError(f"{name} is damaged: {len(content['codecs'])} codecs, expected one; {_REMEDY}")
    inner = content["codecs"][0]["configuration"]
    for key, names in _CODECS.items():
        if [codec["name"] for codec in inner[key]] != names or inner[key][0].get("configuration") != _LITTLE_ENDIAN:
            raise InputError(f"{name} is damaged: {key} are not {', '.join(names)}, in little-endian order; {_REMEDY}")
    json_files.require(inner["codecs"][1], _BLOSC, f"{name} is damaged: codecs[1]", remedy=_REMEDY)
    chunk = inner["chunk_shape"]
    if math.prod(chunk) > _CHUNK_CHANNELS * _CHUNK_CELLS**2:
        raise InputError(f"{name} is damaged: chunks of {files.shown(chunk)}; {_REMEDY}")
    try:
        array: Any = zarr.open_array(path / _LEVEL, mode=mode)
    except Exception as error:  # zarr and its codecs raise all kinds
        raise InputError(f"{path} is damaged ({error}); {_REMEDY}") from None
    if array.shards is None or len(array.shape) != 3:
        raise InputError(f"{name} is damaged: an array of {array.shape} without shards; {_REMEDY}")
    return array
