"""CONCH and CONCH 1.5 (Lu et al. 2024): a vision transformer whose tokens one learnt query attends to."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stjax.encoders import Encoder
from stjax.models import vit, vit_names
from stjax.models.layers import LayerNorm, Linear, constant, normal, wide, xavier_uniform
from stjax.ops.attention import attention

POOLINGS = ("attention",)
_HEADS, _EPS = 8, 1e-5
# Of CONCH's file: its text encoder and decoder, and what serves them.
DROPPED = (
    "text.",
    "text_decoder.",
    "logit_scale",
    "visual.attn_pool_caption.",
    "visual.ln_caption.",
    "visual.proj_contrast",
)


def _attended(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """What a query [D] finds among keys and values [B, N, D], head by head: [B, D]."""
    b, _, d = key.shape
    query = jnp.broadcast_to(query[None, None], (b, 1, d))
    parts = [x.reshape(b, x.shape[1], _HEADS, d // _HEADS) for x in (query, key, value)]
    return attention(*parts).reshape(b, d)


class Pooler(nnx.Module):
    """CONCH's: torch.nn.MultiheadAttention with keys and values of another width than the query."""

    def __init__(self, context: int, width: int, *, rngs: nnx.Rngs):
        self.query = nnx.Param(normal(rngs.params(), (1, width), 1.0))
        self.norm_query, self.norm_context = LayerNorm(width, eps=_EPS), LayerNorm(context, eps=_EPS)
        kernels = (nnx.Param(xavier_uniform(rngs.params(), (inputs, width))) for inputs in (width, context, context))
        self.query_kernel, self.key_kernel, self.value_kernel = kernels
        self.biases = nnx.Param(constant(0, 3 * width))  # of query, key and value
        self.out = Linear(width, width, init=xavier_uniform, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, context] to [B, width]."""
        x = self.norm_context(x)
        biases = jnp.split(self.biases[...].astype(x.dtype), 3)
        kernels = (self.query_kernel, self.key_kernel, self.value_kernel)
        query, key, value = (kernel[...].astype(x.dtype) for kernel in kernels)
        query = self.norm_query(self.query[...][0]).astype(x.dtype) @ query + biases[0]
        return self.out(_attended(query, x @ key + biases[1][None, None], x @ value + biases[2][None, None]))


class PoolerV15(nnx.Module):
    """CONCH 1.5's: keys and values by one layer, no biases."""

    def __init__(self, context: int, width: int, *, rngs: nnx.Rngs):
        self.query = nnx.Param(normal(rngs.params(), (1, width), 1.0))
        self.norm_query, self.norm_context = LayerNorm(width, eps=_EPS), LayerNorm(context, eps=_EPS)
        self.q = Linear(width, width, init=xavier_uniform, bias=False, rngs=rngs)
        self.kv = Linear(context, 2 * width, init=xavier_uniform, bias=False, rngs=rngs)
        self.out = Linear(width, width, init=xavier_uniform, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, context] to [B, width]."""
        key, value = jnp.split(self.kv(self.norm_context(x)), 2, axis=-1)
        return self.out(_attended(self.q(self.norm_query(self.query[...][0]).astype(x.dtype)), key, value))


class Conch(nnx.Module):
    """Transformer and pooler; `features` is what the pooler makes of all tokens, normalised, neither projected nor
    scaled to length 1."""

    dropout_rate = 0.0

    def __init__(self, spec: vit.Spec, features: int, *, version: str, image_size_px: int, **options: Any):
        rngs = options["rngs"]
        self.dtype, self.version, self.num_features = options["dtype"], version, features
        self.trunk = vit.of_spec(spec, image_size_px=image_size_px, pooling="class", **options)
        self.pooler = (Pooler if version == "1" else PoolerV15)(spec.width, features, rngs=rngs)
        self.norm = LayerNorm(features, eps=_EPS)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised; H and W multiples of 16.
            key: not used; there is no dropout.

        Returns:
            The transformer's outputs, "features" of them [B, D] float32.

        Raises:
            InputError: the image does not divide into patches.
        """
        outputs = self.trunk(x, train=train, key=key)
        tokens = jnp.concatenate([outputs["class"][:, None], outputs["tokens"]], axis=1).astype(self.dtype)
        return outputs | {"features": self.norm(wide(self.pooler(tokens)))}


def of_encoder(encoder: Encoder, *, pooling: str, **options: Any) -> Conch:
    """The network of CONCH or CONCH 1.5; see `vit.of_spec`."""
    del pooling
    network = dict(encoder.network)
    version = network.pop("version")
    return Conch(vit.Spec(**network), encoder.features, version=version, **options)


def weight_names(model: Conch) -> dict[str, dict[str, str]]:
    """Where released weights keep each layer: {source: {layer or array of stjax: that of the source}}."""
    wrapper = "visual." if model.version == "1" else ""
    pooler = f"{wrapper}attn_pool_contrast"
    names = {f"trunk.{ours}": f"{wrapper}trunk.{theirs}" for ours, theirs in vit_names.timm(model.trunk.spec).items()}
    names |= {
        "pooler.query": f"{pooler}.query",
        "pooler.norm_query": f"{pooler}.ln_q",
        "pooler.norm_context": f"{pooler}.ln_k",
        "norm": f"{wrapper}ln_contrast",
    }
    if model.version == "1":
        names |= {f"pooler.{part}_kernel": f"{pooler}.attn.{part[0]}_proj_weight" for part in ("query", "key", "value")}
        names |= {"pooler.biases": f"{pooler}.attn.in_proj_bias", "pooler.out": f"{pooler}.attn.out_proj"}
    else:
        names |= {f"pooler.{part}": f"{pooler}.to_{part}" for part in ("q", "kv", "out")}
    return {"CONCH": names}
