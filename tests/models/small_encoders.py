"""Shrunken copies of the encoders that are no plain vision transformers, with weights by rule, for tests here and in
tests/parity."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from stjax.models import conch, efficientnet, segresnet, swin, vgg, vit
from tests.models import rule_weights

_SWIN = swin.Spec(width=32, blocks=(2, 2), heads=(2, 4))
_VIT = functools.partial(vit.Spec, 16, layers=2, heads=2, width=32, mlp=48, grid=3)
_CONCH = (_VIT(rule="R4"), 64)
_CONCH_V15 = (_VIT(rule="R2", layer_scale=True), 48)
_OPTIONS: dict[str, Any] = {"dtype": jnp.float32, "rematerialise": False}
# {name: (its network, side of images)}
NETWORKS: dict[str, tuple[Callable[..., Any], int]] = {
    "swin": (lambda **o: swin.Swin(_SWIN, **o), 56),
    "conch": (lambda **o: conch.Conch(*_CONCH, version="1", image_size_px=48, **o), 48),
    "conch_v1_5": (lambda **o: conch.Conch(*_CONCH_V15, version="1.5", image_size_px=48, **o), 48),
    "segresnet": (lambda **o: segresnet.SegResNet(segresnet.Spec(8, (1, 2, 1), groups=4), **o), 40),
    "vgg": (lambda **o: vgg.VGG(vgg.Spec((8, 12, 16, 20, 24)), **o), 36),
    "efficientnet_lite1": (lambda **o: efficientnet.build("lite1", **o), 64),
    "efficientnet_lite2": (lambda **o: efficientnet.build("lite2", **o), 64),
}


def build(name: str) -> Any:
    """A shrunken network with random weights."""
    return NETWORKS[name][0](rngs=nnx.Rngs(0), **_OPTIONS)


def loaded(name: str, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """A shrunken network with its weights by rule, and those by the names and in the shapes of its files."""
    network = build(name)
    return network, rule_weights.load(network, folder)


def images(name: str) -> np.ndarray:
    """[B, side, side, 3] float32 in 0 to 1."""
    found = rule_weights.images(NETWORKS[name][1])
    return ((found - found.min()) / (found.max() - found.min())).astype(np.float32)
