"""The bank: features and targets of the training spots, which a model looks up when it predicts.

It is a part of the model. Whoever has the model has the measured expression of these spots.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stjax.models.tuning import Frozen
from stjax.ops.nearest import Metric, nearest


class Bank(nnx.Module):
    """R training spots, arrays that are not trained."""

    def __init__(self, *, targets: Any, group: Any, features: Any = None):
        """
        Args:
            targets: [R, M], in the run's target space.
            group: [R] numbers, which patient (or section) each spot is of.
            features: [R, D], as the encoder gave them, where a model looks spots up by them.
        """
        self.features = None if features is None else Frozen(jnp.asarray(features, jnp.float32))
        self.targets, self.group = Frozen(jnp.asarray(targets, jnp.float32)), Frozen(jnp.asarray(group, jnp.int32))

    def nearest(
        self, queries: jax.Array, group: jax.Array, k: int, metric: Metric = "l2", *, among: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The spots that are nearest, of those that are not of the query's own group.

        Args:
            queries: [..., D].
            group: int [...] of the queries; -1: of none, which sees the whole bank.
            among: [R, D] of the bank's spots, which are looked through; by default their features.

        Returns:
            [..., k] int32 rows, nearest first, and bool [..., k], whether there is one.
        """
        if among is None:
            assert self.features is not None
            among = self.features[...]
        index, distance = nearest(
            queries.reshape(-1, queries.shape[-1]),
            among,
            k,
            metric=metric,
            query_group=group.reshape(-1),
            bank_group=self.group[...],
        )
        shape = (*group.shape, k)
        return index.reshape(shape), jnp.isfinite(distance).reshape(shape)
