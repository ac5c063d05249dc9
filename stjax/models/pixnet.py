"""PixNet (Zhang, Yang and Pan, arXiv 2503.01347): a dense expression map, and its sum over spots of any shape.

A pyramid of features from any backbone, a U-Net decoder up to stride 4, a linear layer to genes, a resize to the image,
and the sum over each spot's pixels. The last three are one step (`stjax.ops.spot_pool`): the map is never formed.

Where the paper leaves a choice, or cannot be meant literally:
* Equation 3 writes the skip of decoder stage l as F_l; sizes only fit F_{L-l}, as in a U-Net. A 1 x 1 convolution
  matches its channels, as one matches F_L's to the decoder's width.
* Dconv is a transposed convolution of kernel 2 and stride 2: every output pixel has one source, hence no chequerboard.
* DFFN, "convolution-based two-layer feedforward", is 3 x 3 convolution, ReLU, 3 x 3 convolution. It starts with a
  LayerNorm over channels, which the paper does not mention: equation 3 adds maps of quite different sizes.
* delta starts at 1.
* `aggregation="sum"` is equation 5; `pixels_per_spot` divides it by a constant, which the linear layer could absorb:
  with thousands of pixels a spot it could not start otherwise. Sums grow with the spot while log-normalised targets do
  not, so a model trained at one size is off at another; "mean" and "additive" are right at every size.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.heads import linear
from stjax.models.layers import Conv, LayerNorm, constant, kaiming_normal, unknown_variant
from stjax.ops.elementwise import relu, written_out
from stjax.ops.spot_pool import ADDITIVE, AGGREGATIONS, STRIDE, SpotTable, pooled_linear, spot_pool

BACKBONES = {  # variant: module and variant of the encoder
    "resnet18": ("resnet", "18"),
    "resnet50": ("resnet", "50"),
    "resnet101": ("resnet", "101"),
    "efficientnet_b0": ("efficientnet", "b0"),
    "efficientnet_tiny": ("efficientnet", "tiny"),
    "densenet121": ("densenet", "121"),
    "vit_b16": ("vit", "b16"),
}
VIEW = "tiles"
_PROBE_PX = 64  # side of the image by which a backbone's stages are known
_SOFTPLUS_ONE = float(np.log(np.e - 1))  # softplus of it is 1


class Upsample(nnx.Module):
    """Transposed convolution, kernel 2 and stride 2: one matrix product and a rearrangement."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        # An output pixel sees one tap: its fan is that of a 1 x 1 convolution.
        kernel = kaiming_normal(rngs.params(), (1, 1, inputs, 4 * outputs)) * np.float32(2.0)
        self.kernel = nnx.Param(kernel.reshape(inputs, 2, 2, outputs))
        self.bias = nnx.Param(constant(0, outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, inputs] to [B, 2 h, 2 w, outputs]."""
        b, h, w, _ = x.shape
        y = jnp.einsum("bhwi,ipqo->bhpwqo", x, self.kernel[...].astype(x.dtype))
        return y.reshape(b, 2 * h, 2 * w, -1) + self.bias[...].astype(x.dtype)[None, None, None]


class DecoderStage(nnx.Module):
    """`DFFN(Dconv(D) + delta * F)`, equation 3."""

    def __init__(self, width: int, skip: int, *, rngs: nnx.Rngs):
        self.up = Upsample(width, width, rngs=rngs)
        self.project = Conv(skip, width, 1, bias=True, rngs=rngs)
        self.delta = nnx.Param(jnp.ones(()))
        self.norm = LayerNorm(width, eps=1e-6)
        self.conv1 = Conv(width, width, 3, bias=True, rngs=rngs)
        self.conv2 = Conv(width, width, 3, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        """[B, h, w, width] and [B, 2 h, 2 w, skip] to [B, 2 h, 2 w, width]."""
        x = self.up(x) + self.delta[...].astype(x.dtype) * self.project(skip)
        return written_out(self.conv2(relu(self.conv1(self.norm(x)))))


class SimplePyramid(nnx.Module):
    """Strides 4, 8, 16 and 32 from a transformer's last tokens at stride 16: two transposed convolutions, one, none,
    and max pooling (Li et al. 2022, "Exploring plain vision transformer backbones for object detection", figure 2)."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        half, quarter = channels // 2, channels // 4
        self.up8 = Upsample(channels, half, rngs=rngs)
        self.up4a, self.norm, self.up4b = (
            Upsample(channels, half, rngs=rngs),
            LayerNorm(half, eps=1e-6),
            Upsample(half, quarter, rngs=rngs),
        )
        self.channels = (quarter, half, channels, channels)

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, ...]:
        """[B, h, w, C] to [B, 4 h, 4 w, C / 4], [B, 2 h, 2 w, C / 2], [B, h, w, C] and [B, h / 2, w / 2, C]."""
        b, h, w, c = tokens.shape
        pooled = jnp.max(tokens.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
        fine = self.up4b(jax.nn.gelu(self.norm(self.up4a(tokens))))
        return fine, self.up8(tokens), tokens, pooled


class MapHead(nnx.Module):
    """Sum or mean over spots of a linear map of the features."""

    def __init__(self, features: int, outputs: int, *, aggregation: str, pixels_per_spot: float, rngs: nnx.Rngs):
        self.linear = linear(features, outputs, rngs=rngs)
        self.aggregation = aggregation
        self.scale = 1 / pixels_per_spot if aggregation == "sum" else 1.0

    def __call__(self, features: jax.Array, spots: SpotTable) -> dict[str, jax.Array]:
        """[B, h, w, D] to {"main": [B, S, M]} float32."""
        kernel, bias = (p[...] * self.scale for p in (self.linear.kernel, self.linear.bias))  # pyright: ignore
        return {"main": pooled_linear(features, kernel, bias, spots, aggregation=self.aggregation)}

    def gene_map(self, features: jax.Array) -> jax.Array:
        """[B, h, w, D] to [B, h, w, M] float32: what spots sum or average once resized to the image."""
        return self.linear(features.astype(jnp.float32)) * self.scale


class Constant(nnx.Variable):
    """Numbers that belong to a model, kept with it and never trained."""


class AdditiveHead(nnx.Module):
    """A map of non-negative rates whose sums are expected counts, of each gene and of all other genes together.

    Rates are a base, the mean over the training pixels, times softplus of a linear map; resizing keeps them
    non-negative. Their sums add up exactly: over bins that partition a larger one, whatever the sizes.
    """

    aggregation = ADDITIVE

    def __init__(self, features: int, outputs: int, *, base_rates: np.ndarray | None, rngs: nnx.Rngs):
        base = np.ones(outputs + 1) if base_rates is None else np.asarray(base_rates, np.float64)
        if base.shape != (outputs + 1,) or not np.all(np.isfinite(base) & (base > 0)):
            raise InputError(f"base_rates are {base.shape}, expected {outputs + 1} positive numbers, all others' last")
        self.linear = linear(features, outputs + 1, rngs=rngs)
        self.base = Constant(jnp.asarray(base, jnp.float32))
        self.log_dispersion = nnx.Param(constant(0, outputs + 2))  # of genes, of the others, and of the totals

    def __call__(self, features: jax.Array, spots: SpotTable) -> dict[str, jax.Array]:
        """[B, h, w, D] to {"rates": [B, S, M + 1] expected counts, "dispersion": [M + 2]} float32."""
        rates = spot_pool(self.gene_map(features), spots)
        return {"rates": rates, "dispersion": jnp.exp(self.log_dispersion[...])}

    def gene_map(self, features: jax.Array) -> jax.Array:
        """[B, h, w, D] to [B, h, w, M + 1] float32, expected counts a pixel of the image."""
        rates = jax.nn.softplus(self.linear(features.astype(jnp.float32)) + _SOFTPLUS_ONE)
        return rates * self.base[...][None, None, None]


class PixNet(nnx.Module):
    """Encoder, decoder and head. `features` are the decoder's, at stride 4; a head turns them into genes of spots.

    Attributes:
        backbone: gives "stages".
        levels: which of the stages make the pyramid, finest first; None for a transformer.
        strides: of the pyramid, finest first.
    """

    def __init__(self, backbone: Any, head: Any, *, width: int, dtype: Any, rngs: nnx.Rngs):
        self.backbone, self.head, self.dtype = backbone, head, dtype
        levels, channels, self.strides = _pyramid(backbone)
        self.levels = levels
        self.pyramid = None if levels else SimplePyramid(channels[0], rngs=rngs)
        channels = channels if self.pyramid is None else self.pyramid.channels
        self.bottom = Conv(channels[-1], width, 1, bias=True, rngs=rngs)
        self.stages = nnx.List(DecoderStage(width, skip, rngs=rngs) for skip in reversed(channels[:-1]))

    def encode(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None, frozen_backbone: bool = False
    ) -> tuple[jax.Array, ...]:
        """[B, H, W, 3] normalised images, sides multiples of the coarsest stride, to the pyramid, finest first:
        [B, H / stride, W / stride, C] of each of `strides`.

        Raises:
            InputError: another size of image.
        """
        if any(side % self.strides[-1] for side in images.shape[1:3]):
            raise InputError(
                f"images are {images.shape[2]} x {images.shape[1]} px, expected multiples of {self.strides[-1]}, the "
                "encoder's coarsest stride; cut tiles of such a size with --tile-size-px"
            )
        stages = self.backbone(images, train=train and not frozen_backbone, key=key)["stages"]
        if frozen_backbone:
            stages = jax.lax.stop_gradient(stages)
        if self.levels is None:
            return self.pyramid(stages[-1])  # pyright: ignore[reportOptionalCall]
        return tuple(stages[level] for level in self.levels)

    def features(self, images: jax.Array, **options: Any) -> jax.Array:
        """The decoder's features [B, H / 4, W / 4, width]; images and options are those of `encode`."""
        pyramid = self.encode(images, **options)
        x = self.bottom(pyramid[-1])
        for stage, skip in zip(self.stages, reversed(pyramid[:-1]), strict=True):
            x = stage(x, skip)
        return x

    def __call__(
        self,
        images: jax.Array,
        spots: SpotTable,
        *,
        train: bool,
        key: jax.Array | None,
        frozen_backbone: bool = False,
        undo: Any = None,
    ) -> dict[str, jax.Array]:
        """Genes of the spots of a batch of tiles.

        Args:
            images: [B, H, W, 3] normalised.
            spots: the tiles' tables, stacked, of a grid H / 4, W / 4.
            undo: applied to the feature map before it is pooled: the inverse of the symmetry `images` were put through,
                so that tables of the tiles as they are serve every augmentation.

        Returns:
            The head's: {"main": [B, S, M]}, or {"rates": [B, S, M + 1], "dispersion": [M + 2]}; float32.
        """
        features = self.features(images, train=train, key=key, frozen_backbone=frozen_backbone)
        return self.head(features if undo is None else undo(features), spots)

    def gene_map(self, images: jax.Array) -> jax.Array:
        """[B, H, W, 3] to the head's map at stride 4, [B, H / 4, W / 4, M or M + 1] float32, when predicting."""
        return self.head.gene_map(self.features(images, train=False))


def _pyramid(backbone: Any) -> tuple[tuple[int, ...] | None, tuple[int, ...], tuple[int, ...]]:
    """Stages at strides 4, 8, ..., the last at each, with their channels and strides; no stages for a transformer."""
    probe = jax.ShapeDtypeStruct((1, _PROBE_PX, _PROBE_PX, 3), jnp.float32)
    stages = jax.eval_shape(lambda x: backbone(x, train=False, key=None)["stages"], probe)
    shapes = [stage.shape for stage in stages]
    last = {_PROBE_PX // height: level for level, (_, height, _, _) in enumerate(shapes) if _PROBE_PX % height == 0}
    if list(last) == [16]:
        return None, (shapes[-1][-1],), (4, 8, 16, 32)
    strides = [STRIDE]
    while strides[-1] * 2 in last:
        strides.append(strides[-1] * 2)
    if STRIDE not in last or len(strides) < 2:
        sizes = ", ".join(str(height) for _, height, _, _ in shapes)
        raise InputError(
            f"PixNet needs features of 1/4, 1/8, ... of the image's side; this backbone's are {sizes} of {_PROBE_PX} px"
        )
    levels = tuple(last[stride] for stride in strides)
    return levels, tuple(shapes[level][-1] for level in levels), tuple(strides)


def build(
    variant: str,
    *,
    num_main: int,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    image_size_px: int = 1024,
    aggregation: str = "sum",
    width: int = 512,
    pixels_per_spot: float = 1.0,
    base_rates: np.ndarray | None = None,
    rematerialise: bool = False,
) -> PixNet:
    """PixNet over the encoder `variant`, a key of `BACKBONES`.

    Args:
        num_main: M, genes.
        image_size_px: side of the tiles; only a transformer's positions depend on it.
        aggregation: "sum" (the paper), "mean", or "additive" (rates under a count likelihood, `losses`).
        width: of the decoder; the paper's is 512.
        pixels_per_spot: constant divisor of "sum", best the mean number of pixels of the training spots.
        base_rates: [M + 1] of "additive", mean counts a pixel of each gene and of all others together.
        rematerialise: compute the encoder's inner results anew for the gradient instead of keeping them.

    Raises:
        InputError: another variant or aggregation, or an encoder without a pyramid.
    """
    if variant not in BACKBONES:
        raise InputError(unknown_variant("pixnet", variant, BACKBONES))
    if aggregation not in AGGREGATIONS:
        raise InputError(f"config.model.options.aggregation is {aggregation!r}; choose {', '.join(AGGREGATIONS)}")
    if width < 1 or not pixels_per_spot > 0:
        raise InputError(f"width is {width} and pixels_per_spot {pixels_per_spot}; expected positive numbers")
    module, of_module = BACKBONES[variant]
    backbone = importlib.import_module(f"stjax.models.{module}").build(
        of_module, dtype=dtype, rngs=rngs, image_size_px=image_size_px, rematerialise=rematerialise
    )
    if aggregation == ADDITIVE:
        head = AdditiveHead(width, num_main, base_rates=base_rates, rngs=rngs)
    else:
        head = MapHead(width, num_main, aggregation=aggregation, pixels_per_spot=pixels_per_spot, rngs=rngs)
    return PixNet(backbone, head, width=width, dtype=dtype, rngs=rngs)
