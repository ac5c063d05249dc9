"""Files are whole or not there, whoever else writes, links or is killed; names stay in their folder."""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import cli, files
from data_prep.errors import InputError

NAMES_OUT = ["../x", "a/b", "a\\b", "..", ".", ".hidden", "a\0b", "a\nb", "a\x1b[31mb", "a\u202eb", "é" * 101, "\ud800"]
ODD_NAMES = ["A 1", "Größe ü", "C5.rep-2", "x" * 200, "-a", "=1", "a..b"]


def left_in(folder: Path) -> list[str]:
    """All names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(TypeError), files.whole(path) as made:
        made.write_text(made.write_text("half"))  # pyright: ignore[reportArgumentType]
    assert path.read_text() == "before"
    assert left_in(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_a_folder_and_of_a_link_but_a_file_does_not(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("1")
    target = tmp_path / "target"
    target.symlink_to(outside)
    for content in ("first", "second"):
        with files.whole(target, sync=True) as made:
            made.mkdir()
            (made / content).write_text("1")
    assert left_in(target) == ["second"]
    assert left_in(outside) == ["kept"]
    with pytest.raises(InputError, match="is a folder"):
        files.write_text(target, "text")
    assert left_in(target) == ["second"]


def test_what_lies_below_a_folder_is_found_through_links_and_once(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    (source / "a").mkdir(parents=True)
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "slide.png").touch()
    (source / "b").symlink_to(elsewhere)
    (source / "c").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(source)
    (source / "a" / "again").symlink_to(source)
    names = [f"{path.relative_to(source)}" for path in files.below(source)]
    assert names == ["a", "a/again", "b", "b/back", "b/deep", "b/deep/slide.png", "c"]
    assert files.below(source) == sorted({*source.rglob("*"), *(source / "b").rglob("*")})


@pytest.mark.parametrize("name", ["a.txt", "a.txt.tmp", ".a.txt.tmp", "a.tmp", ".a.txt.PID.txt"])
def test_no_planted_link_is_followed(tmp_path: Path, name: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("mine")
    folder.mkdir()
    (folder / name.replace("PID", str(os.getpid()))).symlink_to(victim)
    files.write_text(folder / "a.txt", "new")
    assert victim.read_text() == "mine"
    assert (folder / "a.txt").read_text() == "new"


def test_what_a_killed_writer_left_is_removed_by_the_next_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from data_prep import files\n"
        f"with files.whole(Path({str(tmp_path)!r}) / 'a') as made:\n"
        "    made.write_text('half'); print('there', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        files.write_text(tmp_path / "b", "1")
        assert len(left_in(tmp_path)) == 2  # that of the living one, and b
        writer.send_signal(signal.SIGKILL)
    files.write_text(tmp_path / "c", "1")
    assert left_in(tmp_path) == ["b", "c"]


def test_a_writer_whose_new_folder_another_removes_before_it_is_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.flock, []

    def removing_once(handle: int, how: int) -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            shutil.rmtree(removed[0])
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", removing_once)
    files.write_text(tmp_path / "kept.json", "{}")
    assert removed
    assert [each.name for each in tmp_path.iterdir()] == ["kept.json"]


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    with files.lock(path, busy="at work"), pytest.raises(InputError, match="at work"), files.lock(path, busy="at work"):
        pass
    with files.lock(path, busy="at work", shared=True), files.lock(path, busy="at work", shared=True):
        pass
    with files.lock(path, busy="at work"):
        pass
    assert left_in(path.parent) == []


def test_a_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="cannot be written"), files.lock(tmp_path / ".lock", busy=""):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", NAMES_OUT)
def test_names_that_lead_out_of_a_folder_or_fit_no_file_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"section .* rename it"):
        files.check_name(name, "section")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_are_merely_odd_are_taken(name: str, tmp_path: Path) -> None:
    assert files.check_name(name, "section") == name
    files.write_text(tmp_path / f"{name}.h5ad", "")
    assert not files.fault_of_path(f"{name}/{name}")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"slide" * 1000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"slide" * 1000).hexdigest()


def test_paths_stay_in_their_folder() -> None:
    for path in ("/etc/passwd", "a/../b", "a//b", "../a", "a/", 3, None, ["a"]):
        assert files.fault_of_path(path), path


def test_many_names_are_checked_at_once() -> None:
    files.check_texts(np.array(["HLA-DRB3/4/5", "β", ""]), "gene")
    files.check_texts(np.array([], dtype=str), "gene")
    for bad in ("a\0b", "a\nb", "x" * 201):
        with pytest.raises(InputError, match=r"gene .*correct the file"):
            files.check_texts(np.array(["a", bad]), "gene")


def test_a_message_is_one_line_of_at_most_500_characters_with_its_remedy() -> None:
    line = cli.one_line("found " + "x" * 9_000 + "\n\x1b[2J what to do")
    assert len("error: " + line) == 500
    assert line.startswith("found")
    assert line.endswith("what to do")
    assert line.isprintable()
    assert cli.one_line("short\n one") == "short one"
