"""slides.csv: scale and patient of each slide, wherever a folder of slides or sections is read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import build, check, demo, readers
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.readers import _slides_table
from data_prep.readers._slides_table import Slide
from stjax.inference import sources
from tests.data_prep.readers.conftest import Source


def table(root: Path, text: str) -> Path:
    (root / "slides.csv").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("slide,um_per_px,patient\nA1,0.5,P1\nA2,,P2\n", {"A1": Slide(0.5, "P1"), "A2": Slide(None, "P2")}),
        ("patient;slide;staining\nP1;A1.ome.tif;H&E\n", {"A1": Slide(None, "P1")}),
        ("Slide,UM_PER_PX\nA1.SVS, 0.25 \n,\n", {"A1": Slide(0.25)}),
    ],
)
def test_the_table_is_read_however_it_is_saved(tmp_path: Path, text: str, listed: dict[str, Slide]) -> None:
    assert _slides_table.read(table(tmp_path, text)) == listed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slide,magnification\nA1,40\n", "expected slide and um_per_px or patient"),
        ("section,patient\nA1,P1\n", "slide not found"),
        ("slide,patient\nA1,P1\nA1.jpg,P2\n", "slide 'A1' is listed twice"),
        ("slide,patient\n,P1\n", "line 2 names no slide"),
        ("slide,um_per_px\nA1,0.5\nA2,40x\n", "um_per_px"),
        ("slide,um_per_px\nA1,-1\n", "um_per_px in line 2 is -1.0, expected a positive number"),
        ("slide,um_per_px\nA1,250\n", "did you mean 0.25"),
    ],
)
def test_a_table_that_states_nothing_sound_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        _slides_table.read(table(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["her2st", "visium_hd", "xenium", "anndata"])
def test_every_layout_takes_scale_and_patient_of_each_section(source: Source, layout: str) -> None:
    root, reader = source(layout), readers.reader(layout)
    (root / "patients.csv").unlink(missing_ok=True)
    table(root, "slide,um_per_px,patient\nA1,3,P7\nB1,,P8\n")
    sections = {section.name[:2]: section for section in reader.read_sections(root)}
    stated, other = sections["A1"], sections["B1"]
    assert (stated.um_per_px, stated.um_per_px_source) == (3.0, "user")
    assert any("um_per_px is 3 from the user; the " in note for note in stated.notes)
    assert (stated.patient, stated.patient_source, other.patient) == ("P7", "user", "P8")
    assert other.um_per_px == pytest.approx(4.0, rel=0.01)
    assert other.um_per_px_source != "user"


def test_two_statements_of_the_user_that_contradict_each_other_are_refused(source: Source) -> None:
    root, reader = source("visium"), readers.reader("visium")
    table(root, "slide,um_per_px,patient\nA1,3,P7\n")
    with pytest.raises(InputError, match=r"patient A in patients.csv and P7 in slides.csv; correct"):
        reader.read_section(root, "A1")
    table(root, "slide,um_per_px,patient\nA1,3,A\n")
    assert reader.read_section(root, "A1", um_per_px=3.01).um_per_px == 3.0
    with pytest.raises(InputError, match=r"Section 'A1': --source-um-per-px says 2 and slides.csv in .* 3; leave out"):
        reader.read_section(root, "A1", um_per_px=2.0)
    assert reader.read_section(root, "B1", um_per_px=2.0).um_per_px == 2.0


def test_a_build_keeps_what_was_stated_and_strangers_are_said(tmp_path: Path) -> None:
    options = {"patients": 2, "sections_per_patient": 1, "spots": 4, "um_per_px": 4.0}
    root = demo.make_demo(tmp_path / "raw", layout="her2st", **options)
    table(root, "slide,um_per_px,patient\nA1,3.9,P7\nZ9,0.5,P9\n")
    build.build(root, tmp_path / "data", patch_size_px=32, min_counts=0)
    section = PatchDataset.open(tmp_path / "data").section("A1")
    assert (section["um_per_px"], section["um_per_px_source"]) == (3.9, "user")
    assert (section["patient"], section["patient_source"]) == ("P7", "user")
    said = " ".join(check.check(root, overlays=None)["warnings"])
    assert "slides.csv lists sections that are not here: Z9" in said


def test_bare_slides_have_each_their_scale_and_patient(tmp_path: Path) -> None:
    for name in ("one.png", "two.jpg"):
        Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / name)
    table(tmp_path, "slide,um_per_px,patient\none.png,0.25,P1\ntwo,0.5,\nthree,1.5,\n")
    options = {"layout": "auto", "sections": (), "resolve_aliases": False}
    found = sources.open_source(tmp_path, um_per_px=None, **options)
    assert "slides.csv lists slides that are not here: three" in found.about
    one, two = (found.read(name) for name in ("one", "two"))
    assert (one.um_per_px, one.um_per_px_source, one.patient, one.patient_source) == (0.25, "user", "P1", "user")
    assert (two.um_per_px, two.patient, two.patient_source) == (0.5, "", "guessed")
    alone = sources.open_source(tmp_path / "two.jpg", um_per_px=None, **options)
    assert alone.read("two").um_per_px == 0.5
    with pytest.raises(InputError, match=r"--source-um-per-px says 2 and slides\.csv"):
        sources.open_source(tmp_path, um_per_px=2.0, **options).read("one")
