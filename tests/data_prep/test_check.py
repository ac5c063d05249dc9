"""The doctor finds what is wrong with a source, and nothing wrong with a sound one."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import build, check, demo
from data_prep.errors import InputError

SAMPLE = Path(__file__).resolve().parents[2] / "../shared/data/her2st"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"patients": 2, "sections_per_patient": 2, "spots": 60, "um_per_px": 4.0, "seed": 2}
    return demo.make_demo(tmp_path_factory.mktemp("check") / "source", **options)


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "source"))


def section(report: dict, name: str) -> dict:
    return next(entry for entry in report["sections"] if entry["name"] == name)


def move_spots(root: Path, name: str, move: Callable[[np.ndarray, np.ndarray, Image.Image], tuple]) -> None:
    """Rewrite the pixel coordinates of a section by `move(x, y, image) -> (x, y)`."""
    path = root / f"ST-spotfiles/{name}_selection.tsv"
    header, *lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    x, y = (np.array([float(row[column]) for row in rows]) for column in (4, 5))
    with Image.open(image_of(root, name)) as image:
        x, y = move(x, y, image)
    for row, new_x, new_y in zip(rows, x, y, strict=True):
        row[4:6] = [repr(float(new_x)), repr(float(new_y))]
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")


def image_of(root: Path, name: str) -> Path:
    return next((root / f"ST-imgs/{name[0]}/{name}").iterdir())


def test_sound_source_has_no_findings_and_an_overlay_each(original: Path, tmp_path: Path) -> None:
    report = check.check(original, overlays=tmp_path / "overlays")
    assert report["layout"] == "her2st"
    assert report["synthetic"]
    assert not check.has_errors(report)
    assert [entry["name"] for entry in report["sections"]] == ["A1", "A2", "B1", "B2"]
    for entry in report["sections"]:
        (coarse,) = entry["warnings"]  # all there is to say, of a demo drawn at 4 um per px
        assert "4 um per px, 8 times coarser than 0.5: no nucleus can be seen" in coarse
        assert entry["errors"] == []
        assert entry["on_tissue"] > 0.8
        with Image.open(entry["overlay"]) as picture:
            assert picture.size[0] > 100


def test_species_is_said_and_two_in_one_source_are_an_error(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.print_report(check.check(source, sections=["A1"]))
    assert "species: human, by 1200 of 1200 genes (section A1)" in capsys.readouterr().out
    to_mouse(source, "B2")
    report = check.check(source)
    assert section(report, "B2")["species"] == "mouse"
    assert report["errors"] == [
        "sections of two species, which share no gene: human (A1, A2, B1) and mouse (B2); build a data set of each, "
        "naming its --sections"
    ]
    with pytest.raises(
        InputError, match=r"sections of two species, which share no gene: human \(A1\) and mouse \(B2\)"
    ):
        build.build(source, source.parent / "data", sections=("A1", "B2"), patch_size_px=32)


def to_mouse(root: Path, name: str) -> None:
    """Spell the genes of a section as mouse's."""
    path = root / f"ST-cnts/{name}.tsv.gz"
    header, rest = gzip.decompress(path.read_bytes()).decode().split("\n", 1)
    path.write_bytes(
        gzip.compress("\n".join(["\t".join(word.capitalize() for word in header.split("\t")), rest]).encode())
    )


MOVES = {
    "mirrored left to right": lambda x, y, image: (image.width - x, y),
    "mirrored top to bottom": lambda x, y, image: (x, image.height - y),
    "turned by 180 degrees": lambda x, y, image: (image.width - x, image.height - y),
    "with x and y swapped": lambda x, y, _: (y, x),
    "turned by 90 degrees": lambda x, y, image: (y, image.width - x),
    "turned by 270 degrees": lambda x, y, image: (image.height - y, x),
}


@pytest.mark.parametrize("orientation", sorted(MOVES))
def test_wrong_orientation_is_an_error(source: Path, orientation: str) -> None:
    move_spots(source, "B2", MOVES[orientation])
    report = check.check(source, sections=["B2"])
    assert any("flipped or transposed" in text and orientation in text for text in section(report, "B2")["errors"])


def test_spots_outside_the_image_are_counted(source: Path) -> None:
    move_spots(source, "A1", lambda x, y, image: (x + 0.25 * image.width, y))
    move_spots(source, "A2", lambda x, y, _: (x * 4, y * 4))
    report = check.check(source)
    assert any("lie outside the image" in text for text in section(report, "A1")["warnings"])
    assert any("lie outside the image" in text for text in section(report, "A2")["errors"])


