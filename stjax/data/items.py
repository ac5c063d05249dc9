"""Items of a data set, whatever they are, and batches of them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep import csr
from data_prep.spots import Spots, ranges
from stjax.data.panel import Panel
from stjax.protocols import Protocol

_BLOCK_ENTRIES = 1 << 25  # of counts that are looked at together

Batch = dict[str, Any]
"""Arrays with a leading axis over items. Of training and validation: `counts` [B, S, G] float32 of the panel's genes,
or of its main genes; `total` [B, S, 1] float32 counts of all genes; `mask` [B, S], 0 where there is no spot and else
its weight; and what the view's `Windows` add: `image` [B, H, W, 3] uint8, `features` [B, D] float32, ..."""


class Windows:
    """Items as far as predicting needs them: which spots lie in each.

    Attributes:
        start: [items + 1] where each item's spots begin, among all spots in item order.
    """

    def __init__(self, start: np.ndarray):
        self.start = np.asarray(start, np.int64)

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def most_spots(self) -> int:
        """S, room for the spots of any item."""
        return int(np.diff(self.start).max(initial=1))

    def rows(self, item: int) -> slice:
        """The spots of an item."""
        return slice(int(self.start[item]), int(self.start[item + 1]))

    def inputs(self, images: np.ndarray, index: Sequence[int] | np.ndarray, size: int) -> Batch:
        """What a model is told of some items; missing ones, up to `size`, are zeros.

        Args:
            images: [b, H, W, 3] uint8 of the items `index`.
        """
        del index
        return {"image": filled(images, size)}


class Blocks:
    """Counts [N, G], CSR, in blocks of rows that fit memory; may be iterated over several times."""

    def __init__(self, read: Callable[[], Iterator[Any]]):
        """
        Args:
            read: gives all rows in order, in blocks of any size.
        """
        self._read = read

    def __iter__(self) -> Iterator[Any]:
        held, entries = [], 0
        for block in self._read():
            if held and entries + block.nnz > _BLOCK_ENTRIES:
                yield csr.stack(held)
                held, entries = [], 0
            held.append(block)
            entries += block.nnz
        if held:
            yield csr.stack(held)


class Measured(NamedTuple):
    """What N spots of some sections say of genes and images: counts [n, G] CSR over the data set's genes, in blocks;
    totals [N]; and the first two moments [R, 3] of the pixels of the images that hold them."""

    blocks: Iterable[Any]
    total: np.ndarray
    channel_mean: np.ndarray
    channel_mean_square: np.ndarray


class Cut(NamedTuple):
    """The items of a bare slide.

    Attributes:
        windows: their spots.
        origin_xy: [items, 2], or [N, 2] where `stacked`, full-resolution pixel of each window's top-left corner.
        spots: [N] positions in the section of the spots in item order; some may be in none.
        known: [N] bool, which of them can be predicted.
        stacked: an item's image is the stack [S, H, W, 3] of a window for each of its spots, not one window; without
            `origin_xy` there is none.
    """

    windows: Windows
    origin_xy: np.ndarray
    spots: np.ndarray
    known: np.ndarray
    stacked: bool = False


def filled(images: np.ndarray, size: int) -> np.ndarray:
    """Items [b, ...] with zeros behind, `size` in all: every batch is one program's."""
    missing = size - len(images)
    return np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1)) if missing else images


@dataclasses.dataclass(eq=False)
class Items:
    """The items of some sections of a data set with the spots that a protocol uses, addressable by position.

    Attributes:
        images: of the items, by position; of a view that is `encoded`, their feature vectors [D].
        windows: the items' spots.
        describe: names an item, for messages.
        panel: whose genes the counts are of, or of its main genes alone.
        absent: [G] bool, genes of the panel that the data set lacks: they have no counts.
        counts: [N, G] float32 raw counts, CSR.
        weight: [N] float32, what each spot counts in training; 0 of one that is there for what it says of
            others, and is predicted in another item.
        left_out: spots of these sections that are not used: few counts, a white patch, no pixel, or not drawn.
        spots: [N], all in item order, in full-resolution pixels of their slides.
        size_um, total, white, section, slide_section: [N] of the spots: across, float32 counts of all genes, how much
            of the patch is white, the section, and a section of the data set on the same slide.
    """

    images: Any
    windows: Windows
    describe: Callable[[int], str]
    panel: Panel
    absent: np.ndarray
    counts: Any
    weight: np.ndarray
    left_out: int
    spots: Spots
    size_um: np.ndarray
    total: np.ndarray
    white: np.ndarray
    section: np.ndarray
    slide_section: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def num_spots(self) -> int:
        """N."""
        return len(self.total)

    def batch(self, images: np.ndarray, index: np.ndarray, *, size: int) -> Batch:
        """A batch of `size` items; missing ones, and missing spots of an item, are zeros under a zero mask."""
        start, most = self.windows.start, self.windows.most_spots
        place, rows = ranges(start[index], start[index + 1])  # [R] of each spot, its item's place in the batch ...
        slot = rows - start[index][place]  # ... and its own in the item
        batch = self.windows.inputs(images, index, size) | {
            "counts": np.zeros((size, most, self.counts.shape[1]), np.float32),
            "total": np.zeros((size, most, 1), np.float32),
            "mask": np.zeros((size, most), np.float32),
        }
        batch["counts"][place, slot] = self.counts[rows].toarray()
        batch["total"][place, slot, 0] = self.total[rows]
        batch["mask"][place, slot] = self.weight[rows]
        return batch

    def main_sums(self) -> np.ndarray:
        """[M] counts of each main gene over all spots."""
        return np.asarray(self.counts.sum(axis=0)).ravel()[: self.panel.num_main]

    def main_counts(self, rows: Any = slice(None)) -> np.ndarray:
        """[R, M] float64 of the spots at `rows`: raw counts of the main genes, NaN for those not in the data."""
        counts = self.counts[rows][:, : self.panel.num_main].toarray().astype(np.float64)
        counts[:, self.absent[: self.panel.num_main]] = np.nan
        return counts

    def main_expression(self, protocol: Protocol, rows: Any = slice(None)) -> np.ndarray:
        """[R, M] float64 of the spots at `rows`: measured expression in the protocol's units, NaN for genes that the
        data set lacks."""
        total = self.total[rows].astype(np.float64)[:, None]
        return protocol.transform(self.main_counts(rows), total, self.panel.num_genes)
