"""A build makes the checks that `check` makes, and stops on their errors before it writes a record."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import check, demo, files, manifest
from data_prep.build import build
from data_prep.errors import InputError
from data_prep.slide import Slide
from tests.data_prep.test_build import FLAGS, OPTIONS
from tests.data_prep.test_build import files as contents
from tests.data_prep.test_check import MOVES, move_spots
from tests.data_prep.tiny_source import write_source


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """Two patients with one and the same slide."""
    source = write_source(tmp_path / "source", sections=("A1", "B1"))
    shutil.copy(source / "ST-imgs/A/A1/slide.png", source / "ST-imgs/B/B1/slide.png")
    return source


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"patients": 2, "sections_per_patient": 1, "spots": 60, "um_per_px": 4.0, "seed": 2}
    return demo.make_demo(tmp_path_factory.mktemp("tissue") / "source", **options)


@pytest.fixture
def flipped(tissue: Path, tmp_path: Path) -> Path:
    """A1 as it should be, B1 mirrored."""
    source = Path(shutil.copytree(tissue, tmp_path / "source"))
    move_spots(source, "B1", MOVES["mirrored top to bottom"])
    return source


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_an_error_across_sections_stops_the_build_before_anything_is_written(doubled: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"A1, B1 of different patients have the same image.*--ignore-check duplicates"
    ):
        build(doubled, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_an_error_may_be_passed_over_and_is_recorded(
    doubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read(build(doubled, tmp_path / "out", **OPTIONS, ignore_checks=("duplicates",)))
    text = "duplicates: sections A1, B1 of different patients have the same image: leakage; keep one"
    assert content["ignored_errors"] == [text]
    assert f"warning: passed over by --ignore-check: {text}" in capsys.readouterr().out


def test_an_error_of_a_section_stops_the_build_and_sections_not_asked_for_are_not_checked(
    flipped: Path, tmp_path: Path
) -> None:
    options = {"patch_size_px": 32, "min_counts": 0}
    with pytest.raises(InputError, match=r"section B1: flipped or transposed .*--ignore-check orientation") as stopped:
        build(flipped, tmp_path / "out", **options)
    assert "section A1" not in str(stopped.value)
    with pytest.raises(InputError, match="flipped"):  # another check's errors are not these
        build(flipped, tmp_path / "out", **options, ignore_checks=("pitch", "duplicates"))
    assert not (tmp_path / "out").exists()
    content = read(build(flipped, tmp_path / "one", **options, sections=("A1",)))
    assert content["ignored_errors"] == []
    content = read(build(flipped, tmp_path / "both", **options, ignore_checks=("orientation",)))
    (note,) = (note for note in content["sections"][1]["notes"] if "passed over" in note)
    assert note.startswith("passed over by --ignore-check orientation: flipped or transposed coordinates?")
    assert content["ignored_errors"] == ["section B1: " + note.removeprefix("passed over by --ignore-check ")]


def test_check_and_build_find_the_same(flipped: Path, tmp_path: Path) -> None:
    report = check.check(flipped)
    (error,) = report["sections"][1]["errors"]
    with pytest.raises(InputError, match=re.escape(error)):
        build(flipped, tmp_path / "out", patch_size_px=32, min_counts=0)
    content = read(build(flipped, tmp_path / "one", patch_size_px=32, min_counts=0, sections=("A1",)))
    for warning in report["sections"][0]["warnings"]:
        assert warning in content["sections"][0]["notes"]
    assert content["warnings"] == ["all sections are of patient A: none can be held out"]


def test_warnings_are_printed_once_and_kept_as_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "source", sections=("A1", "B1"))
    content = read(build(source, tmp_path / "out", **OPTIONS, um_per_px=10.0))
    printed = capsys.readouterr().out
    for text in ("the image has 5 um per px, 10 times coarser", "records have 10 um per px, 20 times coarser"):
        assert printed.count(f"warning: section A1: {text}") == printed.count(text) - 1 == 1  # and B1's
        assert any(note.startswith(text) for note in content["sections"][0]["notes"])
    content = read(build(source, tmp_path / "fine", patch_size_px=32, min_counts=10, um_per_px=0.5))
    assert any("enlarged 10 times from an image of 5" in note for note in content["sections"][0]["notes"])


@pytest.mark.parametrize("how", ["workers", "shards"])
def test_processes_and_array_jobs_stop_too_and_give_the_same_bytes(doubled: Path, tmp_path: Path, how: str) -> None:
    passed = OPTIONS | {"ignore_checks": ("duplicates",)}
    whole = build(doubled, tmp_path / "whole", **passed).parent
    out = tmp_path / "out"
    if how == "workers":
        with pytest.raises(InputError, match="have the same image"):
            build(doubled, out, **OPTIONS, workers=2)
        assert not out.exists()
        build(doubled, out, **passed, workers=2)
    else:
        with pytest.raises(InputError, match="have the same image"):
            build(doubled, out, **OPTIONS, shard=(1, 2))
        assert not list(out.rglob("*.array_record*"))
        build(doubled, out, **passed, shard=(1, 2))
        build(doubled, out, **passed, shard=(2, 2))
        with pytest.raises(InputError, match="have the same image"):
            build(doubled, out, **OPTIONS, merge=True)
        build(doubled, out, **passed, merge=True)
    assert contents(out) == contents(whole)


def test_a_build_stopped_by_a_check_is_resumed_by_passing_it_over(
    doubled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, passed = tmp_path / "out", OPTIONS | {"ignore_checks": ("duplicates",)}
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "make_manifest", lambda **_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            build(doubled, out, **passed)
    assert list(out.rglob("*.array_record*"))
    with pytest.raises(InputError, match="have the same image"):
        build(doubled, out, **OPTIONS)
    build(doubled, out, **passed)
    assert contents(out) == contents(build(doubled, tmp_path / "whole", **passed).parent)


def test_a_slide_is_hashed_once_and_decoded_once_to_check_and_once_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source", sections=("A1", "B1"))
    hashed, decoded = [], []

    def counted(function: Callable, calls: list, of: Callable) -> Callable:
        return lambda *arguments, **options: (calls.append(of(*arguments)), function(*arguments, **options))[1]

    from data_prep import slide

    monkeypatch.setattr(files, "sha256", counted(files.sha256, hashed, lambda path: Path(path).name))
    monkeypatch.setattr(slide._WholeSlide, "_decode", counted(slide._WholeSlide._decode, decoded, lambda image: image))
    build(source, tmp_path / "out", **OPTIONS)
    assert hashed.count("slide.png") == 2  # sections
    assert len(decoded) == 4
    assert all(isinstance(image, Slide) for image in decoded)


def test_the_command_exits_with_2_and_one_line(doubled: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "data_prep.build",
        "--source",
        str(doubled),
        "--out",
        str(tmp_path / "out"),
        *FLAGS,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "error: " in done.stderr
    done = subprocess.run([*command, "--ignore-check", "duplicates,pitch"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out/manifest.json")
