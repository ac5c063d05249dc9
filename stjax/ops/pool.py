"""Pooling: native on GPU and TPU; on the CPU, where the gradient of XLA's maximum is 7 times too slow, tap by tap."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x: jax.Array, *, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Largest value of each window, as torch.nn.MaxPool2d.

    Where several are largest (after a ReLU: zeros, whose gradient the ReLU stops) the CPU's gradient is shared among
    them; elsewhere the first has it.

    Args:
        x: [B, H, W, C].

    Returns:
        [B, (H + 2 padding - size) // stride + 1, (W + 2 padding - size) // stride + 1, C].
    """
    return _max_pool(x, size, stride, padding)


def max_pool_native(x: jax.Array, *, size: int, stride: int, padding: int = 0) -> jax.Array:
    """`max_pool` through XLA's own window reduction."""
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    # The initial value has to be a Python number for XLA's gradient to be known.
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), pads)


def average_pool(x: jax.Array, *, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Mean of each window, padding counted as zeros, as torch.nn.AvgPool2d; [B, H, W, C] as `max_pool`."""
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return functools.reduce(jnp.add, _taps(padded, size, stride)) / (size * size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    options = {"size": size, "stride": stride, "padding": padding}
    return lax.platform_dependent(
        x, cpu=functools.partial(_max_of_taps, **options), default=functools.partial(max_pool_native, **options)
    )


def _forward(x: jax.Array, size: int, stride: int, padding: int) -> tuple[jax.Array, jax.Array]:
    return _max_pool(x, size, stride, padding), x


def _backward(size: int, stride: int, padding: int, x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    def gradient(x: jax.Array, dy: jax.Array, *, function: Callable[..., jax.Array]) -> jax.Array:
        return jax.vjp(functools.partial(function, size=size, stride=stride, padding=padding), x)[1](dy)[0]

    cpu = functools.partial(gradient, function=_max_of_taps)
    default = functools.partial(gradient, function=max_pool_native)
    return (lax.platform_dependent(x, dy, cpu=cpu, default=default),)


_max_pool.defvjp(_forward, _backward)


def _taps(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """The size * size shifted and strided views of [B, H, W, C] whose reduction pools it."""
    b, rows, columns, c = x.shape
    height, width = (rows - size) // stride + 1, (columns - size) // stride + 1
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (b, i + stride * (height - 1) + 1, j + stride * (width - 1) + 1, c),
            (1, stride, stride, 1),
        )
        for i in range(size)
        for j in range(size)
    ]


def _max_of_taps(x: jax.Array, *, size: int, stride: int, padding: int) -> jax.Array:
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = lax.optimization_barrier(jnp.pad(x, pads, constant_values=-jnp.inf))
    return functools.reduce(jnp.maximum, _taps(padded, size, stride))
