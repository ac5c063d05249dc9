import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def state():
    return {"params": {"w": jnp.arange(1000, dtype=jnp.float32), "b": jnp.float32(3)}, "count": jnp.int32(7)}


def template(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def test_a_disk_without_room_is_told_before_orbax_meets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: types.SimpleNamespace(total=10**12, free=10**6))
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(tmp_path / "checkpoints", 3, {"a": np.zeros(10)}, {"best_step": 3})
    assert not list((tmp_path / "checkpoints").iterdir())  # nothing half-written


def test_a_disk_that_takes_no_more_ends_with_a_line(tmp_path):
    """What `disk_usage` does not see: quotas, limits. Orbax meets them in its threads, which print pages."""
    code = (
        "import resource, numpy; from pathlib import Path; from data_prep import cli; from stjax import checkpoint\n"
        "def main(_):\n    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "    state = {str(i): numpy.random.default_rng(i).normal(size=50_000) for i in range(20)}\n"
        "    checkpoint.save(Path('checkpoints'), 3, state, {'best_step': 3})\n"
        "cli.program(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: File too large; write to another disk, whose file system takes larger files\n"


def test_restore_gives_back_every_bit_and_the_plain_state(tmp_path, state):
    checkpoint.save(tmp_path, 5, state, {"step": 5, "best_step": 5, "loss": 0.1 + 0.2})
    restored = checkpoint.restore(tmp_path, 5, template(state))
    assert checkpoint.newest(tmp_path) == {"step": 5, "best_step": 5, "loss": 0.1 + 0.2}
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_latest_previous_and_best_are_kept(tmp_path, state):
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        checkpoint.save(tmp_path, step, state, {"step": step, "best_step": best})
    assert checkpoint.steps(tmp_path) == [4, 3, 2]
    checkpoint.save(tmp_path, 5, state, {"step": 5, "best_step": 2})
    assert checkpoint.steps(tmp_path) == [5, 4, 2]


def test_what_a_killed_save_did_not_remove_goes_when_the_run_goes_on(tmp_path, state, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state, {"step": step, "best_step": step})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "prune", lambda _: None)
        checkpoint.save(tmp_path, 3, state, {"step": 3, "best_step": 3})
    (tmp_path / "4.tmp").mkdir()
    checkpoint.prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"3", "2"}


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path / "none") is None


def test_leftovers_of_a_killed_save_are_not_taken_for_checkpoints(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, {"step": 1, "best_step": 1})
    shutil.copytree(tmp_path / "1", tmp_path / "2.tmp")
    shutil.copytree(tmp_path / "1", tmp_path / "3")
    (tmp_path / "3" / checkpoint.MANIFEST).unlink()
    assert checkpoint.steps(tmp_path) == [1]
    checkpoint.save(tmp_path, 2, state, {"step": 2, "best_step": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def flip_bits_and_expect_detection(folder, state, caplog, flips):
    """Flips one random bit at a time in some file of two checkpoints: small files are hit as often as large ones."""
    for step in (1, 2):
        scaled = jax.tree.map(lambda leaf, step=step: leaf * step, state)
        checkpoint.save(folder, step, scaled, {"step": step, "best_step": step, "loss": 0.1 + 0.2})
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    assert {path.relative_to(folder).parts[0] for path in files} == {"1", "2"}
    rng = np.random.default_rng(0)
    for _ in range(flips):
        path = files[rng.integers(len(files))]
        original = path.read_bytes()
        damaged = bytearray(original)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        hit = int(path.relative_to(folder).parts[0])
        caplog.clear()
        meta = checkpoint.newest(folder)
        assert meta is not None
        assert meta["step"] == 3 - hit  # the newest whole one
        assert ("damaged" in caplog.text or "no readable" in caplog.text) == (hit == 2)
        with pytest.raises(InputError, match=r"is damaged|no readable"):
            checkpoint.restore(folder, hit, template(state))
        path.write_bytes(original)
    restored = checkpoint.restore(folder, 2, template(state))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b * 2), restored, state)


def test_every_flipped_bit_is_detected_and_the_newest_whole_checkpoint_used(tmp_path, state, caplog):
    flip_bits_and_expect_detection(tmp_path, state, caplog, flips=60)


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_all_detected(tmp_path, state, caplog):
    flip_bits_and_expect_detection(tmp_path, state, caplog, flips=int(os.environ.get("STJAX_TEST_FLIPS", "1000")))


def test_every_flipped_bit_of_a_manifest_is_detected(tmp_path, state):
    """A bit may change the spelling of a number and not its value: 0.30000000000000004 and ...05 are the same."""
    checkpoint.save(tmp_path, 1, state, {"step": 1, "best_step": 1, "loss": 0.1 + 0.2})
    manifest = tmp_path / "1" / checkpoint.MANIFEST
    original = manifest.read_bytes()
    place = original.index(b"0.30000000000000004") - 40
    for bit in range(8 * 100):
        damaged = bytearray(original)
        damaged[place + bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(bytes(damaged))
        with pytest.raises(InputError, match=r"is damaged|no readable"):
            checkpoint.verify(tmp_path / "1", arrays=False)


def test_the_checkpoint_gone_back_to_still_has_its_own_best(tmp_path, state):
    for step, best in ((1, 1), (2, 1), (3, 3)):
        checkpoint.save(tmp_path, step, state, {"step": step, "best_step": best})
    (tmp_path / "3" / checkpoint.MANIFEST).write_text("{}")
    meta = checkpoint.newest(tmp_path)
    assert meta == {"step": 2, "best_step": 1}
    checkpoint.restore(tmp_path, 1, template(state))


def test_no_sound_checkpoint_is_an_error_that_says_so(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, {"step": 1, "best_step": 1})
    manifest = tmp_path / "1" / checkpoint.MANIFEST
    content = json.loads(manifest.read_text())
    content["meta"]["step"] = 2
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"no sound checkpoint .*has changed since it was written"):
        checkpoint.newest(tmp_path)
