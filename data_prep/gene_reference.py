"""What is known of genes: ids, symbols and other names of human and mouse, from shipped, dated, hashed tables or the
user's own, and which of the two species a list of genes is of."""

import csv
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import budgets, unpack
from data_prep.errors import InputError

RESOURCES = Path(__file__).parent / "resources"
SPECIES = ("human", "mouse")  # of which there are shipped tables

# Version suffixes belong to ids such as ENSG00000141736.12; clone names such as AC004381.6 keep their dot.
_VERSIONED = re.compile(r"^(ENS[A-Z]*G\d{11})\.\d+(_PAR_Y)?$")
_ENSEMBL = re.compile(r"^(ENS[A-Z]*G)\d{11}(_PAR_Y)?$")
_SPECIES_OF_IDS = {"ENSG": "human", "ENSMUSG": "mouse"}
_RAT = re.compile(r"^(RGD\d|AABR\d|AC\d+\.\d+$|LOC\d{7,9}$)")  # rat symbols are spelt as mouse's, but for these
_LEAST_KNOWN = 0.05  # of the symbols, to be a list of genes of that species
_LEAST_OF_OTHER = 0.02  # of the ids, to be a second species and not a stray few


@dataclasses.dataclass(frozen=True)
class GeneReference:
    """What a reference table knows.

    Attributes:
        species: "human" or "mouse"; "" of a user's own table, or of none.
        symbol_of: Ensembl id -> symbol.
        ensembl_of: symbol -> its one Ensembl id, on the primary assembly where others are of alternative haplotypes;
            absent where that cannot be told.
        symbol_of_alias: outdated or alternative name -> official symbol, only where it means exactly one gene.
        meanings: alternative name -> the symbols it may mean, for those who ask for a gene by another name.
        source: the table's origin and date.
    """

    species: str
    symbol_of: Mapping[str, str]
    ensembl_of: Mapping[str, str]
    symbol_of_alias: Mapping[str, str]
    meanings: Mapping[str, tuple[str, ...]]
    source: str


NOTHING_KNOWN = GeneReference("", {}, {}, {}, {}, "no table")


def strip_version(name: str) -> str:
    """`ENSG00000141736.12` -> `ENSG00000141736`; any other name, dotted clone names included, stays as it is."""
    return _VERSIONED.sub(r"\1\2", name)


def is_ensembl(name: str) -> bool:
    """Whether `name` is an Ensembl gene id of any species, without a version."""
    return _ENSEMBL.match(name) is not None


def find_species(ids: Iterable[str], symbols: Iterable[str]) -> tuple[str, str]:
    """ "human" or "mouse" and what tells it, or "" and why it cannot be told.

    Ensembl ids tell it; where there are none, the symbols' spelling does: TP53 is human, Trp53 mouse.

    Args:
        ids: Ensembl ids; others and "" do not count.
        symbols: those that have no id may be among them.
    """
    prefixes = Counter(match[1] for name in ids if (match := _ENSEMBL.match(name)))
    if prefixes:
        prefix, count = prefixes.most_common(1)[0]
        if (species := _SPECIES_OF_IDS.get(prefix)) is None:
            return "", f"Ensembl ids {prefix}..., neither human's nor mouse's"
        return species, f"{count} Ensembl ids {prefix}..."
    names = [name for name in symbols if name]
    found = {}
    for species in SPECIES:
        known = shipped_reference(species)
        found[species] = sum(name in known.ensembl_of or name in known.symbol_of_alias for name in names)
    species, other = sorted(SPECIES, key=lambda name: -found[name])
    if found[species] <= max(_LEAST_KNOWN * len(names), 2 * found[other]):
        counts = ", ".join(f"{number} of {name}" for name, number in found.items())
        return "", f"no Ensembl ids, and among {len(names)} symbols {counts}"
    if species == "mouse" and sum(_RAT.match(name) is not None for name in names) > _LEAST_OF_OTHER * len(names):
        return "", "symbols such as rat's"
    if species == "human" and sum(name in _mouse_in_capitals() for name in names) > found["human"]:
        return "", "more symbols are mouse's in capitals than human's"
    return species, f"{found[species]} of {len(names)} symbols"


def several_species(ids: Sequence[str]) -> list[str]:
    """The species of Ensembl ids where there are several, none of them a stray few; else nothing."""
    found = Counter(match[1] for name in ids if (match := _ENSEMBL.match(name)))
    least = _LEAST_OF_OTHER * sum(found.values())
    several = [_SPECIES_OF_IDS.get(prefix, prefix) for prefix, count in found.most_common() if count > least]
    return several if len(several) > 1 else []


