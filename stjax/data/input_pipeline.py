"""Records to batches: grain reads and decodes on the host, everything else happens on the device.

A batch holds `image` [B, H, W, 3] uint8, `counts` [B, S, G] float32 of the panel's genes, `total` [B, S, 1] float32
reads of each spot, and `mask` [B, S], 1 for a measured spot. S is 1 for patches. Tiles have many spots, the counts of
the main genes only, masks that weigh spots by their size, and `spots`, the stacked `SpotTable` of the tiles.
"""

import contextlib
import signal
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
import scipy.sparse
from absl import flags

from data_prep import execute
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax.data.images import Images
from stjax.data.panel import Panel, usable_spots
from stjax.data.tile_records import Batch, TileRecords
from stjax.protocols import Protocol


class PatchRecords:
    """The patches of some sections that a protocol uses, addressable by position, with their panel counts in memory.

    Attributes:
        images: by position.
        left_out: spots of these sections that the protocol does not use (few reads, white patch).
        section, spot_id: [N] str; spot_xy: [N, 2] full-resolution pixels of the section's slide.
    """

    def __init__(
        self, dataset: PatchDataset, sections: Sequence[str], panel: Panel, protocol: Protocol, *, train: bool
    ):
        columns, self._num_main = panel.columns(dataset.genes), panel.num_main
        present, self._absent = np.flatnonzero(columns >= 0), columns < 0
        rows, counts, totals, names, spot_id, spot_xy = [], [], [], [], [], []
        offset = self.left_out = 0
        for name in sections:
            table = dataset.table(name)
            keep = usable_spots(protocol, table, train=train)
            self.left_out += int(np.sum(~keep))
            rows.append(offset + table.record_of_spot[keep].astype(np.int64))
            counts.append(table.counts[keep])
            totals.append(table.total_counts[keep])
            names.append(np.full(int(keep.sum()), name))
            spot_id.append(table.spot_id[keep])
            spot_xy.append(table.spot_xy[keep])
            offset += len(table.white_fraction)
        every: Any = scipy.sparse.csr_array(scipy.sparse.vstack(counts))
        # Panel genes that this data set lacks have no counts; `main_expression` tells them from measured zeros.
        self._counts = scipy.sparse.csr_array(
            every[:, columns[present]] @ _columns_to(present, len(columns)), dtype=np.float32
        )
        self._total = np.concatenate(totals).astype(np.float32)
        self.images = Images(dataset.source(tuple(sections)), np.concatenate(rows))
        self.section, self.spot_id = np.concatenate(names), np.concatenate(spot_id)
        self.spot_xy = np.concatenate(spot_xy)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def total(self) -> np.ndarray:
        """[N] float32 reads."""
        return self._total

    @property
    def num_spots(self) -> int:
        """N."""
        return len(self)

    def describe(self, index: int) -> str:
        """Names a patch, for messages."""
        return f"{self.section[index]}/{self.spot_id[index]}"

    def counts(self, index: np.ndarray) -> np.ndarray:
        """[B] positions to [B, 1, G] float32 raw counts of the panel's genes."""
        return self._counts[index].toarray()[:, None, :]

    def main_counts(self) -> np.ndarray:
        """[N, M] float64: raw counts of the main genes; NaN for genes that the data set lacks."""
        counts = self._counts[:, : self._num_main].toarray().astype(np.float64)
        counts[:, self._absent[: self._num_main]] = np.nan
        return counts

    def main_expression(self, panel: Panel, protocol: Protocol) -> np.ndarray:
        """[N, M] float64: measured expression of the main genes, in the protocol's expression units; NaN for genes that
        the data set lacks."""
        return protocol.transform(self.main_counts(), self._total.astype(np.float64)[:, None], panel.num_genes)

    def batch(self, images: np.ndarray, index: np.ndarray, *, size: int) -> Batch:
        """A batch of `size` patches; missing ones are zeros under a zero mask."""
        missing = size - len(index)

        def pad(array: np.ndarray) -> np.ndarray:
            return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array

        return {
            "image": pad(images),
            "counts": pad(self.counts(index)),
            "total": pad(self._total[index][:, None, None]),
            "mask": pad(np.ones((len(index), 1), np.float32)),
        }


def open_records(
    dataset: PatchDataset,
    sections: Sequence[str],
    panel: Panel,
    protocol: Protocol,
    *,
    train: bool,
    sizes_um: Sequence[float] = (),
) -> "Records":
    """The patches or the tiles of some sections, as the data set has them.

    Args:
        sizes_um: of the spots of tiles, see `tile_spots.slides`.
    """
    if dataset.kind == "tiles":
        return TileRecords(dataset, sections, panel, protocol, sizes_um=sizes_um)
    if sizes_um:
        raise InputError(f"config.spot_sizes_um is for tiles, {dataset.path} holds patches; leave it empty")
    return PatchRecords(dataset, sections, panel, protocol, train=train)


def _columns_to(present: np.ndarray, width: int) -> scipy.sparse.csr_array:
    ones = np.ones(len(present), np.float32)
    return scipy.sparse.csr_array((ones, (np.arange(len(present)), present)), shape=(len(present), width))


Records = PatchRecords | TileRecords


def training_batches(
    records: Records, *, batch_size: int, seed: int, start_step: int, num_workers: int
) -> Generator[tuple[Batch, np.ndarray]]:
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
    order = grain.MapDataset.range(len(records)).seed(seed).shuffle().repeat().batch(batch_size)
    mine = order.slice(slice(start_step, None)).map(_Rows(records, batch_size))
    stream = mine.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if num_workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers), worker_init_fn=_started)
    iterator = iter(stream)
    try:
        with execute.deaf() if num_workers else contextlib.nullcontext():  # the first batch starts the processes
            images, index = next(iterator)
        while True:
            yield records.batch(images, index, size=len(index)), index
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

    def __init__(self, records: Records, batch_size: int):
        self._images = records.images  # alone: each process gets a copy, and counts may take gigabytes
        per_host = batch_size // jax.process_count()
        self._rows = slice(jax.process_index() * per_host, (jax.process_index() + 1) * per_host)

    def map(self, element: np.ndarray) -> Any:
        """[B] positions to the images [B / hosts, H, W, 3] uint8 of this host's rows, and their positions."""
        index = element[self._rows]
        return np.stack([self._images[int(i)] for i in index]), index


def evaluation_batches(records: Records, *, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """This host's rows of batches that hold every record once, in order; the last batch is padded under its mask.

    Yields:
        The batch, [B / hosts, ...], and the positions of its records (fewer in the last).
    """
    per_host = batch_size // jax.process_count()
    for first in range(0, len(records), batch_size):
        start = first + jax.process_index() * per_host
        index = np.arange(min(start, len(records)), min(start + per_host, len(records)))
        # A host may have no row of the last batch; its images, all padding, take the shape of the first's.
        images = np.stack([records.images[int(i)] for i in (index if len(index) else [0])])[: len(index)]
        yield records.batch(images, index, size=per_host), index
