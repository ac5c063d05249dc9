"""The two names of a matrix's features, and what they tell of species: several in one matrix (a xenograft, a reference
of two genomes) are refused, never mixed.

Cell Ranger and Space Ranger name a gene of a reference with several genomes by its genome, padded to one length:
`GRCh38_ENSG00000141510`, `mm10___Trp53`; Seurat turns the underscores into dashes.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep.counted import counted
from data_prep.errors import InputError

_GENOME = r"(?i:GRC[hmzrgc]\d+|hg\d{2}|mm\d{1,2}|human|mouse|homo_sapiens|mus_musculus)|rn\d|Rnor[\w.]*?|mRatBN[\w.]*?"
_PREFIX = re.compile(rf"^({_GENOME})[_-]+(?=.)")
_BEFORE_ENSEMBL = re.compile(r"^([A-Za-z][\w.-]*?)[_-]+(?=ENS[A-Z]*G\d{11})")
_ENSEMBL_SPECIES = re.compile(r"^(ENS[A-Z]*G)\d{11}")
_ID = re.compile(r"ENS[A-Z]*G\d{11}")
_TWICE_SHARE = 0.1  # of the symbols spelt twice, as TP53 and Tp53, which only genes of two species are


def one_species(
    path: Path, gene_id: np.ndarray, symbol: np.ndarray, *, genome: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Ids and symbols without a genome in front of them, and notes where one was taken off, or the two were exchanged.

    Args:
        path: where the features come from, for messages.
        gene_id, symbol: [G] str, as in the file.
        genome: [G] str, the genome of each feature where the file states it ("" where it has none).

    Raises:
        InputError: features of several genomes or species.
    """
    exchanged: tuple[str, ...] = ()
    if not any(map(_ID.search, gene_id.tolist())) and any(map(_ID.search, symbol.tolist())):
        gene_id, symbol = symbol, gene_id
        exchanged = (f"{path.name} has Ensembl ids where symbols belong: the two were exchanged",)
    by_id, by_symbol = (_prefixes(names) for names in (gene_id, symbol))
    prefixed = [first or second for first, second in zip(by_id, by_symbol, strict=True)]
    stated = [] if genome is None else [str(name) for name in genome]
    bare = [name[len(prefix) :] for name, prefix in zip(gene_id.tolist(), by_id, strict=True)]
    ensembl = [match[1] if (match := _ENSEMBL_SPECIES.match(name)) else "" for name in bare]
    for names, what in (
        (stated, "genomes"),
        ([prefix.rstrip("_-") for prefix in prefixed], "genomes"),
        (ensembl, "species by their Ensembl ids"),
    ):
        found = Counter(filter(None, names))
        if len(found) > 1:
            listed = ", ".join(f"{name}: {number}" for name, number in found.most_common())
            raise InputError(_message(path, f"features of {len(found)} {what} ({listed})"))
    if pairs := _spelt_twice(symbol):
        raise InputError(_message(path, f"{pairs} symbols in two spellings, as genes of two species have them"))
    if not any(prefixed):
        return gene_id, symbol, exchanged
    named = [name[len(prefix) :] for name, prefix in zip(symbol.tolist(), by_symbol, strict=True)]
    prefix, number = Counter(filter(None, prefixed)).most_common(1)[0]
    notes = (*exchanged, f"{prefix!r} taken off {counted(number, 'feature names')}")
    return np.array(bare, dtype=str), np.array(named, dtype=str), notes


def _prefixes(names: np.ndarray) -> list[str]:
    """[G]: the genome in front of each name with what separates it, "" where there is none."""
    known, before_id = ([match.group() if (match := pattern.match(name)) else "" for name in names.tolist()]
                        for pattern in (_PREFIX, _BEFORE_ENSEMBL))  # fmt: skip
    if min(Counter(filter(None, before_id)).values(), default=0) < 2:
        return known  # symbols in front of ids, as TP53_ENSG00000141510
    return [first or second for first, second in zip(known, before_id, strict=True)]


def _spelt_twice(symbol: np.ndarray) -> int:
    """How many symbols differ in case only from another, 0 where they are as few as in one species."""
    distinct = set(symbol.tolist())
    pairs = len(distinct) - len({name.casefold() for name in distinct})
    return pairs if pairs > _TWICE_SHARE * len(distinct) else 0


def _message(path: Path, what: str) -> str:
    return (
        f"{path}: {what}; expected one species, as their counts must not be mixed: keep the features of one "
        "(in scanpy: adata[:, keep].copy(), then write_h5ad)"
    )
