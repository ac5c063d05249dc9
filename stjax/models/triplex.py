"""TRIPLEX (Chung et al., CVPR 2024): a spot from its patch, the windows around it, and all spots of its section.

A network that is trained makes the tokens of the patch: those of its last stage. Windows and spots are features
of an encoder that is not trained. Spots see each other in transformer blocks, after the first of which a 3 x 3
convolution on the array tells them where they are: they are laid out on the array for it, and taken up again. A spot's
own token then asks the tokens of patch and windows. Each of the four has a head, see `losses.triplex`.

Where the published code does otherwise, or says nothing:
* Features are standardised over the training spots, and brought to the blocks' width where they are of another.
* Windows beyond the image are left out of the windows' mean, not only of attention.
* `neighbour_mlp="as_released"`: the code of 2024 takes the ratio of the windows' perceptrons for their width, 1 or 4
  units. The rewrite of 2025, which is the default, multiplies by the width, and has a layer on the patch's tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.attention import Block, BlockSpec, linear_uniform, seen
from stjax.models.heads import linear, patches_through
from stjax.models.layers import Conv, LayerNorm, Linear, fold, normal, run, unknown_variant, wide
from stjax.models.pixnet import BACKBONES, build_backbone
from stjax.models.standardised import Standardised

VIEW = "sections"
NEIGHBOUR_MLPS = ("ratio", "as_released")
HEADS = ("main", "target", "neighbours", "section")
_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Part:
    """Blocks of one of the three transformers, heads, width of perceptrons over that of tokens, and dropout."""

    blocks: int
    heads: int
    ratio: int
    dropout: float

    def block(self, width: int, *, mlp: int = 0, cross: bool = False) -> BlockSpec:
        """Each of the blocks; `mlp` is another width of their perceptrons than by the ratio."""
        sizes = (width, self.heads, mlp or self.ratio * width)
        return BlockSpec(*sizes, qkv_bias=False, cross=cross, eps=_EPS, dropout=self.dropout)


@dataclasses.dataclass(frozen=True)
class Spec:
    """The transformers that fuse, see the section, and see the neighbouring windows; and the patch's network.

    Attributes:
        backbone: of the patch, a key of `pixnet.BACKBONES`.
        target_layer: whether there is a layer on the patch's tokens.
        neighbour_mlp: what the ratio of the windows' perceptrons is: that, or, as released, their width.
    """

    fusion: Part
    section: Part
    neighbours: Part
    width: int = 512
    backbone: str = "resnet18"
    target_layer: bool = True
    neighbour_mlp: str = "ratio"


SPECS = {
    "her2st": Spec(Part(1, 4, 4, 0.2), Part(3, 16, 4, 0.1), Part(3, 16, 1, 0.3)),
    "stnet": Spec(Part(3, 16, 4, 0.4), Part(3, 8, 2, 0.1), Part(4, 8, 4, 0.3)),
    "skin": Spec(Part(2, 8, 4, 0.1), Part(2, 16, 1, 0.1), Part(4, 16, 1, 0.3)),
    "tiny": Spec(Part(1, 4, 2, 0.1), Part(2, 4, 2, 0.1), Part(1, 4, 2, 0.1), width=32, backbone="efficientnet_tiny"),
}


class OnArray(nnx.Module):
    """A depthwise 3 x 3 convolution of tokens as they lie on the array, zero where there is no spot, added to them."""

    def __init__(self, width: int, grid_size: tuple[int, int], *, rngs: nnx.Rngs):
        self.grid_size = tuple(grid_size)
        self.conv = Conv(width, width, 3, depthwise=True, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array, grid: jax.Array, present: jax.Array) -> jax.Array:
        """[B, N, D] at places [B, N, 2] to the same; a spot beyond the array is not a number."""
        (columns, rows), (b, _, d) = self.grid_size, x.shape
        item = jnp.arange(b)[:, None]
        row, column = (jnp.where(present, grid[..., axis], rows + columns) for axis in (1, 0))  # padding is beyond
        dense = jnp.zeros((b, rows, columns, d), x.dtype).at[item, row, column].set(x, mode="drop")
        around = self.conv(dense).at[item, row, column].get(mode="fill", fill_value=jnp.nan)
        return x + jnp.where(present[..., None], around, 0)


class Section(nnx.Module):
    """All spots of a section: blocks, with the convolution on the array after the first."""

    def __init__(self, part: Part, width: int, grid_size: tuple[int, int], *, rngs: nnx.Rngs):
        self.blocks = nnx.List(Block(part.block(width), rngs=rngs) for _ in range(part.blocks))
        self.on_array = OnArray(width, grid_size, rngs=rngs)
        self.norm = LayerNorm(width, eps=_EPS)

    def __call__(self, x: jax.Array, grid: jax.Array, present: jax.Array, **options: Any) -> jax.Array:
        """[B, N, D] to the same; `options` as `layers.run` takes them."""
        bias, key = seen(present), options.pop("key")
        for number, block in enumerate(self.blocks):
            x = run(block, x, None, bias, key=fold(key, number), **options)
            x = self.on_array(x, grid, present) if number == 0 else x
        return self.norm(x)


class Neighbours(nnx.Module):
    """The windows around a spot: blocks whose attention has a bias for each head and distance."""

    def __init__(self, block: BlockSpec, count: int, context: int, *, rngs: nnx.Rngs):
        place = np.stack(np.divmod(np.arange(context**2), context))
        apart = np.abs(place[:, :, None] - place[:, None])
        self.between = nnx.static(tuple(map(tuple, (apart[0] * context + apart[1]).tolist())))
        self.blocks = nnx.List(Block(block, rngs=rngs) for _ in range(count))
        self.distances = nnx.List(
            nnx.Param(normal(rngs.params(), (block.heads, context**2), 0.02)) for _ in range(count)
        )
        self.norm = LayerNorm(block.width, eps=_EPS)

    def __call__(self, x: jax.Array, mask: jax.Array, **options: Any) -> jax.Array:
        """[n, W, D], of which `mask` [n, W] lie in the image, to the same."""
        unseen, key = seen(mask), options.pop("key")
        for number, (block, table) in enumerate(zip(self.blocks, self.distances, strict=True)):
            bias = table[...][:, np.array(self.between)][None] + unseen
            x = run(block, x, None, bias, key=fold(key, number), **options)
        return self.norm(x)


class Fusion(nnx.Module):
    """Spots' own tokens ask those of their patches and, by the same weights, of the windows around."""

    def __init__(self, part: Part, width: int, *, rngs: nnx.Rngs):
        self.blocks = nnx.List(Block(part.block(width, cross=True), rngs=rngs) for _ in range(part.blocks))
        self.norm = LayerNorm(width, eps=_EPS)

    def __call__(
        self, own: jax.Array, patch: jax.Array, windows: jax.Array, mask: jax.Array, **options: Any
    ) -> jax.Array:
        """[n, D], [n, T, D] and [n, W, D] with their mask [n, W], to [n, D]."""
        key, found = options.pop("key"), []
        for which, (context, bias) in enumerate(((patch, None), (windows, seen(mask)))):
            x, of_context = own[:, None], fold(key, which)
            for number, block in enumerate(self.blocks):
                x = run(block, x, context, bias, key=fold(of_context, number), **options)
            found.append(x[:, 0])
        return self.norm(found[0] + found[1])


