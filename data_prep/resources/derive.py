"""Derive the shipped gene tables from a folder of human_genes.tsv and human_gene_aliases.tsv: derive.py FOLDER.

One row per Ensembl id (its lowest Entrez id names it: the long-established gene, not a read-through or antisense entry)
and one row per alias that means exactly one gene and is no gene's official symbol.
"""

import csv
import gzip
import hashlib
import json
import sys
from pathlib import Path

SOURCE = "Bioconductor org.Hs.eg.db 3.16 (Ensembl of June 2022, NCBI Gene of September 2022; public domain)"
DATE = "2022-09"


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def write(path: Path, header: str, rows: list[tuple[str, ...]]) -> dict[str, str | int]:
    """Write a gzipped table, the same bytes on every run, and return its entry in the index."""
    text = "\n".join([header, *("\t".join(row) for row in rows)]) + "\n"
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": len(rows)}


def main(source: Path, out: Path) -> None:
    """Write both tables and their index to `out`."""
    named: dict[str, tuple[int, str]] = {}
    for row in read(source / "human_genes.tsv"):
        entry = (int(row["entrez_id"]), row["symbol"])
        named[row["ensembl_id"]] = min(entry, named.get(row["ensembl_id"], entry))
    official = {symbol for _, symbol in named.values()}
    means: dict[str, set[str]] = {}
    for row in read(source / "human_gene_aliases.tsv"):
        means.setdefault(row["alias"], set()).add(row["symbol"])
    aliases = [
        (alias, *symbols) for alias, symbols in means.items()
        if len(symbols) == 1 and alias not in official and symbols <= official
    ]  # fmt: skip
    tables = {
        "genes": write(
            out / "human_genes.tsv.gz", "ensembl_id\tsymbol", sorted((i, symbol) for i, (_, symbol) in named.items())
        ),
        "aliases": write(out / "human_gene_aliases.tsv.gz", "alias\tsymbol", sorted(aliases)),
    }
    (out / "human_genes.json").write_text(json.dumps({"source": SOURCE, "date": DATE, **tables}, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
