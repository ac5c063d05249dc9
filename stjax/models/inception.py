"""Inception-v3 as torchvision defines it (Szegedy et al. 2015), its auxiliary classifier off as in BrST-Net.

torchvision's released weights expect inputs scaled to -1..1 (its `transform_input`); stjax standardises images its own
way, which such weights meet as a change of contrast.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.errors import InputError
from stjax.models.layers import ConvNorm, global_average, normal, run, unknown_variant
from stjax.ops.cpu.elementwise import written_out
from stjax.ops.cpu.pool import average_pool, max_pool

MIN_SIZE_PX = 75  # the convolutions without padding leave nothing of a smaller image
_Size = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Branch:
    """Convolutions in a row, each (outputs, size).

    Attributes:
        name: torchvision's.
        fork: channels each of a 1 x 3 and a 3 x 1 side by side that end the branch; 0 for none.
    """

    name: str
    layers: tuple[tuple[int, _Size], ...]
    fork: int = 0


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Branches in parallel, their outputs and the pooled input side by side.

    Attributes:
        name: torchvision's.
        pool: channels of the 1 x 1 after a 3 x 3 mean; 0 takes the 3 x 3 maximum itself and halves the image.
    """

    name: str
    branches: tuple[Branch, ...]
    pool: int = 0


def _a(name: str, pool: int) -> Mixed:
    double = Branch("branch3x3dbl", ((64, 1), (96, 3), (96, 3)))
    return Mixed(name, (Branch("branch1x1", ((64, 1),)), Branch("branch5x5", ((48, 1), (64, 5))), double), pool)


def _c(name: str, width: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    single = Branch("branch7x7", ((width, 1), (width, row), (192, column)))
    double = Branch("branch7x7dbl", ((width, 1), (width, column), (width, row), (width, column), (192, row)))
    return Mixed(name, (Branch("branch1x1", ((192, 1),)), single, double), 192)


def _e(name: str) -> Mixed:
    single, double = Branch("branch3x3", ((384, 1),), 384), Branch("branch3x3dbl", ((448, 1), (384, 3)), 384)
    return Mixed(name, (Branch("branch1x1", ((320, 1),)), single, double), 192)


# (torchvision's name, inputs, outputs, size, stride, padding); a maximum is pooled after each group.
STEM = (
    (
        ("Conv2d_1a_3x3", 3, 32, 3, 2, 0),
        ("Conv2d_2a_3x3", 32, 32, 3, 1, 0),
        ("Conv2d_2b_3x3", 32, 64, 3, 1, 1),
    ),
    (("Conv2d_3b_1x1", 64, 80, 1, 1, 0), ("Conv2d_4a_3x3", 80, 192, 3, 1, 0)),
)
_STEM_OUTPUTS = 192
# Each stage begins with the block that halves the image, where there is one.
STAGES = (
    (_a("Mixed_5b", 32), _a("Mixed_5c", 64), _a("Mixed_5d", 64)),
    (
        Mixed("Mixed_6a", (Branch("branch3x3", ((384, 3),)), Branch("branch3x3dbl", ((64, 1), (96, 3), (96, 3))))),
        _c("Mixed_6b", 128),
        _c("Mixed_6c", 160),
        _c("Mixed_6d", 160),
        _c("Mixed_6e", 192),
    ),
    (
        Mixed(
            "Mixed_7a",
            (
                Branch("branch3x3", ((192, 1), (320, 3))),
                Branch("branch7x7x3", ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3))),
            ),
        ),
        _e("Mixed_7b"),
        _e("Mixed_7c"),
    ),
)


def _init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """torchvision's truncated normal; it cuts at 20 deviations, where there is nothing to cut."""
    return normal(key, shape, 0.1)


def _conv(inputs: int, outputs: int, size: _Size, *, rngs: nnx.Rngs, **options: Any) -> ConvNorm:
    return ConvNorm(inputs, outputs, size, eps=1e-3, init=_init, rngs=rngs, **options)


