"""Maps at strides 4, 8, 16, 32 from the stages of any network: a pyramid of its own, or one made of tokens.

A transformer's tokens are at one stride. They are brought to others (Li et al. 2022, "Exploring plain vision
transformer backbones for object detection", Figure 2), all from the last block or, as taps, each from another: four
blocks, evenly spaced, the earliest for the finest. Tokens of 14 px see the tile shrunk by 14/16: each is 16 px of it.

Windows: what looks at the whole image, by attention or by statistics, sees a large tile as it was never trained to, and
says something else of a place in every tile that holds it. So the tile is cut into windows of the size that the network
is used to, side by side from the tile's corner, and the maps are put together again.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.layers import LayerNorm, constant, kaiming_normal
from stjax.models.tuning import trunk_of
from stjax.ops.spot_pool import STRIDE

COARSEST = 32
PYRAMIDS = ("simple", "taps")
_PROBE_PX = 448  # side of the image by which stages are known: any patches or windows divide it


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


class SimplePyramid(nnx.Module):
    """Strides 4, 8, 16 and 32 from tokens at stride 16 or 8: transposed convolutions for finer ones, two from 16 to 4,
    max pooling for coarser ones."""

    def __init__(self, channels: int, *, stride: int = 16, rngs: nnx.Rngs):
        half, quarter = channels // 2, channels // 4
        self.stride = stride
        if stride == 16:
            self.up8 = Upsample(channels, half, rngs=rngs)
            self.up4a, self.norm, self.up4b = (
                Upsample(channels, half, rngs=rngs),
                LayerNorm(half, eps=1e-6),
                Upsample(half, quarter, rngs=rngs),
            )
            self.channels = (quarter, half, channels, channels)
        else:
            self.up4 = Upsample(channels, half, rngs=rngs)
            self.channels = (half, channels, channels, channels)

    def __call__(self, taps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Tokens [B, h, w, C] for each of the four levels, finest first, to the levels, of `channels`."""
        first, second, third, fourth = taps
        if self.stride == 8:
            return self.up4(first), second, _pooled(third, 2), _pooled(fourth, 4)
        fine = self.up4b(jax.nn.gelu(self.norm(self.up4a(first))))
        return fine, self.up8(second), third, _pooled(fourth, 2)


