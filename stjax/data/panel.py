"""The gene panel of a run: which genes a model predicts, in which order."""

import dataclasses
from typing import Any

import numpy as np

from data_prep.genes import species_of
from data_prep.section import GeneTable


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """The genes of a run: the main ones, and AuxNet's.

    Attributes:
        ensembl_id, symbol: [M + A] str; the M main genes first, each part in the data set's column order.
        num_main: M.
        num_genes: of the data set, over which the spots' totals are.
    """

    ensembl_id: np.ndarray
    symbol: np.ndarray
    num_main: int
    num_genes: int

    @property
    def num_aux(self) -> int:
        """A, the genes of AuxNet."""
        return len(self.symbol) - self.num_main

    @property
    def main(self) -> "Panel":
        """The main genes alone."""
        rows = slice(self.num_main)
        return dataclasses.replace(self, ensembl_id=self.ensembl_id[rows], symbol=self.symbol[rows])

    @property
    def names(self) -> np.ndarray:
        """[M + A] str: symbol, or Ensembl id where there is none."""
        return np.where(self.symbol == "", self.ensembl_id, self.symbol)

    @property
    def labels(self) -> np.ndarray:
        """[M] unique str: names of the main genes, with the Ensembl id added where several share a symbol."""
        main = self.main
        values, times = np.unique(main.names, return_counts=True)
        shared = set(values[times > 1])
        return np.array(
            [
                f"{name} ({gene})" if name in shared else name
                for name, gene in zip(main.names, main.ensembl_id, strict=True)
            ]
        )

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
