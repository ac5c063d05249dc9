"""Starting weights and a slower backbone, by config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import config as configs
from stjax import parallel, protocols
from stjax.config import built_in
from stjax.models import efficientnet, weights
from stjax.state import init_state
from stjax.training import steps
from tests.training.test_steps import batch, fold

__all__ = ["batch", "fold"]  # fixtures


def state_of(fold, **values):
    config = built_in("tiny")
    config.update({"optimizer": "sgd", **values})
    config = configs.resolve(config, protocols.stjax, demo=True)
    mesh = parallel.make_mesh(jax.devices()[:1])
    graphdef, state = init_state(config, fold, mesh=mesh)
    return config, mesh, graphdef, state


def flat(part):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])


def test_training_starts_from_the_file_and_the_heads_do_not(fold, tmp_path):
    backbone = efficientnet.build("tiny", rngs=nnx.Rngs(9))
    weights.save(backbone, tmp_path / "w.safetensors")
    _, _, _, plain = state_of(fold)
    _, _, _, state = state_of(fold, init_from=str(tmp_path / "w.safetensors"))
    np.testing.assert_array_equal(flat(state["params"]["backbone"]), flat(nnx.state(backbone, nnx.Param)))
    assert np.any(flat(plain["params"]["backbone"]) != flat(state["params"]["backbone"]))
    np.testing.assert_array_equal(flat(plain["params"]["main"]), flat(state["params"]["main"]))


def test_weights_of_another_shape_stop_a_run_with_the_reason(fold, tmp_path):
    weights.save(efficientnet.build("lite0", rngs=nnx.Rngs(9)), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors does not fit .*32 x 1 x 3 x 3, expected 8 x 1 x 3 x 3"):
        state_of(fold, init_from=str(tmp_path / "w.safetensors"))


def test_a_slower_backbone_takes_a_tenth_of_the_step_and_the_heads_the_whole(fold, batch):
    config, mesh, graphdef, state = state_of(fold, backbone_learning_rate_scale=0.1)
    before = {part: flat(state["params"][part]) for part in ("backbone", "main")}
    train_step = steps.make_train_step(graphdef, config, fold, protocols.stjax, mesh)
    state, _ = train_step(state, parallel.put_batch(batch, mesh), np.uint32(0), jnp.float32(0.1))
    direction = state["opt_state"][-1].trace  # SGD's: what a whole step of rate 1 would subtract
    for part, scale in (("backbone", 0.1), ("main", 1.0)):
        wanted = -0.1 * scale * flat(direction[part])
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(flat(state["params"][part]) - before[part], wanted, rtol=1e-4, atol=1e-6)
