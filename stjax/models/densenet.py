"""DenseNet-121 as torchvision defines it (Huang et al. 2017); ST-Net's backbone."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.errors import InputError
from stjax.models.layers import BatchNorm, Conv, ConvNorm, global_average, normal, run, unknown_variant
from stjax.ops.cpu.elementwise import relu, written_out
from stjax.ops.cpu.pool import average_pool, max_pool


@dataclasses.dataclass(frozen=True)
class Spec:
    """Layers of each dense block, channels each adds, and channels of the stem."""

    layers: tuple[int, ...]
    growth: int = 32
    stem: int = 64


SPECS = {"121": Spec((6, 12, 24, 16))}


def _kaiming_fan_in(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """torch's `kaiming_normal_` by default, for [kh, kw, I, O]."""
    return normal(key, shape, math.sqrt(2.0 / (shape[0] * shape[1] * shape[2])))


class NormConv(nnx.Module):
    """BatchNorm, ReLU, convolution: DenseNet's order."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(inputs)
        self.conv = Conv(inputs, outputs, kernel_size, init=_kaiming_fan_in, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] to [B, H, W, outputs]."""
        return self.conv(relu(self.norm(x, train=train)))


class DenseLayer(nnx.Module):
    """1 x 1 to four times the growth, 3 x 3 to the growth, appended to the input's channels."""

    def __init__(self, inputs: int, growth: int, *, rngs: nnx.Rngs):
        self.squeeze = NormConv(inputs, 4 * growth, 1, rngs=rngs)
        self.grow = NormConv(4 * growth, growth, 3, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """[B, H, W, inputs] to [B, H, W, inputs + growth]."""
        return written_out(jnp.concatenate([x, self.grow(self.squeeze(x, train=train), train=train)], axis=-1))


class DenseNet(nnx.Module):
    """Stem, dense blocks, a halving of size and width between them; `features` is the last block's mean."""

    dropout_rate = 0.0

    def __init__(self, spec: Spec, *, dtype: Any, rematerialise: bool, rngs: nnx.Rngs):
        self.dtype, self.rematerialise = dtype, rematerialise
        self.stem = ConvNorm(3, spec.stem, 7, stride=2, init=_kaiming_fan_in, rngs=rngs)
        self.stages, self.transitions, width = nnx.List(), nnx.List(), spec.stem
        for index, count in enumerate(spec.layers):
            if index:
                self.transitions.append(NormConv(width, width // 2, 1, rngs=rngs))
                width //= 2
            self.stages.append(
                nnx.List(DenseLayer(width + i * spec.growth, spec.growth, rngs=rngs) for i in range(count))
            )
            width += count * spec.growth
        self.norm = BatchNorm(width)
        self.num_features = width

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised.
            key: not used; the network has no randomness.

        Returns:
            "stages": the dense blocks' outputs, four [B, h, w, C] at strides 4, 8, 16, 32, the last one normalised and
            rectified; "features": [B, D] float32.
        """
        x = max_pool(self.stem(x.astype(self.dtype), train=train), size=3, stride=2, padding=1)
        outputs = []
        for index, layers in enumerate(self.stages):
            if index:
                x = average_pool(self.transitions[index - 1](x, train=train), size=2, stride=2)
            for layer in layers:
                x = run(layer, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x)
        outputs[-1] = relu(self.norm(x, train=train))
        return {"stages": tuple(outputs), "features": global_average(outputs[-1])}


def build(
    variant: str,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    image_size_px: int = 224,
    rematerialise: bool = False,
) -> DenseNet:
    """DenseNet `variant`, "121", for images of any size from 32 px.

    Raises:
        InputError: another variant.
    """
    del image_size_px  # fully convolutional
    if variant not in SPECS:
        raise InputError(unknown_variant("densenet", variant, SPECS))
    return DenseNet(SPECS[variant], dtype=dtype, rematerialise=rematerialise, rngs=rngs)


def weight_names(model: DenseNet) -> dict[str, dict[str, str]]:
    """Where released weights keep each layer: {source: {layer of stjax: layer of the source}}; timm's are the same."""
    names = {"stem.conv": "features.conv0", "stem.norm": "features.norm0", "norm": "features.norm5"}
    for s, layers in enumerate(model.stages):
        for i in range(len(layers)):
            for part, number in (("squeeze", 1), ("grow", 2)):
                ours, theirs = f"stages.{s}.{i}.{part}", f"features.denseblock{s + 1}.denselayer{i + 1}"
                names |= {f"{ours}.norm": f"{theirs}.norm{number}", f"{ours}.conv": f"{theirs}.conv{number}"}
    for t in range(len(model.transitions)):
        for part in ("norm", "conv"):
            names[f"transitions.{t}.{part}"] = f"features.transition{t + 1}.{part}"
    return {"torchvision": names}
