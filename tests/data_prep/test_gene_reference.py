"""Reference tables of genes: verified, of the primary assembly, and which species a list of names is of."""

import gzip
from pathlib import Path

import pytest

from data_prep import gene_reference
from data_prep.errors import InputError
from data_prep.gene_reference import find_species, own_reference, shipped_reference
from data_prep.genes import gene_table

# As Ensembl has them on GRCh38's chromosomes; each has copies on alternative haplotypes or a second gene of its name.
PRIMARY = {
    "B2M": "ENSG00000166710",
    "HLA-A": "ENSG00000206503",
    "HLA-B": "ENSG00000234745",
    "HLA-C": "ENSG00000204525",
    "HLA-E": "ENSG00000204592",
    "HLA-DRA": "ENSG00000204287",
    "HLA-DRB1": "ENSG00000196126",
    "HLA-DQB1": "ENSG00000179344",
    "HLA-DPA1": "ENSG00000231389",
    "HLA-DPB1": "ENSG00000223865",
    "HLA-DMA": "ENSG00000204257",
    "TAP1": "ENSG00000168394",
    "PSMB9": "ENSG00000240065",
    "C4A": "ENSG00000244731",
    "BAG6": "ENSG00000204463",
    "GNAS": "ENSG00000087460",
    "CFH": "ENSG00000000971",
    "MATR3": "ENSG00000015479",
}


def test_strip_version_keeps_dotted_clone_names() -> None:
    assert gene_reference.strip_version("ENSG00000141736.12") == "ENSG00000141736"
    assert gene_reference.strip_version("ENSMUSG00000051951.5") == "ENSMUSG00000051951"
    assert gene_reference.strip_version("ENSG00000182378.14_PAR_Y") == "ENSG00000182378_PAR_Y"
    assert gene_reference.strip_version("AC004381.6") == "AC004381.6"


def test_a_symbol_has_its_id_of_the_primary_assembly() -> None:
    reference = shipped_reference("human")
    assert {symbol: reference.ensembl_of.get(symbol) for symbol in PRIMARY} == PRIMARY
    assert "KIR2DS2" not in reference.ensembl_of  # on thirteen haplotypes, none of them the primary assembly


@pytest.mark.parametrize("species", gene_reference.SPECIES)
def test_each_symbol_has_one_id_at_most_and_aliases_are_no_symbols(species: str) -> None:
    reference = shipped_reference(species)
    assert len(set(reference.ensembl_of.values())) == len(reference.ensembl_of)
    assert all(reference.symbol_of[ensembl_id] == symbol for symbol, ensembl_id in reference.ensembl_of.items())
    official = set(reference.symbol_of.values())
    assert not official & set(reference.meanings)
    assert set(reference.symbol_of_alias.values()) <= official


def test_the_mouse_table_knows_mouse() -> None:
    mouse = shipped_reference("mouse")
    assert mouse.ensembl_of["Trp53"] == "ENSMUSG00000059552"
    assert mouse.ensembl_of["Azin1"] == "ENSMUSG00000037458"
    assert mouse.symbol_of_alias["HER2"] == "Erbb2"
    assert "GENCODE M37" in mouse.source
    assert "CC BY 4.0" in mouse.source


