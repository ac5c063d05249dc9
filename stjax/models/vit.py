"""Vision transformers (Dosovitskiy et al. 2020): torchvision's ViT-B/16 and ViT-B/32, and those of published encoders.

One network, whose `Spec` says patch, widths, registers (Darcet et al. 2023), LayerScale (Touvron et al. 2021), kind of
perceptron (SwiGLU: Shazeer 2020), and what positions are learnt for; all normalise before each half of a block.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.errors import InputError
from stjax.encoders import Encoder
from stjax.models.attention import Block, BlockSpec
from stjax.models.layers import Conv, LayerNorm, constant, normal, run, unknown_variant, wide
from stjax.models.positions import Rule, resize_positions


@dataclasses.dataclass(frozen=True)
class Spec:
    """Sizes of a vision transformer, and what its released weights consist of.

    Attributes:
        mlp: outputs of the perceptron's first layer; a gated one multiplies one half by the other.
        gated: SwiGLU, silu(first half) * second half, in place of the exact GELU.
        layer_scale: each branch is multiplied by learnt numbers, channel by channel, before it is added.
        registers: tokens in addition to the class token, no part of any output but their own.
        positions: what they are added to. "a": class token and patches; "b": class token, registers and patches; "c":
            patches; "d": as "c", but files have the class token's too, which is added to it when they are read.
        grid: side of the grid that the positions are for; None for that of the image size the network is built for.
        rule: how they are brought to another grid, see `stjax.models.positions`.
        eps: of all LayerNorms.
    """

    patch_px: int
    layers: int = 12
    heads: int = 12
    width: int = 768
    mlp: int = 3072
    gated: bool = False
    layer_scale: bool = False
    registers: int = 0
    positions: Literal["a", "b", "c", "d"] = "a"
    grid: int | None = None
    rule: Rule = "R0"
    eps: float = 1e-6

    @property
    def block(self) -> BlockSpec:
        """Each of the blocks."""
        gamma = _GAMMA if self.layer_scale else 0.0
        return BlockSpec(self.width, self.heads, self.mlp, gated=self.gated, layer_scale=gamma, eps=self.eps)

    @property
    def prefix(self) -> int:
        """Rows of the positions before those of the patches."""
        return {"a": 1, "b": 1 + self.registers}.get(self.positions, 0)


SPECS = {"b16": Spec(16), "b32": Spec(32)}
POOLINGS = ("class", "class+mean", "mean")
_GAMMA = 1e-5  # LayerScale at the start


def _lecun_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return normal(key, shape, math.sqrt(1.0 / math.prod(shape[:-1])))


class VisionTransformer(nnx.Module):
    """A class token, registers and patches through transformer blocks.

    Attributes:
        positions: [spec.prefix + s s, D], of the grid s x s that the model was built for.
        num_features: length of `features`.
    """

    dropout_rate = 0.0

    def __init__(
        self,
        spec: Spec,
        *,
        image_size_px: int,
        dtype: Any,
        rematerialise: bool,
        rngs: nnx.Rngs,
        pooling: str = "class",
    ):
        self.dtype, self.rematerialise, self.patch_px = dtype, rematerialise, spec.patch_px
        self.spec, self.pooling = spec, pooling
        self.num_features = spec.width * (2 if pooling == "class+mean" else 1)
        self.embed = Conv(
            3, spec.width, spec.patch_px, stride=spec.patch_px, padding=0, bias=True, init=_lecun_normal, rngs=rngs
        )
        self.token = nnx.Param(constant(0, spec.width))
        side = spec.grid or image_size_px // spec.patch_px
        self.positions = nnx.Param(normal(rngs.params(), (spec.prefix + side * side, spec.width), 0.02))
        self.registers = (
            nnx.Param(normal(rngs.params(), (spec.registers, spec.width), 0.02)) if spec.registers else None
        )
        self.blocks = nnx.List(Block(spec.block, rngs=rngs) for _ in range(spec.layers))
        self.norm = LayerNorm(spec.width, eps=spec.eps)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised; H and W multiples of the patch.
            key: not used; as in torchvision, dropout is 0.

        Returns:
            "stages": the patches' tokens after each block, [B, h, w, D]; and, normalised at the end, float32,
            "tokens": the patches', [B, h w, D], "class": [B, D], "registers": [B, R, D], and "features": what the
            pooling makes of them, [B, D], of class token and mean [B, 2 D].

        Raises:
            InputError: the image does not divide into patches.
        """
        del key
        for side in x.shape[1:3]:
            _check_size(side, self.patch_px)
        x = self.embed(x.astype(self.dtype))  # [B, h, w, D]
        b, h, w, d = x.shape
        x = self._with_positions(x)  # [B, 1 + R + h w, D]
        first = x.shape[1] - h * w
        outputs = []
        for block in self.blocks:
            x = run(block, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x[:, first:].reshape(b, h, w, d))
        token, tokens = self.norm(wide(x[:, 0])), self.norm(wide(x[:, first:]))
        return {
            "stages": tuple(outputs),
            "tokens": tokens,
            "class": token,
            "registers": self.norm(wide(x[:, 1:first])),
            "features": _pooled(token, tokens, self.pooling),
        }

    def _with_positions(self, x: jax.Array) -> jax.Array:
        """The embedded patches [B, h, w, D] to all tokens [B, 1 + R + h w, D], positions added."""
        b, h, w, d = x.shape
        spec = self.spec
        positions = resize_positions(self.positions[...], (h, w), prefix=spec.prefix, rule=spec.rule)
        positions = positions.astype(self.dtype)[None]
        learnt = [self.token[...][None]] + ([] if self.registers is None else [self.registers[...]])
        first = [jnp.broadcast_to(each.astype(self.dtype)[None], (b, *each.shape)) for each in learnt]
        x = x.reshape(b, h * w, d)
        if spec.prefix:
            return jnp.concatenate([*first, x], axis=1) + positions
        return jnp.concatenate([*first, x + positions], axis=1)


