import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stjax import models
from stjax.models.bank import Bank

SPOTS, D = 40, 6


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {
        "features": rng.normal(size=(SPOTS, D)),
        "targets": rng.normal(size=(SPOTS, 3)),
        "group": rng.integers(0, rng.integers(2, 6), SPOTS),
    }


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_a_training_spot_never_finds_one_of_its_own_group(seed, metric):
    values = arrays(seed)
    bank, group = Bank(**values), values["group"].reshape(8, 5)
    index, there = bank.nearest(jnp.asarray(values["features"], jnp.float32).reshape(8, 5, D), group, 30, metric)
    assert index.shape == there.shape == (8, 5, 30)
    found = values["group"][np.asarray(index)]
    assert not (np.asarray(there) & (found == group[..., None])).any()
    others = np.sum(values["group"][None] != values["group"][:, None], axis=1).reshape(8, 5)
    np.testing.assert_array_equal(np.sum(there, axis=-1), np.minimum(others, 30))


def test_a_spot_of_no_group_finds_any():
    values = arrays(0)
    index, there = Bank(**values).nearest(jnp.asarray(values["features"], jnp.float32), np.full(SPOTS, -1), 1, "l2")
    np.testing.assert_array_equal(index[:, 0], np.arange(SPOTS))
    assert there.all()


def test_it_is_stored_with_the_weights_and_not_trained():
    _, params, statistics = models.split(Bank(**arrays(0)))
    assert not jax.tree.leaves(params)
    assert {name[0] for name, _ in nnx.to_flat_state(statistics)} == {"features", "targets", "group"}
