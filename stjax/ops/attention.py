"""Attention: cuDNN's fused kernel where there is one for the dtype and shape, plain products everywhere else."""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax import lax

_portable = ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Within it `attention` is traced as plain products for every platform: cuDNN's kernel is not among the calls that
    `jax.export` can promise to run elsewhere."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def attention(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """softmax(query key^T / sqrt(D) + bias) value, every query attending to all keys, head by head.

    Args:
        query: [B, N, heads, D].
        key, value: [B, M, heads, D].
        bias: of which each side is that of [B, heads, N, M] or 1; with one it is plain products.

    Returns:
        [B, N, heads, D] in their dtype.
    """
    if bias is None and _has_fused_kernel(query):
        return lax.platform_dependent(query, key, value, cuda=_fused, default=attention_plain)
    return attention_plain(query, key, value, bias)


def attention_plain(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`attention` as two matrix products and a float32 softmax; the weights are an array [B, heads, N, M]."""
    scores = jnp.einsum("bnhd,bmhd->bhnm", query * (1 / math.sqrt(query.shape[-1])), key)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = scores if bias is None else scores + bias.astype(scores.dtype)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)


def _fused(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _has_fused_kernel(query: jax.Array) -> bool:
    """cuDNN's takes half precision only; jax refuses what else it cannot do when the function is traced."""
    if _portable.get() or jax.default_backend() != "gpu" or query.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    try:
        jax.eval_shape(_fused, *[jax.ShapeDtypeStruct(query.shape, query.dtype)] * 3)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True
