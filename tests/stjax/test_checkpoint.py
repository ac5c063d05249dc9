import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import checkpoint


@pytest.fixture
def state():
    return {"params": {"w": jnp.arange(1000, dtype=jnp.float32), "b": jnp.float32(3)}, "count": jnp.int32(7)}


def template(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


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


def test_every_flipped_bit_is_detected_and_the_older_checkpoint_used(tmp_path, state, caplog):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state, {"step": step, "best_step": 1})
    files = sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file() and path.stat().st_size)
    rng = np.random.default_rng(0)
    for path in files:
        original = path.read_bytes()
        damaged = bytearray(original)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        meta = checkpoint.newest(tmp_path)
        assert meta is not None
        if meta["step"] == 2:  # a flip within the manifest's white space changes nothing that is read
            assert path.name == checkpoint.MANIFEST
        else:
            with pytest.raises(InputError, match=r"damaged|no readable"):
                checkpoint.restore(tmp_path, 2, template(state))
        path.write_bytes(original)
    assert "is damaged" in caplog.text


def test_no_sound_checkpoint_is_an_error_that_says_so(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, {"step": 1, "best_step": 1})
    manifest = tmp_path / "1" / checkpoint.MANIFEST
    content = json.loads(manifest.read_text())
    content["meta"]["step"] = 2
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"no sound checkpoint .*has changed since it was written"):
        checkpoint.newest(tmp_path)
