"""Dense maps written tile by tile; after a kill, writing goes on with the first tile that is not whole."""

import contextlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from data_prep import files, json_files
from data_prep.errors import InputError
from stjax import metrics
from stjax.inference.dense_format import (
    CHUNK_CELLS,
    CHUNK_CHANNELS,
    LEVEL,
    META,
    PROGRESS,
    REMEDY,
    attributes,
    open_level,
    progress,
)


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

    def check_space(self) -> None:
        """Prints a warning if the tiles that are left may take more than the disk has free; how far they can be
        compressed is not known before."""
        left = math.prod(self.shape) * 4 * (self.tiles - self.done) / self.tiles
        if (free := shutil.disk_usage(self.path).free) < left:
            print(
                f"warning: {self.path}: the map of {self.shape[0]} channels may take up to {left / 1e9:,.3g} GB, and "
                f"the disk has {free / 1e9:,.3g} GB free; write fewer genes (--genes), choose another disk, or, once "
                "it is full, make room and give the command again: it continues where it stopped"
            )

    def _begin(self) -> int:
        if (self.path / META).exists():
            self._check_same(attributes(self.path))
            (self.path / PROGRESS).unlink(missing_ok=True)
            return self.tiles
        if (self.path / PROGRESS).exists():
            begun = progress(self.path)
            self._check_same(begun["of"])
            limits = (begun.get("low", []), begun.get("high", []))
            known = [len(limit) == self.shape[0] for limit in limits] if begun["tiles"] else [True]
            if begun["tiles"] > self.tiles or not all(known):
                raise InputError(f"{self.path / PROGRESS} is damaged (not of such a map); {REMEDY}")
            if begun["tiles"]:
                self._low, self._high = np.array(begun["low"]), np.array(begun["high"])
            return begun["tiles"]
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
        folder = self.path / LEVEL
        if not self.done:
            shutil.rmtree(folder, ignore_errors=True)
            return self._make_array(folder)
        whole = {self._shard(tile) for tile in range(self.done)}
        for file in (folder / "c").rglob("*"):
            if file.is_file() and file not in whole:
                file.unlink()
        array = open_level(self.path, mode="r+")
        found, expected = (each.metadata.to_dict() for each in (array, self._make_array(MemoryStore())))
        if differing := [key for key in sorted(found | expected) if found.get(key) != expected.get(key)]:
            raise InputError(
                f"{folder / META} is not that of the map begun here: {', '.join(differing)} differ; {REMEDY}"
            )
        return array

    def _make_array(self, store: Path | MemoryStore) -> Any:
        """An empty array: chunks of a few channels, compressed, and a shard for each tile."""
        groups = -(-self.shape[0] // CHUNK_CHANNELS)
        chunk = (-(-self.shape[0] // groups), *(_divisor(cells) for cells in self.core))
        return zarr.create_array(
            store,
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
        return self.path / LEVEL / "c" / "0" / str(row) / str(column)

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
        json_files.write(self.path / PROGRESS, {"of": self.description, "tiles": tiles, **limits})

    def finish(self, *, name: str, channels: Sequence[str], um_per_cell: float, um_offset: float) -> None:
        """Makes the folder a map: its metadata, without which nothing takes it for one.

        Args:
            name: of the image.
            um_offset: of the first cell's centre from the centre of the slide's first pixel.
        """
        if (self.path / META).exists():
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
        level = {"path": LEVEL, "coordinateTransformations": transformations}
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
        about = {"ome": ome, "stjax": self.description}
        json_files.write(self.path / META, {"zarr_format": 3, "node_type": "group", "attributes": about})
        (self.path / PROGRESS).unlink()


def _divisor(cells: int) -> int:
    """The largest part of a tile's side that is small enough for a chunk."""
    return next(part for part in range(min(cells, CHUNK_CELLS), 0, -1) if cells % part == 0)
