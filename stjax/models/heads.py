"""Heads over a backbone's feature vector: the main panel and AuxNet."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stjax.models.encoder import as_seen
from stjax.models.layers import dropout, uniform
from stjax.models.tuning import is_frozen


def linear(features: int, outputs: int, *, mean: np.ndarray | None = None, rngs: nnx.Rngs) -> nnx.Linear:
    """A float32 linear layer initialised as torch.nn.Linear: uniform within 1 / sqrt(features).

    Args:
        mean: [outputs] that it starts at, as ST-Net's does, whatever the features.
    """

    def torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any, **_: Any) -> jax.Array:
        del dtype
        return uniform(key, shape, 1 / math.sqrt(features))

    layer = nnx.Linear(
        features, outputs, kernel_init=torch_uniform, bias_init=torch_uniform, dtype=jnp.float32, rngs=rngs
    )
    if mean is not None:
        layer.kernel = nnx.Param(jnp.zeros((features, outputs)))
        layer.bias = nnx.Param(jnp.asarray(mean, jnp.float32))
    return layer


def patches_through(
    backbone: Any, images: jax.Array, mask: jax.Array, *, train: bool, key: jax.Array | None, frozen: bool
) -> dict[str, Any]:
    """What a backbone makes of the patches of spots of sections.

    Args:
        images: [B, S, H, W, 3] normalised.
        mask: [B, S] which of the S are spots.
        frozen: run it as when predicting, and give it no gradient.

    Returns:
        Its outputs, [B S, ...] each.
    """
    frozen = frozen or is_frozen(backbone)
    train = train and not frozen
    if train:  # what fills up an item is to be no part of BatchNorm's statistics: it is the first patch again
        images = jnp.where(mask[..., None, None, None], images, images[:, :1])
    found = backbone(images.reshape(-1, *images.shape[2:]), train=train, key=key)
    return jax.lax.stop_gradient(found) if frozen else found


class PatchModel(nnx.Module):
    """One spot a patch: a backbone, a linear layer to the main genes and, in addition, AuxNet's to all the others.

    BrST-Net attaches AuxNet "just before the end of the network"; its code makes that two parallel linear layers on
    the shared penultimate feature.

    Attributes:
        encoder: name of the published encoder that the backbone is, "" where it is none.
    """

    def __init__(
        self,
        backbone: Any,
        *,
        num_main: int,
        num_aux: int,
        main_mean: np.ndarray | None = None,
        encoder: str = "",
        rngs: nnx.Rngs,
    ):
        self.backbone, self.encoder = backbone, encoder
        self.main = linear(backbone.num_features, num_main, mean=main_mean, rngs=rngs)
        self.aux = linear(backbone.num_features, num_aux, rngs=rngs) if num_aux else None

    def __call__(
        self, images: jax.Array, *, train: bool, key: jax.Array | None, frozen_backbone: bool = False
    ) -> dict[str, jax.Array]:
        """[B, H, W, 3] normalised images to {"main": [B, 1, M], "aux": [B, 1, A] where there is one}, float32."""
        backbone_key, head_key = (None, None) if key is None else jax.random.split(key)
        frozen_backbone = frozen_backbone or is_frozen(self.backbone)
        training = train and not frozen_backbone
        images = as_seen(images, self.encoder) if self.encoder else images
        features = self.backbone(images, train=training, key=backbone_key)["features"].astype(jnp.float32)  # [B, D]
        if frozen_backbone:
            features = jax.lax.stop_gradient(features)
        features = dropout(features, rate=self.backbone.dropout_rate, train=train, key=head_key)
        outputs = {"main": self.main(features)[:, None, :]}
        if self.aux is not None:
            outputs["aux"] = self.aux(features)[:, None, :]
        return outputs

    def linear_heads(self) -> dict[str, nnx.Linear]:
        """Those on the backbone's feature vector, by name."""
        heads = {"main": self.main, "aux": self.aux}
        return {name: head for name, head in heads.items() if head is not None}
