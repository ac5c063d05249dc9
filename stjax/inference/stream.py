"""Images on their way to the model: cut in threads while it computes, in the order the slide's file stores them."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from data_prep import cli
from data_prep.slide import Slide
from stjax.data.tile_records import TileTables
from stjax.inference.predictor import Predictor

THREADS = min(8, os.cpu_count() or 1)
CPU_BATCH = 4  # larger ones take memory and are no faster there: see docs/predict.md

_CACHE_BYTES = 24 << 20  # less than `data_prep.slide_tiff`, or OpenSlide, keeps of decoded tiles: 32 MB
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


def batch_size(model: Predictor) -> int:
    """How many images to predict at a time: what the model says, on CPUs at most `CPU_BATCH` a device."""
    return min(model.batch_size, CPU_BATCH * model.mesh.size) if _on_cpu(model) else model.batch_size


def _on_cpu(model: Predictor) -> bool:
    return model.mesh.devices.flat[0].platform == "cpu"


def in_turn(
    model: Predictor, batches: Iterable[tuple[Mapping[str, Any], _Item]]
) -> Iterator[tuple[dict[str, np.ndarray], _Item]]:
    """Predicts batches, each with something to know it by. The next is gathered while the devices compute."""
    # Programs in flight on CPUs run side by side: each with its own memory, and none the sooner.
    most = 1 if _on_cpu(model) else 2
    pending: deque[tuple[dict[str, jax.Array], _Item]] = deque()

    def taken() -> tuple[dict[str, np.ndarray], _Item]:
        outputs, about = pending.popleft()
        return {name: np.asarray(value) for name, value in outputs.items()}, about

    for batch, about in batches:
        ready = taken() if len(pending) == most else None
        pending.append((model.predict(batch), about))
        if ready is not None:
            yield ready
    while pending:
        yield taken()


def predict_patches(model: Predictor, images: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Streams [H, W, 3] uint8 patches through the model; yields [B, M] float32 in the protocol's expression units."""
    for outputs, patches in in_turn(model, (({"image": batch}, n) for batch, n in _batches(model, images, count))):
        yield outputs["expression"][:patches, 0]


def predict_symmetries(model: Predictor, images: Iterable[np.ndarray], count: int) -> Iterator[dict[str, np.ndarray]]:
    """As `predict_patches`, turned in each of the eight ways a square can be: {"expression": [B, M] the mean over them,
    "symmetry_sd": [B, M] their standard deviation}."""

    def turned() -> Iterator[tuple[dict[str, np.ndarray], int]]:
        for batch, patches in _batches(model, images, count):
            for image in (batch, batch[:, :, ::-1]):
                for turns in range(4):
                    yield {"image": np.ascontiguousarray(np.rot90(image, turns, axes=(1, 2)))}, patches

    results = (outputs["expression"][:patches, 0] for outputs, patches in in_turn(model, turned()))
    while every := list(itertools.islice(results, 8)):
        yield {"expression": np.mean(every, axis=0), "symmetry_sd": np.std(every, axis=0)}


def _batches(model: Predictor, images: Iterable[np.ndarray], count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of one size, the last filled up with black, and how many patches each holds."""
    stream, size = iter(images), batch_size(model)
    for start in range(0, count, size):
        patches = list(itertools.islice(stream, min(size, count - start)))
        batch = np.zeros((size, *patches[0].shape), np.uint8)
        batch[: len(patches)] = patches
        yield batch, len(patches)


def predict_tiles(
    model: Predictor, tables: TileTables, image: Callable[[int], np.ndarray], description: str
) -> Iterator[dict[str, np.ndarray]]:
    """Streams tiles through the model; yields each tile's {"expression": [S, M] float32, and "total" [S] of rates}.

    Args:
        tables: the tiles' spots.
        image: gives tile i, [H, W, 3] uint8; called once for each, in order.
    """
    size, count = batch_size(model), len(tables.pixels)

    def batches() -> Iterator[tuple[dict[str, Any], range]]:
        for start in range(0, count, size):
            index = range(start, min(start + size, count))
            images = np.stack([image(tile) for tile in index])
            images = np.pad(images, [(0, size - len(index)), (0, 0), (0, 0), (0, 0)])
            yield {"image": images, "spots": tables.stacked(index, size)}, index

    with cli.progress(total=count, description=description, unit="tile") as bar:
        for outputs, index in in_turn(model, batches()):
            bar.update(len(index))
            for place, tile in enumerate(index):
                spots = len(tables.pixels[tile])
                yield {name: value[place, :spots] for name, value in outputs.items()}
