"""What models give, as expression: standardised targets, or rates whose sums over a spot are expected counts.

{"main": [B, S, M] standardised targets, "aux": [B, S, A] where there is AuxNet}, or {"rates": [B, S, M + 1] expected
counts of each gene and of all others together, "dispersion": [M + 2]}.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from stjax import losses
from stjax.protocols import Protocol

if TYPE_CHECKING:
    from stjax.data.fold import Fold


def to_expression(outputs: dict[str, jax.Array], fold: "Fold", protocol: Protocol) -> jax.Array:
    """A model's outputs to [B, S, M] in the protocol's expression units."""
    if "rates" in outputs:
        return losses.additive_expression(
            outputs["rates"], lambda counts, total: protocol.transform(counts, total, fold.panel.num_genes)
        )
    genes = slice(fold.panel.num_main)
    mean = jnp.asarray(fold.target_mean[genes], jnp.float32)[None, None, :]
    std = jnp.asarray(fold.target_std[genes], jnp.float32)[None, None, :]
    return outputs["main"] * std + mean


def predicted(outputs: dict[str, jax.Array], fold: "Fold", protocol: Protocol) -> dict[str, jax.Array]:
    """{"expression": [B, S, M]} and, from a model of rates, {"total": [B, S]}, the expected counts of each spot."""
    result = {"expression": to_expression(outputs, fold, protocol)}
    if "rates" in outputs:
        result["total"] = jnp.sum(outputs["rates"], axis=-1)
    return result
