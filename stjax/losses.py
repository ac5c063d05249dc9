"""Training losses. Arrays are [B, S, G] with a mask over measured spots; means divide by the mask sum."""

import jax
import jax.numpy as jnp


def masked_mse(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error over measured spots and genes, float32.

    Args:
        prediction, target: [B, S, G].
        mask: [B, S], 1 where a spot was measured.
    """
    if prediction.shape[-1] == 0:
        return jnp.zeros((), jnp.float32)
    square = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32))
    return jnp.sum(jnp.mean(square, axis=-1) * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def main_aux_mse(
    outputs: dict[str, jax.Array], targets: dict[str, jax.Array], mask: jax.Array, *, aux_weight: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """BrST-Net's `L = L_main + lambda L_aux`, each a mean squared error (Sci Rep 2023, Methods; published code).

    Returns:
        The loss, and its parts by name.
    """
    main = masked_mse(outputs["main"], targets["main"], mask)
    parts = {"loss_main": main}
    loss = main
    if "aux" in outputs:
        parts["loss_aux"] = masked_mse(outputs["aux"], targets["aux"], mask)
        loss = loss + aux_weight * parts["loss_aux"]
    return loss, {"loss": loss, **parts}
