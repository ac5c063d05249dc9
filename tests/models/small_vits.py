"""Shrunken copies of published encoders, and files of them whose numbers are made by a rule from their names."""

import dataclasses
import zlib

import numpy as np
from flax import nnx

from stjax import encoders
from stjax.models import encoder as networks
from stjax.models import weights

LAYERS = HEADS = 2


def shrunken(name: str, family: str) -> encoders.Encoder:
    """An encoder of two blocks and two heads, as wide as these make it; the rest is as it was.

    Args:
        family: whose rule for the width of a SwiGLU it follows: transformers rounds it, timm does not.
    """
    entry = encoders.find(name)
    network = dict(entry.network)
    width = HEADS * network["width"] // network["heads"]
    mlp = int(width * network["mlp"] / network["width"])
    if network.get("gated") and family == encoders.HF_DINOV2:
        mlp = 2 * ((int(8 * width / 3) + 7) // 8 * 8)
    network |= {"width": width, "layers": LAYERS, "heads": HEADS, "mlp": mlp}
    return dataclasses.replace(entry, network=network, px=native_px(entry))


def native_px(entry: encoders.Encoder) -> int:
    """Side of the images whose grid is that of the positions."""
    return entry.network["grid"] * entry.network["patch_px"]


def shapes(name: str, family: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the arrays that stjax wants of a family's file."""
    model = nnx.eval_shape(lambda: networks.build(name, rngs=nnx.Rngs(0)))
    leaves = weights._leaves(model)
    found = {}
    names = weights._names(model, leaves)
    for path, each in names.get(family, names[encoders.TIMM]).items():  # DINOv2 has timm's where nothing is added
        shape = weights._expected(path, leaves[path].shape, len(each))
        if path == "positions" and model.spec.positions == "d" and family != encoders.TIMM:
            shape = (shape[0], shape[1] + 1, shape[2])  # the class token's, which is added to it
        found |= dict.fromkeys(each, shape)
    return found


def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights called `name`, float32: nothing of them is without effect."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if any(part in name for part in ("token", "pos")):  # sums of two are exact in float32
        return (np.round(512 * rng.standard_normal(shape)) / 1024).astype(np.float32)
    if len(shape) > 1:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    if name.endswith("bias"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def images(px: int, count: int = 2) -> np.ndarray:
    """[count, px, px, 3] float32, normalised."""
    return np.random.default_rng(px).standard_normal((count, px, px, 3)).astype(np.float32)
