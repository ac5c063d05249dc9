"""EGN (Yang et al., WACV 2023): a vision transformer of the patch, told what the nearest training spots express.

Exemplars are the training spots whose features are nearest to the spot's own, of other patients. Own features, and
those of an exemplar with its targets, are projected to the transformer's width; bridges after the attention of every
second block compare them, and gate a value of each token by what they find. As in the published code, where text and
diagrams of the paper say otherwise: 6 exemplars, and bridges that pass on the own token as it was.

Here features are standardised for the projections, while the nearest are those of features as they are.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.attention import Block, BlockSpec, linear_uniform
from stjax.models.bank import Bank
from stjax.models.heads import linear
from stjax.models.layers import LayerNorm, Linear, normal, run, unknown_variant, wide
from stjax.models.standardised import Standardised

VIEW = "sections"
_EPS = 1e-5
_SHARE, _SHARPNESS = 0.5, 0.1  # of the pooling by attention, and of its softmax


@dataclasses.dataclass(frozen=True)
class Spec:
    """Sizes of the transformer and of its bridges.

    Attributes:
        hidden: units between an exemplar and its gates.
        bridge_heads, bridge_dim: of the value of each token that is gated.
    """

    patch_px: int = 32
    layers: int = 8
    width: int = 1024
    heads: int = 16
    mlp: int = 4096
    hidden: int = 256
    bridge_heads: int = 8
    bridge_dim: int = 64

    @property
    def block(self) -> BlockSpec:
        """Each of the blocks."""
        return BlockSpec(self.width, self.heads, self.mlp, qkv_bias=False, eps=_EPS)


SPECS = {
    "full": Spec(),
    "narrow": Spec(width=256, heads=8, mlp=1024, hidden=64, bridge_heads=4),
    "tiny": Spec(layers=4, width=32, heads=4, mlp=64, hidden=16, bridge_heads=2, bridge_dim=8),
}


def _layer(inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs) -> Linear:
    return Linear(inputs, outputs, init=linear_uniform, bias=bias, rngs=rngs)


class Residual(nnx.Module):
    """A perceptron of one hidden layer, normalised before and added after."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, eps=_EPS)
        self.first, self.second = (_layer(width, width, rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to the same."""
        return x + self.second(jax.nn.gelu(self.first(self.norm(x)), approximate=False))


class Bridge(nnx.Module):
    """What exemplars say, taken up by the tokens of the patch and by the spot's own token."""

    def __init__(self, spec: Spec, tokens: int, *, rngs: nnx.Rngs):
        width, value = spec.width, spec.bridge_heads * spec.bridge_dim
        self.heads = spec.bridge_heads
        self.said = _layer(width, width, rngs=rngs)
        self.compare, self.gates = _layer(2 * width, spec.hidden, rngs=rngs), _layer(spec.hidden, 2 * width, rngs=rngs)
        self.norm_exemplar, self.norm_own, self.norm = (LayerNorm(width, eps=_EPS) for _ in range(3))
        self.gate = _layer(width, spec.bridge_heads * tokens, rngs=rngs)
        self.value = _layer(width, value, rngs=rngs)
        self.out, self.out_own = (_layer(value, width, bias=False, rngs=rngs) for _ in range(2))

    def __call__(
        self, x: jax.Array, own: jax.Array, exemplars: jax.Array, expressed: jax.Array, weight: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One step of the tokens, of the spot's own and of its exemplars'.

        Args:
            x: [n, T, D] tokens of the patch.
            own: [n, D].
            exemplars: [n, k, D].
            expressed: [n, k, D] of their targets.
            weight: [n, k] of each exemplar in their mean, of sum 1.

        Returns:
            The first three, after it.
        """
        n, t, _ = x.shape
        said = self.said(expressed)
        compared = jnp.concatenate([own[:, None] - exemplars, exemplars], axis=-1)
        gates = jax.nn.sigmoid(self.gates(jax.nn.silu(self.compare(compared))))
        to_own, to_exemplar = jnp.split(gates, 2, axis=-1)  # [n, k, D]
        told = own + jnp.sum(weight[..., None].astype(x.dtype) * to_own * said, axis=1)
        gate = jax.nn.sigmoid(self.gate(self.norm_own(told))).reshape(n, self.heads, t).transpose(0, 2, 1)
        value = self.value(self.norm(x)).reshape(n, t, self.heads, -1) * gate[..., None]
        value = value.reshape(n, t, -1)
        exemplars = self.norm_exemplar(exemplars + to_exemplar * said)
        return x + self.out(value), own + self.out_own(jnp.mean(value, axis=1)), exemplars


class Layer(nnx.Module):
    """A transformer block, positions added before its attention, with a bridge after that or none."""

    def __init__(self, spec: Spec, tokens: int, *, bridged: bool, rngs: nnx.Rngs):
        self.block = Block(spec.block, rngs=rngs)
        self.bridge = Bridge(spec, tokens, rngs=rngs) if bridged else None

    def __call__(
        self, x: jax.Array, positions: jax.Array, state: tuple[jax.Array, ...], *, train: bool, key: None = None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """[n, T, D] tokens and the bridge's further arrays, to the same."""
        del key  # there is no dropout
        x = self.block.attended(x, positions=positions, train=train)
        if self.bridge is not None:
            own, exemplars, *fixed = state
            x, own, exemplars = self.bridge(x, own, exemplars, *fixed)
            state = (own, exemplars, *fixed)
        return self.block.perceived(x, train=train), state


class EGN(nnx.Module):
    """The transformer with its bridges, over the bank of training spots."""

    def __init__(
        self,
        spec: Spec,
        *,
        image_size_px: int,
        statistics: tuple[np.ndarray, np.ndarray],
        bank: Bank,
        nearest: int,
        num_main: int,
        main_mean: np.ndarray | None,
        dtype: Any,
        rematerialise: bool,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            statistics: mean and deviation [D] of the features.
            nearest: exemplars of a spot.
        """
        width, features, tokens = spec.width, len(statistics[0]), (image_size_px // spec.patch_px) ** 2
        self.dtype, self.rematerialise, self.nearest, self.patch_px = dtype, rematerialise, nearest, spec.patch_px
        self.features, self.bank = Standardised(*statistics), bank
        self.own = _layer(features, width, rngs=rngs)
        self.exemplar = _layer(features + num_main, width, rngs=rngs)
        self.expressed = _layer(num_main, width, rngs=rngs)
        self.projector = nnx.List(Residual(width, rngs=rngs) for _ in range(2))
        self.embed = _layer(3 * spec.patch_px**2, width, rngs=rngs)
        self.positions = nnx.Param(normal(rngs.params(), (tokens, width), 1.0))
        self.layers = nnx.List(Layer(spec, tokens, bridged=number % 2 == 1, rngs=rngs) for number in range(spec.layers))
        self.pool, self.norm = _layer(width, width, rngs=rngs), LayerNorm(2 * width, eps=_EPS)
        self.main = linear(2 * width, num_main, mean=main_mean, rngs=rngs)

    def __call__(
        self,
        *,
        images: jax.Array,
        features: jax.Array,
        rows: jax.Array,
        group: jax.Array,
        present: jax.Array,
        spots_mask: jax.Array,
        train: bool,
        key: jax.Array | None = None,
        frozen_backbone: bool = False,
    ) -> dict[str, jax.Array]:
        """Genes of spots, each by itself; keywords as `stjax.views.sections` gives them. There is no backbone.

        Returns:
            {"main": [B, S, M]} float32.
        """
        del present, spots_mask, key, frozen_backbone
        b, s = rows.shape
        own = jnp.take_along_axis(features, rows[..., None], axis=1).reshape(b * s, -1)  # [n, D]
        index, known = self.bank.nearest(own, group.reshape(b * s), self.nearest)  # [n, k]
        weight = known / jnp.maximum(jnp.sum(known, axis=1, keepdims=True), 1)
        assert self.bank.features is not None
        exemplars = self.bank.features[...][index], self.bank.targets[...][index], weight
        found = self.predicted(images.reshape(b * s, *images.shape[2:]), own, *exemplars, train=train)
        return {"main": found.reshape(b, s, -1)}

    def predicted(
        self,
        images: jax.Array,
        own: jax.Array,
        features: jax.Array,
        targets: jax.Array,
        weight: jax.Array,
        *,
        train: bool,
    ) -> jax.Array:
        """Genes of spots with their exemplars.

        Args:
            images: [n, H, W, 3].
            own: [n, D] features.
            features, targets: [n, k, D] and [n, k, M] of the exemplars.
            weight: [n, k] of each, of sum 1.

        Returns:
            [n, M] float32.
        """
        own, features = (self.features.standardise(each) for each in (own, features))
        exemplars = self.exemplar(jnp.concatenate([features, targets], axis=-1).astype(self.dtype))
        own = self.own(own.astype(self.dtype))
        for residual in self.projector:
            own, exemplars = residual(own), residual(exemplars)
        state = (own, exemplars, self.expressed(targets.astype(self.dtype)), weight)
        positions = self.positions[...].astype(self.dtype)[None]
        x = self.embed(_patches(images, self.patch_px).astype(self.dtype)) + positions  # [n, T, D]
        for layer in self.layers:
            x, state = run(layer, x, positions, state, train=train, rematerialise=self.rematerialise)
        z = wide(self.pool(x))
        pooled = jnp.mean(z, axis=1) + _SHARE * jnp.sum(jax.nn.softmax(_SHARPNESS * z, axis=1) * z, axis=1)
        return self.main(self.norm(jnp.concatenate([pooled, wide(state[0])], axis=-1)))


def _patches(images: jax.Array, side: int) -> jax.Array:
    """[n, H, W, 3] to the squares [n, T, side side 3] that they consist of."""
    n, height, width, _ = images.shape
    x = images.reshape(n, height // side, side, width // side, side, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, -1, 3 * side**2)


def needs(variant: str) -> tuple[str, ...]:
    """What the model is called with, whatever the variant."""
    del variant
    return ("image", "features", "bank")


def build(
    variant: str,
    *,
    num_main: int,
    image_size_px: int,
    feature_mean: np.ndarray,
    feature_std: np.ndarray,
    bank: dict[str, np.ndarray],
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    main_mean: np.ndarray | None = None,
    nearest: int = 6,
    rematerialise: bool = False,
) -> EGN:
    """EGN `variant`, a key of `SPECS`.

    Args:
        image_size_px: side of the patches, a multiple of 32; the published 256.
        feature_mean, feature_std: [D] of the features over the training spots.
        bank: see `stjax.models.bank`.
        nearest: exemplars of a spot; the paper says 9.
        rematerialise: compute the blocks' inner results anew for the gradient.

    Raises:
        InputError: another variant, patches of no whole squares, or no exemplars.
    """
    if variant not in SPECS:
        raise InputError(unknown_variant("egn", variant, SPECS))
    spec = SPECS[variant]
    if image_size_px % spec.patch_px:
        raise InputError(
            f"patches are {image_size_px} px; EGN cuts them into squares of {spec.patch_px} px: build the data set "
            "with a --patch-size-px that is a multiple, such as 256"
        )
    if nearest < 1:
        raise InputError(f"config.model.options.nearest is {nearest}; expected at least 1")
    given: dict[str, Any] = {"statistics": (feature_mean, feature_std), "image_size_px": image_size_px}
    given |= {"num_main": num_main, "main_mean": main_mean, "dtype": dtype, "rematerialise": rematerialise}
    return EGN(spec, **given, bank=Bank(**bank), nearest=nearest, rngs=rngs)
