"""The gene panel of a fold: genes, target statistics and image statistics, from its training spots."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from data_prep import json_files
from data_prep.dataset import PatchDataset, SectionTable
from data_prep.errors import InputError
from data_prep.genes import species_of
from data_prep.section import GeneTable
from stjax import metrics
from stjax.data import tile_spots
from stjax.protocols import Protocol, Split

_REMEDY = "train or export the model again"
PANEL = {  # a panel's plain values
    "ensembl_id": json_files.TEXTS,
    "symbol": json_files.TEXTS,
    "num_main": json_files.whole_number(1),
    "target_mean": json_files.numbers(),
    "target_std": json_files.numbers(0),
    "image_mean": json_files.numbers(length=3),
    "image_std": json_files.numbers(0, length=3),
    "train_mean": json_files.numbers(),
    "num_genes": json_files.whole_number(1),
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """Genes, target statistics and image statistics of one fold: all a trained model needs to know of its data.

    Attributes:
        ensembl_id, symbol: [M + A] str; the M main genes first, each part in the data set's column order.
        num_main: M.
        target_mean, target_std: [M + A] float64; 0 and 1 where the protocol does not standardise.
        image_mean, image_std: [3] float64, of pixel values 0..255.
        train_mean: [M] float64, mean main expression over training spots: the mean predictor.
        num_genes: of the data set, over which the spots' totals are.
    """

    ensembl_id: np.ndarray
    symbol: np.ndarray
    num_main: int
    target_mean: np.ndarray
    target_std: np.ndarray
    image_mean: np.ndarray
    image_std: np.ndarray
    train_mean: np.ndarray
    num_genes: int

    @property
    def num_aux(self) -> int:
        """A, the genes of AuxNet."""
        return len(self.symbol) - self.num_main

    @property
    def names(self) -> np.ndarray:
        """[M + A] str: symbol, or Ensembl id where there is none."""
        return np.where(self.symbol == "", self.ensembl_id, self.symbol)

    @property
    def species(self) -> str:
        """ "human", "mouse", or "" where the genes do not tell."""
        return species_of(GeneTable(self.ensembl_id, self.symbol))[0]

    def columns(self, genes: Any) -> np.ndarray:
        """Column of each panel gene in another gene table, -1 where that table lacks it.

        By Ensembl id, else by symbol: tables of symbols leave out the id where several carry one symbol.
        """
        by_id = {gene: column for column, gene in enumerate(genes.ensembl_id) if gene}
        symbols, first, times = np.unique(genes.symbol, return_index=True, return_counts=True)
        by_symbol = {
            symbol: column for symbol, column, n in zip(symbols, first, times, strict=True) if symbol and n == 1
        }
        columns = []
        for ensembl_id, symbol in zip(self.ensembl_id, self.symbol, strict=True):
            column = by_id.get(ensembl_id, -1)
            other = by_symbol.get(symbol, -1)
            if column < 0 and other >= 0 and not (ensembl_id and genes.ensembl_id[other]):
                column = other
            columns.append(column)
        return np.array(columns, dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact."""
        return {
            field.name: value.tolist() if isinstance(value := getattr(self, field.name), np.ndarray) else value
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Panel":
        """What `to_json` returned, as a panel again.

        Raises:
            InputError: it is none.
        """
        json_files.require(values, PANEL, "gene panel", remedy=_REMEDY)
        lengths = {name: len(values[name]) for name in ("ensembl_id", "symbol", "target_mean", "target_std")}
        genes, main = lengths["symbol"], values["num_main"]
        if set(lengths.values()) != {genes} or len(values["train_mean"]) != main or main > genes:
            raise InputError(
                f"gene panel: {main} main genes with {len(values['train_mean'])} means, and lists of {lengths}, which "
                f"do not agree; {_REMEDY}"
            )
        kinds = {"ensembl_id": str, "symbol": str}
        fields: dict[str, Any] = {
            key: np.array(value, dtype=kinds.get(key, np.float64)) if isinstance(value, list) else value
            for key, value in ((key, values[key]) for key in PANEL)
        }
        return cls(**fields)


def usable_spots(protocol: Protocol, table: SectionTable, *, train: bool, tiles: bool = False) -> np.ndarray:
    """[S] bool: the spots of a section that the protocol trains (or tests) on. Tiles are white and tissue at once:
    their whiteness says nothing of a spot."""
    usable = table.total_counts >= protocol.min_counts
    if not tiles and protocol.max_white_fraction < 1 and (train or protocol.white_filter_scope == "all"):
        usable &= table.white_fraction[table.record_of_spot] < protocol.max_white_fraction
    return usable


def require_spots(protocol: Protocol, dataset: PatchDataset, sections: Sequence[str], part: str) -> None:
    """Makes sure that the protocol uses a patch at least of the sections that a run is to be validated or scored on.

    Args:
        part: "val" or "test".

    Raises:
        InputError: it uses none, and why.
    """
    count = few = 0
    for name in sections:
        table = dataset.table(name)
        if usable_spots(protocol, table, train=False).any():
            return
        count += len(table.total_counts)
        few += int(np.sum(table.total_counts < protocol.min_counts))
    if sections:
        why = f"{few} have fewer than {protocol.min_counts} reads"
        why += f", {count - few} a patch that is white" if count > few else ""
        raise InputError(
            f"protocol {protocol.name} uses none of the {count} spots of {', '.join(sections)}, the {part} sections: "
            f"{why}; choose others (--config.test_sections, --config.val_sections, --config.fold) or another protocol"
        )


class _Spots(NamedTuple):
    """Spots of some sections that a protocol uses: counts [S, G], totals [S], and the pixels' moments [R, 3] of the
    records that hold them."""

    counts: Any
    total: np.ndarray
    channel_mean: np.ndarray
    channel_mean_square: np.ndarray

    @classmethod
    def of(
        cls, protocol: Protocol, dataset: PatchDataset, names: Sequence[str], *, train: bool, sizes_um: Sequence[float]
    ) -> "_Spots":
        """As the data set has them, or, with `sizes_um`, as a model of tiles is trained on them."""
        if sizes_um:
            return cls._of_sizes(protocol, dataset, names, sizes_um)
        tables, tiles = [dataset.table(name) for name in names], dataset.kind == "tiles"
        kept = [usable_spots(protocol, table, train=train, tiles=tiles) for table in tables]
        records = [np.unique(table.record_of_spot[rows]) for table, rows in zip(tables, kept, strict=True)]
        return cls(
            _stack([table.counts[rows] for table, rows in zip(tables, kept, strict=True)]),
            np.concatenate([table.total_counts[rows] for table, rows in zip(tables, kept, strict=True)]),
            np.concatenate([table.channel_mean[rows] for table, rows in zip(tables, records, strict=True)]),
            np.concatenate([table.channel_mean_square[rows] for table, rows in zip(tables, records, strict=True)]),
        )

    @classmethod
    def _of_sizes(
        cls, protocol: Protocol, dataset: PatchDataset, names: Sequence[str], sizes_um: Sequence[float]
    ) -> "_Spots":
        counts, totals, records = [], [], set()
        every_gene = np.arange(len(dataset.genes))
        for tiles, found in tile_spots.slides(dataset, names, every_gene, sizes_um=sizes_um):
            for spots in found:
                kept = np.flatnonzero(spots.total >= protocol.min_counts)
                counts.append(spots.counts[kept].astype(np.int32))  # whole numbers, as tables have them
                totals.append(spots.total[kept])
                records |= {tiles[tile].record for tile in np.unique(spots.tile[kept])}
        tables = [dataset.table(name) for name in names]
        rows = np.array(sorted(records), np.int64)  # of all the sections' records, one after the other
        return cls(
            _stack(counts),
            np.concatenate(totals),
            np.concatenate([table.channel_mean for table in tables])[rows],
            np.concatenate([table.channel_mean_square for table in tables])[rows],
        )


def fit_panel(protocol: Protocol, dataset: PatchDataset, split: Split, *, sizes_um: Sequence[float] = ()) -> Panel:
    """Selects the genes and measures targets and images, on the training spots of the split.

    Args:
        sizes_um: of tiles, the sizes of spots that the model is trained on; default all there are.

    Raises:
        InputError: fewer usable spots or genes than the protocol needs.
    """
    sizes_um = sizes_um if dataset.kind == "tiles" else ()
    training = _Spots.of(protocol, dataset, split.train, train=True, sizes_um=sizes_um)
    counts, total = training.counts, training.total
    if counts.shape[0] < 2:
        of = f" of {', '.join(f'{size:g}' for size in sizes_um)} um" if sizes_um else ""
        raise InputError(
            f"{counts.shape[0]} training spots{of} have at least {protocol.min_counts} reads, which protocol "
            f"{protocol.name} asks for; add sections or choose another protocol"
        )

    scope, others = counts, (*split.val, *split.test)
    if protocol.panel_scope == "all" and others:  # as published: the panel sees the test patients
        seen = _Spots.of(protocol, dataset, others, train=False, sizes_um=sizes_um)
        scope = _stack([counts, seen.counts])
    fraction = np.bincount(scope.indices, weights=scope.data > 0, minlength=scope.shape[1]) / scope.shape[0]
    eligible = np.flatnonzero((fraction > 0) & (fraction >= protocol.min_spot_fraction))
    if len(eligible) < protocol.num_main_genes:
        raise InputError(
            f"{len(eligible)} genes are expressed in at least {protocol.min_spot_fraction:.0%} of the training spots; "
            f"protocol {protocol.name} needs {protocol.num_main_genes}"
        )
    ranked = protocol.rank_genes(scope, eligible)
    columns = np.concatenate([np.sort(ranked[: protocol.num_main_genes]), np.sort(ranked[protocol.num_main_genes :])])

    num_main = protocol.num_main_genes
    target_mean, target_std = np.zeros(len(columns)), np.ones(len(columns))
    train_mean, main_std = _moments(protocol, counts, total, columns[:num_main])
    if protocol.standardise_main:
        target_mean[:num_main], target_std[:num_main] = train_mean, main_std
    if protocol.standardise_aux:
        target_mean[num_main:], target_std[num_main:] = _moments(protocol, counts, total, columns[num_main:])

    pixel_mean, pixel_square = training.channel_mean, training.channel_mean_square
    image_mean = pixel_mean.mean(axis=0)
    if protocol.image_std == "mean_of_images":
        image_std = np.sqrt(np.maximum(pixel_square - pixel_mean**2, 0)).mean(axis=0)
    else:
        image_std = np.sqrt(np.maximum(pixel_square.mean(axis=0) - image_mean**2, 0))
    if not np.all(image_std > 0):
        raise InputError("the training patches are all of one colour; check the slides with python -m data_prep.check")

    return Panel(
        ensembl_id=dataset.genes.ensembl_id[columns],
        symbol=dataset.genes.symbol[columns],
        num_main=num_main,
        target_mean=target_mean,
        target_std=target_std,
        image_mean=image_mean,
        image_std=image_std,
        train_mean=train_mean,
        num_genes=len(dataset.genes),
    )


def _stack(counts: Sequence[Any]) -> Any:
    """One CSR array of several; SciPy's own types stop short of saying so."""
    return scipy.sparse.csr_array(scipy.sparse.vstack(counts))


def _moments(protocol: Protocol, counts: Any, total: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the transformed targets, a block of genes at a time to bound the memory."""
    mean, std = np.zeros(len(columns)), np.ones(len(columns))
    by_gene = counts.tocsc()
    genes = max(1, (1 << 25) // max(counts.shape[0], 1))
    for start in range(0, len(columns), genes):
        block = slice(start, start + genes)
        block_counts = by_gene[:, columns[block]].toarray().astype(np.float64)
        values = protocol.transform(block_counts, total[:, None], counts.shape[1])
        mean[block], std[block] = values.mean(axis=0), metrics.scale_of(values)
    return mean, std
