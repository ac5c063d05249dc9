from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax import parallel, train
from stjax.config import built_in
from stjax.training import steps


@jax.jit
def late(tree):
    """The same tree, a tenth of a second or more later."""
    busy = jax.lax.fori_loop(0, 300, lambda _, a: jnp.tanh(a @ a), jnp.full((300, 300), 0.01))
    return jax.tree.map(lambda leaf: leaf + (0 * busy[0, 0]).astype(leaf.dtype), tree)


def test_on_cpus_a_step_begins_when_the_one_before_has_ended(dataset, tmp_path, monkeypatch):
    make, ended = steps.make_train_step, []

    def make_slow(*arguments):
        step = make(*arguments)

        def slow(state, *more):
            ended.append(all(leaf.is_ready() for leaf in jax.tree.leaves(state)))
            state, parts = step(state, *more)
            return late(state), parts

        return slow

    monkeypatch.setattr(steps, "make_train_step", make_slow)
    config = built_in("tiny")
    config.update({"data_dir": str(dataset), "num_epochs": 1})
    train.train(config, tmp_path / "run")
    assert len(ended) > 2
    assert all(ended)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_only_cpus_are_waited_for(platform):
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    state = late({"weights": jnp.ones(3)})
    parallel.one_step_at_a_time(state, mesh)  # pyright: ignore[reportArgumentType] -- all that is read of a mesh
    assert state["weights"].is_ready() == (platform == "cpu")
