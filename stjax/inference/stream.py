"""Images on their way to the model: cut in threads while it computes, in the order the slide's file stores them."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from data_prep import cli
from stjax import parallel
from stjax.symmetries import NUM_SYMMETRIES
from stjax.trained import Trained
from stjax.views import Windows

THREADS = min(8, os.cpu_count() or 1)
CPU_BATCH = 4  # larger ones take memory and are no faster there: see docs/predict.md

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(function: Callable[[_Item], _Result], items: Iterable[_Item], *, most: int) -> Iterator[_Result]:
    """`map(function, items)`, in order, with at most `most` results made ahead in threads."""
    with ThreadPoolExecutor(THREADS) as pool:
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


def batch_size(model: Trained) -> int:
    """How many images to predict at a time: what the model says, on CPUs at most `CPU_BATCH` a device."""
    return min(model.batch_size, CPU_BATCH * model.mesh.size) if parallel.on_cpus(model.mesh) else model.batch_size


class Predictor(Protocol):
    """What `in_turn` needs of a model."""

    @property
    def mesh(self) -> Mesh:
        """The devices it runs on."""
        ...

    def predict(self, batch: Any, /) -> dict[str, jax.Array]:
        """Its outputs for a batch, which the devices go on computing."""
        ...


def in_turn(model: Predictor, batches: Iterable[tuple[Any, _Item]]) -> Iterator[tuple[dict[str, np.ndarray], _Item]]:
    """Predicts batches, each with something to know it by. The next is gathered while the devices compute."""
    most = 1 if parallel.on_cpus(model.mesh) else 2
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


def predict(
    model: Trained, windows: Windows, image: Callable[[int], np.ndarray], description: str
) -> Iterator[dict[str, np.ndarray]]:
    """Streams items through the model; yields each item's {"expression": [S, M] float32 in the protocol's units, and
    "total" [S] of rates}.

    Args:
        image: gives that of item i, [H, W, 3] uint8; called once for each, in order.
    """
    with cli.progress(total=len(windows), description=description, unit=model.view.item) as bar:
        for outputs, index in in_turn(model, _batches(model, windows, image)):
            bar.update(len(index))
            yield from _items(windows, outputs, index)


def predict_symmetries(
    model: Trained, windows: Windows, image: Callable[[int], np.ndarray], description: str
) -> Iterator[dict[str, np.ndarray]]:
    """As `predict`, of a view of one spot an item, turned in each of the eight ways a square can be: {"expression":
    [S, M] the mean over them, "symmetry_sd": [S, M] their standard deviation}."""

    def turned() -> Iterator[tuple[Mapping[str, Any], range]]:
        for batch, index in _batches(model, windows, image):
            for flipped in (batch["image"], batch["image"][:, :, ::-1]):
                for turns in range(4):
                    yield {**batch, "image": np.ascontiguousarray(np.rot90(flipped, turns, axes=(1, 2)))}, index

    with cli.progress(total=len(windows), description=description, unit=model.view.item) as bar:
        results = in_turn(model, turned())
        while every := list(itertools.islice(results, NUM_SYMMETRIES)):
            (_, index), values = every[0], [outputs["expression"] for outputs, _ in every]
            bar.update(len(index))
            outputs = {"expression": np.mean(values, axis=0), "symmetry_sd": np.std(values, axis=0)}
            yield from _items(windows, outputs, index)


def _batches(
    model: Trained, windows: Windows, image: Callable[[int], np.ndarray]
) -> Iterator[tuple[Mapping[str, Any], range]]:
    """Batches of one size, the last filled up with zeros, and which items each holds."""
    size = batch_size(model)
    for start in range(0, len(windows), size):
        index = range(start, min(start + size, len(windows)))
        yield windows.inputs(np.stack([image(item) for item in index]), index, size), index


def _items(windows: Windows, outputs: Mapping[str, np.ndarray], index: range) -> Iterator[dict[str, np.ndarray]]:
    for place, item in enumerate(index):
        rows = windows.rows(item)
        yield {name: values[place, : rows.stop - rows.start] for name, values in outputs.items()}
