"""EfficientNet-b0 to b5 as torchvision defines them (Tan and Le 2019): symmetric padding, not TensorFlow's."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.errors import InputError
from stjax.models.layers import BatchNorm, Conv, fold, global_average, stochastic_depth, unknown_variant


@dataclasses.dataclass(frozen=True)
class Stage:
    """`blocks` inverted residuals alike, the first of which changes size and width."""

    expand: int
    kernel_size: int
    stride: int
    inputs: int
    outputs: int
    blocks: int


@dataclasses.dataclass(frozen=True)
class Spec:
    """A whole network. Momentum is torch's."""

    stages: tuple[Stage, ...]
    dropout_rate: float
    eps: float = 1e-5
    momentum: float = 0.1


# Tan and Le 2019, table 1.
_B0 = (
    Stage(1, 3, 1, 32, 16, 1),
    Stage(6, 3, 2, 16, 24, 2),
    Stage(6, 5, 2, 24, 40, 2),
    Stage(6, 3, 2, 40, 80, 3),
    Stage(6, 5, 1, 80, 112, 3),
    Stage(6, 5, 2, 112, 192, 4),
    Stage(6, 3, 1, 192, 320, 1),
)
STOCHASTIC_DEPTH = 0.2  # of the last block, had the network one more; linear in depth


def _divisible(value: float) -> int:
    """The nearest multiple of 8, at most a tenth below `value`."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def _scaled(width: float, depth: float, dropout_rate: float, **norm: float) -> Spec:
    stages = tuple(
        dataclasses.replace(
            stage,
            inputs=_divisible(stage.inputs * width),
            outputs=_divisible(stage.outputs * width),
            blocks=math.ceil(stage.blocks * depth),
        )
        for stage in _B0
    )
    return Spec(stages, dropout_rate, **norm)


# For tests and first tries: every kind of block, strides 1 and 2, kernels 3 and 5, in seconds on a CPU.
_TINY = (Stage(1, 3, 1, 8, 8, 1), Stage(4, 3, 2, 8, 16, 2), Stage(4, 5, 2, 16, 24, 1), Stage(4, 3, 1, 24, 32, 1))

SPECS = {
    "tiny": Spec(_TINY, 0.1),
    "b0": _scaled(1.0, 1.0, 0.2),
    "b1": _scaled(1.0, 1.1, 0.2),
    "b2": _scaled(1.1, 1.2, 0.3),
    "b3": _scaled(1.2, 1.4, 0.3),
    "b4": _scaled(1.4, 1.8, 0.4),
    "b5": _scaled(1.6, 2.2, 0.4, eps=1e-3, momentum=0.01),
}


class ConvNorm(nnx.Module):
    """Convolution, BatchNorm and, unless it ends a block, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, *, spec: Spec, rngs: nnx.Rngs, **options: Any):
        self.act = options.pop("act", True)
        self.conv = Conv(inputs, outputs, kernel_size, rngs=rngs, **options)
        self.norm = BatchNorm(outputs, eps=spec.eps, momentum=spec.momentum)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] to [B, H / stride, W / stride, outputs]."""
        x = self.norm(self.conv(x), train=train)
        return jax.nn.silu(x) if self.act else x


class SqueezeExcite(nnx.Module):
    """Scales each channel by a gate computed from all channels' means."""

    def __init__(self, channels: int, squeezed: int, *, rngs: nnx.Rngs):
        self.reduce = Conv(channels, squeezed, 1, bias=True, rngs=rngs)
        self.expand = Conv(squeezed, channels, 1, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to the same."""
        gate = global_average(x).astype(x.dtype)[:, None, None, :]  # [B, 1, 1, C]
        return x * jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(gate))))


class InvertedResidual(nnx.Module):
    """MBConv: expand 1 x 1, depthwise k x k, squeeze and excite, project 1 x 1, and the input added where it fits."""

    def __init__(self, stage: Stage, *, first: bool, drop_rate: float, spec: Spec, rngs: nnx.Rngs):
        inputs, stride = (stage.inputs, stage.stride) if first else (stage.outputs, 1)
        width = _divisible(inputs * stage.expand)
        self.residual = stride == 1 and inputs == stage.outputs
        self.drop_rate = drop_rate
        self.expand = ConvNorm(inputs, width, 1, spec=spec, rngs=rngs) if width != inputs else None
        self.depthwise = ConvNorm(width, width, stage.kernel_size, stride=stride, depthwise=True, spec=spec, rngs=rngs)
        self.excite = SqueezeExcite(width, max(1, inputs // 4), rngs=rngs)
        self.project = ConvNorm(width, stage.outputs, 1, act=False, spec=spec, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """[B, H, W, inputs] to [B, H / stride, W / stride, outputs]; `key` decides whose branch is dropped."""
        y = x if self.expand is None else self.expand(x, train=train)
        y = self.project(self.excite(self.depthwise(y, train=train)), train=train)
        return x + stochastic_depth(y, rate=self.drop_rate, train=train, key=key) if self.residual else y


class EfficientNet(nnx.Module):
    """Stem, seven stages and a 1 x 1 convolution; `features` is the latter's mean over the image."""

    def __init__(self, spec: Spec, *, dtype: Any, rngs: nnx.Rngs):
        self.dtype, self.dropout_rate = dtype, spec.dropout_rate
        self.stem = ConvNorm(3, spec.stages[0].inputs, 3, stride=2, spec=spec, rngs=rngs)
        total = sum(stage.blocks for stage in spec.stages)
        self.stages, index = nnx.List(), 0
        for stage in spec.stages:
            blocks = nnx.List()
            for block in range(stage.blocks):
                rate = STOCHASTIC_DEPTH * index / total
                blocks.append(InvertedResidual(stage, first=block == 0, drop_rate=rate, spec=spec, rngs=rngs))
                index += 1
            self.stages.append(blocks)
        self.num_features = 4 * spec.stages[-1].outputs
        self.top = ConvNorm(spec.stages[-1].outputs, self.num_features, 1, spec=spec, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised.
            key: source of stochastic depth, when training.

        Returns:
            "stages": [B, h, w, C] after the stem, each stage and the last convolution (b0 to b5: strides 2, 2, 4, 8,
            16, 16, 32, 32, 32); "features": [B, D] float32.
        """
        x = self.stem(x.astype(self.dtype), train=train)
        outputs, index = [x], 0
        for blocks in self.stages:
            for block in blocks:
                x = block(x, train=train, key=fold(key, index))
                index += 1
            outputs.append(x)
        outputs.append(self.top(x, train=train))
        return {"stages": tuple(outputs), "features": global_average(outputs[-1])}


def build(variant: str, *, dtype: Any = jnp.float32, rngs: nnx.Rngs, image_size_px: int = 224) -> EfficientNet:
    """EfficientNet `variant`, "b0" to "b5", for images of any size from 32 px. Raises InputError for another."""
    del image_size_px  # fully convolutional
    if variant not in SPECS:
        raise InputError(unknown_variant("efficientnet", variant, SPECS))
    return EfficientNet(SPECS[variant], dtype=dtype, rngs=rngs)
