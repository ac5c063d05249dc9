"""Transformer blocks: attention of tokens to themselves or to others, then a perceptron, each normalised before."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stjax.models.layers import LayerNorm, Linear, constant, dropout, fold, uniform, xavier_uniform
from stjax.ops.attention import attention
from stjax.ops.cpu.elementwise import written_out

_UNSEEN = -1e9  # added to the scores of keys that are masked: their weights are 0, and nothing is not a number


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """Sizes of a block, and its form.

    Attributes:
        mlp: outputs of the perceptron's first layer; a gated one multiplies one half by the other.
        gated: SwiGLU, silu(first half) * second half, in place of the exact GELU.
        layer_scale: where the numbers start by which each branch is multiplied, channel by channel; 0: there are none.
        qkv_bias: whether queries, keys and values have one.
        cross: whether tokens attend to others, not to themselves.
        eps: of LayerNorms.
        dropout: of what attention gives, and of both layers of the perceptron.
    """

    width: int
    heads: int
    mlp: int
    gated: bool = False
    layer_scale: float = 0.0
    qkv_bias: bool = True
    cross: bool = False
    eps: float = 1e-6
    dropout: float = 0.0


def seen(mask: jax.Array) -> jax.Array:
    """Which keys may be attended to, bool [B, M], as a bias [B, 1, 1, M] of attention."""
    return jnp.where(mask, 0.0, _UNSEEN)[:, None, None, :]


def linear_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """torch.nn.Linear's own, which its attention keeps for the output."""
    return uniform(key, shape, 1 / math.sqrt(shape[0]))


class SelfAttention(nnx.Module):
    """torch.nn.MultiheadAttention of a sequence with itself."""

    def __init__(self, spec: BlockSpec, *, rngs: nnx.Rngs):
        self.heads = spec.heads
        self.qkv = Linear(spec.width, 3 * spec.width, init=xavier_uniform, bias=spec.qkv_bias, rngs=rngs)
        self.out = Linear(spec.width, spec.width, init=linear_uniform, rngs=rngs)

    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """[B, N, D] to the same; `bias` as that of `ops.attention`."""
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, -1)
        return self.out(attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], bias).reshape(b, n, -1))


class CrossAttention(nnx.Module):
    """torch.nn.MultiheadAttention of a sequence to another of the same width."""

    def __init__(self, spec: BlockSpec, *, rngs: nnx.Rngs):
        self.heads = spec.heads
        self.query = Linear(spec.width, spec.width, init=xavier_uniform, bias=spec.qkv_bias, rngs=rngs)
        self.kv = Linear(spec.width, 2 * spec.width, init=xavier_uniform, bias=spec.qkv_bias, rngs=rngs)
        self.out = Linear(spec.width, spec.width, init=linear_uniform, rngs=rngs)

    def __call__(self, x: jax.Array, context: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """[B, N, D] attending to [B, M, D], to [B, N, D]."""
        b, n, _ = x.shape
        query = self.query(x).reshape(b, n, self.heads, -1)
        kv = self.kv(context).reshape(b, context.shape[1], 2, self.heads, -1)
        return self.out(attention(query, kv[:, :, 0], kv[:, :, 1], bias).reshape(b, n, -1))


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each normalised before and added after."""

    def __init__(self, spec: BlockSpec, *, rngs: nnx.Rngs):
        self.gated, self.dropout = spec.gated, spec.dropout
        self.norm1 = LayerNorm(spec.width, eps=spec.eps)
        self.attention: Any = (CrossAttention if spec.cross else SelfAttention)(spec, rngs=rngs)
        self.norm2 = LayerNorm(spec.width, eps=spec.eps)
        self.mlp1 = Linear(spec.width, spec.mlp, init=xavier_uniform, bias_std=1e-6, rngs=rngs)
        hidden = spec.mlp // 2 if spec.gated else spec.mlp
        self.mlp2 = Linear(hidden, spec.width, init=xavier_uniform, bias_std=1e-6, rngs=rngs)
        gamma = spec.layer_scale
        self.gamma1 = nnx.Param(constant(gamma, spec.width)) if gamma else None
        self.gamma2 = nnx.Param(constant(gamma, spec.width)) if gamma else None

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        bias: jax.Array | None = None,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """[B, N, D] to the same.

        Args:
            context: [B, M, D] of a block that attends to others, normalised as x is.
            bias: of the attention, see `ops.attention`; `seen` makes one of a mask.
        """
        x = self.attended(x, context, bias, train=train, key=fold(key, 0))
        return self.perceived(x, train=train, key=fold(key, 1))

    def attended(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        bias: jax.Array | None = None,
        *,
        positions: jax.Array | None = None,
        train: bool,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The first half of the block; `positions`, like x, are added for the attention alone."""
        y = self.norm1(x if positions is None else x + positions)
        y = self.attention(y, bias) if context is None else self.attention(y, self.norm1(context), bias)
        y = dropout(y, rate=self.dropout, train=train, key=key)
        return written_out(x + _scaled(y, self.gamma1))

    def perceived(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """The second half of the block."""
        hidden = self.mlp1(self.norm2(x))
        if self.gated:
            gate, value = jnp.split(hidden, 2, axis=-1)
            hidden = jax.nn.silu(gate) * value
        else:
            hidden = jax.nn.gelu(hidden, approximate=False)
        hidden = dropout(hidden, rate=self.dropout, train=train, key=fold(key, 0))
        y = dropout(self.mlp2(hidden), rate=self.dropout, train=train, key=fold(key, 1))
        return written_out(x + _scaled(y, self.gamma2))


def _scaled(x: jax.Array, gamma: Any) -> jax.Array:
    """LayerScale of [B, N, D] (Touvron et al. 2021), where there is one."""
    return x if gamma is None else x * gamma[...].astype(x.dtype)[None, None]
