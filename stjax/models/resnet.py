"""ResNet18, 50 and 101 as torchvision defines them (He et al. 2015, with the stride in a bottleneck's 3 x 3)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.errors import InputError
from stjax.encoders import Encoder
from stjax.models.layers import ConvNorm, global_average, run, unknown_variant
from stjax.ops.cpu.elementwise import relu
from stjax.ops.cpu.pool import max_pool


@dataclasses.dataclass(frozen=True)
class Spec:
    """Blocks of each stage, and whether they are bottlenecks (1 x 1, 3 x 3, 1 x 1 to four times the width)."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


SPECS = {
    "18": Spec((2, 2, 2, 2), bottleneck=False),
    "50": Spec((3, 4, 6, 3), bottleneck=True),
    "101": Spec((3, 4, 23, 3), bottleneck=True),
}
POOLINGS = ("mean", "mean of stage 3")
_WIDTHS = (64, 128, 256, 512)
# Of Ciga's files: what their training compares images by.
DROPPED = ("projection", "model.projection")


class Block(nnx.Module):
    """Two 3 x 3 convolutions, or a bottleneck of three, added to the identity (or a 1 x 1 where the shape changes)."""

    def __init__(self, inputs: int, width: int, *, stride: int, bottleneck: bool, rngs: nnx.Rngs):
        self.outputs = 4 * width if bottleneck else width
        if bottleneck:
            layers = [
                ConvNorm(inputs, width, 1, rngs=rngs),
                ConvNorm(width, width, 3, stride=stride, rngs=rngs),
                ConvNorm(width, self.outputs, 1, act=None, rngs=rngs),
            ]
        else:
            layers = [
                ConvNorm(inputs, width, 3, stride=stride, rngs=rngs),
                ConvNorm(width, width, 3, act=None, rngs=rngs),
            ]
        self.layers = nnx.List(layers)
        changes = stride != 1 or inputs != self.outputs
        self.shortcut = ConvNorm(inputs, self.outputs, 1, stride=stride, act=None, rngs=rngs) if changes else None

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """[B, H, W, inputs] to [B, H / stride, W / stride, outputs]."""
        del key
        y = x
        for layer in self.layers:
            y = layer(y, train=train)
        return relu(y + (x if self.shortcut is None else self.shortcut(x, train=train)))


class ResNet(nnx.Module):
    """Stem, four stages of residual blocks; `features` is the mean over the image of the last one or, as
    HEST-Benchmark has it, of the third."""

    dropout_rate = 0.0

    def __init__(self, spec: Spec, *, dtype: Any, rematerialise: bool, rngs: nnx.Rngs, pooling: str = "mean"):
        self.dtype, self.rematerialise = dtype, rematerialise
        self.pooled = 2 if pooling == "mean of stage 3" else 3
        self.stem = ConvNorm(3, _WIDTHS[0], 7, stride=2, rngs=rngs)
        self.stages, inputs = nnx.List(), _WIDTHS[0]
        for index, (count, width) in enumerate(zip(spec.blocks, _WIDTHS, strict=True)):
            blocks = nnx.List()
            for block in range(count):
                stride = 2 if block == 0 and index > 0 else 1
                blocks.append(Block(inputs, width, stride=stride, bottleneck=spec.bottleneck, rngs=rngs))
                inputs = blocks[-1].outputs
            self.stages.append(blocks)
        self.num_features = self.stages[self.pooled][-1].outputs

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised.
            key: not used; the network has no randomness.

        Returns:
            "stages": four [B, h, w, C] at strides 4, 8, 16, 32; "features": [B, D] float32.
        """
        del key
        x = max_pool(self.stem(x.astype(self.dtype), train=train), size=3, stride=2, padding=1)
        outputs = []
        for blocks in self.stages:
            for block in blocks:
                x = run(block, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x)
        return {"stages": tuple(outputs), "features": global_average(outputs[self.pooled])}


def build(
    variant: str,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    image_size_px: int = 224,
    rematerialise: bool = False,
) -> ResNet:
    """ResNet `variant`, "18", "50" or "101", for images of any size from 32 px.

    Raises:
        InputError: another variant.
    """
    del image_size_px  # fully convolutional
    if variant not in SPECS:
        raise InputError(unknown_variant("resnet", variant, SPECS))
    return ResNet(SPECS[variant], dtype=dtype, rematerialise=rematerialise, rngs=rngs)


def of_encoder(encoder: Encoder, *, image_size_px: int, **options: Any) -> ResNet:
    """The ResNet of a published encoder, for images of any size from 32 px."""
    del image_size_px
    return ResNet(SPECS[encoder.network["variant"]], **options)


def weight_names(model: ResNet) -> dict[str, dict[str, str]]:
    """Where released weights keep each layer: {source: {layer of stjax: layer of the source}}; timm's are the same."""
    names = {"stem.conv": "conv1", "stem.norm": "bn1"}
    for s, blocks in enumerate(model.stages):
        for b, block in enumerate(blocks):
            ours, theirs = f"stages.{s}.{b}", f"layer{s + 1}.{b}"
            for number in range(len(block.layers)):
                names[f"{ours}.layers.{number}.conv"] = f"{theirs}.conv{number + 1}"
                names[f"{ours}.layers.{number}.norm"] = f"{theirs}.bn{number + 1}"
            if block.shortcut is not None:
                names |= {f"{ours}.shortcut.conv": f"{theirs}.downsample.0"}
                names |= {f"{ours}.shortcut.norm": f"{theirs}.downsample.1"}
    return {"torchvision": names}