def test_shipped_reference_refuses_an_altered_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in gene_reference.RESOURCES.glob("human_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "human_genes.tsv.gz").write_bytes(gzip.compress(b"ensembl_id\tsymbol\tits_id\n"))
    monkeypatch.setattr(gene_reference, "RESOURCES", tmp_path)
    with pytest.raises(InputError, match="SHA-256"):
        shipped_reference.__wrapped__("human")


def test_shipped_reference_names_source_and_date() -> None:
    assert "org.Hs.eg.db 3.16" in shipped_reference("human").source
    assert "GENCODE 48 primary assembly" in shipped_reference("human").source
    assert "2022-09" in shipped_reference("human").source


def test_hgnc_file_takes_the_place_of_the_shipped_table(tmp_path: Path) -> None:
    path = tmp_path / "hgnc_complete_set.txt"
    path.write_text(
        "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id\n"
        "HGNC:1\tNEWNAME\tApproved\tNICK|SHARED\tOLDNAME\tENSG00000000007\n"
        'HGNC:2\tOTHER\tApproved\t"SHARED"\t\tENSG00000000008\n'
        "HGNC:3\tGONE\tEntry Withdrawn\t\t\t\n"
    )
    reference = own_reference(path)
    table, _ = gene_table(["OLDNAME", "SHARED", "NICK"], reference=reference, resolve_aliases=True)
    assert table.symbol.tolist() == ["NEWNAME", "SHARED", "NICK"]  # ambiguous and already-present names stay
    assert table.ensembl_id.tolist() == ["ENSG00000000007", "", ""]
    assert reference.meanings["SHARED"] == ("NEWNAME", "OTHER")


def test_mgi_file_takes_the_place_of_the_shipped_table(tmp_path: Path) -> None:
    path = tmp_path / "MRK_ENSEMBL.rpt"
    path.write_text("MGI:101757\tMine\tmy gene\t1.0\t7\tENSMUSG00000056201\tENSMUST1\tENSMUSP1\tgene\n")
    assert own_reference(path).ensembl_of == {"Mine": "ENSMUSG00000056201"}
    assert own_reference(path).source.startswith("MGI file MRK_ENSEMBL.rpt, SHA-256")


def test_gene_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genes.txt"
    path.write_text("gene,id\nA,1\n")
    with pytest.raises(InputError, match="ensembl_gene_id"):
        own_reference(path)


def test_species_is_told_by_ids_before_symbols() -> None:
    assert find_species(["ENSMUSG00000062312", "ENSG00000141736", "ENSMUSG00000059552"], ["TP53"])[0] == "mouse"
    assert find_species(["ENSG00000141736"], []) == ("human", "1 Ensembl ids ENSG...")
    assert find_species(["ENSRNOG00000006450"], []) == ("", "Ensembl ids ENSRNOG..., neither human's nor mouse's")


def test_species_is_told_by_how_symbols_are_spelt() -> None:
    human, mouse = (list(shipped_reference(species).ensembl_of)[::40] for species in gene_reference.SPECIES)
    assert find_species([], human)[0] == "human"
    assert find_species([], mouse)[0] == "mouse"
    assert find_species([], ["AARS", "AC004381.6"])[0] == "human"  # by an outdated symbol
    assert find_species([], [name.upper() for name in mouse])[0] == ""
    assert find_species([], [*mouse, *(f"RGD{number}" for number in range(1_300_000, 1_300_200))])[0] == ""
    assert find_species([], [name.lower() for name in human])[0] == ""
    assert find_species([], ["gene_1", "gene_2"])[0] == ""
    assert find_species([], [])[0] == ""


def test_several_species_are_seen_and_a_stray_id_is_none() -> None:
    human, mouse = ([f"{prefix}{number:011d}" for number in range(100)] for prefix in ("ENSG", "ENSMUSG"))
    assert gene_reference.several_species([*human, *mouse[:50]]) == ["human", "mouse"]
    assert gene_reference.several_species([*human, mouse[0], "TP53"]) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"symbol\tensembl_gene_id\nA\rB\tENSG00000000001\n", "line 2 is no row of a table"),
        (gzip.compress(b"symbol\tensembl_gene_id\n" * 50, mtime=0)[:-9] + b"x", "truncated or corrupt gzip"),
        (gzip.compress(bytes(1 << 20), mtime=0) * 40, "what it unpacks to would take .* over the budget"),
    ],
)
def test_a_damaged_gene_table_is_refused_in_one_line(tmp_path, data, message):
    path = tmp_path / "genes.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        gene_reference.own_reference(path)
