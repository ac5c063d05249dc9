"""Depthwise convolution: native where XLA has a good one (GPU, TPU), shift-and-add on the CPU, where it has not.

XLA's CPU backend runs grouped convolutions, and above all their gradients, 16 to 34 times slower than the arithmetic
needs. There the sum over the k * k kernel taps is written out on contiguous channel rows instead, forwards and
backwards. `depthwise_conv` chooses by the platform the program is compiled for; `depthwise_conv_native` is the
reference.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from stjax.ops.cpu import taps
from stjax.ops.cpu.taps import Window

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """One k x k filter a channel, over an image with zeros around it, as torch's `Conv2d(C, C, k, groups=C)`.

    Args:
        x: [B, H, W, C].
        kernel: [k, k, 1, C].
        padding: zeros on every side.

    Returns:
        [B, (H + 2 padding - k) // stride + 1, (W + 2 padding - k) // stride + 1, C] in x's dtype.
    """
    return _depthwise(x, kernel, Window(kernel.shape[0], stride, padding))


def depthwise_conv_native(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """`depthwise_conv` through XLA's grouped convolution."""
    return _native(x, kernel, Window(kernel.shape[0], stride, padding))


def _native(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    strides, pads = (window.stride,) * 2, [(window.padding, window.padding)] * 2
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=_DIMENSIONS, feature_group_count=x.shape[-1]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return _forward(x, kernel, window)[0]


def _forward(x: jax.Array, kernel: jax.Array, window: Window) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def cpu(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = lax.optimization_barrier(x)  # written out once, for the gradient as well
        return _shift_and_add(x, kernel, window), x

    def native(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _native(x, kernel, window), x

    y, x = lax.platform_dependent(x, kernel, cpu=cpu, default=native)
    return y, (x, kernel)


def _backward(window: Window, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    def native(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_native, window=window), x, kernel)[1](dy)

    def cpu(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _input_gradient(dy, kernel, x.shape, window), _kernel_gradient(x, dy, window)

    return lax.platform_dependent(*saved, dy, cpu=cpu, default=native)


_depthwise.defvjp(_forward, _backward)


def _filter(kernel: jax.Array, row: int, column: int) -> jax.Array:
    """[1, 1, 1, C]: one tap of every channel."""
    return kernel[row : row + 1, column : column + 1]


def _wide(*arrays: jax.Array) -> list[jax.Array]:
    """In float32 or wider, in which all sums are taken."""
    return [array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays]


def _shift_and_add(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    filters = [_filter(kernel, i, j) for i in range(window.size) for j in range(window.size)]
    products = [jnp.multiply(*_wide(view, tap)) for view, tap in zip(taps.views(x, window), filters, strict=True)]
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _input_gradient(dy: jax.Array, kernel: jax.Array, shape: tuple[int, ...], window: Window) -> jax.Array:
    """dx of x's shape."""
    dx = taps.gather([dy], window, shape, lambda i, j, seen, _: jnp.multiply(*_wide(seen[0], _filter(kernel, i, j))))
    return dx.astype(dy.dtype)


def _kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """[k, k, 1, C], all taps in one pass over x and dy; images are summed last, so that threads can share the pass."""
    products = [jnp.multiply(*_wide(view, dy)) for view in taps.views(x, window)]
    zeros = [jnp.zeros((), products[0].dtype)] * len(products)
    sums = lax.reduce(products, zeros, lambda a, b: [u + v for u, v in zip(a, b, strict=True)], (1, 2))  # k * k [B, C]
    kernel_shape = (window.size, window.size, 1, x.shape[-1])
    return jnp.sum(jnp.stack(sums), axis=1).reshape(kernel_shape).astype(x.dtype)
