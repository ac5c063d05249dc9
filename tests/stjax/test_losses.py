import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax import losses


def test_masked_spots_change_neither_loss_nor_gradient():
    key = jax.random.key(0)
    prediction, target = jax.random.normal(key, (2, 3, 4, 5))
    mask = jnp.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]], jnp.float32)
    expected = np.mean(np.square(np.asarray(prediction - target))[np.asarray(mask) == 1])
    loss, gradient = jax.value_and_grad(losses.masked_mse)(prediction, target, mask)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert np.all(np.asarray(gradient)[np.asarray(mask) == 0] == 0)


def test_no_measured_spot_gives_zero_not_nan():
    zeros = jnp.zeros((2, 1, 3))
    assert losses.masked_mse(zeros + 1, zeros, jnp.zeros((2, 1))) == 0


def test_aux_weight_multiplies_the_aux_part_only():
    ones = {"main": jnp.ones((2, 1, 3)), "aux": jnp.ones((2, 1, 7))}
    zeros = jax.tree.map(jnp.zeros_like, ones)
    loss, parts = losses.main_aux_mse(ones, zeros, jnp.ones((2, 1)), aux_weight=40.0)
    assert loss == pytest.approx(41.0)
    assert parts["loss_main"] == 1
    loss, parts = losses.main_aux_mse({"main": ones["main"]}, zeros, jnp.ones((2, 1)), aux_weight=40.0)
    assert loss == 1
    assert "loss_aux" not in parts
