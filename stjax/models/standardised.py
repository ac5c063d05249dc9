"""Features of an encoder that is not trained, as models take them: standardised, and bounded.

Of a feature that hardly varies over the training spots, another slide may be a thousand deviations off.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stjax.models.tuning import Frozen

BOUND = 10.0  # deviations of a feature from its mean, at most


class Standardised(nnx.Module):
    """Mean and deviation of features over the training spots, which a model holds as constants."""

    def __init__(self, mean: np.ndarray, std: np.ndarray):
        """
        Args:
            mean, std: [D] of the features.
        """
        self.mean, self.std = Frozen(jnp.asarray(mean, jnp.float32)), Frozen(jnp.asarray(std, jnp.float32))

    def standardise(self, x: jax.Array) -> jax.Array:
        """[..., D] features to the same, of mean 0 and deviation 1 over the training spots."""
        mean, std = (jnp.expand_dims(value[...], tuple(range(x.ndim - 1))) for value in (self.mean, self.std))
        return jnp.clip((x - mean) / std, -BOUND, BOUND)
