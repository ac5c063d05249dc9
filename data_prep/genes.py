"""Gene names: Ensembl ids and symbols side by side, from a shipped, dated, hashed table or the user's own HGNC file."""

import csv
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep.errors import InputError
from data_prep.section import GeneTable

RESOURCES = Path(__file__).parent / "resources"

# Version suffixes belong to ids such as ENSG00000141736.12; clone names such as AC004381.6 keep their dot.
_VERSIONED = re.compile(r"^(ENS[A-Z]*G\d{11})\.\d+(_PAR_Y)?$")
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{11}(_PAR_Y)?$")


@dataclasses.dataclass(frozen=True)
class GeneReference:
    """What the reference table knows.

    Attributes:
        symbol_of: Ensembl id -> symbol.
        ensembl_of: symbol -> Ensembl id, only where exactly one id carries the symbol.
        symbol_of_alias: outdated or alternative name -> official symbol, only where it means exactly one gene.
        source: the table's origin and date.
    """

    symbol_of: dict[str, str]
    ensembl_of: dict[str, str]
    symbol_of_alias: dict[str, str]
    source: str


def strip_version(name: str) -> str:
    """`ENSG00000141736.12` -> `ENSG00000141736`; any other name, dotted clone names included, stays as it is."""
    return _VERSIONED.sub(r"\1\2", name)


def is_ensembl(name: str) -> bool:
    """Whether `name` is an Ensembl gene id of any species, without a version."""
    return _ENSEMBL.match(name) is not None


def _reference(pairs: Iterable[tuple[str, str]], aliases: dict[str, str], source: str) -> GeneReference:
    symbol_of = dict(pairs)
    carriers = Counter(symbol_of.values())
    ensembl_of = {symbol: ensembl_id for ensembl_id, symbol in symbol_of.items() if carriers[symbol] == 1}
    return GeneReference(symbol_of, ensembl_of, aliases, source)


@functools.cache
def shipped_reference() -> GeneReference:
    """The table shipped in `data_prep/resources`, verified against its SHA-256.

    Raises:
        InputError: a file is missing or altered.
    """
    origin = json.loads((RESOURCES / "human_genes.json").read_text())

    def rows(entry: dict[str, str]) -> list[list[str]]:
        path = RESOURCES / entry["file"]
        data = path.read_bytes() if path.is_file() else b""
        found = hashlib.sha256(data).hexdigest()
        if found != entry["sha256"]:
            raise InputError(f"{path}: SHA-256 is {found}, expected {entry['sha256']}; install stjax again")
        return [line.split("\t") for line in gzip.decompress(data).decode().splitlines()[1:]]

    genes, aliases = rows(origin["genes"]), rows(origin["aliases"])
    return _reference(
        ((row[0], row[1]) for row in genes),
        {row[0]: row[1] for row in aliases},
        f"{origin['source']}, {origin['date']}",
    )


def hgnc_reference(path: Path) -> GeneReference:
    """A user's HGNC complete set (`hgnc_complete_set.txt`, tab separated, plain or gzipped; CC0).

    Raises:
        InputError: unreadable, or without the columns `symbol` and `ensembl_gene_id`.
    """
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the gene table ({error}); download HGNC's complete set again") from error
    reader = csv.DictReader(io.StringIO(text), delimiter="\t")
    if not {"symbol", "ensembl_gene_id"} <= set(reader.fieldnames or ()):
        raise InputError(
            f"{path}: columns are {list(reader.fieldnames or ())[:8]}, expected at least 'symbol' and "
            "'ensembl_gene_id' (HGNC's complete set, tab separated)"
        )
    rows = [row for row in reader if row.get("status") in (None, "", "Approved") and row["symbol"]]
    official = {row["symbol"] for row in rows}
    means: dict[str, set[str]] = {}
    for row in rows:
        for alias in (row.get("prev_symbol") or "").split("|") + (row.get("alias_symbol") or "").split("|"):
            if alias and alias not in official:
                means.setdefault(alias, set()).add(row["symbol"])
    return _reference(
        ((strip_version(row["ensembl_gene_id"]), row["symbol"]) for row in rows if row["ensembl_gene_id"]),
        {alias: next(iter(symbols)) for alias, symbols in means.items() if len(symbols) == 1},
        f"HGNC file {Path(path).name}, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}",
    )


def load_reference(path: Path | None = None) -> GeneReference:
    """The user's HGNC file when given, else the shipped table."""
    return shipped_reference() if path is None else hgnc_reference(path)


