"""The cache folder."""

import os
import shutil
import time
import types
from pathlib import Path

import jax
import pytest

from data_prep import files
from stjax import cache as caches
from stjax.data import demo_data


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """A cache, and where JAX was told to keep programs."""
    told = []
    monkeypatch.setenv("STJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jax, "config", types.SimpleNamespace(
        jax_compilation_cache_dir=None, update=lambda _, path: told.append(path)
    ))  # fmt: skip
    caches._note_unused.cache_clear()
    caches.of_this_process.cache_clear()
    return tmp_path / "cache", told


def test_the_cache_is_made_for_the_user_alone_whatever_the_umask(compiled):
    cache, told = compiled
    before = os.umask(0)
    try:
        caches.keep_compiled_programs()
    finally:
        os.umask(before)
    assert told == [str(cache / "compiled")]
    assert [path.stat().st_mode & 0o777 for path in (cache, cache / "compiled")] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_that_others_can_write_is_not_used(compiled, mode, capsys, monkeypatch):
    cache, told = compiled
    cache.mkdir()
    cache.chmod(mode)
    caches.keep_compiled_programs()
    assert not told
    made = []
    monkeypatch.setattr(demo_data.demo, "make_demo", lambda source, **_: made.append(source))
    monkeypatch.setattr(demo_data.build, "build", lambda _, out, **__: out.mkdir())
    folder = demo_data.demo_dataset(patients=2, patch_size_px=32)
    assert cache not in folder.parents
    assert list(cache.iterdir()) == []
    assert len(made) == 1
    assert capsys.readouterr().out.count("can be written by other users, so it is not used") == 1
    shutil.rmtree(folder.parent)


def test_the_cache_of_another_user_is_not_used(compiled, monkeypatch):
    cache, _ = compiled
    cache.mkdir()
    monkeypatch.setattr(files.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: types.SimpleNamespace(st_uid=os.getuid() + 2, st_mode=0o40700))
    assert files.others_can_write(cache) == "belongs to another user"


def test_a_damaged_data_set_in_the_cache_is_made_again(compiled, monkeypatch, capsys):
    del compiled
    made = []

    def build(_, out, **__):
        made.append(out)
        out.mkdir()
        (out / "manifest.json").write_text("{")

    monkeypatch.setattr(demo_data.demo, "make_demo", lambda *_, **__: None)
    monkeypatch.setattr(demo_data.build, "build", build)
    for _ in range(2):
        demo_data.demo_dataset(patients=2, patch_size_px=32)
    assert len(made) == 2
    assert "no readable JSON" in capsys.readouterr().out


def test_only_what_was_left_for_a_day_is_removed(tmp_path):
    for name in ("making-old", "making-new", "demo-v1"):
        (tmp_path / name / "source").mkdir(parents=True)
        (tmp_path / name / "source" / "image.jpg").write_bytes(b"x")
    old = time.time() - 2 * demo_data.ABANDONED_S
    for name in ("making-old", "demo-v1"):
        for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
            os.utime(path, (old, old))
    demo_data.remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"making-new", "demo-v1"}