@functools.cache
def _mouse_in_capitals() -> frozenset[str]:
    return frozenset(symbol.upper() for symbol in shipped_reference("mouse").ensembl_of)


@functools.cache
def shipped_reference(species: str = "human") -> GeneReference:
    """The table shipped in `data_prep/resources`, verified against its SHA-256; an empty one for an unknown species.

    Raises:
        InputError: a file is missing or altered.
    """
    if species not in SPECIES:
        return NOTHING_KNOWN
    origin = _index(species)
    genes, aliases = _rows(origin["genes"]), _rows(origin["aliases"])
    symbol_of = {ensembl_id: symbol for ensembl_id, symbol, _ in genes}
    official = set(symbol_of.values())
    return GeneReference(
        species=species,
        symbol_of=symbol_of,
        ensembl_of={symbol: ensembl_id for ensembl_id, symbol, its in genes if its},
        symbol_of_alias={alias: symbols for alias, symbols, _ in aliases if symbols in official},  # one symbol
        meanings={alias: tuple((authority or symbols).split("|")) for alias, symbols, authority in aliases},
        source=f"{origin['source']}, {origin['date']}",
    )


@functools.cache
def full_names() -> Mapping[str, str]:
    """What human symbols are short for, {"ERBB2": "erb-b2 receptor tyrosine kinase 2"}, from the table shipped.

    Raises:
        InputError: its file is missing or altered.
    """
    return {row[0]: row[1] for row in _rows(_index("human")["names"])}


def _index(species: str) -> dict[str, Any]:
    return json.loads((RESOURCES / f"{species}_genes.json").read_text())


def _rows(entry: Mapping[str, str]) -> list[list[str]]:
    """A shipped table without its header."""
    path = RESOURCES / entry["file"]
    data = path.read_bytes() if path.is_file() else b""
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise InputError(f"{path}: SHA-256 is {found}, expected {entry['sha256']}; install stjax again")
    return [line.split("\t") for line in gzip.decompress(data).decode().splitlines()[1:]]


def own_reference(path: Path) -> GeneReference:
    """A user's table: HGNC's complete set (`hgnc_complete_set.txt`, CC0) or MGI's ids (`MRK_ENSEMBL.rpt`, CC BY 4.0),
    tab separated, plain or gzipped.

    Raises:
        InputError: unreadable, or neither of the two.
    """
    try:
        data = unpack.read_bytes(Path(path), budgets.TABLE_TEXT)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot read the gene table ({error}); download HGNC's complete set again") from error
    identity = f"file {Path(path).name}, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}"
    if re.match(r"MGI:\d+\t", text):
        rows = [line.split("\t") for line in text.splitlines()]
        pairs = [(row[5], row[1]) for row in rows if len(row) > 5 and is_ensembl(row[5])]
        return _reference(pairs, {}, f"MGI {identity}")
    budgets.TABLE.check(Path(path), len(text) + 120 * text.count("\n") + 64 * text.count("\t"))
    reader = csv.DictReader(io.StringIO(text), delimiter="\t")
    try:
        columns, listed = list(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num + 1} is no row of a table ({error}); download it again"
        ) from error
    if not {"symbol", "ensembl_gene_id"} <= set(columns):
        raise InputError(
            f"{path}: columns are {columns[:8]}, expected at least 'symbol' and "
            "'ensembl_gene_id' (HGNC's complete set, tab separated), or MGI's MRK_ENSEMBL.rpt"
        )
    rows = [row for row in listed if row.get("status") in (None, "", "Approved") and row["symbol"]]
    official = {row["symbol"] for row in rows}
    meanings = defaultdict(set)
    for row in rows:
        for alias in (row.get("prev_symbol") or "").split("|") + (row.get("alias_symbol") or "").split("|"):
            if alias and alias not in official:
                meanings[alias].add(row["symbol"])
    pairs = [(strip_version(row["ensembl_gene_id"]), row["symbol"]) for row in rows if row["ensembl_gene_id"]]
    return _reference(pairs, meanings, f"HGNC {identity}")


def _reference(pairs: Iterable[tuple[str, str]], meanings: Mapping[str, set[str]], source: str) -> GeneReference:
    """Of a table that has one id a symbol."""
    symbol_of = dict(pairs)
    carriers = Counter(symbol_of.values())
    return GeneReference(
        species="",
        symbol_of=symbol_of,
        ensembl_of={symbol: ensembl_id for ensembl_id, symbol in symbol_of.items() if carriers[symbol] == 1},
        symbol_of_alias={alias: next(iter(symbols)) for alias, symbols in meanings.items() if len(symbols) == 1},
        meanings={alias: tuple(sorted(symbols)) for alias, symbols in meanings.items()},
        source=source,
    )
