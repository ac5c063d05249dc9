"""Gene names of a file: both names kept, versions stripped, nothing dropped, of the species they are of."""

import numpy as np
import scipy.sparse

from data_prep import genes
from data_prep.section import GeneTable


def test_gene_table_fills_symbols_of_ensembl_columns() -> None:
    table, notes = genes.gene_table(["ENSG00000141736.12", "ENSG99999999999"])
    assert table.ensembl_id.tolist() == ["ENSG00000141736", "ENSG99999999999"]
    assert table.symbol.tolist() == ["ERBB2", ""]
    assert table.names.tolist() == ["ERBB2", "ENSG99999999999"]
    assert any(note.startswith("1 of 2 Ensembl ids") for note in notes)


def test_gene_table_fills_ids_of_symbol_columns_where_unique() -> None:
    table, notes = genes.gene_table(["ERBB2", "HLA-A", "AC004381.6", "AARS"])
    assert table.ensembl_id.tolist() == ["ENSG00000141736", "ENSG00000206503", "", ""]  # not a haplotype's HLA-A
    assert table.keys.tolist() == ["ENSG00000141736", "ENSG00000206503", "AC004381.6", "AARS"]
    assert notes == (
        "2 of 4 symbols have no unique Ensembl id and stay under their symbol "
        "(1 of them outdated, which --resolve-aliases replaces)",
    )


def test_gene_table_keeps_names_that_are_no_ids_where_there_are_no_symbols() -> None:
    table, _ = genes.gene_table(["ENSG00000141736", "probe1", "probe2"], symbols=["", "", ""])
    assert table.keys.tolist() == ["ENSG00000141736", "probe1", "probe2"]  # not two of no name, summed into one


def test_gene_table_names_mouse_genes_by_the_mouse_table() -> None:
    table, notes = genes.gene_table(["Erbb2", "B2m", "Neu"], resolve_aliases=True)
    assert table.ensembl_id.tolist() == ["ENSMUSG00000062312", "ENSMUSG00000060802", ""]
    assert table.symbol.tolist() == ["Erbb2", "B2m", "Neu"]  # Neu is another name of Erbb2, which is there too
    assert notes[0].startswith("0 outdated")
    assert genes.gene_table(["ENSMUSG00000062312.8"])[0].symbol.tolist() == ["Erbb2"]


def test_gene_table_leaves_names_of_an_unknown_species_as_they_are() -> None:
    table, notes = genes.gene_table(["erbb2", "tp53", "actb1"])
    assert table.symbol.tolist() == ["erbb2", "tp53", "actb1"]
    assert table.ensembl_id.tolist() == ["", "", ""]
    assert notes[0].startswith("the species of the genes is not known (no Ensembl ids, and among 3 symbols")
    assert genes.gene_table(["ENSRNOG00000006450"])[1][0].startswith("the species of the genes is not known (Ensembl")


def test_gene_table_keeps_several_ids_of_one_symbol_apart() -> None:
    table, _ = genes.gene_table(["ENSG00000000001", "ENSG00000000002"], symbols=["TWIN", "TWIN"])
    assert table.symbol.tolist() == ["TWIN", "TWIN"]
    assert len(set(table.keys)) == 2


def test_gene_table_replaces_outdated_symbols_only_on_request() -> None:
    assert genes.gene_table(["AARS"])[0].symbol.tolist() == ["AARS"]
    table, notes = genes.gene_table(["AARS"], resolve_aliases=True)
    assert table.symbol.tolist() == ["AARS1"]
    assert table.ensembl_id[0].startswith("ENSG")
    assert any(note.startswith("1 outdated") for note in notes)


def test_gene_table_keeps_an_alias_beside_its_official_symbol() -> None:
    table, _ = genes.gene_table(["AARS", "AARS1"], resolve_aliases=True)
    assert table.symbol.tolist() == ["AARS", "AARS1"]
    assert len(set(table.keys)) == 2


def test_merge_duplicates_sums_columns_with_the_same_key() -> None:
    table = GeneTable(np.array(["", "ENSG00000000001", ""]), np.array(["A", "B", "A"]))
    merged, counts, notes = genes.merge_duplicates(table, scipy.sparse.csr_array(np.array([[1, 2, 3]], np.int32)))
    assert merged.names.tolist() == ["A", "B"]
    assert counts.toarray().tolist() == [[4, 2]]
    assert notes == ("1 duplicate gene columns summed into their first",)
