"""The encoding half of SHELL's network (package lavlab-shell, MIT): MONAI's SegResNet (Myronenko 2018), trained to tell
epithelium, stroma and background in prostate at 1 um per px.

It sees eosin, haematoxylin and optical density, each brought to 0 to 1 between the 1st and 99th percentile of a slide.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stjax.encoders import Encoder
from stjax.models.layers import Conv, constant, global_average, run, wide
from stjax.models.weight_files import Stored


@dataclasses.dataclass(frozen=True)
class Spec:
    """Channels of the first stage, doubled from each to the next; blocks of each; groups that are normalised."""

    width: int = 16
    blocks: tuple[int, ...] = (1, 2, 2, 4)
    groups: int = 8


POOLINGS = ("mean of each stage",)
# differs from the package: it estimates stains and percentiles on each slide, which an image of one spot is too small
# for (on those of her2st, Macenko's eosin is not repeatable). These are the means of what its way finds on the four
# her2st sections C2 to C5: white, unit optical densities (natural logarithm) of eosin and haematoxylin, percentiles.
_WHITE = 240.0
_STAINS = np.array([[0.05, 0.85, 0.52], [0.74, 0.59, 0.33]])  # [2, 3] of RGB
_AMOUNTS = np.linalg.pinv(_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True))  # [3, 2], of optical density
_LARGEST = np.array([0.46, 2.4, 1.24])  # 99th percentiles: eosin, haematoxylin, mean optical density
_EPS = 1e-5
# In the file: the decoding half, and constants.
DROPPED = ("up_layers.", "up_samples.", "conv_final.", "val_")
# What the file calls scale and offset of its norms, in the order they are computed: numbers its export gave them.
_NORMS = (33, 60, 92, 119, 146, 173, 205, 232, 259, 286, 318, 345, 372, 399, 426, 453, 480, 507)


def stain_channels(x: jax.Array) -> jax.Array:
    """RGB [B, H, W, 3] in 0 to 1 as eosin, haematoxylin and optical density, [B, H, W, 3] in 0 to 1."""
    density = -jnp.log(jnp.clip(wide(x) * 255, 1.0, _WHITE) / _WHITE)
    amounts = density @ jnp.asarray(_AMOUNTS, density.dtype)
    channels = jnp.concatenate([amounts, jnp.mean(density, axis=-1, keepdims=True)], axis=-1)
    return jnp.clip(channels / jnp.asarray(_LARGEST, channels.dtype)[None, None, None], 0.0, 1.0)


class GroupNorm(nnx.Module):
    """torch.nn.GroupNorm on NHWC, in float32."""

    def __init__(self, channels: int, groups: int):
        self.groups = groups
        self.scale, self.bias = nnx.Param(constant(1, channels)), nnx.Param(constant(0, channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to the same."""
        b, h, w, c = x.shape
        parts = wide(x).reshape(b, h, w, self.groups, c // self.groups)
        centred = parts - jnp.mean(parts, axis=(1, 2, 4), keepdims=True)
        factor = jax.lax.rsqrt(jnp.mean(centred * centred, axis=(1, 2, 4), keepdims=True) + _EPS)
        scale, bias = (p[...][None, None, None] for p in (self.scale, self.bias))
        return ((centred * factor).reshape(b, h, w, c) * scale + bias).astype(x.dtype)


class Block(nnx.Module):
    """Twice norm, Mish and a 3 x 3 convolution, added to what came in."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        self.norms = nnx.List(GroupNorm(channels, groups) for _ in range(2))
        self.convs = nnx.List(Conv(channels, channels, 3, rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C] to the same."""
        del train, key
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(jax.nn.mish(norm(y)))
        return x + y


class SegResNet(nnx.Module):
    """Stages of blocks, each after a convolution that doubles the channels; `features` are the means over the image of
    all, one after the other: a network that was made to segment has no embedding of its own."""

    dropout_rate = 0.0

    def __init__(self, spec: Spec, *, dtype: Any, rematerialise: bool, rngs: nnx.Rngs):
        self.dtype, self.rematerialise = dtype, rematerialise
        self.num_features = spec.width * (2 ** len(spec.blocks) - 1)
        self.steps, self.stages = nnx.List(), nnx.List()
        for stage, count in enumerate(spec.blocks):
            width = spec.width * 2**stage
            inputs, stride = (width // 2, 2) if stage else (3, 1)
            self.steps.append(Conv(inputs, width, 3, stride=stride, rngs=rngs))
            self.stages.append(nnx.List(Block(width, spec.groups, rngs=rngs) for _ in range(count)))

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3], RGB in 0 to 1, of any size.
            key: not used; the network has no randomness.

        Returns:
            "stages": [B, h, w, C] at strides 1, 2, 4, 8; "features": [B, D] float32.
        """
        del key
        x = stain_channels(x).astype(self.dtype)
        outputs = []
        for step, blocks in zip(self.steps, self.stages, strict=True):
            x = step(x)
            for block in blocks:
                x = run(block, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x)
        features = jnp.concatenate([global_average(each) for each in outputs], axis=-1)
        return {"stages": tuple(outputs), "features": features}


def of_encoder(encoder: Encoder, *, image_size_px: int, pooling: str, **options: Any) -> SegResNet:
    """The network of SHELL, for images of any size."""
    del image_size_px, pooling
    return SegResNet(Spec(**encoder.network), **options)


def weight_names(model: SegResNet) -> dict[str, dict[str, str]]:
    """Where the file keeps each layer: {source: {layer or array of stjax: layer or array of the source}}."""
    names, numbers = {}, iter(_NORMS)
    for s, blocks in enumerate(model.stages):
        names[f"steps.{s}"] = f"down_layers.{s}.0.conv" if s else "convInit.conv"
        for b in range(len(blocks)):
            for i in range(2):
                ours, number = f"stages.{s}.{b}", next(numbers)
                names[f"{ours}.convs.{i}"] = f"down_layers.{s}.{b + 1}.conv{i + 1}.conv"
                names[f"{ours}.norms.{i}.scale"] = f"val_{number}"
                names[f"{ours}.norms.{i}.bias"] = f"val_{number + 2}"
    return {"SHELL": names}


def folded(model: SegResNet, names: Mapping[str, tuple[str, ...]], given: Mapping[str, Stored]) -> dict[str, Stored]:
    """The arrays of a file, the norms' [C, 1, 1] as [C]; others are left as they are.

    Args:
        names: {path here: name in the file}.
    """
    del model
    found = dict(given)
    for path, (name,) in names.items():
        stored = given.get(name)
        if ".norms." in path and stored is not None and stored.shape[1:] == (1, 1):
            flat = functools.partial(_flat, stored)
            found[name] = Stored(stored.dtype, (math.prod(stored.shape),), flat)
    return found


def _flat(stored: Stored) -> np.ndarray:
    return stored.read().reshape(-1)
