"""CTransPath's network (Wang et al. 2022): the Swin transformer (Liu et al. 2021, "tiny") on a stem of convolutions.

Attention stays within windows of 7 x 7 tokens, moved by 3 in every second block. Where a grid is no multiple of the
window, tokens of zeros are added below and to the right, after the norm, as the Swin authors do for detection.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stjax.encoders import Encoder
from stjax.models.layers import Conv, ConvNorm, LayerNorm, Linear, normal, run, wide
from stjax.models.vit_names import TIMM_BLOCK, Layers, of_block
from stjax.ops.cpu.elementwise import written_out


@dataclasses.dataclass(frozen=True)
class Spec:
    """Width of the first stage, doubled from each to the next; blocks and heads of each; side of a window."""

    width: int = 96
    blocks: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7


POOLINGS = ("mean",)
_EPS = 1e-5
_OUTSIDE = -100.0  # added to scores between tokens that only the shift brought into one window
# Of released files: the classifier.
DROPPED = ("head.",)


def _truncated(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return normal(key, shape, 0.02)


def _relative(window: int) -> np.ndarray:
    """[w w, w w], the row of the table of biases for each pair of tokens of a window."""
    at = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    apart = at[:, :, None] - at[:, None, :] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]


def _mask(grid: tuple[int, int], window: int, shift: tuple[int, int]) -> np.ndarray:
    """[windows, w w, w w] to add to scores, of a grid that has been shifted."""
    region = np.zeros(grid, int)
    for axis, moved in enumerate(shift):
        if moved:
            place = np.arange(grid[axis])
            part = (place >= grid[axis] - window).astype(int) + (place >= grid[axis] - moved)
            region = 3 * region + np.expand_dims(part, 1 - axis)
    h, w = (side // window for side in grid)
    of = region.reshape(h, window, w, window).transpose(0, 2, 1, 3).reshape(h * w, window * window)
    return np.where(of[:, None, :] == of[:, :, None], 0.0, _OUTSIDE)


class WindowAttention(nnx.Module):
    """Attention of the tokens of one window, with a learnt bias for each head and offset."""

    def __init__(self, width: int, heads: int, window: int, *, rngs: nnx.Rngs):
        self.heads, self.window = heads, window
        self.qkv = Linear(width, 3 * width, init=_truncated, rngs=rngs)
        self.out = Linear(width, width, init=_truncated, rngs=rngs)
        self.offsets = nnx.Param(_truncated(rngs.params(), ((2 * window - 1) ** 2, heads)))

    def __call__(self, x: jax.Array, mask: np.ndarray | None) -> jax.Array:
        """[B, windows, N, D] to the same; `mask` [windows, N, N]."""
        b, windows, n, d = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(b, windows, n, 3, self.heads, d // self.heads), 3, 0)
        scores = wide(jnp.einsum("bwnhd,bwmhd->bwhnm", q * (1 / math.sqrt(d // self.heads)), k))
        bias = self.offsets[...][_relative(self.window)].transpose(2, 0, 1)  # [heads, N, N]
        scores = scores + bias[None, None].astype(scores.dtype)
        if mask is not None:
            scores = scores + jnp.asarray(mask, scores.dtype)[None, :, None]
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return self.out(jnp.einsum("bwhnm,bwmhd->bwnhd", weights, v).reshape(b, windows, n, d))


class Block(nnx.Module):
    """Attention in windows and a two-layer perceptron, each normalised before and added after."""

    def __init__(self, width: int, heads: int, window: int, *, shifted: bool, rngs: nnx.Rngs):
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1 = LayerNorm(width, eps=_EPS)
        self.attention = WindowAttention(width, heads, window, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=_EPS)
        self.mlp1 = Linear(width, 4 * width, init=_truncated, rngs=rngs)
        self.mlp2 = Linear(4 * width, width, init=_truncated, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """[B, h, w, D] to the same."""
        del train, key
        x = written_out(x + self._attended(self.norm1(x)))
        hidden = jax.nn.gelu(self.mlp1(self.norm2(x)), approximate=False)
        return written_out(x + self.mlp2(hidden))

    def _attended(self, x: jax.Array) -> jax.Array:
        b, h, w, d = x.shape
        side = self.window
        x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
        rows, columns = x.shape[1:3]
        shift = (self.shift if rows > side else 0, self.shift if columns > side else 0)
        x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2)) if any(shift) else x
        x = x.reshape(b, rows // side, side, columns // side, side, d).transpose(0, 1, 3, 2, 4, 5)
        mask = _mask((rows, columns), side, shift) if any(shift) else None
        x = self.attention(x.reshape(b, -1, side * side, d), mask)
        x = x.reshape(b, rows // side, columns // side, side, side, d).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, rows, columns, d)
        x = jnp.roll(x, shift, axis=(1, 2)) if any(shift) else x
        return x[:, :h, :w]


class Merge(nnx.Module):
    """Four neighbouring tokens into one of twice the width."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * width, eps=_EPS)
        self.reduction = Linear(4 * width, 2 * width, init=_truncated, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, D] to [B, ceil(h / 2), ceil(w / 2), 2 D]."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = jnp.concatenate([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], axis=-1)
        return self.reduction(self.norm(x))


