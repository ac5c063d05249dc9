"""EfficientNet-b0 to b5 as torchvision defines them (Tan and Le 2019): symmetric padding, not TensorFlow's.

EfficientNet-Lite0 to 2 ("lite0") follow TensorFlow's release instead, whose ImageNet weights they take: no squeeze and
excite, ReLU6, TensorFlow's padding, and stem, first and last stage and last convolution as small as in Lite0.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.errors import InputError
from stjax.encoders import Encoder
from stjax.models.layers import Conv, ConvNorm, fold, global_average, run, stochastic_depth, unknown_variant
from stjax.ops.cpu.elementwise import written_out


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
    """A whole network. Momentum is torch's; `lite` as the module's docstring says; `top` channels at the end, None for
    four times those of the last stage."""

    stages: tuple[Stage, ...]
    dropout_rate: float
    top: int | None = None
    eps: float = 1e-5
    momentum: float = 0.1
    lite: bool = False

    def conv_norm(self, inputs: int, outputs: int, kernel_size: int, *, act: bool = True, **options: Any) -> ConvNorm:
        """Convolution, BatchNorm and, unless it ends a block, the activation."""
        function = jax.nn.relu6 if self.lite else jax.nn.silu
        return ConvNorm(
            inputs,
            outputs,
            kernel_size,
            eps=self.eps,
            momentum=self.momentum,
            act=function if act else None,
            padding="tensorflow" if self.lite else None,
            **options,
        )


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


POOLINGS = ("mean",)
_LITE: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01, "top": 1280}


def _scaled(width: float, depth: float, dropout_rate: float, *, lite: bool = False, **others: Any) -> Spec:
    stages = tuple(
        dataclasses.replace(
            stage,
            inputs=_divisible(stage.inputs * width),
            outputs=_divisible(stage.outputs * width),
            blocks=stage.blocks if lite and stage in (_B0[0], _B0[-1]) else math.ceil(stage.blocks * depth),
        )
        for stage in _B0
    )
    return Spec(stages, dropout_rate, lite=lite, **(_LITE if lite else {}), **others)


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
    "lite0": _scaled(1.0, 1.0, 0.2, lite=True),
    "lite1": _scaled(1.0, 1.1, 0.2, lite=True),
    "lite2": _scaled(1.1, 1.2, 0.3, lite=True),
}


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
        self.expand = spec.conv_norm(inputs, width, 1, rngs=rngs) if width != inputs else None
        self.depthwise = spec.conv_norm(width, width, stage.kernel_size, stride=stride, depthwise=True, rngs=rngs)
        self.excite = None if spec.lite else SqueezeExcite(width, max(1, inputs // 4), rngs=rngs)
        self.project = spec.conv_norm(width, stage.outputs, 1, act=False, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """[B, H, W, inputs] to [B, H / stride, W / stride, outputs]; `key` decides whose branch is dropped."""
        y = x if self.expand is None else self.expand(x, train=train)
        y = self.depthwise(y, train=train)
        y = y if self.excite is None else self.excite(y)
        y = self.project(y, train=train)
        if not self.residual:
            return y
        return written_out(x + stochastic_depth(y, rate=self.drop_rate, train=train, key=key))


class EfficientNet(nnx.Module):
    """Stem, seven stages and a 1 x 1 convolution; `features` is the latter's mean over the image."""

    def __init__(self, spec: Spec, *, dtype: Any, rematerialise: bool, rngs: nnx.Rngs):
        self.dtype, self.dropout_rate, self.rematerialise = dtype, spec.dropout_rate, rematerialise
        self.lite = spec.lite
        self.stem = spec.conv_norm(3, spec.stages[0].inputs, 3, stride=2, rngs=rngs)
        total = sum(stage.blocks for stage in spec.stages)
        self.stages, index = nnx.List(), 0
        for stage in spec.stages:
            blocks = nnx.List()
            for block in range(stage.blocks):
                rate = STOCHASTIC_DEPTH * index / total
                blocks.append(InvertedResidual(stage, first=block == 0, drop_rate=rate, spec=spec, rngs=rngs))
                index += 1
            self.stages.append(blocks)
        self.num_features = spec.top or 4 * spec.stages[-1].outputs
        self.top = spec.conv_norm(spec.stages[-1].outputs, self.num_features, 1, rngs=rngs)

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
                x = run(block, x, train=train, key=fold(key, index), rematerialise=self.rematerialise)
                index += 1
            outputs.append(x)
        outputs.append(self.top(x, train=train))
        return {"stages": tuple(outputs), "features": global_average(outputs[-1])}