def test_pitch_that_contradicts_the_scale_is_an_error(source: Path) -> None:
    path = source / "ST-spotfiles/A1_selection.tsv"
    header, *lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    for row in rows:
        row[2:4] = [str(2 * float(row[2])), str(2 * float(row[3]))]  # as if spots were 400 um apart
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    report = check.check(source, sections=["A1"])
    assert any("expected 200 um" in text for text in section(report, "A1")["errors"])


def test_the_same_image_twice_is_an_error_between_patients(source: Path) -> None:
    shutil.copy(image_of(source, "A1"), image_of(source, "B1"))
    report = check.check(source)
    assert any("A1, B1 of different patients have the same image" in text for text in report["errors"])


def test_the_same_counts_twice_are_seen(source: Path) -> None:
    shutil.copy(source / "ST-cnts/A1.tsv.gz", source / "ST-cnts/A2.tsv.gz")
    shutil.copy(source / "ST-spotfiles/A1_selection.tsv", source / "ST-spotfiles/A2_selection.tsv")
    report = check.check(source)
    assert any("sections A1, A2 have the same counts" in text for text in report["warnings"])


def test_a_patient_in_two_folds_is_an_error(source: Path, tmp_path: Path) -> None:
    folds = tmp_path / "folds.csv"
    folds.write_text("section,fold\nA1,train\nA2,test\nB1,test\nB2,test\n")
    report = check.check(source, folds=folds)
    assert report["errors"] == [
        "patient A is in folds test (A2), train (A1): leakage; keep a patient's sections together"
    ]


def test_one_patient_cannot_be_held_out(source: Path) -> None:
    report = check.check(source, sections=["A1", "A2"])
    assert any("none can be held out" in text for text in report["warnings"])


def test_low_depth_is_seen(tmp_path: Path) -> None:
    options = {"patients": 1, "sections_per_patient": 2, "spots": 20, "um_per_px": 4.0}
    root = demo.make_demo(tmp_path / "low", counts_per_spot=300, **options)
    report = check.check(root)
    assert any("no spot has 1000 counts" in text for text in section(report, "A1")["warnings"])
    root = demo.make_demo(tmp_path / "middling", counts_per_spot=900, **options)
    assert any("low depth" in text for entry in check.check(root)["sections"] for text in entry["warnings"])


def test_what_cannot_be_read_is_an_error_of_its_section(source: Path) -> None:
    path = source / "ST-cnts/A1.tsv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    image_of(source, "A2").write_bytes(b"\xff\xd8\xff not a picture")
    image_of(source, "B1").unlink()
    report = check.check(source)
    assert any("truncated" in text for text in section(report, "A1")["errors"])
    assert section(report, "A2")["errors"]
    assert any("image not found" in text for text in section(report, "B1")["errors"])
    assert section(report, "B2")["errors"] == []


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    repository = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "data_prep.check", *arguments],
        cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": str(repository), "PATH": ""}, check=False,
    )  # fmt: skip


def test_command_line_prints_json_and_exits_by_what_it_finds(source: Path, tmp_path: Path) -> None:
    sound = run("--source", str(source), "--json", cwd=tmp_path)
    assert (sound.returncode, sound.stderr) == (0, "")
    report = json.loads(sound.stdout)
    assert {"layout", "sections", "errors", "warnings"} <= set(report)
    assert {"name", "patient", "spots", "genes", "um_per_px", "errors", "warnings"} <= set(report["sections"][0])
    assert Path(tmp_path / report["sections"][0]["overlay"]).is_file()
    image_of(source, "A1").unlink()
    ill = run("--source", str(source), "--no-overlays", cwd=tmp_path)
    assert ill.returncode == 1
    assert "error: section A1: image not found" in ill.stdout
    nowhere = run("--source", str(tmp_path / "nowhere"), cwd=tmp_path)
    assert nowhere.returncode == 2
    assert nowhere.stderr.startswith("error: ")
    assert "Traceback" not in nowhere.stderr


def test_unknown_section_is_refused(source: Path) -> None:
    with pytest.raises(InputError, match="no section Z1"):
        check.check(source, sections=["Z1"])


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="../shared/data is absent")
def test_real_section_is_sound_and_incomplete_ones_are_named() -> None:
    report = check.check(SAMPLE, sections=["C1", "C3"])
    assert section(report, "C3")["errors"] == section(report, "C3")["warnings"] == []
    assert section(report, "C3")["on_tissue"] > 0.95
    assert any("image not found under ST-imgs/C/C1" in text for text in section(report, "C1")["errors"])
