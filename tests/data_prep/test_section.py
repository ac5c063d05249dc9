"""A section's names come from files: they may be odd, but never lead out of a folder nor break a line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.section import GeneTable, Section
from data_prep.spots import Spots


@pytest.fixture(scope="module")
def section() -> Section:
    return Section(
        name="Größe 1.b",
        patient="P/1, left",
        image_path=Path("a.png"),
        genes=GeneTable(np.array(["", "ENSG1"]), np.array(["HLA-DRB3/4/5", "β"])),
        counts=scipy.sparse.csr_array((2, 2), dtype=np.int32),
        spots=Spots.discs(np.zeros((2, 2)), 1, ["10x13", "AAAC-1"]),
        um_per_px=0.5,
        um_per_px_source="file",
        layout="tiny",
    )


def named(section: Section, *ids: str) -> Spots:
    return dataclasses.replace(section.spots, id=np.array(ids))


@pytest.mark.parametrize("name", ["../../escaped", "a/b", "..", "a\0b", "a\x1b]0;b", "x" * 201, ""])
def test_a_section_whose_name_can_be_no_file_is_refused(section: Section, name: str) -> None:
    with pytest.raises(InputError, match=r"^Section .*; results are files of that name: rename it"):
        dataclasses.replace(section, name=name)


def test_text_that_would_break_a_line_or_a_file_is_refused(section: Section) -> None:
    with pytest.raises(InputError, match=r"patient 'a\\nb' contains a control character"):
        dataclasses.replace(section, patient="a\nb")
    with pytest.raises(InputError, match=r"spot 'a\\x00b' contains a control character"):
        dataclasses.replace(section, spots=named(section, "a\0b", "c"))
    with pytest.raises(InputError, match=r"gene 'x+\.\.\. is longer than 200 bytes"):
        dataclasses.replace(section, genes=GeneTable(np.array(["", ""]), np.array(["x" * 201, "y"])))


def test_counts_and_spots_of_another_number_are_refused(section: Section) -> None:
    with pytest.raises(InputError, match=r"Section 'Größe 1.b': counts have shape \(2, 2\), expected \(1, 2\)"):
        dataclasses.replace(section, spots=section.spots[:1])


def test_a_spot_named_twice_is_refused(section: Section) -> None:
    with pytest.raises(InputError, match=r"Section 'Größe 1\.b': spot id 'a' appears more than once"):
        dataclasses.replace(section, spots=named(section, "a", "a"))
