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
from stjax.encoders import ENCODERS, Encoder
from stjax.models import encoder as networks
from stjax.models.heads import linear
from stjax.models.layers import Conv, LayerNorm, constant, unknown_variant
from stjax.models.pyramids import COARSEST, Layout, SimplePyramid, Upsample, layout_of
from stjax.models.tuning import is_frozen
from stjax.ops.cpu.elementwise import relu, written_out
from stjax.ops.spot_pool import ADDITIVE, AGGREGATIONS, SpotTable, pooled_linear, spot_pool

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
_CONVOLUTIONAL = ("resnet", "vgg", "efficientnet")  # modules of encoders without attention or statistics of the image
_SOFTPLUS_ONE = float(np.log(np.e - 1))  # softplus of it is 1


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
        layout: how these make the pyramid.
        strides: of the pyramid, finest first.
    """

    def __init__(
        self,
        backbone: Any,
        head: Any,
        *,
        width: int,
        dtype: Any,
        pyramid: str = "simple",
        window_px: int = 0,
        published: bool = False,
        rngs: nnx.Rngs,
    ):
        self.backbone, self.head, self.dtype = backbone, head, dtype
        self.layout = layout_of(backbone, pyramid=pyramid, window_px=window_px, published=published)
        self.strides, channels, tokens = self.layout.strides, self.layout.channels, self.layout.tokens
        self.pyramid = SimplePyramid(channels[0], stride=tokens, rngs=rngs) if tokens else None
        channels = channels if self.pyramid is None else self.pyramid.channels
        self.bottom = Conv(channels[-1], width, 1, bias=True, rngs=rngs)
        self.stages = nnx.List(DecoderStage(width, skip, rngs=rngs) for skip in reversed(channels[:-1]))

    def encode(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None, frozen_backbone: bool = False
    ) -> tuple[jax.Array, ...]:
        """[B, H, W, 3] normalised images, sides multiples of `layout.unit_px`, to the pyramid, finest first:
        [B, H / stride, W / stride, C] of each of `strides`.

        Raises:
            InputError: another size of image.
        """
        if any(side % self.layout.unit_px for side in images.shape[1:3]):
            raise InputError(f"images are {images.shape[2]} x {images.shape[1]} px, {_expected(self.layout)}")
        frozen = frozen_backbone or is_frozen(self.backbone)
        maps = self.layout.maps(self.backbone, images, train=train and not frozen, key=key)
        if frozen:
            maps = jax.lax.stop_gradient(maps)
        return maps if self.pyramid is None else self.pyramid(maps)

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


def _expected(layout: Layout) -> str:
    """Of which size tiles are to be."""
    unit = layout.unit_px
    if not layout.window_px:
        return (
            f"expected multiples of {unit}, the encoder's coarsest stride; cut tiles of such a size with --tile-size-px"
        )
    return (
        f"expected multiples of {unit}, the windows that the encoder sees; cut tiles of such a size with "
        "--tile-size-px, or give other windows with --config.model.options.window_px"
    )


def build_backbone(variant: str, **options: Any) -> Any:
    """The network of a key of `BACKBONES`; options as its module's `build` takes them."""
    module, of_module = BACKBONES[variant]
    return importlib.import_module(f"stjax.models.{module}").build(of_module, **options)


def published(variant: str) -> Encoder | None:
    """The published encoder of a variant; None for one of `BACKBONES`."""
    return None if variant in BACKBONES else ENCODERS.get(variant)


def own_window_px(encoder: Encoder) -> int:
    """Side of a tile's windows that an encoder sees as it was trained to, 0 where it sees no further than its
    convolutions reach."""
    if encoder.module in _CONVOLUTIONAL:
        return 0
    side = encoder.px * 16 // 14 if encoder.network.get("patch_px") == 14 else encoder.px
    return -(-side // COARSEST) * COARSEST


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
    pyramid: str = "simple",
    window_px: int = 0,
    blank: bool = False,
) -> PixNet:
    """PixNet over the encoder `variant`, a key of `BACKBONES` or a name of `encoders.ENCODERS`.

    Args:
        num_main: M, genes.
        image_size_px: side of the tiles; only the positions of a transformer of `BACKBONES` depend on it.
        aggregation: "sum" (the paper), "mean", or "additive" (rates under a count likelihood, `losses`).
        width: of the decoder; the paper's is 512.
        pixels_per_spot: constant divisor of "sum", best the mean number of pixels of the training spots.
        base_rates: [M + 1] of "additive", mean counts a pixel of each gene and of all others together.
        rematerialise: compute the encoder's inner results anew for the gradient instead of keeping them.
        pyramid: of a transformer, "simple" (of its last tokens) or "taps" (of four blocks).
        window_px: side of the windows of a tile that the encoder sees; 0 is what a published encoder was trained on,
            where it looks at the whole image, and else the tile.
        blank: make no weights of a published encoder, as those of a file follow.

    Raises:
        InputError: another variant, aggregation or pyramid, an encoder without one, or tiles of no whole windows.
    """
    encoder = published(variant)
    if variant not in BACKBONES and encoder is None:
        raise InputError(f"{unknown_variant('pixnet', variant, BACKBONES)}, and what `stjax encoders` lists")
    if aggregation not in AGGREGATIONS:
        raise InputError(f"config.model.options.aggregation is {aggregation!r}; choose {', '.join(AGGREGATIONS)}")
    if width < 1 or not pixels_per_spot > 0:
        raise InputError(f"width is {width} and pixels_per_spot {pixels_per_spot}; expected positive numbers")
    options = {"dtype": dtype, "rngs": rngs, "image_size_px": image_size_px, "rematerialise": rematerialise}
    if encoder is None:
        backbone = build_backbone(variant, **options)
    else:
        backbone = networks.build(variant, blank=blank, **options)
        window_px = window_px or own_window_px(encoder)
    if aggregation == ADDITIVE:
        head = AdditiveHead(width, num_main, base_rates=base_rates, rngs=rngs)
    else:
        head = MapHead(width, num_main, aggregation=aggregation, pixels_per_spot=pixels_per_spot, rngs=rngs)
    of_pyramid = {"pyramid": pyramid, "window_px": window_px, "published": encoder is not None}
    model = PixNet(backbone, head, width=width, dtype=dtype, **of_pyramid, rngs=rngs)
    if window_px and image_size_px % window_px:
        raise InputError(f"tiles are {image_size_px} px, {_expected(model.layout)}")
    return model
