"""Features of several species are refused, however the file tells them apart."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.readers._species import one_species

HUMAN, MOUSE = "ENSG00000141510", "ENSMUSG00000059552"
PATH = Path("counts.h5")


def read(ids: list[str], symbols: list[str], genome: list[str] | None = None) -> tuple[list[str], list[str], list[str]]:
    found = one_species(PATH, np.array(ids), np.array(symbols), genome=None if genome is None else np.array(genome))
    return found[0].tolist(), found[1].tolist(), list(found[2])


@pytest.mark.parametrize(
    ("ids", "symbols", "genome"),
    [
        ([f"GRCh38_{HUMAN}", f"mm10___{MOUSE}"], ["GRCh38_TP53", "mm10___Trp53"], None),
        (["GRCh38-TP53", "mm10---Trp53"], ["GRCh38-TP53", "mm10---Trp53"], None),  # as Seurat renames them
        (["hg19_TP53", "mm10_Trp53"], ["hg19_TP53", "mm10_Trp53"], None),
        (["GRCh38_TP53", "GRCm39_Trp53"], ["GRCh38_TP53", "GRCm39_Trp53"], None),
        ([f"mine_{HUMAN}", f"mine_{MOUSE}", f"yours_{HUMAN}", f"yours_{MOUSE}"], ["A", "B", "C", "D"], None),
        ([HUMAN, MOUSE], ["TP53", "Trp53"], None),
        (["TP53", "Trp53"], ["TP53", "Trp53"], ["GRCh38", "mm10"]),
        (["TP53", "ACTB", "Tp53", "Actb"], ["TP53", "ACTB", "Tp53", "Actb"], None),
    ],
)
def test_two_species_are_refused(ids: list[str], symbols: list[str], genome: list[str] | None) -> None:
    with pytest.raises(InputError, match=r"^counts\.h5: .*; expected one species.*keep the features of one"):
        read(ids, symbols, genome)


def test_the_genomes_are_named_and_counted() -> None:
    names = ["GRCh38_TP53", "GRCh38_ACTB", "mm10___Trp53"]
    with pytest.raises(InputError, match=r"features of 2 genomes \(GRCh38: 2, mm10: 1\)"):
        read(names, names)


def test_one_genome_in_front_is_taken_off() -> None:
    ids, symbols, notes = read([f"GRCh38_{HUMAN}", "IgG"], ["GRCh38_TP53", "IgG"], ["GRCh38", ""])
    assert (ids, symbols) == ([HUMAN, "IgG"], ["TP53", "IgG"])
    assert notes == ["'GRCh38_' taken off 1 feature name"]


@pytest.mark.parametrize(
    "names",
    [
        [f"TP53_{HUMAN}", "ACTB_ENSG00000075624"],
        [f"{HUMAN}.17", "ENSG00000000003", "ENSG00000002586_PAR_Y"],
        ["TP53", "HLA-A", "C1orf112", "MT-CO1", "DM1-AS", "HG-1", "GFP", "ERCC-00002", "Y_RNA"],
        ["Trp53", "H2-K1", "mt-Co1", "Hba-a1", "mmu-mir-1"],
        ["CG1234", "wg", "Dl", "dl", "Notch", "N", "dpp", "hh", "en", "ci", "ptc", "Ubx"],  # fly: Dl and dl differ
        [],
    ],
)
def test_names_of_one_species_stay_as_they_are(names: list[str]) -> None:
    array = np.array(names, dtype=str)
    found = one_species(PATH, array, array)
    assert found[0] is array
    assert found[1] is array
    assert found[2] == ()


def test_ids_and_symbols_the_other_way_round_are_exchanged() -> None:
    ids, symbols, notes = read(["TP53", "ACTB", "odd"], [f"GRCh38_{HUMAN}", "GRCh38_ENSG00000075624", "odd"])
    assert (ids, symbols) == ([HUMAN, "ENSG00000075624", "odd"], ["TP53", "ACTB", "odd"])
    assert notes[0] == "counts.h5 has Ensembl ids where symbols belong: the two were exchanged"
    with pytest.raises(InputError, match="features of 2 species by their Ensembl ids"):
        read(["TP53", "Trp53"], [HUMAN, MOUSE])
