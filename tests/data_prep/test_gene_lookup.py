"""Genes are found by any of their names, and what is not found is told for what it is."""

import pytest

from data_prep.errors import InputError
from data_prep.gene_lookup import GeneLookup, other_names
from data_prep.gene_reference import shipped_reference

HUMAN = ("ERBB2", "MKI67", "MS4A1", "CD274", "TP53", "HLA-A", "AES", "NKX2-1", "SERF2", "PDCD1", "C4A")


def lookup(symbols: tuple[str, ...] = HUMAN, *, species: str = "human", beside: tuple[str, ...] = ()) -> GeneLookup:
    ids = [shipped_reference(species).ensembl_of.get(symbol, "") for symbol in symbols]
    return GeneLookup(ids, symbols, labels=symbols, what="the model does not predict gene", beside=beside)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("HER2", "ERBB2"),
        ("her-2", "ERBB2"),
        ("Her-2/neu", "ERBB2"),
        ("erbb2", "ERBB2"),
        ("Ki-67", "MKI67"),
        ("KI67", "MKI67"),
        ("CD20", "MS4A1"),
        ("PD-L1", "CD274"),
        ("pdl1", "CD274"),
        ("PD-1", "PDCD1"),
        ("p53", "TP53"),
        ("HLAA", "HLA-A"),
        ("TTF-1", "NKX2-1"),
        ("TLE5", "AES"),  # the official symbol of what the data call by its outdated one
        ("ENSG00000141736.12", "ERBB2"),
        ("ensg00000141736", "ERBB2"),
        (" ERBB2 ", "ERBB2"),
    ],
)
def test_a_gene_is_found_by_any_of_its_names(asked: str, found: str) -> None:
    place, note = lookup().find(asked)
    assert HUMAN[place] == found
    assert note in ("", f"{asked} is taken as {found}")


def test_another_name_is_said_and_a_gene_named_twice_taken_once() -> None:
    places, notes = lookup().places(["HER2", "TP53", "ERBB2"])
    assert places.tolist() == [0, 4]
    assert notes == ["HER2 is taken as ERBB2"]


def test_mouse_genes_are_found_by_the_names_of_mouse() -> None:
    found = lookup(("Erbb2", "Trp53", "Mki67"), species="mouse")
    assert [found.find(name)[0] for name in ("HER2", "ERBB2", "p53", "Ki-67", "ENSMUSG00000062312")] == [0, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("ER", r"^gene 'ER' may mean EREG, ESR1; name the one you mean"),
        ("ESR1", r"^the model does not predict gene 'ESR1': it is none of the 11 genes"),
        ("VEGF", r"^the model does not predict gene 'VEGF', which is VEGFA: it is none of the 11 genes"),
        ("CD45", r"^the model does not predict gene 'CD45', which is PTPRC: AuxNet learnt it"),
        ("ENSG00000091831", r"^the model does not predict gene 'ENSG00000091831', which is ESR1: it is none"),
        ("ENSG99999999999", r"^the model does not predict gene 'ENSG99999999999', an id that no table here has"),
        ("SERFF2", r"^the model does not predict gene 'SERFF2'; nearest names: SERF2"),
        ("xyzzy", r"^the model does not predict gene 'xyzzy'; nearest names: none"),
    ],
)
def test_what_is_not_found_is_told_for_what_it_is(asked: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lookup(beside=("PTPRC",)).find(asked)


def test_ids_that_share_a_symbol_are_named() -> None:
    ids = ["ENSG00000000001", "ENSG00000000002"]
    found = GeneLookup(ids, ["TWIN", "TWIN"], labels=[f"TWIN ({each})" for each in ids], what="no gene")
    assert found.find("TWIN (ENSG00000000002)") == (1, "")
    with pytest.raises(InputError, match=r"may mean TWIN \(ENSG00000000001\), TWIN \(ENSG00000000002\)"):
        found.find("TWIN")


def test_genes_of_an_unknown_species_are_found_by_their_own_names() -> None:
    found = GeneLookup(["", ""], ["gene_1", "gene_2"], labels=["gene_1", "gene_2"], what="no gene")
    assert found.find("GENE1") == (0, "GENE1 is taken as gene_1")
    with pytest.raises(InputError, match="nearest names: gene_"):
        found.find("gene_3")


def test_other_names_of_genes_are_listed_as_they_are_looked_for() -> None:
    erbb2, unknown = other_names(["ENSG00000141736", ""], ["ERBB2", "AC004381.6"])
    assert {"her2", "her2neu", "cd340"} <= set(erbb2)
    assert "erbb2" not in erbb2
    assert unknown == []
    assert other_names(["", ""], ["gene_1", "gene_2"]) == [[], []]
