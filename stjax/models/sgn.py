"""SGN (Yang et al., MICCAI 2024, arXiv 2401.14772): a graph of spots, whose embeddings meet weights that are made of
what is known of each gene.

Features pass through GraphSAGE layers over neighbours on the array and over the spots that look most alike. What a
gene is called, or what a language model says of it, becomes a unit vector and an offset: a gene's prediction is the
product of its vector with the spot's embedding. So genes can be predicted that no training spot was measured for: under
`genes="zero_shot"` AuxNet's genes, which the panel has none of, are what is learnt, some at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.attention import Block, BlockSpec, linear_uniform, seen
from stjax.models.graph import NEAR, SLOPE, Sage, gathered, most_alike
from stjax.models.layers import LayerNorm, Linear, normal, unknown_variant
from stjax.models.standardised import Standardised
from stjax.models.tuning import Frozen

VIEW = "sections"
SIZES = {"full": (512, 256), "tiny": (32, 16)}  # of spots in layers, and of their embeddings and genes' vectors
GENES = ("panel", "zero_shot")
_ALIKE, _LAYERS, _BLOCKS, _HEADS = 5, 4, 2, 4


class Genes(nnx.Module):
    """Weights of a linear layer from a text's vectors: a transformer whose class token sees them."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        self.embed = Linear(inputs, width, init=linear_uniform, rngs=rngs)
        self.first = nnx.Param(normal(rngs.params(), (2, width), 0.02))  # the class token, and a register
        spec = BlockSpec(width, _HEADS, 4 * width, layer_scale=0.1, eps=1e-6)
        self.blocks = nnx.List(Block(spec, rngs=rngs) for _ in range(_BLOCKS))
        self.norm = LayerNorm(width, eps=1e-6)
        self.out = Linear(width, width + 1, init=linear_uniform, rngs=rngs)

    def __call__(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[G, T, inputs] vectors, all zeros where a text is shorter, to [G, width] unit weights and [G] offsets."""
        there = jnp.any(vectors != 0, axis=-1)  # [G, T]
        first = jnp.broadcast_to(self.first[...][None], (len(vectors), *self.first.shape))
        # differs from the paper: no table of segments, as a gene has one text and not five samples of one
        x = jnp.concatenate([first, self.embed(vectors)], axis=1)  # [G, 2 + T, width]
        bias = seen(jnp.pad(there, ((0, 0), (2, 0)), constant_values=True))
        for block in self.blocks:
            x = block(x, bias=bias, train=False)  # which has nothing to drop
        y = self.out(self.norm(x[:, 0]))
        weight, offset = y[:, :-1], y[:, -1]
        return weight * jax.lax.rsqrt(jnp.sum(weight * weight, axis=-1, keepdims=True) + 1e-12), offset


class SGN(nnx.Module):
    """Graph layers over spots, and weights of genes.

    Attributes:
        vectors: [M, T, W] of the main genes.
        aux: [A, T, W] of the genes that are learnt in their place; None where the main ones are.
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        *,
        statistics: tuple[np.ndarray, np.ndarray],
        vectors: np.ndarray,
        num_main: int,
        drawn: int,
        near: int,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            sizes: as in `SIZES`.
            statistics: mean and deviation of the features.
            vectors: [M + A, T, W] of all genes.
            drawn: of the A, how many a step is of.
            near: neighbours on the array, at most.
        """
        width, out = sizes
        self.drawn, self.near = drawn, near
        self.features = Standardised(*statistics)
        self.vectors = Frozen(jnp.asarray(vectors[:num_main], jnp.float32))
        self.aux = Frozen(jnp.asarray(vectors[num_main:], jnp.float32)) if len(vectors) > num_main else None
        self.embed = Linear(len(statistics[0]), width, init=linear_uniform, bias=False, rngs=rngs)
        self.on_array, self.alike = (nnx.List(Sage(width, width, rngs=rngs) for _ in range(_LAYERS)) for _ in range(2))
        self.out = Linear(width, out, init=linear_uniform, rngs=rngs)
        self.genes = Genes(vectors.shape[-1], out, rngs=rngs)

    def __call__(
        self,
        *,
        features: jax.Array,
        near: jax.Array,
        present: jax.Array,
        rows: jax.Array,
        spots_mask: jax.Array,
        train: bool,
        key: jax.Array | None = None,
        frozen_backbone: bool = False,
    ) -> dict[str, jax.Array]:
        """Genes of spots; keywords as `stjax.views.sections` gives them. There is no backbone.

        Returns:
            {"main": [B, S, M]} float32 and, where other genes are learnt, "aux" [B, S, drawn] of them, whose places
            are "aux_genes" [drawn]: drawn by the key, or without one evenly spread.
        """
        del spots_mask, train, frozen_backbone
        alike = most_alike(features, present, _ALIKE)
        x = self.embed(self.features.standardise(features))
        for on_array, by_features in zip(self.on_array, self.alike, strict=True):
            x = (on_array(x, near[..., : self.near]) + by_features(x, alike)) / 2
            x = jax.nn.leaky_relu(x, SLOPE)
        z = self.out(gathered(x, rows))  # [B, S, D]
        outputs = {"main": self._predicted(z, self.vectors[...])}
        if self.aux is not None:
            outputs["aux_genes"] = _drawn(self.aux[...], self.drawn, key)
            outputs["aux"] = self._predicted(z, self.aux[...][outputs["aux_genes"]])
        return outputs

    def _predicted(self, z: jax.Array, vectors: jax.Array) -> jax.Array:
        """[B, S, D] embeddings and [G, T, W] vectors of genes to [B, S, G]."""
        weight, offset = self.genes(vectors)
        return z @ weight.T + offset[None, None]


def _drawn(vectors: jax.Array, count: int, key: jax.Array | None) -> jax.Array:
    """[count] places of genes that have a vector."""
    known = jnp.any(vectors != 0, axis=(1, 2))
    if key is None:
        order = jnp.argsort(~known)  # stable: those that are known, in their order
        return order[(jnp.arange(count) * jnp.sum(known)) // count]
    lot = jax.random.uniform(key, known.shape) - 2 * ~known
    return jax.lax.top_k(lot, count)[1]


def needs(variant: str) -> tuple[str, ...]:
    """What the model is called with, and built from, whatever the variant."""
    del variant
    return ("features", "near", "genes")


def build(
    variant: str,
    *,
    num_main: int,
    num_aux: int,
    feature_mean: np.ndarray,
    feature_std: np.ndarray,
    gene_vectors: np.ndarray,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    genes: str = "panel",
    drawn: int = 64,
    near: str = "grid8",
) -> SGN:
    """SGN `variant`, a key of `SIZES`.

    Args:
        num_main, num_aux: genes of the panel, and those that "zero_shot" learns in their place.
        feature_mean, feature_std: [D] of the features over the training spots.
        gene_vectors: [at least M + A, T, W] of all genes, main ones first; see `stjax.data.gene_vectors`.
        genes: which are learnt: the "panel", or "zero_shot" all others.
        drawn: how many of these a step is of.
        near: neighbours on the array, all ("grid8") or five at most ("as_released").

    Raises:
        InputError: another variant or option, or AuxNet's genes that are not learnt, or none that are to be.
    """
    del dtype  # float32: what it computes is little
    if variant not in SIZES:
        raise InputError(unknown_variant("sgn", variant, SIZES))
    if genes not in GENES or near not in NEAR:
        raise InputError(
            f"config.model.options has genes {genes!r} and near {near!r}; expected {' or '.join(GENES)}, and "
            f"{' or '.join(NEAR)}"
        )
    if genes == "panel" and num_aux:
        raise InputError("SGN has no AuxNet; add --config.model.aux=False")
    if genes == "zero_shot" and num_aux and not 1 <= drawn <= num_aux:
        raise InputError(f"config.model.options.drawn is {drawn}; expected 1 to the {num_aux} genes that are not main")
    return SGN(
        SIZES[variant],
        statistics=(feature_mean, feature_std),
        vectors=gene_vectors[: num_main + num_aux],
        num_main=num_main,
        drawn=drawn,
        near=NEAR[near],
        rngs=rngs,
    )
