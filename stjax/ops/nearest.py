"""The nearest rows of a bank to queries, exactly, a block of the bank at a time."""

from typing import Literal

import jax
import jax.numpy as jnp

Metric = Literal["l1", "l2", "cosine"]
_BLOCK = 4096  # rows of the bank at a time


def nearest(
    queries: jax.Array,
    bank: jax.Array,
    k: int,
    *,
    metric: Metric = "l2",
    query_group: jax.Array | None = None,
    bank_group: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The k nearest rows of a bank to each query, nearest first, of equally near ones the lower row first.

    No gradient flows through it.

    Args:
        queries: [Q, D].
        bank: [R, D].
        metric: sum of absolute differences, Euclidean distance, or 1 less the cosine.
        query_group: int [Q]; a query does not find rows of its own group. A negative one is of no group, the default.
        bank_group: int [R]; a row of a negative one is never found. By default all are of one group.

    Returns:
        [Q, k] int32 rows and [Q, k] float32 distances, which are infinite where fewer than k rows may be found.
    """
    queries, bank = jax.lax.stop_gradient((queries.astype(jnp.float32), bank.astype(jnp.float32)))
    if metric == "cosine":
        queries, bank = (x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12) for x in (queries, bank))
    own = jnp.full(queries.shape[0], -1) if query_group is None else query_group
    group = jnp.zeros(bank.shape[0], own.dtype) if bank_group is None else bank_group
    # A bank of any size, of an exported model, is one block: a scan needs a number of blocks.
    rows = min(_BLOCK, bank.shape[0]) if isinstance(bank.shape[0], int) else bank.shape[0]
    count = -(-bank.shape[0] // rows)
    missing = count * rows - bank.shape[0]
    blocks = jnp.pad(bank, ((0, missing), (0, 0))).reshape(count, rows, -1)
    groups = jnp.pad(group, (0, missing), constant_values=-1).reshape(count, rows)

    def block(
        found: tuple[jax.Array, jax.Array], part: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        values, its, first = part
        hidden = (its < 0)[None] | ((own >= 0)[:, None] & (own[:, None] == its[None]))
        distance = jnp.where(hidden, jnp.inf, _distances(queries, values, metric))  # [Q, rows]
        index = jnp.broadcast_to(first + jnp.arange(rows, dtype=jnp.int32)[None], distance.shape)
        distance, index = (jnp.concatenate(pair, axis=1) for pair in zip(found, (distance, index), strict=True))
        closeness, place = jax.lax.top_k(-distance, k)  # the first of equals first, and earlier blocks' come first
        return (-closeness, jnp.take_along_axis(index, place, axis=1)), None

    start = (
        jnp.full((queries.shape[0], k), jnp.inf, jnp.float32),
        jnp.zeros((queries.shape[0], k), jnp.int32),
    )
    firsts = jnp.arange(count, dtype=jnp.int32) * rows
    (distance, index), _ = jax.lax.scan(block, start, (blocks, groups, firsts))
    return index, jnp.sqrt(distance) if metric == "l2" else distance


def _distances(queries: jax.Array, bank: jax.Array, metric: Metric) -> jax.Array:
    """[Q, R] distances, or their squares for "l2"."""
    if metric == "l1":
        return jnp.sum(jnp.abs(queries[:, None] - bank[None]), axis=-1)  # one loop: the differences are not kept
    products = jnp.matmul(queries, bank.T, precision="highest")
    if metric == "cosine":
        return 1 - products
    squares = jnp.sum(queries * queries, axis=-1)[:, None] + jnp.sum(bank * bank, axis=-1)[None]
    return jnp.maximum(squares - 2 * products, 0)
