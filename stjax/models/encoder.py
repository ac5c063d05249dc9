"""Published encoders as backbones: the networks of `stjax.encoders`, and the files that hold their weights.

A module of `stjax.models` that has networks of published encoders offers `of_encoder`, which makes one of an entry.
"""

import dataclasses
import importlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax import encoders
from stjax.models import weight_files, weights


def build(
    variant: str,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    image_size_px: int = 224,
    rematerialise: bool = False,
    pooling: str = "",
    grid: int = 0,
    blank: bool = False,
) -> Any:
    """The network of the encoder `variant`, a name of `encoders.ENCODERS`, with random weights.

    Args:
        image_size_px: not used; images are brought to the encoder's own size, see `as_seen`.
        pooling: another than the encoder's own, see the `of_encoder` of its module.
        grid: side of the grid of positions that its weights have, of those known for it; 0 for the usual one.
        blank: with arrays that take no memory, for weights to be loaded into.

    Raises:
        InputError: another variant, pooling or grid.
    """
    del image_size_px
    encoder = _with_grid(encoders.find(variant), grid)
    options = {"image_size_px": encoder.px, "pooling": pooling, "dtype": dtype, "rematerialise": rematerialise}
    if not blank:
        return _network(encoder, **options, rngs=rngs)
    network = nnx.eval_shape(lambda: _network(encoder, **options, rngs=nnx.Rngs(0)))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), nnx.state(network))
    nnx.update(network, empty)
    return network


def published(variant: str) -> encoders.Encoder:
    """The encoder of a variant. Raises InputError for an unknown one."""
    return encoders.find(variant)


def as_seen(images: jax.Array, variant: str) -> jax.Array:
    """Images [B, H, H, 3], normalised by an encoder's mean and deviation, as it takes them: at its size, or the middle
    of a larger size, as stored features are made (`features.embedder`)."""
    encoder = encoders.find(variant)
    size, side = encoder.resize_px or encoder.px, encoder.px
    images, first = resized(images, size, variant), (size - side) // 2
    return images[:, first : first + side, first : first + side]


def resized(images: jax.Array, side: int, variant: str) -> jax.Array:
    """Images [B, H, H, 3], normalised by an encoder's mean and deviation, at another size: bicubic and antialiased as
    Pillow does it, and within what pixels can be."""
    if images.shape[1] == side:
        return images
    encoder = encoders.find(variant)
    mean, std = (jnp.asarray(values, images.dtype)[None, None, None] for values in (encoder.mean, encoder.std))
    found = jax.image.resize(images, (images.shape[0], side, side, 3), "cubic", antialias=True)
    return jnp.clip(found, -mean / std, (1 - mean) / std)


def load(variant: str, path: Path, *, dtype: Any = jnp.float32, pooling: str = "") -> tuple[Any, weights.Report]:
    """An encoder with the weights of a file, which are held once and read tensor by tensor.

    Args:
        path: `.safetensors`, `.bin`, `.pth` or `.ckpt`; float16 and bfloat16 in it stay what they are.
        dtype: to compute in.
        pooling: another than the encoder's own.

    Raises:
        InputError: an unknown encoder, or a file that is damaged, refused, or of another network.
    """
    encoder = encoders.find(variant)
    encoder = _with_grid(encoder, _grid(encoder, path) if encoder.grids else 0)
    model = nnx.eval_shape(
        lambda: _network(
            encoder, image_size_px=encoder.px, pooling=pooling, dtype=dtype, rematerialise=False, rngs=nnx.Rngs(0)
        )
    )
    try:
        return model, weights.load(model, path, keep_half=True)
    except InputError as error:
        raise InputError(f"{encoder.title}: {error}") from None


def _network(encoder: encoders.Encoder, *, pooling: str, **options: Any) -> Any:
    module = importlib.import_module(f"stjax.models.{encoder.module}")
    pooling = pooling or encoder.pooling
    if pooling not in module.POOLINGS:
        raise InputError(f"pooling is {pooling!r}; {encoder.title} has {', '.join(module.POOLINGS)}")
    return module.of_encoder(encoder, pooling=pooling, **options)


def _with_grid(encoder: encoders.Encoder, side: int) -> encoders.Encoder:
    """An encoder whose positions are for another grid, of those that its files may have; 0 for the usual one."""
    if not side or side == (usual := encoder.network.get("grid")):
        return encoder
    if side not in encoder.grids:
        known = " or ".join(map(str, (usual, *encoder.grids))) if usual else "none to choose"
        raise InputError(f"config.model.options.grid is {side}; of {encoder.title} there is {known}")
    return dataclasses.replace(encoder, network={**encoder.network, "grid": side})


def _grid(encoder: encoders.Encoder, path: Path) -> int:
    """The side of the grid that a file's positions are for, of those that the encoder's files may have; 0 of any other:
    then it does not fit, which is said when it is read."""
    with weight_files.opened(path) as stored:
        sides = {
            math.isqrt(tensor.shape[1])  # class token and registers are fewer than a grid's next side takes
            for name, tensor in stored.items()
            if name.endswith(("pos_embed", "position_embeddings")) and len(tensor.shape) == 3
        }
    return next((side for side in encoder.grids if side in sides), 0)
