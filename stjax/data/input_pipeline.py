"""Items to batches: grain reads and decodes on the host, everything else happens on the device. `stjax.views` says what
a batch holds."""

import contextlib
import signal
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import grain
import jax
import numpy as np
from absl import flags

from data_prep import execute

if TYPE_CHECKING:
    from stjax.views import Batch, Items


def training_batches(
    items: "Items", *, batch_size: int, seed: int, start_step: int, num_workers: int
) -> Generator[tuple["Batch", np.ndarray]]:
    """Endless shuffled batches of this host, every record once an epoch, starting at any step at no cost.

    The order is a function of the seed alone; batches run on across epochs, so that no record is ever dropped.

    Args:
        batch_size: global; each host reads its share.
        num_workers: decoding processes; 0 decodes in threads.

    Yields:
        The host's batch, and the positions of its records.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads absl flags, which nobody parses when stjax is used as a library
    # Batches are laid out before they are shared among hosts: their content and order do not depend on how many.
    endless = grain.MapDataset.range(len(items)).seed(seed).shuffle().repeat()
    order = endless.batch(batch_size, drop_remainder=True)  # of which there is none: a batch of 1 overflows without
    mine = order.slice(slice(start_step, None)).map(_Rows(items, batch_size))
    stream = mine.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if num_workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers), worker_init_fn=_started)
    iterator = iter(stream)
    try:
        with execute.deaf() if num_workers else contextlib.nullcontext():  # the first batch starts the processes
            images, index = next(iterator)
        while True:
            yield items.batch(images, index, size=len(index)), index
            images, index = next(iterator)
    finally:
        if close := getattr(iterator, "close", None):
            close()


def _started(worker: int, workers: int) -> None:
    """What each decoding process begins with: Ctrl-C, which a terminal sends to all, is for the main one to hear."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Rows(grain.transforms.Map):
    """Reads and decodes this host's rows of a batch of positions; what grain's threads and processes run."""

    def __init__(self, items: "Items", batch_size: int):
        self._images = items.images  # alone: each process gets a copy, and counts may take gigabytes
        per_host = batch_size // jax.process_count()
        self._rows = slice(jax.process_index() * per_host, (jax.process_index() + 1) * per_host)

    def map(self, element: np.ndarray) -> Any:
        """[B] positions to the images [B / hosts, H, W, 3] uint8 of this host's rows, and their positions."""
        index = element[self._rows]
        return np.stack([self._images[int(i)] for i in index]), index


def evaluation_batches(items: "Items", *, batch_size: int) -> Iterator[tuple["Batch", np.ndarray]]:
    """This host's rows of batches that hold every record once, in order; the last batch is padded under its mask.

    Yields:
        The batch, [B / hosts, ...], and the positions of its records (fewer in the last).
    """
    per_host = batch_size // jax.process_count()
    for first in range(0, len(items), batch_size):
        start = first + jax.process_index() * per_host
        index = np.arange(min(start, len(items)), min(start + per_host, len(items)))
        # A host may have no row of the last batch; its images, all padding, take the shape of the first's.
        images = np.stack([items.images[int(i)] for i in (index if len(index) else [0])])[: len(index)]
        yield items.batch(images, index, size=per_host), index