class MixedBlock(nnx.Module):
    """What a `Mixed` describes."""

    def __init__(self, inputs: int, spec: Mixed, *, rngs: nnx.Rngs):
        self.branches, self.forks, self.outputs = nnx.List(), nnx.List(), spec.pool or inputs
        for branch in spec.branches:
            layers, width = nnx.List(), inputs
            for position, (outputs, size) in enumerate(branch.layers):
                halves = not spec.pool and position == len(branch.layers) - 1
                options = {"stride": 2, "padding": 0} if halves else {}
                layers.append(_conv(width, outputs, size, rngs=rngs, **options))
                width = outputs
            self.branches.append(layers)
            fork = [_conv(width, branch.fork, size, rngs=rngs) for size in ((1, 3), (3, 1))] if branch.fork else []
            self.forks.append(nnx.List(fork))
            self.outputs += 2 * branch.fork or width
        self.pool = _conv(inputs, spec.pool, 1, rngs=rngs) if spec.pool else None

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """[B, H, W, inputs] to [B, h, w, outputs]."""
        found = []
        for layers, fork in zip(self.branches, self.forks, strict=True):
            y = x
            for layer in layers:
                y = layer(y, train=train)
            found += [layer(y, train=train) for layer in fork] or [y]
        if self.pool is None:
            found.append(max_pool(x, size=3, stride=2))
        else:
            found.append(self.pool(average_pool(x, size=3, stride=1, padding=1), train=train))
        return written_out(jnp.concatenate(found, axis=-1))


class Inception(nnx.Module):
    """Five convolutions, eleven mixed blocks; `features` is the last one's mean over the image."""

    dropout_rate = 0.5

    def __init__(self, *, dtype: Any, rematerialise: bool, rngs: nnx.Rngs):
        self.dtype, self.rematerialise = dtype, rematerialise
        self.stem = nnx.List(
            nnx.List(
                _conv(inputs, outputs, size, stride=stride, padding=padding, rngs=rngs)
                for _, inputs, outputs, size, stride, padding in group
            )
            for group in STEM
        )
        self.stages, width = nnx.List(), _STEM_OUTPUTS
        for stage in STAGES:
            blocks = nnx.List()
            for spec in stage:
                blocks.append(MixedBlock(width, spec, rngs=rngs))
                width = blocks[-1].outputs
            self.stages.append(blocks)
        self.num_features = width

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, Any]:
        """Runs the network.

        Args:
            x: [B, H, W, 3] normalised, at least 75 x 75.
            key: not used; the head's dropout is the network's only randomness.

        Returns:
            "stages": [B, h, w, C] after each half of the stem and each of three stages, at strides of about 2, 4, 8,
            16, 32; "features": [B, D] float32.
        """
        x, outputs = x.astype(self.dtype), []
        for layers in self.stem:
            for layer in layers:
                x = layer(x, train=train)
            outputs.append(x)
            x = max_pool(x, size=3, stride=2)
        for blocks in self.stages:
            for block in blocks:
                x = run(block, x, train=train, rematerialise=self.rematerialise)
            outputs.append(x)
        return {"stages": tuple(outputs), "features": global_average(x)}


def build(
    variant: str,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    image_size_px: int = 224,
    rematerialise: bool = False,
) -> Inception:
    """Inception `variant`, "v3", for images of any size from 75 px.

    Raises:
        InputError: another variant, or smaller images.
    """
    if variant != "v3":
        raise InputError(unknown_variant("inception", variant, ("v3",)))
    if image_size_px < MIN_SIZE_PX:
        raise InputError(f"patches are {image_size_px} px; Inception-v3 needs at least {MIN_SIZE_PX} px")
    return Inception(dtype=dtype, rematerialise=rematerialise, rngs=rngs)


def weight_names(model: Inception) -> dict[str, dict[str, str]]:
    """Where released weights keep each layer: {source: {layer of stjax: layer of the source}}; timm's are the same."""
    del model  # there is one
    names = {f"stem.{g}.{i}": layer[0] for g, group in enumerate(STEM) for i, layer in enumerate(group)}
    for s, stage in enumerate(STAGES):
        for m, mixed in enumerate(stage):
            if mixed.pool:
                names[f"stages.{s}.{m}.pool"] = f"{mixed.name}.branch_pool"
            for b, branch in enumerate(mixed.branches):
                theirs, count = f"{mixed.name}.{branch.name}", len(branch.layers)
                for i in range(count):
                    suffix = "" if count == 1 and not branch.fork else f"_{i + 1}"
                    names[f"stages.{s}.{m}.branches.{b}.{i}"] = theirs + suffix
                for i, letter in enumerate("ab" if branch.fork else ""):
                    names[f"stages.{s}.{m}.forks.{b}.{i}"] = f"{theirs}_{count + 1}{letter}"
    both = {f"{ours}.conv": f"{theirs}.conv" for ours, theirs in names.items()}
    return {"torchvision": both | {f"{ours}.norm": f"{theirs}.bn" for ours, theirs in names.items()}}