def _pooled(x: jax.Array, factor: int) -> jax.Array:
    """Max pooling of [B, h, w, C] over squares of so many cells."""
    b, h, w, c = x.shape
    return jnp.max(x.reshape(b, h // factor, factor, w // factor, factor, c), axis=(2, 4))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which of a network's stages make the pyramid, and how it sees a tile.

    Attributes:
        levels: the stages, finest first; of a transformer those that the tokens of each of four levels are of.
        channels, strides: of the maps from finest to coarsest, before a `SimplePyramid`.
        tokens: stride of a transformer's tokens; 0: a pyramid of its own.
        pooled: coarser levels than the network has, made by max pooling.
        normed: tokens are normalised as after the last block.
        shrinks: the tile is resized by 14/16.
        window_px: side of the windows, tile pixels; 0: the whole tile at once.
    """

    levels: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    tokens: int = 0
    pooled: int = 0
    normed: bool = False
    shrinks: bool = False
    window_px: int = 0

    @property
    def unit_px(self) -> int:
        """What the sides of a tile are multiples of."""
        return self.window_px or self.strides[-1]

    def maps(self, network: Any, images: jax.Array, *, train: bool, key: jax.Array | None) -> tuple[jax.Array, ...]:
        """The stages of `levels`, and those pooled, of normalised images [B, H, W, 3]: each [B, h, w, C]."""
        size = images.shape
        x = images if not self.window_px else _cut(images, self.window_px)
        stages = network(_shrunk(x) if self.shrinks else x, train=train, key=key)["stages"]
        made = {}
        for level in dict.fromkeys(self.levels):
            tokens = trunk_of(network).norm(stages[level]) if self.normed else stages[level]
            made[level] = tokens if not self.window_px else _joined(tokens, self.window_px, size)
        found = [made[level] for level in self.levels]
        for _ in range(self.pooled):
            found.append(_pooled(found[-1], 2))
        return tuple(found)


def _cut(images: jax.Array, side: int) -> jax.Array:
    """[B, H, W, 3] to windows [B (H / side) (W / side), side, side, 3], row by row."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, side, side, c)


def _joined(x: jax.Array, side: int, size: tuple[int, ...]) -> jax.Array:
    """What became of `_cut` windows of images of `size`, [B (H / side) (W / side), h, h, C], as maps of the images."""
    rows, columns = size[1] // side, size[2] // side
    _, h, w, c = x.shape
    x = x.reshape(-1, rows, columns, h, w, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, rows * h, columns * w, c)


def _shrunk(x: jax.Array) -> jax.Array:
    """[B, H, W, 3] at 14/16 of its size, bicubic and antialiased."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, h * 14 // 16, w * 14 // 16, c), "cubic", antialias=True)


def layout_of(network: Any, *, pyramid: str, window_px: int, published: bool) -> Layout:
    """How a network's stages become a pyramid.

    Args:
        pyramid: of a transformer, "simple" or "taps".
        window_px: see `Layout`.
        published: its tokens are normalised, and levels that it lacks down to stride 32 are pooled.

    Raises:
        InputError: it has no features at stride 4 and 8, and tokens at neither 8 nor 16; taps of no transformer; or
            windows that are no multiple of the coarsest stride.
    """
    if pyramid not in PYRAMIDS:
        raise InputError(f"config.model.options.pyramid is {pyramid!r}; choose one of {', '.join(PYRAMIDS)}")
    shrinks = getattr(trunk_of(network), "patch_px", 0) == 14
    probe = jax.ShapeDtypeStruct((1, _PROBE_PX, _PROBE_PX, 3), jnp.float32)

    def stages_of(network: Any, x: jax.Array) -> Any:
        return network(_shrunk(x) if shrinks else x, train=False, key=None)["stages"]

    shapes = [stage.shape for stage in nnx.eval_shape(stages_of, network, probe)]
    last = {_PROBE_PX // height: level for level, (_, height, _, _) in enumerate(shapes) if _PROBE_PX % height == 0}
    options = {"shrinks": shrinks, "window_px": window_px}
    if len(last) == 1 and (tokens := next(iter(last))) in (8, 16):
        depth = len(shapes)
        levels = tuple(-(-depth * part // 4) - 1 for part in (1, 2, 3, 4)) if pyramid == "taps" else (depth - 1,) * 4
        channels = tuple(shapes[level][-1] for level in levels)
        found = Layout(levels, channels, (4, 8, 16, 32), tokens=tokens, normed=published, **options)
    else:
        found = _own(shapes, last, published=published, **options)
        if pyramid != "simple":
            raise InputError(f"config.model.options.pyramid {pyramid} is for transformers; this encoder has a pyramid")
    if window_px < 0 or window_px % found.strides[-1]:
        raise InputError(
            f"config.model.options.window_px is {window_px}, expected a multiple of {found.strides[-1]}, the encoder's "
            "coarsest stride"
        )
    return found


def _own(shapes: Sequence[tuple[int, ...]], last: dict[int, int], *, published: bool, **options: Any) -> Layout:
    strides = [STRIDE]
    while strides[-1] * 2 in last:
        strides.append(strides[-1] * 2)
    if STRIDE not in last or len(strides) < 2:
        sizes = ", ".join(str(height) for _, height, _, _ in shapes)
        raise InputError(
            f"PixNet needs features of 1/4, 1/8, ... of the image's side; this backbone's are {sizes} of {_PROBE_PX} px"
        )
    levels = tuple(last[stride] for stride in strides)
    channels = [shapes[level][-1] for level in levels]
    pooled = 0
    while published and strides[-1] < COARSEST:
        pooled += 1
        strides.append(strides[-1] * 2)
        channels.append(channels[-1])
    return Layout(levels, tuple(channels), tuple(strides), pooled=pooled, **options)
