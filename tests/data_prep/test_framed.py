"""What is kept of a section from the planning of a build to its writing is what was read, to the bit."""

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.framed import Framed
from data_prep.section import GeneTable, Section
from data_prep.spots import Spots


@pytest.fixture
def framed(tmp_path: Path) -> Framed:
    spots = Spots.concatenate([
        Spots.discs(np.array([[1 / 3, 2e-17], [1e5 / 7, 3]]), np.float32(1 / 3), ["a", "ä"]),
        Spots.polygons([np.array([[0.1, 0.2], [4, 0], [0, 4]])], ["cell"]),
    ])  # fmt: skip
    section = Section(
        name="A 1",
        patient="P",
        image_path=tmp_path / os.fsdecode(b"gr\xf6\xdfe.png"),  # as files of an old computer are named
        genes=GeneTable(np.array(["", "ENSG1"]), np.array(["x", "β"])),
        counts=scipy.sparse.csr_array(np.array([[0, 70_000], [3, 0], [0, 0]], np.int32)),
        spots=spots,
        um_per_px=0.1 + 0.2,
        um_per_px_source="file",
        layout="her2st",
        synthetic=True,
        notes=("one", "two"),
    )
    return Framed(section, np.array([[0.5, -1], [1 / 3, 7]]), np.array([0, 1, 3]), 0.7 / 0.3, 12, {"white": 3})


def test_it_is_read_as_it_was_written(framed: Framed, tmp_path: Path) -> None:
    framed.save(tmp_path / "kept.npz")
    found = Framed.load(tmp_path / "kept.npz")
    for name in ("name", "patient", "patient_source", "image_path", "um_per_px", "layout", "synthetic", "notes"):
        assert getattr(found.section, name) == getattr(framed.section, name), name
    assert (found.px_scale, found.context_px, found.removed) == (framed.px_scale, framed.context_px, framed.removed)
    assert len(found) == 2
    pairs = [(found, framed, ("origin_xy", "record_start")), (found.section.genes, framed.section.genes, ("keys",))]
    pairs += [(found.section.counts, framed.section.counts, ("data", "indices", "indptr"))]
    pairs += [(found.section.spots, framed.section.spots, tuple(vars(framed.section.spots)))]
    for one, other, names in pairs:
        for name in names:
            values, expected = getattr(one, name), getattr(other, name)
            assert values.dtype == expected.dtype, name
            np.testing.assert_array_equal(values, expected, strict=True)


def test_a_damaged_one_is_named(framed: Framed, tmp_path: Path) -> None:
    path = tmp_path / "kept.npz"
    framed.save(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"kept\.npz: damaged.*build again"):
        Framed.load(path)
