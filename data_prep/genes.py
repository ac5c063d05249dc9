"""Gene names of a file: Ensembl ids and symbols side by side, whichever of the two the file has."""

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.counts import Counts, gathered
from data_prep.gene_reference import (
    GeneReference,
    find_species,
    is_ensembl,
    shipped_reference,
    strip_version,
)
from data_prep.section import GeneTable


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
        reference: the naming table; by default the shipped one of their species, or none where that is not known.
        resolve_aliases: replace outdated names by official ones, unless the official one is a column too.
    """
    ids = [strip_version(name.strip()) for name in names]
    own = [name.strip() for name in (symbols if symbols is not None else ids)]
    notes = []
    if reference is None:
        species, why = find_species(ids, own)
        reference = shipped_reference(species)
        if not species and own:
            notes.append(f"the species of the genes is not known ({why}): names stay as in the file")
    own = [symbol or name for name, symbol in zip(ids, own, strict=True)]
    ids = [name if is_ensembl(name) else "" for name in ids]
    own = [
        name if name and not is_ensembl(strip_version(name)) else reference.symbol_of.get(ensembl_id, "")
        for ensembl_id, name in zip(ids, own, strict=True)
    ]
    if resolve_aliases:
        own, renamed, kept = _official(ids, own, reference)
        notes.append(f"{renamed} outdated symbols replaced by official ones, {kept} kept because both are present")
    known = set(ids)
    ensembl_id = [ids[i] or _new(reference.ensembl_of.get(own[i], ""), known) for i in range(len(ids))]
    unnamed, unidentified = own.count(""), ensembl_id.count("")
    if unnamed:
        notes.append(f"{unnamed} of {len(own)} Ensembl ids have no symbol and stay under their id")
    if unidentified:
        outdated = sum(not i and name in reference.symbol_of_alias for i, name in zip(ensembl_id, own, strict=True))
        text = f"{unidentified} of {len(own)} symbols have no unique Ensembl id and stay under their symbol"
        notes.append(text + f" ({outdated} of them outdated, which --resolve-aliases replaces)" * bool(outdated))
    return GeneTable(np.array(ensembl_id, dtype=str), np.array(own, dtype=str)), tuple(notes)


def species_of(genes: GeneTable) -> tuple[str, str]:
    """ "human" or "mouse" and what tells it, or "" and why it cannot be told; see `gene_reference.find_species`."""
    species, why = find_species(genes.ensembl_id.tolist(), genes.symbol.tolist())
    if not species:
        return species, why
    known = shipped_reference(species)
    of_it = sum(i in known.symbol_of or name in known.ensembl_of or name in known.symbol_of_alias
                for i, name in zip(genes.ensembl_id.tolist(), genes.symbol.tolist(), strict=True))  # fmt: skip
    return species, f"{of_it} of {len(genes)} genes"


def two_species(species: Mapping[str, str]) -> str:
    """What to say where sections are not of one species, as no gene of one is a gene of the other; else "".

    Args:
        species: of each section, "" where it is not known.
    """
    found: dict[str, list[str]] = {}
    for name, each in species.items():
        if each:
            found.setdefault(each, []).append(name)
    if len(found) < 2:
        return ""
    which = " and ".join(f"{each} ({', '.join(names)})" for each, names in sorted(found.items()))
    return f"sections of two species, which share no gene: {which}; build a data set of each, naming its --sections"


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


def merge_duplicates(genes: GeneTable, counts: Counts) -> tuple[GeneTable, Counts, tuple[str, ...]]:
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
    kept = first[order]
    note = f"{len(genes) - len(keys)} duplicate gene columns summed into their first"
    return GeneTable(genes.ensembl_id[kept], genes.symbol[kept]), gathered(counts, rank[column], len(keys)), (note,)
