"""Graphs of the spots of a section: rows of neighbours, in place of an adjacency matrix, and means over them."""

import jax
import jax.numpy as jnp
from flax import nnx

from stjax.models.attention import linear_uniform
from stjax.models.layers import Linear
from stjax.ops.nearest import nearest

NEAR = {"grid8": 8, "as_released": 5}  # neighbours of a spot on the array, at most
SLOPE = 0.2  # of LeakyReLU below 0


def gathered(x: jax.Array, rows: jax.Array) -> jax.Array:
    """[B, N, D] at the rows [B, ...], to [B, ..., D]; of a negative row, that of row 0."""
    return jax.vmap(lambda values, wanted: values[wanted])(x, jnp.maximum(rows, 0))


def neighbour_mean(x: jax.Array, rows: jax.Array) -> jax.Array:
    """[B, N, D] to its mean over each node's neighbours [B, S, K], -1 where there is none; 0 over none at all."""
    there = (rows >= 0)[..., None]
    return jnp.sum(gathered(x, rows) * there, axis=2) / jnp.maximum(jnp.sum(there, axis=2), 1)


def most_alike(x: jax.Array, present: jax.Array, k: int) -> jax.Array:
    """[B, N, k] int32 rows of the k other nodes whose features [B, N, D] are nearest to each node's, -1 for none.

    Args:
        present: bool [B, N], which are nodes.
    """
    own = jnp.arange(x.shape[1], dtype=jnp.int32)

    def of_one(x: jax.Array, present: jax.Array) -> jax.Array:
        index, distance = nearest(x, x, k, query_group=own, bank_group=jnp.where(present, own, -1))
        return jnp.where(jnp.isfinite(distance) & present[:, None], index, -1)

    return jax.vmap(of_one)(x, present)


def attention_pool(values: jax.Array, scores: jax.Array, there: jax.Array) -> jax.Array:
    """Class-specific residual attention (Zhu and Wu, ICCV 2021): values [..., K, D] weighted, channel by channel, by
    the softmax over K of the scores [..., K, D], to [..., D]; 0 where none of K is there, bool [..., K]."""
    scores = jnp.where(there[..., None], scores, -jnp.inf)
    largest = jnp.max(scores, axis=-2, keepdims=True, initial=-1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(largest))
    total = jnp.sum(weights, axis=-2)
    return jnp.sum(weights * values, axis=-2) / jnp.where(total > 0, total, 1)


class Sage(nnx.Module):
    """GraphSAGE with means (Hamilton et al. 2017): a linear map of a node plus one of its neighbours' mean."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.own = Linear(inputs, outputs, init=linear_uniform, bias=False, rngs=rngs)
        self.near = Linear(inputs, outputs, init=linear_uniform, rngs=rngs)

    def __call__(self, x: jax.Array, rows: jax.Array) -> jax.Array:
        """[B, N, inputs] with neighbours [B, N, K], as of `neighbour_mean`, to [B, N, outputs]."""
        return self.own(x) + self.near(neighbour_mean(x, rows))
