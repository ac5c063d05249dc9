"""A section's names come from files: they may be odd, but never lead out of a folder nor break a line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.section import DISC, GeneTable, Section


@pytest.fixture(scope="module")
def section() -> Section:
    return Section(
        name="Größe 1.b",
        patient="P/1, left",
        image_path=Path("a.png"),
        genes=GeneTable(np.array(["", "ENSG1"]), np.array(["HLA-DRB3/4/5", "β"])),
        counts=scipy.sparse.csr_array((2, 2), dtype=np.int32),
        spot_id=np.array(["10x13", "AAAC-1"]),
        spot_xy=np.zeros((2, 2)),
        spot_kind=np.full(2, DISC, np.uint8),
        spot_size_px=np.ones(2, np.float32),
        um_per_px=0.5,
        um_per_px_source="file",
        layout="tiny",
    )


@pytest.mark.parametrize("name", ["../../escaped", "a/b", "..", "a\0b", "a\x1b]0;b", "x" * 201, ""])
def test_a_section_whose_name_can_be_no_file_is_refused(section: Section, name: str) -> None:
    with pytest.raises(InputError, match=r"^Section .*; results are files of that name: rename it"):
        dataclasses.replace(section, name=name)


def test_text_that_would_break_a_line_or_a_file_is_refused(section: Section) -> None:
    with pytest.raises(InputError, match=r"patient 'a\\nb' contains a control character"):
        dataclasses.replace(section, patient="a\nb")
    with pytest.raises(InputError, match=r"spot 'a\\x00b' contains a control character"):
        dataclasses.replace(section, spot_id=np.array(["a\0b", "c"]))
    with pytest.raises(InputError, match=r"gene 'x+\.\.\. is longer than 200 bytes"):
        dataclasses.replace(section, genes=GeneTable(np.array(["", ""]), np.array(["x" * 201, "y"])))
