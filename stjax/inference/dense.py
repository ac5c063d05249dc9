"""Dense prediction: a model's map over a whole slide, tile by tile, the same values whatever the tiles.

A cell of the map depends on the image within the network's receptive field only, so a tile is computed with a halo
that covers it and only its core is kept. The decoder, with most of the work, needs far less around the core than the
encoder: each of its stages sees just what the next one needs. At the slide's border tiles end where the slide does, so
that convolutions pad there as on the whole image; all tiles are of one size, one compiled program.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec
from PIL import Image

from data_prep import cli, files, stain
from data_prep.errors import InputError
from data_prep.slide import Slide
from data_prep.tissue import Transform
from stjax import models, parallel
from stjax.inference.dense_format import CELL_PX, FORMAT, TILE_PX, TOTAL, VERSION
from stjax.inference.dense_writer import MapWriter
from stjax.inference.matching import scale_and_stain
from stjax.inference.prediction import provenance
from stjax.models.pixnet import PixNet
from stjax.ops.cpu.elementwise import compiler_options
from stjax.ops.spot_pool import ADDITIVE
from stjax.trained import Trained
from stjax.views import normalise

_PROBE_PX = 4096  # wider than twice the reach of any encoder that has one
_BLOCK_PX = 256  # resampled at a time, on a grid of its own: pixels do not depend on the tiles


def predict_dense(
    trained: Trained,
    slide: Slide,
    out: str | Path,
    *,
    um_per_px: float,
    genes: Sequence[int] | np.ndarray | None = None,
    tile_px: int = TILE_PX,
    synthetic: bool = False,
) -> Path:
    """Predicts the expression map of a slide into an OME-Zarr, in memory that does not depend on the slide's size.

    Killed and called again it goes on, and ends with the same bytes.

    Args:
        out: the map's folder, by custom `<name>.ome.zarr`.
        um_per_px: the slide's scale; another than the training's is resampled to it.
        genes: columns of the main panel; default all.
        tile_px: side of the tiles, in pixels of the model's scale.
        synthetic: whether the slide is the demo's.

    Returns:
        `out`; `dense_map.DenseMap` opens it.

    Raises:
        InputError: a model that is no PixNet or whose encoder sees the whole tile, tiles too small for its receptive
            field, or `out` holding something else.
        FloatingPointError: the model's values are not finite.
    """
    out = Path(out)
    check_maps(trained)
    model: Any = trained.network()
    if trained.protocol.test_symmetries:
        print("note: the dense map is of the slide as it is, not a mean over symmetries as the protocol's predictions")
    px_scale, transform = scale_and_stain(trained, slide, um_per_px)
    source = ScaledSlide(slide, px_scale, transform, multiple=model.layout.unit_px)
    columns = np.arange(trained.fold.panel.num_main) if genes is None else np.asarray(genes)
    plan = Plan.of(model, (source.height, source.width), tile_px)
    description = describe(trained, model, slide, source, plan, columns, um_per_px=um_per_px, synthetic=synthetic)
    channels = [*description["genes"], TOTAL] if model.head.aggregation == ADDITIVE else description["genes"]
    shape = (len(channels), source.height // CELL_PX, source.width // CELL_PX)
    rows, cells = (axis.length(-1) // CELL_PX for axis in plan.axes)
    with MapWriter(out, description, shape=shape, core=(rows, cells)) as target:
        if 0 < target.done < target.tiles:
            print(f"{out}: going on after {target.done} of {target.tiles} tiles")
        target.check_space()
        blocks = stream(trained, model, plan, source, columns, first=target.done)
        for block in cli.progress(blocks, total=target.tiles - target.done, description=slide.path.name, unit="tile"):
            target.write(block)
        if (constant := target.constant()).any():
            print(
                f"warning: {slide.path.name}: {int(constant.sum())} of {len(constant)} channels do not vary over it: "
                "the model predicts the same value everywhere, whatever the image"
            )
        um_per_model_px = um_per_px * px_scale
        target.finish(
            name=slide.path.stem,
            channels=channels,
            um_per_cell=CELL_PX * um_per_model_px,
            um_offset=(CELL_PX * um_per_model_px - um_per_px) / 2,
        )
    return out


def check_maps(trained: Trained) -> None:
    """Raises InputError for a model that gives no map of a slide."""
    if not trained.view.maps:
        raise InputError(
            f"{trained.folder} holds a model of {trained.view.items} ({trained.model_name}); --dense needs one "
            "of tiles: train with configs/pixnet.py"
        )


def describe(
    trained: Trained,
    model: PixNet,
    slide: Slide,
    source: "ScaledSlide",
    plan: "Plan",
    columns: np.ndarray,
    *,
    um_per_px: float,
    synthetic: bool,
) -> dict[str, Any]:
    """What a map is of and what its numbers are: the attributes of the file, and whose map a folder holds."""
    fold, transform = trained.fold, source.transform
    panel, aggregation = fold.panel, model.head.aggregation
    return provenance(trained, data_sha256=files.sha256(slide.path), synthetic=synthetic) | {
        "format": FORMAT,
        "version": VERSION,
        "units": {
            "sum": "sum over a spot's pixels * target_std + target_mean = ",
            "mean": "mean over a spot's pixels * target_std + target_mean = ",
            "additive": "expected counts a pixel; sums over a spot's pixels, then ",
        }[aggregation]
        + trained.units,
        "aggregation": aggregation,
        "target_mean": fold.target_mean[columns].tolist(),
        "target_std": fold.target_std[columns].tolist(),
        "num_genes": panel.num_genes,
        "genes": panel.labels[columns].tolist(),
        "ensembl_id": panel.ensembl_id[columns].tolist(),
        "model_sha256": trained.model_sha256,
        "image_mean": fold.image_mean.tolist(),
        "image_std": fold.image_std.tolist(),
        "stain": transform.digest if isinstance(transform, stain.Normaliser) else "none",
        "slide": slide.path.name,
        "width": slide.width,
        "height": slide.height,
        "um_per_px": um_per_px,
        "px_scale": source.px_scale,
        "tile_px": [axis.length(0) for axis in plan.axes],
        "core_px": [axis.length(-1) for axis in plan.axes],
        "halo_px": plan.margins[0],
    }


class ScaledSlide:
    """A slide at the model's scale and colours, white to the right and below up to a whole number of coarsest cells.

    Attributes:
        width, height: in pixels of the model, multiples of `multiple`.
        px_scale: slide pixels per model pixel.
    """

    def __init__(self, slide: Slide, px_scale: float, transform: Transform | None, *, multiple: int):
        self.slide, self.px_scale, self.transform = slide, px_scale, transform
        self._level, times = slide.coarser(px_scale)
        self._scale = px_scale / times  # pixels of the level per model pixel
        self.width, self.height = (_up(math.ceil(side / px_scale), multiple) for side in (slide.width, slide.height))

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """uint8 [height, width, 3]; a pixel's value does not depend on the window it is read in."""
        if self.px_scale == 1:
            return self._region(x, y, width, height)
        image = np.empty((height, width, 3), np.uint8)
        for top in range(y // _BLOCK_PX * _BLOCK_PX, y + height, _BLOCK_PX):
            for left in range(x // _BLOCK_PX * _BLOCK_PX, x + width, _BLOCK_PX):
                y0, x0 = max(y, top), max(x, left)
                y1, x1 = min(y + height, top + _BLOCK_PX), min(x + width, left + _BLOCK_PX)
                block = self._block(left, top)
                image[y0 - y : y1 - y, x0 - x : x1 - x] = block[y0 - top : y1 - top, x0 - left : x1 - left]
        return image

    def _region(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        region = self.slide.read_region(x, y, width, height, level=self._level)
        return region if self.transform is None else self.transform(region)

    def _block(self, left: int, top: int) -> np.ndarray:
        """uint8 [256, 256, 3], resampled as `data_prep.patches` does, with all the filter's support around it."""
        margin = math.ceil(2 * max(self._scale, 1)) + 1
        x, y = left * self._scale, top * self._scale
        first = (math.floor(x) - margin, math.floor(y) - margin)
        side = math.ceil(_BLOCK_PX * self._scale) + 2 * margin + 1
        near_x, near_y = x - first[0], y - first[1]
        box = (near_x, near_y, near_x + _BLOCK_PX * self._scale, near_y + _BLOCK_PX * self._scale)
        region = Image.fromarray(self._region(*first, side, side))
        return np.asarray(region.resize((_BLOCK_PX, _BLOCK_PX), Image.Resampling.BICUBIC, box=box))


# ---------------------------------------------------------------------------------------------------------- tiles


@dataclasses.dataclass(frozen=True)
class Axis:
    """The windows of the tiles along one axis: number `i` keeps the cells from `i * core` on.

    Attributes:
        size: of the image, px.
        core: kept of each tile, px; the last may be cut short by the image's end.
        margins: of the nested windows around the core, px: the image's, each decoder stage's, and 0, the core itself.
    """

    size: int
    core: int
    margins: tuple[int, ...]

    @property
    def count(self) -> int:
        """Tiles along the axis."""
        return -(-self.size // self.core)

    def length(self, window: int) -> int:
        """Of each tile's window, px."""
        return min(self.core + 2 * self.margins[window], self.size)

    def starts(self, tile: int) -> list[int]:
        """First px of each window: never outside the image, so that windows meet its border where the tile does."""
        limits = (self.size - self.length(window) for window in range(len(self.margins)))
        return [
            min(max(tile * self.core - margin, 0), limit) for margin, limit in zip(self.margins, limits, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How an image is cut into tiles: its two axes, rows first."""

    axes: tuple[Axis, Axis]

    @property
    def margins(self) -> tuple[int, ...]:
        """See `Axis`."""
        return self.axes[0].margins

    @classmethod
    def of(cls, model: PixNet, image_hw: tuple[int, int], tile_px: int) -> "Plan":
        """Raises InputError when a tile of `tile_px` is too small for the model's halo, or there is no halo."""
        margins, unit = halo(model), model.layout.unit_px
        most = (tile_px - 2 * margins[0]) // unit * unit
        if most < unit:
            raise InputError(
                f"tiles of {tile_px} px leave nothing of the halo of {margins[0]} px that the model's receptive field "
                f"needs on each side; give tiles of at least {2 * margins[0] + unit} px, better twice that"
            )
        cores = (_up(size / math.ceil(size / most), unit) for size in image_hw)  # as many tiles, none nearly empty
        rows, columns = (Axis(size, core, margins) for size, core in zip(image_hw, cores, strict=True))
        return cls((rows, columns))


def halo(model: PixNet) -> tuple[int, ...]:
    """Px around a tile's core that its values depend on: of the image, of each decoder stage's input, and 0."""
    windows = model.layout.window_px  # these lie alike in every tile, and are whole ones
    reach = (0,) * len(model.strides) if windows else encoder_reach(model.encode, model.strides)
    margins, widest = [0], 0
    skips = list(zip(model.strides, reach, strict=True))[:-1]
    for stage, (stride, skip_reach) in zip(reversed(model.stages), skips, strict=True):
        spread = sum(layer.kernel.shape[0] // 2 for layer in (stage.conv1, stage.conv2))
        margins.append(_up(margins[-1] + spread * stride, 2 * stride))
        widest = max(widest, margins[-1] + skip_reach)
    image = _up(max(widest, margins[-1] + reach[-1]), model.layout.unit_px)
    return (image, *reversed(margins))


def encoder_reach(encode: Callable[..., Sequence[jax.Array]], strides: Sequence[int]) -> tuple[int, ...]:
    """How far, in px, each level of the pyramid sees beyond its own pixels; from where a NaN gets to, whatever the
    weights. Encoders treat both axes alike; one is measured.

    Raises:
        InputError: everywhere: the encoder pools over the whole image.
    """
    first, last = _PROBE_PX // 2, _PROBE_PX // 2 + strides[-1]
    image = np.zeros((1, 2 * strides[-1], _PROBE_PX, 3), np.float32)
    image[:, :, first:last] = np.nan
    reach = []
    probe = jax.jit(lambda x: [jnp.isnan(level).any(axis=(0, 1, 3)) for level in encode(x, train=False)])
    for stride, touched in zip(strides, probe(image), strict=True):
        cells = np.flatnonzero(touched)
        if cells[0] == 0 or cells[-1] == len(touched) - 1:
            raise InputError(
                "the model's encoder looks at the whole tile (squeeze-and-excite, attention), so a dense map would "
                "show the tiles; train with --config.model.variant=resnet18, resnet50, resnet101 or densenet121, or "
                "let it see windows: --config.model.options.window_px=256"
            )
        reach.append(int(max(first - stride * cells[0], stride * (cells[-1] + 1) - last)))
    return tuple(reach)


# -------------------------------------------------------------------------------------------------------- program


def stream(
    trained: Trained, model: PixNet, plan: Plan, source: ScaledSlide, columns: np.ndarray, *, first: int = 0
) -> Iterator[np.ndarray]:
    """The map's tiles from number `first` on, row by row: float32 [channels, rows, columns], their cores only.

    The next tile is read, and the last one taken care of, while the device computes. Every device has a tile.
    """
    rows, columns_axis = plan.axes
    graphdef, *parameters = models.split(model)
    program = make_program(trained, graphdef, plan, columns)
    tiles = list(range(first, rows.count * columns_axis.count))
    pending = None
    for begin in range(0, len(tiles), trained.mesh.size):
        some = tiles[begin : begin + trained.mesh.size]
        starts = np.zeros((trained.mesh.size, len(plan.margins), 2), np.int32)
        images = np.zeros((trained.mesh.size, rows.length(0), columns_axis.length(0), 3), np.uint8)
        for place, tile in enumerate(some):
            row, column = divmod(tile, columns_axis.count)
            starts[place] = np.stack([rows.starts(row), columns_axis.starts(column)], axis=1)
            y, x = (int(value) for value in starts[place, 0])
            images[place] = source.read(x, y, columns_axis.length(0), rows.length(0))
        batch = parallel.put_whole({"image": images, "starts": starts}, trained.mesh)
        result = program(*parameters, batch["image"], batch["starts"])
        if pending is not None:
            yield from _cores(plan, *pending)
        pending = some, result
    if pending is not None:
        yield from _cores(plan, *pending)


def _cores(plan: Plan, tiles: Sequence[int], result: jax.Array) -> Iterator[np.ndarray]:
    rows, columns = plan.axes
    for tile, block in zip(tiles, np.asarray(result), strict=False):
        row, column = divmod(tile, columns.count)
        # At the end of the image the window of the core begins before the core itself.
        top, left = row * rows.core - rows.starts(row)[-1], column * columns.core - columns.starts(column)[-1]
        yield block[:, top // CELL_PX :, left // CELL_PX :]


def make_program(trained: Trained, graphdef: Any, plan: Plan, columns: np.ndarray) -> Callable[..., jax.Array]:
    """A jitted `program(params, statistics, images, starts) -> [B, channels, rows, columns]` float32, for as many tiles
    as there are devices: uint8 images [B, H, W, 3], and the [B, windows, 2] starts of `Axis`, rows first."""

    def one(params: Any, statistics: Any, image: jax.Array, starts: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params, statistics)

        def cut(x: jax.Array, outer: int, inner: int, stride: int) -> jax.Array:
            """The part of x, which fills window `outer`, that is in window `inner`."""
            offset = (starts[0, inner] - starts[0, outer]) // stride
            lengths = [axis.length(inner) // stride for axis in plan.axes]
            return lax.dynamic_slice(x, (0, offset[0], offset[1], 0), (1, *lengths, x.shape[-1]))

        pyramid = model.encode(normalise(image, trained.fold), train=False)
        x = model.bottom(cut(pyramid[-1], 0, 1, model.strides[-1]))
        skips = zip(reversed(pyramid[:-1]), reversed(model.strides[:-1]), strict=True)
        for window, (stage, (skip, stride)) in enumerate(zip(model.stages, skips, strict=True), start=1):
            x = x if window == 1 else cut(x, window - 1, window, 2 * stride)
            x = stage(x, cut(skip, 0, window, stride))
        values = model.head.gene_map(cut(x, -2, -1, CELL_PX))
        genes = values[..., columns]
        if model.head.aggregation == ADDITIVE:
            genes = jnp.concatenate([genes, jnp.sum(values, axis=-1, keepdims=True)], axis=-1)
        return jnp.moveaxis(genes, -1, 1)

    whole, split = PartitionSpec(), PartitionSpec("data")
    specs = {"in_specs": (whole, whole, split, split), "out_specs": split}
    program = jax.shard_map(one, mesh=trained.mesh, check_vma=False, **specs)
    return jax.jit(program, compiler_options=compiler_options())


def _up(value: float, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
