"""anndata: raw counts wherever they are kept, the choice said; features that are no genes or another species' apart."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from data_prep import readers
from data_prep.errors import InputError
from data_prep.section import Section
from tests.data_prep.readers.tiny_h5ad import visium, write

reader = readers.reader("anndata")

COUNTS = visium().X


def read(folder: Path, made: ad.AnnData) -> Section:
    return reader.read_section(write(folder, "A", made), "A")


def test_x_is_used_where_the_counts_layer_is_not_whole(tmp_path: Path) -> None:
    made = visium()
    made.layers["counts"] = np.log1p(COUNTS)
    section = read(tmp_path, made)
    assert section.counts.toarray().tolist() == COUNTS.tolist()
    assert "counts are X: layers['counts'] is not whole" in section.notes


def test_raw_is_used_where_neither_x_nor_the_counts_layer_is_whole(tmp_path: Path) -> None:
    made = visium()
    made.raw = made.copy()
    made = made[:, :2].copy()
    made.layers["counts"] = made.X = np.log1p(made.X)
    section = read(tmp_path, made)
    assert section.counts.toarray().tolist() == COUNTS.tolist()
    assert "counts are raw.X: layers['counts'] and X are not whole" in section.notes


def test_a_layer_of_another_name_is_the_last_resort(tmp_path: Path) -> None:
    made = visium()
    made.layers["raw_counts"] = COUNTS
    made.X = np.log1p(COUNTS)
    assert "counts are layers['raw_counts']: X is not whole" in read(tmp_path, made).notes


def test_a_choice_between_two_whole_matrices_is_said(tmp_path: Path) -> None:
    made = visium()
    made.raw = made.copy()
    assert "counts are X; raw.X not used" in read(tmp_path, made).notes


def test_counts_without_x_are_read(tmp_path: Path) -> None:
    made = visium()
    made.layers["counts"] = COUNTS
    made.X = None
    assert read(tmp_path, made).counts.toarray().tolist() == COUNTS.tolist()


def test_no_raw_counts_are_refused_with_the_places_and_the_cause(tmp_path: Path) -> None:
    made = visium()
    made.X = np.log1p(COUNTS)
    made.layers["counts"] = made.X
    made.uns["log1p"] = {"base": "e"}
    with pytest.raises(
        InputError, match=r"count is 0\.69.*layers\['counts'\] and X hold no whole numbers.*'log1p'\] says"
    ):
        read(tmp_path, made)


def test_features_that_are_no_genes_are_left_out_and_counted(tmp_path: Path) -> None:
    made = visium()
    made.var["feature_types"] = ["Gene Expression", "Gene Expression", "Antibody Capture"]
    section = read(tmp_path, made)
    assert section.genes.symbol.tolist() == ["TP53", "ACTB"]
    assert section.counts.toarray().tolist() == COUNTS[:, :2].tolist()
    assert "1 feature that is not gene expression was left out (Antibody Capture)" in section.notes


def test_biotypes_in_a_column_of_that_name_are_genes(tmp_path: Path) -> None:
    made = visium()
    made.var["feature_type"] = "protein_coding"  # as CELLxGENE has it
    assert len(read(tmp_path, made).genes) == 3


def test_a_file_of_antibodies_is_refused(tmp_path: Path) -> None:
    made = visium()
    made.var["feature_types"] = "Antibody Capture"
    with pytest.raises(InputError, match=r"no feature is 'Gene Expression' \(var\['feature_types'\] says Antibody"):
        read(tmp_path, made)


@pytest.mark.parametrize("pads", [("GRCh38_", "mm10___"), ("hg19_", "mm10_"), ("GRCh38-", "mm10---")])
def test_two_species_are_refused(tmp_path: Path, pads: tuple[str, str]) -> None:
    made = visium()
    made.var_names = [f"{pads[0]}TP53", f"{pads[0]}ACTB", f"{pads[1]}Trp53"]
    made.var = made.var.drop(columns="gene_ids")
    with pytest.raises(InputError, match=r"features of 2 genomes \(\w+: 2, mm10: 1\); expected one species"):
        read(tmp_path, made)


def test_two_genomes_in_a_column_are_refused(tmp_path: Path) -> None:
    made = visium()
    made.var["genome"] = ["GRCh38", "GRCh38", "mm10"]
    with pytest.raises(InputError, match="features of 2 genomes"):
        read(tmp_path, made)


def test_one_species_of_two_is_read_without_its_prefix(tmp_path: Path) -> None:
    made = visium()
    made.var_names = [f"GRCh38_{name}" for name in made.var_names]
    made.var["gene_ids"] = "GRCh38_" + made.var["gene_ids"]
    section = read(tmp_path, made)
    assert section.genes.symbol.tolist() == ["TP53", "ACTB", "ERBB2"]
    assert section.genes.ensembl_id[0] == "ENSG00000141510"
    assert "'GRCh38_' taken off 3 feature names" in section.notes
