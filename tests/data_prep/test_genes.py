"""Gene names: both names kept, versions stripped, nothing dropped, the shipped table verified."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep import genes
from data_prep.errors import InputError
from data_prep.section import GeneTable


def test_strip_version_keeps_dotted_clone_names() -> None:
    assert genes.strip_version("ENSG00000141736.12") == "ENSG00000141736"
    assert genes.strip_version("ENSMUSG00000051951.5") == "ENSMUSG00000051951"
    assert genes.strip_version("ENSG00000182378.14_PAR_Y") == "ENSG00000182378_PAR_Y"
    assert genes.strip_version("AC004381.6") == "AC004381.6"


def test_gene_table_fills_symbols_of_ensembl_columns() -> None:
    table, notes = genes.gene_table(["ENSG00000141736.12", "ENSG99999999999"])
    assert table.ensembl_id.tolist() == ["ENSG00000141736", "ENSG99999999999"]
    assert table.symbol.tolist() == ["ERBB2", ""]
    assert table.names.tolist() == ["ERBB2", "ENSG99999999999"]
    assert any(note.startswith("1 of 2 Ensembl ids") for note in notes)


def test_gene_table_fills_ids_of_symbol_columns_where_unique() -> None:
    table, notes = genes.gene_table(["ERBB2", "HLA-A", "AC004381.6"])
    assert table.ensembl_id.tolist() == ["ENSG00000141736", "", ""]  # HLA-A has an id per haplotype
    assert table.keys.tolist() == ["ENSG00000141736", "HLA-A", "AC004381.6"]
    assert any(note.startswith("2 of 3 symbols") for note in notes)


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


def test_shipped_reference_refuses_an_altered_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in genes.RESOURCES.glob("human_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "human_genes.tsv.gz").write_bytes(gzip.compress(b"ensembl_id\tsymbol\n"))
    monkeypatch.setattr(genes, "RESOURCES", tmp_path)
    with pytest.raises(InputError, match="SHA-256"):
        genes.shipped_reference.__wrapped__()


def test_shipped_reference_names_source_and_date() -> None:
    assert "org.Hs.eg.db 3.16" in genes.shipped_reference().source
    assert "2022-09" in genes.shipped_reference().source


def test_hgnc_file_takes_the_place_of_the_shipped_table(tmp_path: Path) -> None:
    path = tmp_path / "hgnc_complete_set.txt"
    path.write_text(
        "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id\n"
        "HGNC:1\tNEWNAME\tApproved\tNICK|SHARED\tOLDNAME\tENSG00000000007\n"
        'HGNC:2\tOTHER\tApproved\t"SHARED"\t\tENSG00000000008\n'
        "HGNC:3\tGONE\tEntry Withdrawn\t\t\t\n"
    )
    reference = genes.load_reference(path)
    table, _ = genes.gene_table(["OLDNAME", "SHARED", "NICK"], reference=reference, resolve_aliases=True)
    assert table.symbol.tolist() == ["NEWNAME", "SHARED", "NICK"]  # ambiguous and already-present names stay
    assert table.ensembl_id.tolist() == ["ENSG00000000007", "", ""]


def test_hgnc_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genes.txt"
    path.write_text("gene,id\nA,1\n")
    with pytest.raises(InputError, match="ensembl_gene_id"):
        genes.load_reference(path)


def test_merge_duplicates_sums_columns_with_the_same_key() -> None:
    table = GeneTable(np.array(["", "ENSG00000000001", ""]), np.array(["A", "B", "A"]))
    merged, counts, notes = genes.merge_duplicates(table, scipy.sparse.csr_array(np.array([[1, 2, 3]], np.int32)))
    assert merged.names.tolist() == ["A", "B"]
    assert counts.toarray().tolist() == [[4, 2]]
    assert notes == ("1 duplicate gene columns summed into their first",)
