"""Pooling: native on GPU and TPU; on the CPU, where the gradient of XLA's maximum is 7 times too slow, tap by tap."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from stjax.ops.cpu import taps
from stjax.ops.cpu.taps import Window


def max_pool(x: jax.Array, *, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Largest value of each window, as torch.nn.MaxPool2d.

    Where several are largest (after a ReLU: zeros, whose gradient the ReLU stops) they share the gradient on the CPU;
    elsewhere the first has it.

    Args:
        x: [B, H, W, C].

    Returns:
        [B, (H + 2 padding - size) // stride + 1, (W + 2 padding - size) // stride + 1, C].
    """
    return _max_pool(x, Window(size, stride, padding))


def max_pool_native(x: jax.Array, *, size: int, stride: int, padding: int = 0) -> jax.Array:
    """`max_pool` through XLA's own window reduction."""
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    # The initial value has to be a Python number for XLA's gradient to be known.
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), pads)


def average_pool(x: jax.Array, *, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Mean of each window, padding counted as zeros, as torch.nn.AvgPool2d; [B, H, W, C] as `max_pool`."""
    return functools.reduce(jnp.add, taps.views(x, Window(size, stride, padding))) / (size * size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, window: Window) -> jax.Array:
    native = functools.partial(max_pool_native, **window._asdict())
    return lax.platform_dependent(x, cpu=functools.partial(_max_of_taps, window=window), default=native)


def _forward(x: jax.Array, window: Window) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y: Any = _max_pool(x, window)
    return y, (x, y)


def _backward(window: Window, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
    def native(x: jax.Array, _: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(functools.partial(max_pool_native, **window._asdict()), x)[1](dy)[0]

    def cpu(x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
        ties = functools.reduce(jnp.add, [(view == y).astype(dy.dtype) for view in _views(x, window)])
        shares = dy / ties
        return taps.gather(
            [y, shares], window, x.shape, lambda _i, _j, seen, pixels: jnp.where(pixels(x) == seen[0], seen[1], 0)
        )

    return (lax.platform_dependent(*saved, dy, cpu=cpu, default=native),)


_max_pool.defvjp(_forward, _backward)


def _views(x: jax.Array, window: Window) -> list[jax.Array]:
    return taps.views(x, window, fill=-jnp.inf)


def _max_of_taps(x: jax.Array, window: Window) -> jax.Array:
    return functools.reduce(jnp.maximum, _views(x, window))
