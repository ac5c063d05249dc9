import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.cpu.depthwise import depthwise_conv, depthwise_conv_native


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9), (5, 12)])
def test_depthwise_equals_native_values_and_gradients(stride, kernel_size, height, width, same):
    keys = jax.random.split(jax.random.key(height), 3)
    x = jax.random.normal(keys[0], (2, height, width, 6))
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, 1, 6))

    padding = kernel_size // 2 if same else 0
    out = [(size + 2 * padding - kernel_size) // stride + 1 for size in (height, width)]
    dy = jax.random.normal(keys[2], (2, *out, 6))

    @jax.jit
    def both(x, kernel, dy):
        pairs = []
        for function in (depthwise_conv, depthwise_conv_native):
            y, vjp = jax.vjp(lambda x, k, function=function: function(x, k, stride=stride, padding=padding), x, kernel)
            pairs.append((y, *vjp(dy)))
        return pairs

    for found, expected in zip(*both(x, kernel, dy), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_depthwise_keeps_dtype_and_accumulates_in_float32():
    x = jnp.full((1, 9, 9, 4), 1.0, jnp.bfloat16)
    kernel = jnp.full((5, 5, 1, 4), 1 / 256, jnp.bfloat16).at[0, 0].set(1.0)
    y = jax.jit(lambda x, k: depthwise_conv(x, k, stride=1, padding=2))(x, kernel)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 4, 4, 0]) == float(jnp.bfloat16(1 + 24 / 256))


def test_depthwise_on_another_platform_lowers_to_the_native_convolution():
    shapes = jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1, 6), jnp.float32)
    traced = jax.jit(lambda x, k: depthwise_conv(x, k, stride=2, padding=1)).trace(*shapes)
    assert "feature_group_count = 6" in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
