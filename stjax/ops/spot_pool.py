"""Sum or mean of a dense map over each spot's shape, without forming the map. Exact, values and gradients.

PixNet resizes a feature grid to the image and sums the resized map over the pixels of every spot. Both steps are
linear, so a spot's sum is a few weights on the grid (`spot_weights`), and a linear layer before the resize may as well
follow the sum:

    table = spot_table(Spots.discs(xy, 100.0), image_hw=(1024, 1024), grid_hw=(256, 256))   # host, once a tile
    sums = spot_pool(features, table)                                                       # [N, C], jit, grad, vmap
    genes = pooled_linear(features, kernel, bias, table, aggregation="mean")                # [N, M]

The weights are a sparse matrix A, kept as two tables of fixed shape, one row a spot (A) and one row a feature cell (its
transpose, for the gradient): rows of about the same number of entries side by side, padded to a common width. Forward
and backward are then gathers, summed in a fixed order: deterministic, in one pass, with no array besides the result.
Where that suits the machine better (few large spots on a GPU or TPU), A is laid out in full and multiplied.

Nothing here needs the rest of stjax. `spot_pool_reference` is the same by definition: resize, mask, sum.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from data_prep.errors import InputError
from stjax.ops.spot_table import Rows, SpotTable

STRIDE = 4  # pixels along a cell of the feature grid
SUM, MEAN, ADDITIVE = "sum", "mean", "additive"  # what a map over a spot's pixels is put together by
AGGREGATIONS = (SUM, MEAN, ADDITIVE)
_UNROLL = 32  # entries of a row summed in one pass over the row
_DENSE_SPOTS, _DENSE_ENTRIES = 512, 256  # up to so many spots, of at least so many entries, are multiplied in full


def spot_pool(features: jax.Array, table: SpotTable, *, aggregation: str = "sum") -> jax.Array:
    """Sum or mean over each spot's pixels of `features` resized to the image, which is never formed.

    The resize is bilinear, as `jax.image.resize` and torch's `interpolate(align_corners=False)`. Differentiable in
    `features`, in reverse mode; the table is a constant.

    Args:
        features: [h, w, C] or, with a stacked table, [B, h, w, C].
        aggregation: "sum", or "mean" over the spot's pixels inside the image (0 for a spot without any).

    Returns:
        [N, C] or [B, N, C], in the wider of the features' and the table's dtype.

    Raises:
        InputError: features of another grid than the table's, or another aggregation.
    """
    sums = _sums(features, table)
    if aggregation == "sum":
        return sums
    if aggregation != "mean":
        raise InputError(f"aggregation is {aggregation!r}; choose sum or mean")
    return sums / jnp.maximum(table.count, 1)[..., None].astype(sums.dtype)


def pooled_linear(
    features: jax.Array, kernel: jax.Array, bias: jax.Array, table: SpotTable, *, aggregation: str = "sum"
) -> jax.Array:
    """`spot_pool` of `features @ kernel + bias`: PixNet's linear head, without the map of all genes.

    The linear layer follows the sum unless there are so many spots that it costs less before it.

    Args:
        features: [h, w, C] or [B, h, w, C].
        kernel: [C, M].
        bias: [M].

    Returns:
        [N, M] or [B, N, M].
    """
    inputs, outputs = kernel.shape
    spots = table.count.shape[-1]
    entries = sum(index.shape[-2] * index.shape[-1] for index in table.by_spot.index) / max(spots, 1)
    count = table.count if aggregation == "sum" else jnp.minimum(table.count, 1)
    if spots * (1 + entries * (inputs - outputs) / (inputs * outputs)) < features.shape[-3] * features.shape[-2]:
        genes = _dot(spot_pool(features, table, aggregation=aggregation), kernel)
    else:
        genes = spot_pool(_dot(features, kernel), table, aggregation=aggregation)
    return genes + count[..., None] * jnp.expand_dims(bias, tuple(range(count.ndim)))


def spot_pool_reference(features: jax.Array, masks: jax.Array, *, aggregation: str = "sum") -> jax.Array:
    """`spot_pool` by definition, through the dense map: resize, mask, sum.

    Args:
        features: [h, w, C].
        masks: [N, H, W] bool, as of `spot_masks`.
    """
    dense = jax.image.resize(features, (*masks.shape[1:], features.shape[-1]), "bilinear")  # [H, W, C]
    sums = jnp.einsum("nij,ijc->nc", masks.astype(dense.dtype), dense, precision=lax.Precision.HIGHEST)
    if aggregation == "sum":
        return sums
    return sums / jnp.maximum(jnp.sum(masks, axis=(1, 2)), 1)[:, None].astype(sums.dtype)


def _sums(features: jax.Array, table: SpotTable) -> jax.Array:
    *batch, height, width, channels = features.shape
    if table.by_cell.count != height * width or list(table.count.shape[:-1]) != batch or len(batch) > 1:
        raise InputError(
            f"features are {tuple(features.shape)}, the spots' table is of {table.by_cell.count} cells and batch "
            f"{tuple(table.count.shape[:-1])}; make it with grid_hw=({height}, {width}), and stack one a tile"
        )
    cells = features.reshape(*batch, height * width, channels)
    table = jax.tree.map(jnp.asarray, table)  # JAX trips over NumPy constants in vmap of a custom gradient
    return (jax.vmap(_pool) if batch else _pool)(cells, table.by_spot, table.by_cell)


@jax.custom_vjp
def _pool(cells: jax.Array, by_spot: Rows, by_cell: Rows) -> jax.Array:
    """[h * w, C] to [N, C]."""
    del by_cell  # the gradient's
    if not _suits_dense(by_spot):
        return _gather(by_spot, cells)
    return lax.platform_dependent(by_spot, cells, cpu=_gather, default=_multiply)


def _pool_forward(cells: jax.Array, by_spot: Rows, by_cell: Rows) -> tuple[jax.Array, Any]:
    # An empty array remembers the features' dtype; the features themselves are not needed again.
    return _pool(cells, by_spot, by_cell), (by_spot, by_cell, jnp.zeros((0,), cells.dtype))


def _pool_backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    by_spot, by_cell, like = saved

    def multiply(by_spot: Rows, by_cell: Rows, gradient: jax.Array) -> jax.Array:
        return _dot(_full(by_spot, by_cell.count).T, gradient)

    def gather(by_spot: Rows, by_cell: Rows, gradient: jax.Array) -> jax.Array:
        del by_spot
        return _gather(by_cell, gradient)

    if _suits_dense(by_spot):
        result = lax.platform_dependent(by_spot, by_cell, gradient, cpu=gather, default=multiply)
    else:
        result = gather(by_spot, by_cell, gradient)
    return result.astype(like.dtype), None, None


_pool.defvjp(_pool_forward, _pool_backward)


def _suits_dense(rows: Rows) -> bool:
    return rows.count <= _DENSE_SPOTS and max(index.shape[0] for index in rows.index) >= _DENSE_ENTRIES


def _gather(rows: Rows, x: jax.Array) -> jax.Array:
    """Sparse rows times x [L, C]: [R, C]."""
    dtype = jnp.promote_types(rows.weight[0].dtype, x.dtype)
    if not x.shape[0]:
        return jnp.zeros((rows.count, x.shape[1]), dtype)
    groups = [_sum_entries(i, w.astype(dtype), x) for i, w in zip(rows.index, rows.weight, strict=True)]
    if rows.place is None:
        return groups[0]
    every = jnp.concatenate([*groups, jnp.zeros((1, x.shape[1]), dtype)])
    return every.at[rows.place].get(mode="promise_in_bounds")


def _sum_entries(index: jax.Array, weight: jax.Array, x: jax.Array) -> jax.Array:
    """sum_j weight[j, p] * x[index[j, p]], [P, C], `_UNROLL` terms in one loop over the rows."""

    def some(index: jax.Array, weight: jax.Array, total: jax.Array | None) -> jax.Array | None:
        for i, w in zip(index, weight, strict=True):
            term = w[:, None] * x.at[i].get(mode="promise_in_bounds").astype(w.dtype)
            total = term if total is None else total + term
        return total

    passes, rest = divmod(index.shape[0], _UNROLL)
    if passes <= 1:
        return some(index, weight, None)  # pyright: ignore[reportReturnType]

    def body(number: jax.Array, total: jax.Array) -> Any:
        i, w = (lax.dynamic_slice_in_dim(array, number * _UNROLL, _UNROLL) for array in (index, weight))
        return some(i, w, total)

    total = lax.fori_loop(0, passes, body, jnp.zeros((index.shape[1], x.shape[1]), weight.dtype))
    return some(index[-rest:], weight[-rest:], total) if rest else total  # pyright: ignore[reportReturnType]


def _multiply(rows: Rows, x: jax.Array) -> jax.Array:
    return _dot(_full(rows, x.shape[0]), x)


def _full(rows: Rows, cells: int) -> jax.Array:
    """Sparse rows laid out in full, [R, cells]."""
    groups = []
    for index, weight in zip(rows.index, rows.weight, strict=True):
        row = jnp.broadcast_to(jnp.arange(index.shape[1])[None, :], index.shape)
        # Padding adds zeros, every other entry is alone in its cell: the order of the additions does not matter.
        groups.append(jnp.zeros((index.shape[1], cells), weight.dtype).at[row, index].add(weight))
    if rows.place is None:
        return groups[0]
    return jnp.concatenate([*groups, jnp.zeros((1, cells), groups[0].dtype)])[rows.place]


def _dot(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """Matrix product in full precision, which GPUs and TPUs do not use unasked."""
    dtype = jnp.promote_types(matrix.dtype, x.dtype)
    return jnp.dot(matrix.astype(dtype), x.astype(dtype), precision=lax.Precision.HIGHEST)
