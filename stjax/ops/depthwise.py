"""Depthwise convolution: native where XLA has a good one (GPU, TPU), shift-and-add on the CPU, where it has not.

XLA's CPU backend runs grouped convolutions, and above all their gradients, 16 to 34 times slower than the arithmetic
needs. There the sum over the k * k kernel taps is written out on contiguous channel rows instead, forwards and
backwards. `depthwise_conv` chooses by the platform the program is compiled for; `depthwise_conv_native` is the
reference.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class _Window(NamedTuple):
    """How a k x k filter moves, in rows and in columns alike."""

    size: int
    stride: int
    padding: int

    def out(self, length: int) -> int:
        """Positions along `length` pixels."""
        return (length + 2 * self.padding - self.size) // self.stride + 1


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """One k x k filter a channel, over an image with zeros around it, as torch's `Conv2d(C, C, k, groups=C)`.

    Args:
        x: [B, H, W, C].
        kernel: [k, k, 1, C].
        padding: zeros on every side.

    Returns:
        [B, (H + 2 padding - k) // stride + 1, (W + 2 padding - k) // stride + 1, C] in x's dtype.
    """
    return _depthwise(x, kernel, _Window(kernel.shape[0], stride, padding))


def depthwise_conv_native(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """`depthwise_conv` through XLA's grouped convolution."""
    return _native(x, kernel, _Window(kernel.shape[0], stride, padding))


def _native(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    strides, pads = (window.stride,) * 2, ((window.padding,) * 2,) * 2
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=_DIMENSIONS, feature_group_count=x.shape[-1]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    return _forward(x, kernel, window)[0]


def _forward(x: jax.Array, kernel: jax.Array, window: _Window) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def cpu(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = lax.optimization_barrier(x)  # written out once, for the gradient as well
        return _shift_and_add(x, kernel, window), x

    def native(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _native(x, kernel, window), x

    y, x = lax.platform_dependent(x, kernel, cpu=cpu, default=native)
    return y, (x, kernel)


def _backward(window: _Window, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    def native(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_native, window=window), x, kernel)[1](dy)

    def cpu(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _input_gradient(dy, kernel, x.shape, window), _kernel_gradient(x, dy, window)

    return lax.platform_dependent(*saved, dy, cpu=cpu, default=native)


_depthwise.defvjp(_forward, _backward)


def _pad(x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
    """Zeros around rows and columns, as an array of its own: fused into the loops that read it, the padding's bounds
    tests would stop them from being vectorised. Negative padding crops."""
    config = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), config))


def _tap(x: jax.Array, row: int, column: int, height: int, width: int, stride: int = 1) -> jax.Array:
    """x[:, row::stride, column::stride], `height` rows and `width` columns of it."""
    b, _, _, c = x.shape
    stop = (b, row + stride * (height - 1) + 1, column + stride * (width - 1) + 1, c)
    return lax.slice(x, (0, row, column, 0), stop, (1, stride, stride, 1))


def _filter(kernel: jax.Array, row: int, column: int) -> jax.Array:
    """[1, 1, 1, C]: one tap of every channel."""
    return kernel[row : row + 1, column : column + 1]


def _weighted_sum(taps: list[tuple[jax.Array, jax.Array]], dtype: jnp.dtype) -> jax.Array:
    """sum(x * w) accumulated in float32 (or wider), one fused loop."""
    wide = jnp.promote_types(dtype, jnp.float32)
    return functools.reduce(jnp.add, [x.astype(wide) * w.astype(wide) for x, w in taps]).astype(dtype)


def _shift_and_add(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    k, stride, pad = window
    height, width = window.out(x.shape[1]), window.out(x.shape[2])
    padded = _pad(x, (pad, pad), (pad, pad))
    taps = [(_tap(padded, i, j, height, width, stride), _filter(kernel, i, j)) for i in range(k) for j in range(k)]
    return _weighted_sum(taps, x.dtype)


def _input_gradient(dy: jax.Array, kernel: jax.Array, shape: tuple[int, ...], window: _Window) -> jax.Array:
    """dx of x's shape. At stride 2 the rows and columns of each parity are a small convolution of their own.

    x[r] reaches y[o] through tap i = r + pad - stride * o, so phase p of the rows (r = stride * q + p) takes the taps
    i = p + pad (mod stride), from o = q + (p + pad - i) / stride.
    """
    k, stride, pad = window
    b, rows, columns, c = shape
    height, width = -(-rows // stride), -(-columns // stride)  # of each phase, the odd ones cropped at the end
    low = (k - 1 - pad) // stride  # as far as the first o lies before 0, and the last one after the end:
    high = [q - 1 + (stride - 1 + pad) // stride - (o - 1) for q, o in zip((height, width), dy.shape[1:3], strict=True)]
    padded = _pad(dy, (low, high[0]), (low, high[1]))
    phases = []
    for p in range(stride):
        for q in range(stride):
            taps = []
            for i in range((p + pad) % stride, k, stride):
                for j in range((q + pad) % stride, k, stride):
                    row, column = low + (p + pad - i) // stride, low + (q + pad - j) // stride
                    taps.append((_tap(padded, row, column, height, width), _filter(kernel, i, j)))
            phases.append(_weighted_sum(taps, dy.dtype))
    if stride == 1:
        return phases[0]
    grid = jnp.stack(phases, axis=3).reshape(b, height, width, stride, stride, c)  # [B, h, w, p, q, C]
    grid = grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, height * stride, width * stride, c)
    return grid[:, :rows, :columns]


def _kernel_gradient(x: jax.Array, dy: jax.Array, window: _Window) -> jax.Array:
    """[k, k, 1, C], all taps in one pass over x and dy; images are summed last, so that threads can share the pass."""
    k, stride, pad = window
    _, height, width, c = dy.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded, dy = _pad(x, (pad, pad), (pad, pad)), dy.astype(wide)
    products = [_tap(padded, i, j, height, width, stride).astype(wide) * dy for i in range(k) for j in range(k)]
    zeros = [jnp.zeros((), wide)] * (k * k)
    sums = lax.reduce(products, zeros, lambda a, b: [u + v for u, v in zip(a, b, strict=True)], (1, 2))  # k * k [B, C]
    return jnp.sum(jnp.stack(sums), axis=1).reshape(k, k, 1, c).astype(x.dtype)
