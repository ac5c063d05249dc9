"""Layers of transformers as NumPy has them, in float64, one sequence [N, D] at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def parameters(model):
    """{dotted path: float64 array} of all that a model holds."""
    return {".".join(map(str, path)): np.asarray(leaf[...], np.float64) for path, leaf in flat(model)}


def flat(model):
    """(path, variable) of all that a model holds."""
    return nnx.to_flat_state(nnx.state(model))


def shaken(model, dtype=jnp.float32):
    """A model all of whose parameters and constants matter, by their paths alone; changed in place."""
    for number, (path, leaf) in enumerate(flat(model)):
        key, kind = jax.random.key(number), path[-1]
        size = 0.2 if kind == "kernel" else 0.5
        numbers = size * jax.random.normal(key, leaf.shape) + (kind == "scale")
        if kind in ("std", "var"):
            numbers = 0.5 + jax.random.uniform(key, leaf.shape)
        leaf.set_value(numbers.astype(dtype))
    return model


def louder(model):
    """A model whose kernels are thrice what they were, and whose biases are not alike; changed in place."""
    for number, (path, leaf) in enumerate(flat(model)):
        if path[-1] == "kernel":
            leaf[...] = 3 * leaf[...]
        if path[-1] == "bias":
            leaf[...] = leaf[...] + 0.3 * jax.random.normal(jax.random.key(number), leaf.shape)
    return model


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis=-1):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def norm(x, p, name, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * p[f"{name}.scale"] + p[f"{name}.bias"]


def linear(x, p, name):
    return x @ p[f"{name}.kernel"] + p.get(f"{name}.bias", 0.0)


def standardised(x, p, name="features"):
    return np.clip((x - p[f"{name}.mean"]) / p[f"{name}.std"], -10, 10)


def bent(x):
    """LeakyReLU."""
    return np.where(x > 0, x, 0.2 * x)


def sage(x, neighbours, p, name):
    """[N, D] nodes, each with the rows of its neighbours."""
    means = [x[rows].mean(axis=0) if len(rows) else np.zeros(x.shape[1]) for rows in neighbours]
    return linear(x, p, f"{name}.own") + linear(np.stack(means), p, f"{name}.near")


def attention(q, k, v, heads, bias=None):
    """[N, D] attending to [M, D], head by head; `bias` [heads, N, M]."""
    size, found = q.shape[1] // heads, []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        found.append(softmax(scores if bias is None else scores + bias[h]) @ v[:, part])
    return np.concatenate(found, axis=1)


def attended(x, p, name, *, heads, eps=1e-5, context=None, bias=None, positions=0.0):
    """The first half of a block."""
    y = norm(x + positions, p, f"{name}.norm1", eps)
    if context is None:
        q, k, v = np.split(linear(y, p, f"{name}.attention.qkv"), 3, axis=-1)
    else:
        q = linear(y, p, f"{name}.attention.query")
        k, v = np.split(linear(norm(context, p, f"{name}.norm1", eps), p, f"{name}.attention.kv"), 2, axis=-1)
    y = linear(attention(q, k, v, heads, bias), p, f"{name}.attention.out")
    return x + y * p.get(f"{name}.gamma1", 1.0)


def perceived(x, p, name, *, eps=1e-5, gated=False):
    """The second half of a block."""
    y = linear(norm(x, p, f"{name}.norm2", eps), p, f"{name}.mlp1")
    if gated:
        first, second = np.split(y, 2, axis=-1)
        y = first * sigmoid(first) * second
    else:
        y = gelu(y)
    return x + linear(y, p, f"{name}.mlp2") * p.get(f"{name}.gamma2", 1.0)


def block(x, p, name, *, gated=False, eps=1e-5, **options):
    """[N, D] to the same."""
    return perceived(attended(x, p, name, eps=eps, **options), p, name, eps=eps, gated=gated)