def build(
    variant: str,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    image_size_px: int = 224,
    rematerialise: bool = False,
) -> EfficientNet:
    """EfficientNet `variant`, "b0" to "b5" or "lite0" to "lite2", for images of any size from 32 px.

    Raises:
        InputError: another variant.
    """
    del image_size_px  # fully convolutional
    if variant not in SPECS:
        raise InputError(unknown_variant("efficientnet", variant, SPECS))
    return EfficientNet(SPECS[variant], dtype=dtype, rematerialise=rematerialise, rngs=rngs)


def of_encoder(encoder: Encoder, *, pooling: str, **options: Any) -> EfficientNet:
    """The EfficientNet of a published encoder; see `build`."""
    del pooling
    return build(encoder.network["variant"], **options)


# ---------------------------------------------------------------------------------------- names of imported weights


def weight_names(model: EfficientNet) -> dict[str, dict[str, str]]:
    """Where released weights keep each layer: {source: {layer of stjax: layer of the source}}, dotted paths."""
    torchvision = {
        "stem.conv": "features.0.0",
        "stem.norm": "features.0.1",
        "top.conv": f"features.{len(model.stages) + 1}.0",
        "top.norm": f"features.{len(model.stages) + 1}.1",
    }
    timm = {"stem.conv": "conv_stem", "stem.norm": "bn1", "top.conv": "conv_head", "top.norm": "bn2"}
    authors = {"stem.conv": "_conv_stem", "stem.norm": "_bn0", "top.conv": "_conv_head", "top.norm": "_bn1"}
    index = 0
    for s, blocks in enumerate(model.stages):
        for b, block in enumerate(blocks):
            parts = [part for part in ("expand", "depthwise", "excite", "project") if getattr(block, part) is not None]
            convolutions = [part for part in parts if part != "excite"]
            for position, part in enumerate(parts):
                ours, theirs = f"stages.{s}.{b}.{part}", f"features.{s + 1}.{b}.block.{position}"
                if part == "excite":
                    for layer, number in (("reduce", 1), ("expand", 2)):
                        torchvision[f"{ours}.{layer}"] = f"{theirs}.fc{number}"
                        timm[f"{ours}.{layer}"] = f"blocks.{s}.{b}.se.conv_{layer}"
                        authors[f"{ours}.{layer}"] = f"_blocks.{index}._se_{layer}"
                    continue
                torchvision |= {f"{ours}.conv": f"{theirs}.0", f"{ours}.norm": f"{theirs}.1"}
                timm_conv = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}[part]
                if part == "project" and len(convolutions) == 2:
                    timm_conv = "conv_pw"
                timm[f"{ours}.conv"] = f"blocks.{s}.{b}.{timm_conv}"
                timm[f"{ours}.norm"] = f"blocks.{s}.{b}.bn{convolutions.index(part) + 1}"
                authors[f"{ours}.conv"] = f"_blocks.{index}._{part}_conv"
                authors[f"{ours}.norm"] = f"_blocks.{index}._bn{('expand', 'depthwise', 'project').index(part)}"
            index += 1
    return {"torchvision": torchvision, "timm": timm, "efficientnet_pytorch": authors}
