"""Sliding windows tap by tap, for the CPU: shifted views of an image, and the sum over the windows that hold a pixel.

A window at output o covers pixels stride * o - padding + i, i = 0 .. size - 1: its taps. What a sliding window computes
is a reduction over the taps' views; its gradient for pixel r gathers from every (o, i) with r = stride * o - padding +
i.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Window(NamedTuple):
    """How a square window moves, in rows and in columns alike."""

    size: int
    stride: int
    padding: int

    def out(self, length: int) -> int:
        """Positions along `length` pixels."""
        return (length + 2 * self.padding - self.size) // self.stride + 1


def views(x: jax.Array, window: Window, *, fill: float = 0.0) -> list[jax.Array]:
    """[B, H, W, C] to the view [B, h, w, C] of each tap, row by row of the window; `fill` lies outside the image."""
    height, width = window.out(x.shape[1]), window.out(x.shape[2])
    side = (window.padding, window.padding, 0)
    pads = [(0, 0, 0), side, side, (0, 0, 0)]
    padded = _written(lax.pad(x, jnp.asarray(fill, x.dtype), pads)) if window.padding else x
    return [_view(padded, i, j, height, width, window.stride) for i in range(window.size) for j in range(window.size)]


def gather(
    arrays: Sequence[jax.Array],
    window: Window,
    shape: tuple[int, ...],
    term: Callable[[int, int, list[jax.Array], Callable[[jax.Array], jax.Array]], jax.Array],
) -> jax.Array:
    """For each pixel the sum of `term` over the windows and taps that hold it.

    At stride 2 the rows and columns of each parity are a small convolution of their own: rows r = stride * q + p take
    the taps i = p + padding (mod stride), from o = q + (p + padding - i) / stride.

    Args:
        arrays: [B, h, w, C] each, by window.
        shape: (B, H, W, C) of the image.
        term: of tap row, tap column, the arrays' views [B, ., ., C], zero outside, and a function that takes an image
            of `shape` to the pixels concerned, in the same order.

    Returns:
        [B, H, W, C].
    """
    size, stride, pad = window
    b, rows, columns, c = shape
    height, width = -(-rows // stride), -(-columns // stride)  # of each parity, the odd ones cropped at the end
    low = (size - 1 - pad) // stride  # so far the first window lies before pixel 0, and the last one after the end:
    high = [
        at + (stride - 1 + pad) // stride - out
        for at, out in zip((height, width), (window.out(rows), window.out(columns)), strict=True)
    ]
    config = ((0, 0, 0), (low, high[0], 0), (low, high[1], 0), (0, 0, 0))
    padded = [_written(lax.pad(array, jnp.zeros((), array.dtype), config)) for array in arrays]

    def parity(image: jax.Array, p: int, q: int) -> jax.Array:
        ends = ((0, 0, 0), (0, height * stride - rows, 0), (0, width * stride - columns, 0), (0, 0, 0))
        return _view(lax.pad(image, jnp.zeros((), image.dtype), ends), p, q, height, width, stride)

    found = []
    for p in range(stride):
        for q in range(stride):
            terms = []
            for i in range((p + pad) % stride, size, stride):
                for j in range((q + pad) % stride, size, stride):
                    row, column = low + (p + pad - i) // stride, low + (q + pad - j) // stride
                    seen = [_view(array, row, column, height, width) for array in padded]
                    terms.append(term(i, j, seen, functools.partial(parity, p=p, q=q)))
            found.append(functools.reduce(jnp.add, terms))
    if stride == 1:
        return found[0]
    grid = jnp.stack(found, axis=3).reshape(b, height, width, stride, stride, c)  # [B, h, w, p, q, C]
    grid = grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, height * stride, width * stride, c)
    return grid[:, :rows, :columns]


def _written(padded: jax.Array) -> jax.Array:
    """An array of its own: in the loops that read it, the padding's bounds tests would stop vectorisation."""
    return lax.optimization_barrier(padded)


def _view(x: jax.Array, row: int, column: int, height: int, width: int, stride: int = 1) -> jax.Array:
    """x[:, row::stride, column::stride], `height` rows and `width` columns of it."""
    b, _, _, c = x.shape
    stop = (b, row + stride * (height - 1) + 1, column + stride * (width - 1) + 1, c)
    return lax.slice(x, (0, row, column, 0), stop, (1, stride, stride, 1))
