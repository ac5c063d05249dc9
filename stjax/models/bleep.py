"""BLEEP (Xie et al., NeurIPS 2023): patches and expression embedded alike, so that a patch finds profiles it is like.

A prediction is the mean of the targets of those training spots whose expression is embedded nearest to the patch, by
the cosine. It is trained on pairs (loss "bleep"), and never on predictions.

Where the published code does otherwise: features of "frozen" are standardised over the training spots; and a training
spot does not find those of its own patient.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.attention import linear_uniform
from stjax.models.bank import Bank
from stjax.models.heads import patches_through
from stjax.models.layers import LayerNorm, Linear, dropout, fold, unknown_variant
from stjax.models.pixnet import BACKBONES, build_backbone
from stjax.models.standardised import Standardised

VIEW = "sections"
SEES_TARGETS = True
NEEDS = {"frozen": ("features", "bank"), "trained": ("image", "bank")}
_WIDTH, _DROPOUT = 256, 0.1


@dataclasses.dataclass(frozen=True)
class Options:
    """How many profiles are averaged, and how embeddings enter the loss.

    Attributes:
        temperature: divides their products.
        normalise: they are of unit length.
    """

    k: int
    temperature: float
    normalise: bool


class Projection(nnx.Module):
    """A linear layer, a perceptron of one layer added to it, and LayerNorm: the head of either side."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs):
        self.first, self.second = (Linear(n, _WIDTH, init=linear_uniform, rngs=rngs) for n in (inputs, _WIDTH))
        self.norm = LayerNorm(_WIDTH, eps=1e-5)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """[..., inputs] to [..., 256]."""
        first = self.first(x)
        second = self.second(jax.nn.gelu(first, approximate=False))
        return self.norm(first + dropout(second, rate=_DROPOUT, train=train, key=key))


class BLEEP(nnx.Module):
    """Two projections, of a patch's features and of expression, and the bank."""

    def __init__(
        self,
        options: Options,
        bank: Bank,
        *,
        statistics: tuple[np.ndarray, np.ndarray] | None = None,
        backbone: Any = None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            statistics: mean and deviation [D] of features, where they are given.
            backbone: what makes features of patches, where these are given.
        """
        self.options, self.bank = options, bank
        if backbone is None:
            assert statistics is not None
            self.features, width = Standardised(*statistics), len(statistics[0])
        else:
            self.backbone, width = backbone, backbone.num_features
        self.image = Projection(width, rngs=rngs)
        self.expression = Projection(bank.targets.shape[1], rngs=rngs)

    def __call__(
        self,
        *,
        group: jax.Array,
        spots_mask: jax.Array,
        images: jax.Array | None = None,
        features: jax.Array | None = None,
        rows: jax.Array | None = None,
        present: jax.Array | None = None,
        targets: jax.Array | None = None,
        train: bool,
        key: jax.Array | None = None,
        frozen_backbone: bool = False,
    ) -> dict[str, jax.Array]:
        """Genes of spots, each by itself; keywords as `stjax.views.sections` gives them.

        Returns:
            {"main": [B, S, M]} float32 and, where targets are given, "image_embedding" and "expression_embedding",
            [B, S, 256].
        """
        del present
        if features is None:
            assert images is not None
            options = {"train": train, "key": fold(key, 0), "frozen": frozen_backbone}
            own = patches_through(self.backbone, images, spots_mask, **options)["features"]
            own = own.astype(jnp.float32).reshape(*group.shape, -1)  # [B, S, D]
        else:
            assert rows is not None
            own = self.features.standardise(jnp.take_along_axis(features, rows[..., None], axis=1))
        image = self.image(own, train=train, key=fold(key, 1))
        outputs = {"main": self._retrieved(image, group)}
        if targets is not None:
            expression = self.expression(targets, train=train, key=fold(key, 2))
            outputs |= {"image_embedding": self._scaled(image), "expression_embedding": self._scaled(expression)}
        return outputs

    def _retrieved(self, image: jax.Array, group: jax.Array) -> jax.Array:
        """Embeddings of patches [B, S, 256] to the mean targets [B, S, M] of the nearest spots of other groups."""
        profiles = self.bank.targets[...]
        among = self.expression(profiles, train=False, key=None)  # [R, 256]
        index, found = self.bank.nearest(image, group, self.options.k, "cosine", among=among)
        total = jnp.sum(jnp.where(found[..., None], profiles[index], 0), axis=2)
        return total / jnp.maximum(jnp.sum(found, axis=-1, keepdims=True), 1)

    def _scaled(self, x: jax.Array) -> jax.Array:
        """Embeddings such that their products are those of the loss."""
        if self.options.normalise:
            x = x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
        return x / np.float32(np.sqrt(self.options.temperature))


def needs(variant: str) -> tuple[str, ...]:
    """What a variant is called with. Raises InputError for an unknown one."""
    if variant not in NEEDS:
        raise InputError(unknown_variant("bleep", variant, NEEDS))
    return NEEDS[variant]


def build(
    variant: str,
    *,
    bank: dict[str, np.ndarray],
    image_size_px: int = 0,
    feature_mean: np.ndarray | None = None,
    feature_std: np.ndarray | None = None,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    backbone: str = "",
    k: int = 50,
    temperature: float = 1.0,
    normalise: bool = False,
    rematerialise: bool = False,
) -> BLEEP:
    """BLEEP of features ("frozen"), or over a backbone that is trained with it ("trained").

    Args:
        bank: see `stjax.models.bank`; of its arrays the features are not kept.
        image_size_px: side of the patches.
        feature_mean, feature_std: [D] of the features over the training spots.
        backbone: of "trained", a key of `pixnet.BACKBONES`; "" for the published ResNet50.
        k: training spots that a prediction is the mean of.
        temperature, normalise: see `Options`.
        rematerialise: compute the backbone's inner results anew for the gradient.

    Raises:
        InputError: another variant or backbone, or an option out of range.
    """
    needs(variant)
    if k < 1 or not temperature > 0:
        raise InputError(
            f"config.model.options has k {k} and temperature {temperature:g}; expected at least 1, and above 0"
        )
    given: dict[str, Any] = {"options": Options(k, temperature, normalise), "rngs": rngs}
    given["bank"] = Bank(targets=bank["targets"], group=bank["group"])
    if variant == "frozen":
        if backbone:
            raise InputError(
                f"config.model.options.backbone is {backbone!r}, and bleep frozen has none; leave it empty"
            )
        assert feature_mean is not None
        assert feature_std is not None
        return BLEEP(**given, statistics=(feature_mean, feature_std))
    if (backbone := backbone or "resnet50") not in BACKBONES:
        raise InputError(f"config.model.options.backbone is {backbone!r}; choose one of {', '.join(BACKBONES)}")
    options = {"dtype": dtype, "rngs": rngs, "image_size_px": image_size_px, "rematerialise": rematerialise}
    return BLEEP(**given, backbone=build_backbone(backbone, **options))
