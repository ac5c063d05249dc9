"""The eight symmetries of the square, by which images are turned in training and, where a protocol asks, averaged."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

NUM_SYMMETRIES = 8


def symmetry(which: Any) -> jax.Array:
    """One of the eight symmetries of the square for all images, `which` in 0..7, as `turn` takes it."""
    return ((jnp.asarray(which) >> jnp.arange(3)) & 1 > 0).reshape(3, 1, 1, 1, 1)


def random_symmetries(count: int, key: jax.Array) -> jax.Array:
    """A random symmetry for each of `count` images, each of the three parts with p = 0.5, as BrST-Net."""
    return jax.random.bernoulli(key, 0.5, (3, count, 1, 1, 1))


def turn(images: jax.Array, parts: jax.Array) -> jax.Array:
    """Flips rows, flips columns, then swaps them, where `parts` say so.

    Args:
        images: [B, H, H, C], square.
        parts: [3, B or 1, 1, 1, 1] bool.
    """
    images = jnp.where(parts[0], jnp.flip(images, axis=1), images)
    images = jnp.where(parts[1], jnp.flip(images, axis=2), images)
    return jnp.where(parts[2], jnp.swapaxes(images, 1, 2), images)


def turn_back(images: jax.Array, parts: jax.Array) -> jax.Array:
    """The inverse of `turn`."""
    images = jnp.where(parts[2], jnp.swapaxes(images, 1, 2), images)
    images = jnp.where(parts[1], jnp.flip(images, axis=2), images)
    return jnp.where(parts[0], jnp.flip(images, axis=1), images)


def mean_over_symmetries(outputs: Callable[[jax.Array], Any]) -> Any:
    """The mean of `outputs(parts)`, a tree of arrays, over the eight symmetries, `parts` as `turn` takes them."""
    every = jax.lax.map(lambda which: outputs(symmetry(which)), jnp.arange(NUM_SYMMETRIES))  # one program, run 8 times
    return jax.tree.map(lambda each: jnp.mean(each, axis=0), every)


def turned_alike(stacks: jax.Array, parts: jax.Array) -> jax.Array:
    """Stacks of patches [B, S, H, H, 3], all of an item turned as `turn` says."""
    parts = jnp.repeat(parts, stacks.shape[1], axis=1) if parts.shape[1] > 1 else parts
    return turn(stacks.reshape(-1, *stacks.shape[2:]), parts).reshape(stacks.shape)
