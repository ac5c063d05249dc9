import jax
import numpy as np
import pytest

from stjax.ops.cpu.conv import conv, conv_native

CASES = (  # kernel size, stride, padding, input channels
    ((1, 1), 1, (0, 0), 20),
    ((1, 1), 2, (0, 0), 20),
    ((3, 3), 1, (1, 1), 20),
    ((3, 3), 2, (1, 1), 20),
    ((3, 3), 2, (0, 0), 16),
    ((7, 7), 2, (3, 3), 3),
    ((1, 7), 1, (0, 3), 17),
    ((7, 1), 1, (3, 0), 17),
)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (9, 12)])
@pytest.mark.parametrize(("kernel_size", "stride", "padding", "inputs"), CASES)
def test_conv_equals_native_values_and_gradients(kernel_size, stride, padding, inputs, height, width):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, height, width, inputs))
    kernel = jax.random.normal(keys[1], (*kernel_size, inputs, 8))

    out = jax.eval_shape(lambda x, k: conv_native(x, k, stride=stride, padding=padding), x, kernel)
    dy = jax.random.normal(keys[2], out.shape)

    @jax.jit
    def both(x, kernel, dy):
        pairs = []
        for function in (conv, conv_native):
            y, vjp = jax.vjp(lambda x, k, function=function: function(x, k, stride=stride, padding=padding), x, kernel)
            pairs.append((y, *vjp(dy)))
        return pairs

    for found, expected in zip(*both(x, kernel, dy), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
