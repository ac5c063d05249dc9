"""The spot pooling of `stjax.ops.spot_pool` compared with the dense map: `python -m stjax.bench --what=spot_pool`.

A tile of H = W = 1024 px, a grid of stride 4 with 512 features, 250 genes, float32. Each method computes the spots'
genes and the gradients of features, kernel and bias. The reference forms the map as the paper does: linear layer,
resize, and the sum over each spot's pixels: through masks for few spots and, as 20,000 masks would fill 20 GB, through
a segment sum over the spots' pixels for many small ones, or over differences of the map's running sums along its rows
where the spots have more pixels than fit the memory one by one.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_prep.spots import Spots, ranges
from stjax.benchmarks import Interleave, Row, flops, row_of
from stjax.ops.spot_pool import pooled_linear, spot_pool_reference
from stjax.ops.spot_table import spot_table
from stjax.ops.spot_weights import pixel_runs, spot_masks

IMAGE_PX, STRIDE, FEATURES, GENES = 1024, 4, 512, 250
MASKS, PIXELS = 256, 2_000_000  # up to so many spots through masks, up to so many pixels of spots one by one


def cases(image_px: int) -> dict[str, Spots]:
    """The measured sets of spots on a tile of `image_px`, those of the project's target first."""
    rng = np.random.default_rng(0)

    def anywhere(count: int) -> np.ndarray:
        return rng.uniform(0, image_px, (count, 2))

    def bins(side_px: float) -> Spots:
        edge = (np.arange(int(image_px / side_px)) + 0.5) * side_px
        return Spots.squares(np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2), side_px)

    um = 3.65  # pixels, a common scale of Visium HD slides
    nested = Spots.concatenate([bins(2 * um), bins(8 * um), bins(16 * um)])
    return {
        "64 discs, radius 100": Spots.discs(anywhere(64), 100),
        "20000 discs, radius 4": Spots.discs(anywhere(20_000), 4),
        "20000 discs, radius 1 to 40": Spots.discs(anywhere(20_000), rng.uniform(1, 40, 20_000)),
        f"{len(nested)} bins of 2, 8 and 16 um": nested,
    }


def rows(rounds: int, interleave: Interleave, *, tiny: bool = False) -> Iterator[Row]:
    """Times every case with `stjax.bench`'s `interleave`; a row each of the reference and of `spot_pool`, with the
    greatest difference of loss and gradients, relative to the greatest value.

    Args:
        tiny: a small tile and the first case alone.
    """
    image_px, width = (64, 8) if tiny else (IMAGE_PX, FEATURES)
    grid = image_px // STRIDE
    keys = jax.random.split(jax.random.key(0), 3)
    features = jax.random.normal(keys[0], (grid, grid, width))
    kernel = jax.random.normal(keys[1], (width, GENES)) / width**0.5
    bias = jnp.zeros(GENES)
    # Reading the features and writing their gradients is the least that there is to do.
    floor = 2 * features.nbytes / flops.bandwidth()
    for case, spots in itertools.islice(cases(image_px).items(), 1 if tiny else None):
        start = time.perf_counter()
        table = spot_table(spots, image_hw=(image_px, image_px), grid_hw=(grid, grid))
        host_seconds = time.perf_counter() - start
        wanted = jax.random.normal(keys[2], (len(spots), GENES))
        fast = _step(pooled_linear, wanted)
        naive, given = _through_the_map(spots, image_px)
        programs = {
            "dense map": (_step(naive, wanted), (features, kernel, bias, given)),
            "spot_pool": (fast, (features, kernel, bias, jax.device_put(table))),
        }
        compiled = {name: (f.lower(*args).compile(), args) for name, (f, args) in programs.items()}
        seconds = interleave(
            {name: _method(program, args) for name, (program, args) in compiled.items()},
            rounds=rounds,
            description=case,
        )
        results = [program(*args) for program, args in compiled.values()]
        error = max(map(_distance, *map(jax.tree.leaves, results)))
        del results
        temp = {name: program.memory_analysis().temp_size_in_bytes for name, (program, _) in compiled.items()}
        for name, taken in seconds.items():
            row = row_of(case, name, taken, seconds["dense map"], temp_bytes=temp[name], error=error)
            if name == "spot_pool":
                row |= {"host_seconds": host_seconds, "floor_seconds": floor}
                row["note"] = (
                    f"{temp['dense map'] / max(temp[name], 1):.0f}x less memory, {error:.0e} from the reference, "
                    f"weights made in {host_seconds:.2f} s, {taken / floor:.1f} times the memory's floor of "
                    f"{floor * 1e3:.3g} ms"
                )
            yield row


def _step(genes_of: Callable[..., jax.Array], wanted: jax.Array) -> Any:
    """Loss and gradients of features, kernel and bias, jitted."""

    def loss(features: jax.Array, kernel: jax.Array, bias: jax.Array, runs: Any) -> jax.Array:
        return jnp.mean((genes_of(features, kernel, bias, runs) - wanted) ** 2)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


def _distance(one: jax.Array, other: jax.Array) -> float:
    return float(jnp.abs(one - other).max() / jnp.abs(one).max())


def _through_the_map(spots: Spots, image_px: int) -> tuple[Callable[..., jax.Array], Any]:
    """The spots' genes through the dense map of all genes, and what it takes to know the spots by."""
    image_hw = (image_px, image_px)
    if len(spots) <= MASKS:

        def masked(features: jax.Array, kernel: jax.Array, bias: jax.Array, masks: jax.Array) -> jax.Array:
            return spot_pool_reference(features @ kernel + bias[None, None], masks)

        return masked, jnp.asarray(spot_masks(spots, image_hw))

    def dense_map(features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        low = features @ kernel + bias[None, None]
        return jax.image.resize(low, (*image_hw, low.shape[-1]), "bilinear")

    def add_up(values: jax.Array, runs: dict[str, jax.Array]) -> jax.Array:
        return jax.ops.segment_sum(values, runs["spot"], num_segments=len(spots), indices_are_sorted=True)

    runs = pixel_runs(spots, image_hw)
    length = runs.stop - runs.start
    if length.sum() <= PIXELS:

        def segments(features: jax.Array, kernel: jax.Array, bias: jax.Array, runs: Any) -> jax.Array:
            pixels = dense_map(features, kernel, bias).reshape(-1, kernel.shape[1])
            return add_up(pixels[runs["pixel"]], runs)

        run, column = ranges(runs.start, runs.stop)
        return segments, _indices(pixel=runs.row[run] * image_px + column, spot=runs.spot[run])

    def differences(features: jax.Array, kernel: jax.Array, bias: jax.Array, runs: Any) -> jax.Array:
        running = jnp.cumsum(dense_map(features, kernel, bias), axis=1)
        running = jnp.pad(running, ((0, 0), (1, 0), (0, 0))).reshape(-1, kernel.shape[1])  # [H * (W + 1), M]
        return add_up(running[runs["stop"]] - running[runs["start"]], runs)

    row = runs.row * (image_px + 1)
    return differences, _indices(start=row + runs.start, stop=row + runs.stop, spot=runs.spot)


def _indices(**arrays: np.ndarray) -> dict[str, jax.Array]:
    return {name: jnp.asarray(array, jnp.int32) for name, array in arrays.items()}


def _method(program: Any, args: Any) -> Callable[[], None]:
    def method() -> None:
        jax.block_until_ready(program(*args))

    return method
