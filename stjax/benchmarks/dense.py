"""How fast a dense map is computed: `python -m stjax.bench --what=dense`.

PixNet over ResNet18 on one tile as `stjax predict --dense` cuts them, 250 genes at stride 4, the pixels already on the
device: without reading the slide, halos, and writing the map.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stjax import models
from stjax.benchmarks import Interleave, Row, row_of
from stjax.ops.cpu.elementwise import compiler_options


def rows(
    rounds: int, interleave: Interleave, *, dtype: str, tile_px: int, width: int, outputs: int = 250
) -> Iterator[Row]:
    """The row of one tile.

    Args:
        width: of the decoder.
    """
    model = models.build(
        module="pixnet", variant="resnet18", num_main=outputs, num_aux=0, dtype=dtype, rngs=nnx.Rngs(0),
        options={"width": width}, facts={"image_size_px": tile_px},
    )  # fmt: skip
    graphdef, params, state = models.split(model)
    image = jnp.zeros((1, tile_px, tile_px, 3), jnp.float32)

    def gene_map(params: nnx.State, state: nnx.State, image: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, state).gene_map(image)

    compiled = jax.jit(gene_map, compiler_options=compiler_options()).lower(params, state, image).compile()

    def method() -> None:
        jax.block_until_ready(compiled(params, state, image))

    seconds = interleave({"stjax": method}, rounds=rounds, description="dense")["stjax"]
    memory: Any = compiled.memory_analysis()
    note = f"{tile_px**2 / 1e6 / seconds:.2f} megapixels/s"
    yield row_of(
        f"a tile of {tile_px} px, width {width}, {dtype}",
        "stjax",
        seconds,
        temp_bytes=memory.temp_size_in_bytes,
        note=note,
    )
