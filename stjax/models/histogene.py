"""HisToGene (Pang, Su and Li, bioRxiv 2021.11.28.470212): a transformer whose tokens are the spots of a section.

A spot's token is a linear map of its pixels, or of features of its patch, plus learnt positions of its column and of
its row on the array. Positions are as many as the data set's arrays need; the published tables have 64, fewer than
Visium's columns.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.attention import Block, BlockSpec, linear_uniform, seen
from stjax.models.heads import linear
from stjax.models.layers import LayerNorm, Linear, dropout, fold, normal, run, unknown_variant, wide
from stjax.models.standardised import Standardised

VIEW = "sections"
PIXELS = ("normalised", "as_released")
_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Spec:
    """What tokens are made of, and sizes. The published code has 4 layers by default, its tutorial and the paper 8."""

    embed: Literal["pixels", "features"]
    layers: int = 8
    width: int = 1024
    heads: int = 16
    mlp: int = 2048
    dropout: float = 0.1


_TINY = {"layers": 2, "width": 32, "heads": 4, "mlp": 64}
SPECS = {
    "pixels": Spec("pixels"),
    "features": Spec("features"),
    "pixels_tiny": Spec("pixels", **_TINY),
    "features_tiny": Spec("features", **_TINY),
}


class HisToGene(nnx.Module):
    """Embedding, positions, transformer blocks and a linear head."""

    def __init__(
        self,
        spec: Spec,
        *,
        num_main: int,
        num_inputs: int,
        grid_size: tuple[int, int],
        crop_px: int = 0,
        statistics: tuple[np.ndarray, np.ndarray] | None = None,
        main_mean: np.ndarray | None = None,
        dtype: Any,
        rematerialise: bool,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            num_inputs: numbers that a token is made of.
            grid_size: columns and rows of the arrays.
            crop_px: side of the middle of a patch that is seen.
            statistics: mean and deviation of the features, of a model of features.
        """
        self.dtype, self.rematerialise, self.dropout, self.crop_px = dtype, rematerialise, spec.dropout, crop_px
        self.features = None if statistics is None else Standardised(*statistics)
        self.embed = Linear(num_inputs, spec.width, init=linear_uniform, rngs=rngs)
        self.columns, self.rows = (nnx.Param(normal(rngs.params(), (size, spec.width), 1.0)) for size in grid_size)
        block = BlockSpec(spec.width, spec.heads, spec.mlp, qkv_bias=False, eps=_EPS, dropout=spec.dropout)
        self.blocks = nnx.List(Block(block, rngs=rngs) for _ in range(spec.layers))
        self.norm = LayerNorm(spec.width, eps=_EPS)
        self.main = linear(spec.width, num_main, mean=main_mean, rngs=rngs)

    def __call__(
        self,
        *,
        grid: jax.Array,
        rows: jax.Array,
        present: jax.Array,
        spots_mask: jax.Array,
        images: jax.Array | None = None,
        features: jax.Array | None = None,
        train: bool,
        key: jax.Array | None = None,
        frozen_backbone: bool = False,
    ) -> dict[str, jax.Array]:
        """Genes of spots; keywords as `stjax.views.sections` gives them. There is no backbone.

        Returns:
            {"main": [B, S, M]} float32. Spots attend to those of `images`, or to all of `features`; a place beyond the
            tables is not a number.
        """
        del frozen_backbone
        if self.features is None:
            assert images is not None
            x, mask = self._cropped(images), spots_mask
            grid = jnp.take_along_axis(grid, rows[..., None], axis=1)  # [B, S, 2]
        else:
            assert features is not None
            x, mask = self.features.standardise(features), present
        x = self.embed(x.astype(self.dtype))  # [B, N, D]
        grid = jnp.where(mask[..., None], grid, 0)  # padding lies somewhere: a masked key that is no number spreads
        for axis, table in enumerate((self.columns, self.rows)):
            place = table[...].at[grid[..., axis]].get(mode="fill", fill_value=jnp.nan)
            x = x + place.astype(self.dtype)
        x = dropout(x, rate=self.dropout, train=train, key=fold(key, 0))
        bias = seen(mask)
        for number, block in enumerate(self.blocks):
            of_block = fold(key, 1 + number)
            x = run(block, x, None, bias, train=train, key=of_block, rematerialise=self.rematerialise)
        if self.features is not None:
            x = jnp.take_along_axis(x, rows[..., None], axis=1)  # [B, S, D]
        return {"main": self.main(self.norm(wide(x)))}

    def _cropped(self, images: jax.Array) -> jax.Array:
        """The middle of patches [B, S, h, w, 3], as rows of numbers [B, S, crop_px crop_px 3]."""
        first = (images.shape[2] - self.crop_px) // 2
        images = images[:, :, first : first + self.crop_px, first : first + self.crop_px]
        return images.reshape(*images.shape[:2], -1)


def needs(variant: str) -> tuple[str, ...]:
    """What the model is called with. Raises InputError for another variant."""
    return ("image" if _spec(variant).embed == "pixels" else "features", "grid")


def normalisation(options: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation by which images are wanted: as released, from 0 to 255 as they are."""
    return ((0.0,) * 3, (1.0,) * 3) if options.get("pixels") == "as_released" else None


def build(
    variant: str,
    *,
    num_main: int,
    grid_size: tuple[int, int],
    image_size_px: int = 0,
    feature_mean: np.ndarray | None = None,
    feature_std: np.ndarray | None = None,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    main_mean: np.ndarray | None = None,
    crop_px: int = 0,
    pixels: str = "normalised",
    rematerialise: bool = False,
) -> HisToGene:
    """HisToGene `variant`, a key of `SPECS`.

    Args:
        grid_size: columns and rows of the largest array.
        image_size_px: side of the patches.
        feature_mean, feature_std: [D] of the features over the training spots.
        crop_px: side of the middle of a patch that is seen, px; 0: all of it.
        pixels: "normalised" as all models' are, or "as_released", 0 to 255.
        rematerialise: compute the blocks' inner results anew for the gradient.

    Raises:
        InputError: another variant or `pixels`, or a crop larger than the patches.
    """
    spec = _spec(variant)
    if pixels not in PIXELS:
        raise InputError(f"config.model.options.pixels is {pixels!r}; choose one of {', '.join(PIXELS)}")
    given: dict[str, Any] = {"num_main": num_main, "grid_size": grid_size, "main_mean": main_mean}
    if spec.embed == "pixels":
        if not 0 <= crop_px <= image_size_px:
            raise InputError(
                f"config.model.options.crop_px is {crop_px}, of patches of {image_size_px} px; choose a smaller crop, "
                "or build the data set with a larger --patch-size-px"
            )
        crop_px = crop_px or image_size_px
        given |= {"num_inputs": 3 * crop_px**2, "crop_px": crop_px}
    else:
        assert feature_mean is not None
        assert feature_std is not None
        given |= {"num_inputs": len(feature_mean), "statistics": (feature_mean, feature_std)}
    return HisToGene(spec, **given, dtype=dtype, rematerialise=rematerialise, rngs=rngs)


def _spec(variant: str) -> Spec:
    if variant not in SPECS:
        raise InputError(unknown_variant("histogene", variant, SPECS))
    return SPECS[variant]