class Swin(nnx.Module):
    """Stem, stages of blocks with windows; `features` is the mean of the last one's tokens, normalised."""

    dropout_rate = 0.0

    def __init__(self, spec: Spec, *, dtype: Any, rematerialise: bool, rngs: nnx.Rngs):
        self.dtype, self.rematerialise = dtype, rematerialise
        self.num_features = spec.width * 2 ** (len(spec.blocks) - 1)
        stem = functools.partial(ConvNorm, kernel_size=3, stride=2, padding=1, rngs=rngs)
        self.stem = nnx.List([stem(3, spec.width // 8), stem(spec.width // 8, spec.width // 4)])
        self.embed = Conv(spec.width // 4, spec.width, 1, bias=True, rngs=rngs)
        self.embed_norm = LayerNorm(spec.width, eps=_EPS)
        self.stages, self.merges = nnx.List(), nnx.List()
        for stage, (count, heads) in enumerate(zip(spec.blocks, spec.heads, strict=True)):
            width = spec.width * 2**stage
            if stage:
                self.merges.append(Merge(width // 2, rngs=rngs))
            blocks = [Block(width, heads, spec.window, shifted=i % 2 == 1, rngs=rngs) for i in range(count)]
            self.stages.append(nnx.List(blocks))
        self.norm = LayerNorm(self.num_features, eps=_EPS)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised, of any size.
            key: not used; the network has no randomness.

        Returns:
            "stages": [B, h, w, C] at strides 4, 8, 16, 32, before the next one's merge; "features": [B, D] float32.
        """
        del key
        x = x.astype(self.dtype)
        for layer in self.stem:
            x = layer(x, train=train)
        x = self.embed_norm(self.embed(x))
        outputs = []
        for stage, blocks in enumerate(self.stages):
            x = self.merges[stage - 1](x) if stage else x
            for block in blocks:
                x = run(block, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x)
        return {"stages": tuple(outputs), "features": jnp.mean(self.norm(wide(x)), axis=(1, 2))}


def of_encoder(encoder: Encoder, *, image_size_px: int, pooling: str, **options: Any) -> Swin:
    """The network of CTransPath, for images of any size."""
    del image_size_px, pooling
    return Swin(Spec(**encoder.network), **options)


_BLOCK = TIMM_BLOCK | {"attention.offsets": "attn.relative_position_bias_table"}


def weight_names(model: Swin) -> dict[str, Layers]:
    """Where released weights keep each layer: {source: {layer of stjax: layer of the source}}.

    timm moved what leads from one stage to the next from the end of the one to the start of the other.
    """
    names: Layers = {"embed": "patch_embed.proj.6", "embed_norm": "patch_embed.norm", "norm": "norm"}
    for i in range(len(model.stem)):
        names |= {f"stem.{i}.conv": f"patch_embed.proj.{3 * i}", f"stem.{i}.norm": f"patch_embed.proj.{3 * i + 1}"}
    for s, blocks in enumerate(model.stages):
        for b in range(len(blocks)):
            names |= of_block(f"stages.{s}.{b}", f"layers.{s}.blocks.{b}", _BLOCK)
    found = {}
    for source, later in (("CTransPath", 0), ("timm", 1)):
        merges = {
            f"merges.{m}.{part}": f"layers.{m + later}.downsample.{part}"
            for m in range(len(model.merges))
            for part in ("norm", "reduction")
        }
        found[source] = names | merges
    return found