def _pooled(token: jax.Array, tokens: jax.Array, pooling: str) -> jax.Array:
    """The class token [B, D] and the patches' tokens [B, N, D] as one vector an image."""
    if pooling == "class":
        return token
    mean = jnp.mean(tokens, axis=1)
    return mean if pooling == "mean" else jnp.concatenate([token, mean], axis=-1)


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
    pooling: str = "class",
) -> VisionTransformer:
    """ViT `variant`, "b16" or "b32", with positions for images of the given size; others are interpolated.

    Args:
        pooling: what `features` are: the "class" token, the "mean" of the patches', or both, "class+mean".

    Raises:
        InputError: another variant or pooling, or a size that its patches do not divide.
    """
    if variant not in SPECS:
        raise InputError(unknown_variant("vit", variant, SPECS))
    return of_spec(
        SPECS[variant],
        dtype=dtype,
        rngs=rngs,
        image_size_px=image_size_px,
        rematerialise=rematerialise,
        pooling=pooling,
    )


def of_encoder(encoder: Encoder, **options: Any) -> VisionTransformer:
    """The vision transformer of a published encoder; see `of_spec`."""
    return of_spec(Spec(**encoder.network), **options)


def of_spec(spec: Spec, *, image_size_px: int, pooling: str, **options: Any) -> VisionTransformer:
    """The vision transformer of these sizes; see `build`.

    Raises:
        InputError: another pooling, or a size of images that the patches do not divide.
    """
    if pooling not in POOLINGS:
        raise InputError(f"config.model.options.pooling is {pooling!r}; choose one of {', '.join(POOLINGS)}")
    _check_size(image_size_px, spec.patch_px)
    return VisionTransformer(spec, image_size_px=image_size_px, pooling=pooling, **options)