def gene_table(
    names: Sequence[str],
    *,
    symbols: Sequence[str] | None = None,
    reference: GeneReference | None = None,
    resolve_aliases: bool = False,
) -> tuple[GeneTable, tuple[str, ...]]:
    """Both names of every gene, and notes that count what stays with one name only.

    Args:
        names: [G] Ensembl ids (a version is stripped) or symbols, in column order; the two may be mixed.
        symbols: [G] the file's own symbols, where it has both; "" or the id itself where it has none.
        reference: the naming table; the shipped one by default.
        resolve_aliases: replace outdated names by official ones, unless the official one is a column too.
    """
    reference = reference or shipped_reference()
    ids = [strip_version(name.strip()) for name in names]
    own = [name.strip() for name in (symbols if symbols is not None else ids)]
    ids = [name if is_ensembl(name) else "" for name in ids]
    own = [
        name if name and not is_ensembl(strip_version(name)) else reference.symbol_of.get(ensembl_id, "")
        for ensembl_id, name in zip(ids, own, strict=True)
    ]
    notes = []
    if resolve_aliases:
        own, renamed, kept = _official(ids, own, reference)
        notes.append(f"{renamed} outdated symbols replaced by official ones, {kept} kept because both are present")
    known = set(ids)
    ensembl_id = [ids[i] or _new(reference.ensembl_of.get(own[i], ""), known) for i in range(len(ids))]
    unnamed, unidentified = own.count(""), ensembl_id.count("")
    if unnamed:
        notes.append(f"{unnamed} of {len(own)} Ensembl ids have no symbol and stay under their id")
    if unidentified:
        notes.append(f"{unidentified} of {len(own)} symbols have no unique Ensembl id and stay under their symbol")
    return GeneTable(np.array(ensembl_id, dtype=str), np.array(own, dtype=str)), tuple(notes)


def _new(ensembl_id: str, known: set[str]) -> str:
    """An id found through a symbol, unless a column of the file carries that id itself."""
    return "" if ensembl_id in known else ensembl_id


def _official(ids: list[str], symbols: list[str], reference: GeneReference) -> tuple[list[str], int, int]:
    """Official symbols, how many were replaced, and how many were not because the official one is present."""
    present, result, renamed, kept = set(symbols), [], 0, 0
    for ensembl_id, symbol in zip(ids, symbols, strict=True):
        outdated = symbol and symbol not in reference.ensembl_of
        official = reference.symbol_of.get(ensembl_id) or (reference.symbol_of_alias.get(symbol) if outdated else None)
        if official is None or official == symbol:
            result.append(symbol)
        elif official in present and not ensembl_id:
            result.append(symbol)
            kept += 1
        else:
            result.append(official)
            present.add(official)
            renamed += 1
    return result, renamed, kept


def merge_duplicates(
    genes: GeneTable, counts: scipy.sparse.csr_array
) -> tuple[GeneTable, scipy.sparse.csr_array, tuple[str, ...]]:
    """One column per gene: columns with the same key are summed into the first, and counted in a note.

    Ids that share a symbol have different keys and are kept apart.

    Args:
        genes: [G] gene table.
        counts: [S, G] counts.
    """
    keys, first, column = np.unique(genes.keys, return_index=True, return_inverse=True)
    if len(keys) == len(genes):
        return genes, counts, ()
    order = np.argsort(first)  # columns keep the order of their first appearance
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    gather = scipy.sparse.csr_array(
        (np.ones(len(genes), counts.dtype), (np.arange(len(genes)), rank[column])), shape=(len(genes), len(keys))
    )
    kept = first[order]
    note = f"{len(genes) - len(keys)} duplicate gene columns summed into their first"
    return GeneTable(genes.ensembl_id[kept], genes.symbol[kept]), scipy.sparse.csr_array(counts @ gather), (note,)


def name_columns(
    names: Sequence[str],
    counts: scipy.sparse.csr_array,
    *,
    symbols: Sequence[str] | None = None,
    gene_table_path: Path | None = None,
    resolve_aliases: bool = False,
) -> tuple[GeneTable, scipy.sparse.csr_array, tuple[str, ...]]:
    """Gene table, counts [S, G] with one column per gene, and notes, from a file's own column names.

    Args:
        names, symbols, resolve_aliases: see `gene_table`.
        counts: [S, columns] counts.
        gene_table_path: the user's HGNC file in place of the shipped table.
    """
    named, notes = gene_table(
        names, symbols=symbols, reference=load_reference(gene_table_path), resolve_aliases=resolve_aliases
    )
    named, counts, merge_notes = merge_duplicates(named, counts)
    return named, counts, notes + merge_notes
