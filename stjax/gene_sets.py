"""Scores of gene sets (pathways, signatures), given as a GMT file: sums of weakly predicted genes can be strong.

A set's score at a spot is the mean over its genes of their z-scores: expression in the protocol's units, less the mean
and over the standard deviation of the training spots. (Lee et al. 2008, PLoS Computational Biology 4:e1000217, combine
z-scores so; differs from it: divided by the number of genes, not its root, so that sets of any size have one unit.)
The training spots are the reference on every slide, so that scores of two slides can be compared.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep import files
from data_prep.errors import InputError
from data_prep.gene_lookup import GeneLookup
from stjax import trust
from stjax.data.fold import Fold

if TYPE_CHECKING:
    import pandas as pd

FILE = "trust_gene_sets.csv"
LEAST_GENES = 3  # of the panel, that a score is made of
UNITS = "mean z-score of the genes"
FIGURES = ("pcc", "pcc_low", "pcc_high", "ceiling", "pcc_of_ceiling", "pcc_of_genes")
TEXT = ("gene_set", "genes", "resampled", "units", "model_sha256")
_MOST_BYTES = 1 << 26  # MSigDB, all of it, has 30 MB
_NAMED = 5  # sets that a note names


@dataclasses.dataclass(frozen=True, eq=False)
class GeneSets:
    """Sets of a model's main genes.

    Attributes:
        names: of the K sets.
        members: [K, M] bool.
        listed: [K] how many genes the file lists.
        mean, std: [M] of the training spots' expression.
        labels: [M] names of the main genes.
    """

    names: tuple[str, ...]
    members: np.ndarray
    listed: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, path: Path, fold: Fold) -> "GeneSets":
        """From a GMT file; sets of which the model predicts fewer than `LEAST_GENES` genes are left out, with a note.

        Raises:
            InputError: no GMT file, a name twice, or no set with genes enough.
        """
        found, panel, main = _read(path), fold.panel.main, fold.main
        lookup = GeneLookup(
            panel.ensembl_id.tolist(), panel.symbol.tolist(), labels=fold.panel.labels.tolist(), what=""
        )
        place = {name: lookup.where(name) for name in sorted({gene for genes in found.values() for gene in genes})}
        members = np.zeros((len(found), len(main.train_mean)), bool)
        for row, genes in enumerate(found.values()):
            members[row, [at for gene in genes if (at := place[gene]) is not None]] = True
        names, listed = np.array(list(found)), np.array([len(genes) for genes in found.values()])
        enough = members.sum(axis=1) >= LEAST_GENES
        if few := names[~enough].tolist():
            more = ", ..." if len(few) > _NAMED else ""
            print(
                f"note: {len(few)} of {len(names)} gene sets have no score, as the model predicts fewer than "
                f"{LEAST_GENES} of their genes: {', '.join(few[:_NAMED])}{more}"
            )
        if not enough.any():
            raise InputError(
                f"--gene-sets {path}: of none of its {len(names)} sets does the model predict {LEAST_GENES} genes; "
                "choose sets of genes of its panel (genes.csv of the exported folder), of the same species"
            )
        kept = tuple(names[enough].tolist())
        sets = cls(kept, members[enough], listed[enough], main.train_mean, main.target_std, fold.panel.labels)
        known, asked = int(sets.members.sum()), int(sets.listed.sum())
        print(f"gene sets: {len(kept)}; {known} of their {asked} genes are predicted, the others count nothing")
        return sets

    def scores(self, expression: np.ndarray) -> np.ndarray:
        """[S, K] float32 of expression [S, M] in the protocol's units. Genes that were not measured, NaN, are left out;
        NaN where none of a set was."""
        z = (np.asarray(expression, np.float64) - self.mean) / self.std
        known = np.isfinite(z)
        total, count = np.where(known, z, 0) @ self.members.T, known.astype(np.float64) @ self.members.T
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)

    def table(self) -> "pd.DataFrame":
        """A row a set: how many genes the file lists, how many of them the model predicts, and which."""
        import pandas as pd  # which training does without

        return pd.DataFrame(
            {
                "gene_set": self.names,
                "genes_listed": self.listed,
                "genes_predicted": self.members.sum(axis=1),
                "genes": [" ".join(self.labels[row]) for row in self.members],
            }
        )

    @property
    def sha256(self) -> str:
        """Of names and genes."""
        return hashlib.sha256(self.table().to_csv(index=False).encode()).hexdigest()

    def with_trust(self, folder: Path, model_sha256: str, *, symmetries: bool) -> "pd.DataFrame":
        """`table`, and of each set what an evaluation of this model found of these very genes; NaN where none did."""
        table = self.table()
        if files.is_there(path := folder / FILE):
            known = trust.read(path, TEXT, [*FIGURES, *trust.RESTS_ON, "symmetries"])
            mine = (known["model_sha256"] == model_sha256) & (known["symmetries"] == float(symmetries))
            columns = ["gene_set", "genes", *FIGURES, *trust.RESTS_ON]
            return table.merge(known.loc[mine, columns].drop_duplicates(columns[:2]), "left", columns[:2])
        return table.assign(**dict.fromkeys((*FIGURES, *trust.RESTS_ON), np.nan))


@dataclasses.dataclass(frozen=True, eq=False)
class SetScores:
    """Of the spots of a section.

    Attributes:
        table: a row a set, as `GeneSets.with_trust` has it.
        predicted: [S, K]; measured: the same of measured expression, or None.
    """

    table: "pd.DataFrame"
    predicted: np.ndarray
    measured: np.ndarray | None

    @property
    def names(self) -> list[str]:
        """[K] of the sets."""
        return self.table["gene_set"].tolist()


def _read(path: Path) -> dict[str, list[str]]:
    """{name: genes, each once} of a GMT file: a line a set, its name, a description and its genes between tabs."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"--gene-sets {path}: more than {_MOST_BYTES >> 20} MB, expected a GMT file")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--gene-sets {path} cannot be read ({error}); give a GMT file, as MSigDB has them") from None
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        genes = [gene for gene in dict.fromkeys(rest[1:]) if gene]
        if fault := "has no name" if not name else "has no genes" if not genes else files.fault_of_text(name):
            expected = "expected a name, a description and genes, with tabs between them (GMT)"
            raise InputError(f"--gene-sets {path}: line {number} {fault}; {expected}")
        if name in found:
            raise InputError(
                f"--gene-sets {path}: line {number} names {files.shown(name)} again; rename one of the two"
            )
        found[name] = genes
    if not found:
        raise InputError(f"--gene-sets {path}: no line, expected a GMT file with a gene set a line")
    return found
