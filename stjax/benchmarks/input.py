"""Whether the input keeps up with its decoder: `python -m stjax.bench --what=input`.

JPEG patches held in memory, as records hold them: decoded one after another in one thread, the reference, and as
batches of the training's input pipeline, shuffled and decoded in its threads.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep import records
from stjax.benchmarks import Interleave, Row, row_of
from stjax.data import input_pipeline

_BATCH = 16


class _Patches:
    """As much of `stjax.views.Items` as the pipeline takes."""

    def __init__(self, count: int, size_px: int):
        rng = np.random.default_rng(0)
        tissue = np.kron(rng.integers(60, 200, (size_px // 8, size_px // 8, 3)), np.ones((8, 8, 1)))  # [P, P, 3]
        noisy = (np.clip(tissue + rng.normal(0, 12, tissue.shape), 0, 255).astype(np.uint8) for _ in range(count))
        self._files = [records.encode_image(image, "jpeg", jpeg_quality=95) for image in noisy]
        self._size_px, self.images = size_px, self

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> np.ndarray:
        return records.decode_image(self._files[index], "jpeg", self._size_px, self._size_px)

    def batch(self, images: np.ndarray, index: np.ndarray, *, size: int) -> dict[str, np.ndarray]:
        """What the pipeline yields."""
        del index, size
        return {"image": images}


def rows(rounds: int, interleave: Interleave, *, count: int, size_px: int) -> Iterator[Row]:
    """A row each of the decoder alone and of the pipeline; `count` patches, a multiple of the batch, are read."""
    patches: Any = _Patches(count, size_px)
    batches = input_pipeline.training_batches(patches, batch_size=_BATCH, seed=0, start_step=0, num_workers=0)

    def decoder() -> None:
        for index in range(count):
            patches[index]

    def pipeline() -> None:
        for _ in range(count // _BATCH):
            next(batches)

    with contextlib.closing(batches):
        seconds = interleave({"decoder": decoder, "pipeline": pipeline}, rounds=rounds, description="input")
    for method, taken in seconds.items():
        case, note = f"{count} JPEG patches of {size_px} px", f"{count / taken:.0f} records/s"
        yield row_of(case, method, taken, seconds["decoder"], note=note)