class Triplex(nnx.Module):
    """Three encoders, their fusion, and a head of each.

    Attributes:
        backbone: of the patch.
    """

    def __init__(
        self,
        spec: Spec,
        backbone: Any,
        *,
        image_size_px: int,
        statistics: tuple[np.ndarray, np.ndarray],
        context: int,
        grid_size: tuple[int, int],
        num_main: int,
        main_mean: np.ndarray | None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            statistics: mean and deviation [D] of the features.
            context: windows along each side of the square of them around a spot.
            grid_size: columns and rows of the arrays.

        Raises:
            InputError: no layer on the patch's tokens, whose width is not that of the blocks.
        """
        width, features, released = spec.width, len(statistics[0]), spec.neighbour_mlp == "as_released"
        channels = _channels(backbone, image_size_px)
        if channels != width and not spec.target_layer:
            raise InputError(
                f"the backbone's last stage has {channels} channels, TRIPLEX's blocks {width}; leave "
                "config.model.options.target_layer on"
            )

        def layer(inputs: int) -> Linear:
            return Linear(inputs, width, init=linear_uniform, rngs=rngs)

        self.backbone, self.features = backbone, Standardised(*statistics)
        self.of_patch = layer(channels) if spec.target_layer else None
        self.of_window, self.of_spot = (layer(features) if features != width else None for _ in range(2))
        block = spec.neighbours.block(width, mlp=spec.neighbours.ratio if released else 0)
        self.neighbours = Neighbours(block, spec.neighbours.blocks, context, rngs=rngs)
        self.section = Section(spec.section, width, grid_size, rngs=rngs)
        self.fusion = Fusion(spec.fusion, width, rngs=rngs)
        self.heads = nnx.Dict({name: linear(width, num_main, mean=main_mean, rngs=rngs) for name in HEADS})

    def __call__(
        self,
        *,
        images: jax.Array,
        features: jax.Array,
        context: jax.Array,
        context_mask: jax.Array,
        grid: jax.Array,
        rows: jax.Array,
        present: jax.Array,
        spots_mask: jax.Array,
        train: bool,
        key: jax.Array | None = None,
        frozen_backbone: bool = False,
    ) -> dict[str, jax.Array]:
        """Genes of spots by each of the heads; keywords as `stjax.views.sections` gives them.

        Returns:
            {"main": of the fusion, "target": of the patch, "neighbours": of the windows around, "section": of the
            section's spots, [B, S, M] each}, float32.
        """
        (b, s), dtype = rows.shape, self.backbone.dtype
        options = {"train": train, "rematerialise": self.backbone.rematerialise}
        patch = self._patch_tokens(images, spots_mask, train=train, key=fold(key, 0), frozen=frozen_backbone)
        windows = self._embedded(context.reshape(b * s, *context.shape[2:]), self.of_window, dtype)
        mask = context_mask.reshape(b * s, -1)
        windows = self.neighbours(windows, mask, key=fold(key, 1), **options)  # [B S, W, D]
        section = self._embedded(features, self.of_spot, dtype)
        section = self.section(section, grid, present, key=fold(key, 2), **options)
        own = jnp.take_along_axis(section, rows[..., None], axis=1).reshape(b * s, -1)  # [B S, D]
        weight = mask / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
        found = {
            "main": self.fusion(own, patch, windows, mask, key=fold(key, 3), **options),
            "target": jnp.mean(wide(patch), axis=1),
            "neighbours": jnp.sum(wide(windows) * weight[..., None], axis=1),
            "section": own,
        }
        return {name: self.heads[name](wide(x)).reshape(b, s, -1) for name, x in found.items()}

    def _embedded(self, x: jax.Array, layer: Linear | None, dtype: Any) -> jax.Array:
        x = self.features.standardise(x).astype(dtype)
        return x if layer is None else layer(x)

    def _patch_tokens(
        self, images: jax.Array, mask: jax.Array, *, train: bool, key: jax.Array | None, frozen: bool
    ) -> jax.Array:
        """Patches [B, S, H, W, 3] to the tokens [B S, T, D] of each."""
        x = patches_through(self.backbone, images, mask, train=train, key=key, frozen=frozen)["stages"][-1]
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return x if self.of_patch is None else self.of_patch(x)


def needs(variant: str) -> tuple[str, ...]:
    """What the model is called with, whatever the variant."""
    del variant
    return ("image", "features", "grid", "context")


def build(
    variant: str,
    *,
    num_main: int,
    image_size_px: int,
    feature_mean: np.ndarray,
    feature_std: np.ndarray,
    context: int,
    grid_size: tuple[int, int],
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    main_mean: np.ndarray | None = None,
    backbone: str = "",
    neighbour_mlp: str = "ratio",
    target_layer: bool = True,
    rematerialise: bool = False,
) -> Triplex:
    """TRIPLEX `variant`, a key of `SPECS`: the published settings of a data set.

    Args:
        image_size_px: side of the patches.
        feature_mean, feature_std: [D] of the features over the training spots.
        context: windows along each side of the square of them around a spot; the published 5.
        grid_size: columns and rows of the largest array.
        backbone: of the patch, a key of `pixnet.BACKBONES`; "" for the variant's own.
        neighbour_mlp, target_layer: see `Spec`.
        rematerialise: compute the blocks' inner results anew for the gradient.

    Raises:
        InputError: another variant, backbone or `neighbour_mlp`, or a backbone that needs a layer on its tokens.
    """
    if variant not in SPECS:
        raise InputError(unknown_variant("triplex", variant, SPECS))
    spec = SPECS[variant]
    backbone = backbone or spec.backbone
    for option, value, known in (
        ("backbone", backbone, BACKBONES),
        ("neighbour_mlp", neighbour_mlp, NEIGHBOUR_MLPS),
    ):
        if value not in known:
            raise InputError(f"config.model.options.{option} is {value!r}; choose one of {', '.join(known)}")
    options = {"dtype": dtype, "rngs": rngs, "image_size_px": image_size_px, "rematerialise": rematerialise}
    return Triplex(
        dataclasses.replace(spec, neighbour_mlp=neighbour_mlp, target_layer=target_layer),
        build_backbone(backbone, **options),
        image_size_px=image_size_px,
        statistics=(feature_mean, feature_std),
        context=context,
        grid_size=grid_size,
        num_main=num_main,
        main_mean=main_mean,
        rngs=rngs,
    )


def _channels(backbone: Any, image_size_px: int) -> int:
    """Of the last stage of a network."""
    images = jax.ShapeDtypeStruct((1, image_size_px, image_size_px, 3), jnp.float32)
    return nnx.eval_shape(lambda net, x: net(x, train=False, key=None)["stages"][-1], backbone, images).shape[-1]
