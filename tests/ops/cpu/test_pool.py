import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.cpu.pool import average_pool, max_pool, max_pool_native


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 1), (3, 2, 0), (3, 1, 1), (2, 2, 0)])
def test_max_pool_equals_native_values_and_gradients(size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 9, 12, 5))

    @jax.jit
    def both(x):
        pairs = []
        for function in (max_pool, max_pool_native):
            y, vjp = jax.vjp(lambda x, f=function: f(x, size=size, stride=stride, padding=padding), x)
            pairs.append((y, *vjp(jnp.sin(y))))
        return pairs

    for found, expected in zip(*both(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_average_pool_counts_padding_as_zeros():
    y = average_pool(jnp.ones((1, 4, 4, 2)), size=3, stride=1, padding=1)
    assert y.shape == (1, 4, 4, 2)
    np.testing.assert_allclose(y[0, :, :, 0], np.array([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]) / 9)


def test_max_pool_shares_the_gradient_among_the_largest():
    x = jnp.zeros((1, 2, 2, 1))
    dx = jax.grad(lambda x: max_pool(x, size=2, stride=2).sum())(x)
    np.testing.assert_array_equal(dx, jnp.full((1, 2, 2, 1), 0.25))
