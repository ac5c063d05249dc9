"""Learnt positions of a vision transformer on another grid than the one they were learnt on: five rules in use.

Each interpolates rows, then columns, by Keys' cubic kernel or linearly; none touches an equal grid. They differ in what
lies on what, and in whether a smaller grid averages over more of the old positions:

* R0, torchvision: a = -0.75, the outer positions of one grid on those of the other.
* R1, timm, Hibou, DINOv2 with registers: a = -0.5, cells on cells, antialiased, weights at the edge summing to 1; what
  `jax.image.resize(..., "cubic", antialias=True)` does.
* R2, DINOv2 without registers: a = -0.75, cells on cells of a grid larger by 0.1, the edge repeated.
* R3, transformers' Dinov2 and ViT: R2 without the 0.1.
* R4, CONCH: linearly, cells on cells, the edge repeated.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Rule = Literal["R0", "R1", "R2", "R3", "R4"]


def resize_positions(positions: jax.Array, grid: tuple[int, int], *, prefix: int = 1, rule: Rule = "R0") -> jax.Array:
    """Positions [prefix + s s, D] of a square grid to [prefix + h w, D] of another.

    Args:
        prefix: rows before the grid's, of the class token and registers: kept as they are.

    Returns:
        Float32, or wider where the positions are; the positions themselves where the grids are equal.
    """
    side = math.isqrt(positions.shape[0] - prefix)
    if (side, side) == grid:
        return positions
    positions = positions.astype(jnp.promote_types(positions.dtype, jnp.float32))
    rows, columns = (jnp.asarray(weights(side, new, rule), positions.dtype) for new in grid)
    old = positions[prefix:].reshape(side, side, -1)
    new = jnp.einsum("hr,wc,rcd->hwd", rows, columns, old, precision="highest")
    return jnp.concatenate([positions[:prefix], new.reshape(grid[0] * grid[1], -1)])


def weights(old: int, new: int, rule: Rule) -> np.ndarray:
    """[new, old] float64, what each new position takes of the old ones along one side."""
    if rule == "R0":
        return _four_nearest(np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0), old)
    cells = np.arange(new) + 0.5
    if rule == "R1":
        stretch = max(old / new, 1.0)
        near = _cubic(np.abs((cells * old / new)[:, None] - (np.arange(old) + 0.5)) / stretch, -0.5)
        return near / near.sum(axis=1, keepdims=True)
    if rule == "R4":
        at = np.clip(cells * old / new - 0.5, 0, old - 1)
        return np.maximum(1 - np.abs(at[:, None] - np.arange(old)), 0.0)
    return _four_nearest(cells * (old / (new + 0.1 if rule == "R2" else new)) - 0.5, old)


def _four_nearest(at: np.ndarray, old: int) -> np.ndarray:
    """Bicubic weights [new, old] of the places `at` [new], counted in old positions; those beyond the edge are its."""
    first = np.floor(at).astype(int)
    found = np.zeros((len(at), old))
    for offset in range(-1, 3):
        near = _cubic(np.abs(at - (first + offset)), -0.75)
        np.add.at(found, (np.arange(len(at)), np.clip(first + offset, 0, old - 1)), near)
    return found


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel at distances t."""
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
