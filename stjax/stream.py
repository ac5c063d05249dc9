"""Images on their way to the model: cut in threads while it computes, in the order the slide's file stores them."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from data_prep import cli
from data_prep.slide import Slide
from stjax.predictor import Predictor
from stjax.tile_records import TileTables

THREADS = min(8, os.cpu_count() or 1)

_CACHE_BYTES = 32 << 20  # half of what `data_prep.slide_tiff` keeps of decoded tiles; all that OpenSlide keeps
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def reading_order(slide: Slide, xy: np.ndarray, *, window_px: float) -> np.ndarray:
    """[N] the order of windows in which a slide's tiles or strips are each decoded about once.

    Strips, as wide as the slide, are gone through row by row. Tiles are gone through in bands, each from left to right,
    as high as still lets the tiles under a window, and those beside it, be kept while they are needed.

    Args:
        xy: [N, 2] centres of the windows; window_px: their side; both in full-resolution pixels.
    """
    width, height = slide.segment_px
    if width >= slide.width:
        return np.lexsort((xy[:, 0], xy[:, 1]))
    across = window_px // width + 3  # tiles side by side that are in use
    band = max(height, _CACHE_BYTES / (3 * width * across) - window_px - height)
    return np.lexsort((xy[:, 1], xy[:, 0] // width, xy[:, 1] // band))


def ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int = THREADS, most: int
) -> Iterator[_Result]:
    """`map(function, items)`, in order, with at most `most` results made ahead in threads."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Any] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= most:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for left in pending:
                left.cancel()


def predict_patches(model: Predictor, images: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Streams [H, W, 3] uint8 patches through the model; yields [B, M] float32 in the protocol's expression units.

    The next batch is gathered while the devices compute.
    """
    pending: list[tuple[jax.Array, int]] = []
    for batch, patches in _batches(model, images, count):
        pending.append((model.predict({"image": batch})["expression"], patches))
        if len(pending) > 1:
            yield _taken(*pending.pop(0))
    for result in pending:
        yield _taken(*result)


def predict_symmetries(model: Predictor, images: Iterable[np.ndarray], count: int) -> Iterator[dict[str, np.ndarray]]:
    """As `predict_patches`, turned in each of the eight ways a square can be: {"expression": [B, M] the mean over them,
    "symmetry_sd": [B, M] their standard deviation}."""
    for batch, patches in _batches(model, images, count):
        turned = [np.rot90(image, turns, axes=(1, 2)) for image in (batch, batch[:, :, ::-1]) for turns in range(4)]
        results = [model.predict({"image": np.ascontiguousarray(image)})["expression"] for image in turned]
        every = np.stack([_taken(result, patches) for result in results])  # [8, B, M]
        yield {"expression": every.mean(axis=0), "symmetry_sd": every.std(axis=0)}


def _batches(model: Predictor, images: Iterable[np.ndarray], count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of the size the model takes, the last filled up with black, and how many patches each holds."""
    stream = iter(images)
    for start in range(0, count, model.batch_size):
        patches = list(itertools.islice(stream, min(model.batch_size, count - start)))
        batch = np.zeros((model.batch_size, *patches[0].shape), np.uint8)
        batch[: len(patches)] = patches
        yield batch, len(patches)


def _taken(expression: jax.Array, count: int) -> np.ndarray:
    return np.asarray(expression)[:count, 0]


def predict_tiles(
    model: Predictor, tables: TileTables, image: Callable[[int], np.ndarray], description: str
) -> Iterator[dict[str, np.ndarray]]:
    """Streams tiles through the model; yields each tile's {"expression": [S, M] float32, and "total" [S] of rates}.

    Args:
        tables: the tiles' spots.
        image: gives tile i, [H, W, 3] uint8; called once for each, in order.
    """
    size, count = model.batch_size, len(tables.pixels)
    pending: list[tuple[range, dict[str, jax.Array]]] = []
    with cli.progress(total=count, description=description, unit="tile") as bar:

        def finished(index: range, outputs: dict[str, jax.Array]) -> Iterator[dict[str, np.ndarray]]:
            values = {name: np.asarray(value) for name, value in outputs.items()}
            bar.update(len(index))
            for place, tile in enumerate(index):
                spots = len(tables.pixels[tile])
                yield {name: value[place, :spots] for name, value in values.items()}

        for start in range(0, count, size):
            index = range(start, min(start + size, count))
            images = np.stack([image(tile) for tile in index])
            images = np.pad(images, [(0, size - len(index)), (0, 0), (0, 0), (0, 0)])
            pending.append((index, model.predict({"image": images, "spots": tables.stacked(index, size)})))
            if len(pending) > 1:
                yield from finished(*pending.pop(0))
        for result in pending:
            yield from finished(*result)
