"""ViT-B/16 and ViT-B/32 as torchvision defines them (Dosovitskiy et al. 2020); positions follow the image's size."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.layers import (
    Conv,
    LayerNorm,
    Linear,
    constant,
    normal,
    run,
    uniform,
    unknown_variant,
    wide,
    xavier_uniform,
)
from stjax.ops.attention import attention
from stjax.ops.elementwise import written_out


@dataclasses.dataclass(frozen=True)
class Spec:
    """Sizes of a vision transformer."""

    patch_px: int
    layers: int = 12
    heads: int = 12
    width: int = 768
    mlp: int = 3072


SPECS = {"b16": Spec(16), "b32": Spec(32)}
_EPS = 1e-6


def _lecun_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return normal(key, shape, math.sqrt(1.0 / math.prod(shape[:-1])))


def _linear_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """torch.nn.Linear's own, which its attention keeps for the output."""
    return uniform(key, shape, 1 / math.sqrt(shape[0]))


class SelfAttention(nnx.Module):
    """torch.nn.MultiheadAttention of a sequence with itself."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = Linear(width, 3 * width, init=xavier_uniform, rngs=rngs)
        self.out = Linear(width, width, init=_linear_uniform, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, D] to the same."""
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads)
        return self.out(attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(b, n, d))


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each normalised before and added after."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(spec.width, eps=_EPS)
        self.attention = SelfAttention(spec.width, spec.heads, rngs=rngs)
        self.norm2 = LayerNorm(spec.width, eps=_EPS)
        self.mlp1 = Linear(spec.width, spec.mlp, init=xavier_uniform, bias_std=1e-6, rngs=rngs)
        self.mlp2 = Linear(spec.mlp, spec.width, init=xavier_uniform, bias_std=1e-6, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """[B, N, D] to the same."""
        del train, key
        x = written_out(x + self.attention(self.norm1(x)))
        return written_out(x + self.mlp2(jax.nn.gelu(self.mlp1(self.norm2(x)), approximate=False)))


class VisionTransformer(nnx.Module):
    """Patches and a class token through transformer blocks; `features` is the class token at the end.

    Attributes:
        positions: [1 + h w, D], the class token's and those of the grid the model was built for.
    """

    dropout_rate = 0.0

    def __init__(self, spec: Spec, *, image_size_px: int, dtype: Any, rematerialise: bool, rngs: nnx.Rngs):
        self.dtype, self.rematerialise, self.patch_px = dtype, rematerialise, spec.patch_px
        self.num_features = spec.width
        self.embed = Conv(
            3, spec.width, spec.patch_px, stride=spec.patch_px, padding=0, bias=True, init=_lecun_normal, rngs=rngs
        )
        self.token = nnx.Param(constant(0, spec.width))
        tokens = 1 + (image_size_px // spec.patch_px) ** 2
        self.positions = nnx.Param(normal(rngs.params(), (tokens, spec.width), 0.02))
        self.blocks = nnx.List(Block(spec, rngs=rngs) for _ in range(spec.layers))
        self.norm = LayerNorm(spec.width, eps=_EPS)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised; H and W multiples of the patch.
            key: not used; as in torchvision, dropout is 0.

        Returns:
            "stages": the patches' tokens after each block, [B, h, w, D]; "features": [B, D] float32.

        Raises:
            InputError: the image does not divide into patches.
        """
        del key
        for side in x.shape[1:3]:
            _check_size(side, self.patch_px)
        x = self.embed(x.astype(self.dtype))  # [B, h, w, D]
        b, h, w, d = x.shape
        positions = resize_positions(self.positions[...], (h, w)).astype(self.dtype)
        token = jnp.broadcast_to(self.token[...].astype(self.dtype), (b, 1, d))
        x = jnp.concatenate([token, x.reshape(b, h * w, d)], axis=1) + positions[None]  # [B, 1 + h w, D]
        outputs = []
        for block in self.blocks:
            x = run(block, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x[:, 1:].reshape(b, h, w, d))
        return {"stages": tuple(outputs), "features": self.norm(wide(x[:, 0]))}


def resize_positions(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Positions [1 + s s, D] of a square grid to [1 + h w, D] of another, as torchvision's `interpolate_embeddings`:
    bicubic, corners on corners, the class token's kept."""
    side = math.isqrt(positions.shape[0] - 1)
    if (side, side) == grid:
        return positions
    rows, columns = (jnp.asarray(_bicubic(side, new)) for new in grid)
    old = positions[1:].reshape(side, side, -1)
    new = jnp.einsum("hr,wc,rcd->hwd", rows, columns, old, precision="highest")
    return jnp.concatenate([positions[:1], new.reshape(grid[0] * grid[1], -1)])


def _bicubic(old: int, new: int) -> np.ndarray:
    """[new, old] weights of torch's bicubic interpolation with `align_corners=True` (Keys' kernel, a = -0.75)."""
    at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    first = np.floor(at).astype(int)
    weights, a = np.zeros((new, old)), -0.75
    for offset in range(-1, 3):
        t = np.abs(at - (first + offset))
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        np.add.at(weights, (np.arange(new), np.clip(first + offset, 0, old - 1)), np.where(t <= 1, near, far))
    return weights.astype(np.float32)


def _check_size(image_size_px: int, patch_px: int) -> None:
    if image_size_px < patch_px or image_size_px % patch_px:
        raise InputError(
            f"patches are {image_size_px} px; this ViT cuts them into squares of {patch_px} px: "
            f"use a multiple of it, for example {max(1, round(image_size_px / patch_px)) * patch_px}"
        )


def build(
    variant: str,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    image_size_px: int = 224,
    rematerialise: bool = False,
) -> VisionTransformer:
    """ViT `variant`, "b16" or "b32", with positions for images of the given size; others are interpolated.

    Raises:
        InputError: another variant, or a size that its patches do not divide.
    """
    if variant not in SPECS:
        raise InputError(unknown_variant("vit", variant, SPECS))
    spec = SPECS[variant]
    _check_size(image_size_px, spec.patch_px)
    return VisionTransformer(spec, image_size_px=image_size_px, dtype=dtype, rematerialise=rematerialise, rngs=rngs)


def weight_names(model: VisionTransformer) -> dict[str, dict[str, str]]:
    """Where released weights keep each layer: {source: {layer of stjax: layer of the source}}, or single arrays."""
    torchvision = {"embed": "conv_proj", "token": "class_token", "norm": "encoder.ln"}
    torchvision["positions"] = "encoder.pos_embedding"
    timm = {"embed": "patch_embed.proj", "token": "cls_token", "positions": "pos_embed", "norm": "norm"}
    for i in range(len(model.blocks)):
        ours, theirs = f"blocks.{i}", f"encoder.layers.encoder_layer_{i}"
        torchvision |= {
            f"{ours}.norm1": f"{theirs}.ln_1",
            f"{ours}.attention.qkv": f"{theirs}.self_attention.in_proj",
            f"{ours}.attention.out": f"{theirs}.self_attention.out_proj",
            f"{ours}.norm2": f"{theirs}.ln_2",
            f"{ours}.mlp1": f"{theirs}.mlp.0",
            f"{ours}.mlp2": f"{theirs}.mlp.3",
        }
        timm |= {
            f"{ours}.norm1": f"{ours}.norm1",
            f"{ours}.attention.qkv": f"{ours}.attn.qkv",
            f"{ours}.attention.out": f"{ours}.attn.proj",
            f"{ours}.norm2": f"{ours}.norm2",
            f"{ours}.mlp1": f"{ours}.mlp.fc1",
            f"{ours}.mlp2": f"{ours}.mlp.fc2",
        }
    return {"torchvision": torchvision, "timm": timm}
