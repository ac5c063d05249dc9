import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax.ops import spot_pool as ops
from stjax.ops import spot_table as tables
from stjax.ops.spot_weights import pixel_runs, spot_masks

HOLED = [np.array([[3, 3], [38, 5], [30, 44], [5, 40.5]]), np.array([[12, 12], [25, 12], [25, 30], [12, 30.0]])]
IMAGE, GRID = (48, 44), (12, 11)


def by_centres(spots):
    """Spots whose whole coordinates are to be the centres of pixels, which from the corner end in .5."""
    return spots.within((-0.5, -0.5), 1.0)


def mixed_spots():
    """Every kind, over borders, outside, radius 0, between pixels, overlapping, with holes and islands."""
    rng = np.random.default_rng(0)
    outlines = [HOLED, rng.uniform(-5, 50, (6, 2)), [[[50, 1], [60, 1], [60, 9]], [[1, 1], [9.5, 2], [4, 8.2]]]]
    parts = [
        Spots.discs(rng.uniform(-5, 50, (12, 2)), rng.uniform(0, 15, 12)),
        Spots.discs([[7, 9], [7, 9], [7.5, 9.5], [7, 9], [20, 20], [-30, 5], [43, 47]], [0, 1, 0.4, 5, 60, 3, 5]),
        Spots.squares(rng.uniform(-5, 50, (8, 2)), rng.uniform(0, 12, 8)),
        Spots.polygons(outlines),
    ]
    return by_centres(Spots.concatenate(parts))


def assert_close(found, expected, tolerance):
    scale = float(np.abs(np.asarray(expected)).max(initial=0)) or 1.0
    assert found.dtype == expected.dtype
    assert float(np.abs(np.asarray(found) - np.asarray(expected)).max(initial=0)) <= tolerance * scale


def both_ways(pool, features, gradient):
    value, vjp = jax.vjp(pool, features)
    return value, vjp(gradient)[0]


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize(
    ("image_hw", "grid_hw"), [(IMAGE, GRID), ((50, 41), (13, 6)), ((9, 10), (9, 10)), ((8, 9), (1, 2))]
)
def test_pool_equals_the_dense_map_values_and_gradients(image_hw, grid_hw, dtype, tolerance, aggregation):
    spots = mixed_spots()
    masks = spot_masks(spots, image_hw)
    rng = np.random.default_rng(1)
    with jax.enable_x64(dtype is np.float64):
        features = jnp.asarray(rng.standard_normal((*grid_hw, 5)), dtype)
        gradient = jnp.asarray(rng.standard_normal((len(spots), 5)), dtype)
        table = tables.spot_table(spots, image_hw=image_hw, grid_hw=grid_hw, outside="zero", dtype=dtype)
        fast = functools.partial(ops.spot_pool, table=table, aggregation=aggregation)
        plain = functools.partial(ops.spot_pool_reference, masks=jnp.asarray(masks), aggregation=aggregation)
        found = jax.jit(functools.partial(both_ways, fast))(features, gradient)
        expected = jax.jit(functools.partial(both_ways, plain))(features, gradient)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, tolerance)
    np.testing.assert_array_equal(table.count, masks.sum(axis=(1, 2)))


def test_runs_are_the_pixels_of_the_masks():
    spots = mixed_spots()
    runs = pixel_runs(spots, IMAGE)
    painted = np.zeros((len(spots), *IMAGE), int)
    for spot, row, start, stop in zip(*runs, strict=True):
        painted[spot, row, start:stop] += 1
    np.testing.assert_array_equal(painted, spot_masks(spots, IMAGE))
    assert np.all(np.diff(runs.spot) >= 0)


def test_disc_takes_the_pixels_of_the_papers_equation():
    rows, columns = np.mgrid[:40, :40]
    for x, y, r in ((20, 20, 13), (20.1, 19.7, 0.9), (0.1, 5, 4.9), (12, 12, 0)):
        inside = (columns - x) ** 2 + (rows - y) ** 2 <= r**2
        table = tables.spot_table(by_centres(Spots.discs([[x, y]], r)), image_hw=(40, 40), grid_hw=(10, 10))
        assert table.count[0] == inside.sum()


def test_squares_that_touch_share_no_pixel_and_leave_none():
    pitch, side = 7.3, 6
    centres = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) + 0.5) * pitch - 0.4
    masks = spot_masks(by_centres(Spots.squares(centres, pitch)), (43, 43))
    np.testing.assert_array_equal(masks.sum(axis=0), 1)


def test_polygons_that_touch_share_no_pixel_and_rings_may_turn_either_way():
    square = np.array([[2.0, 2], [30, 2], [30, 30], [2, 30]])
    cut = np.array([[2.0, 2], [30, 2], [30, 30]]), np.array([[30.0, 30], [2, 30], [2, 2]])
    whole, *halves = spot_masks(by_centres(Spots.polygons([square, *cut])), IMAGE)
    np.testing.assert_array_equal(sum(half.astype(int) for half in halves), whole)
    plain, turned = (spot_masks(Spots.polygons([[HOLED[0], HOLED[1][::step]]]), IMAGE) for step in (1, -1))
    np.testing.assert_array_equal(turned, plain)


def test_sum_of_weights_is_the_number_of_pixels():
    matrix, count = tables.spot_matrix(mixed_spots(), image_hw=IMAGE, grid_hw=GRID, outside="zero")
    np.testing.assert_allclose(matrix.sum(axis=1), count, atol=1e-10)


def test_large_spots_run_in_blocks_of_bounded_memory(monkeypatch):
    spots = mixed_spots()
    whole, count = tables.spot_matrix(spots, image_hw=IMAGE, grid_hw=GRID, outside="zero")
    monkeypatch.setattr("stjax.ops.spot_weights._CHUNK", 500)
    parts, count_of_parts = tables.spot_matrix(spots, image_hw=IMAGE, grid_hw=GRID, outside="zero")
    assert (whole != parts).nnz == 0
    np.testing.assert_array_equal(count, count_of_parts)


def test_a_tile_without_spots_pools_to_nothing_and_has_a_zero_gradient():
    table = tables.spot_table(Spots.discs(np.zeros((0, 2)), 3), image_hw=IMAGE, grid_hw=GRID)
    features = jnp.ones((*GRID, 5))
    value, vjp = jax.vjp(lambda f: ops.spot_pool(f, table, aggregation="mean"), features)
    assert value.shape == (0, 5)
    np.testing.assert_array_equal(vjp(value)[0], jnp.zeros_like(features))


def crowded_spots():
    """A few spots of hundreds of weights among many of a few, and one cell under most of them: several groups."""
    rng = np.random.default_rng(2)
    parts = [
        Spots.discs(rng.uniform(0, 128, (6, 2)), 60),
        Spots.discs(rng.uniform(0, 128, (60, 2)), 2),
        Spots.squares([[9, 9]] * 99, 4),
    ]
    return Spots.concatenate(parts)


def test_grouped_rows_equal_the_dense_map():
    spots = crowded_spots()
    table = tables.spot_table(spots, image_hw=(128, 128), grid_hw=(32, 32))
    assert len(table.by_spot.index) > 1
    assert len(table.by_cell.index) > 1
    features = jax.random.normal(jax.random.key(0), (32, 32, 3))
    gradient = jax.random.normal(jax.random.key(1), (len(spots), 3))
    masks = jnp.asarray(spot_masks(spots, (128, 128)))
    found = jax.jit(functools.partial(both_ways, lambda f: ops.spot_pool(f, table)))(features, gradient)
    expected = jax.jit(functools.partial(both_ways, lambda f: ops.spot_pool_reference(f, masks)))(features, gradient)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-5)


def test_full_matrix_of_accelerators_equals_the_gathers():
    rng = np.random.default_rng(3)
    spots = Spots.discs(rng.uniform(0, 128, (20, 2)), rng.uniform(30, 60, 20))
    table = tables.spot_table(spots, image_hw=(128, 128), grid_hw=(32, 32))
    assert ops._suits_dense(table.by_spot)
    x = jax.random.normal(jax.random.key(0), (32 * 32, 4))
    dy = jax.random.normal(jax.random.key(1), (20, 4))
    assert_close(ops._multiply(table.by_spot, x), ops._gather(table.by_spot, x), 1e-5)
    assert_close(ops._full(table.by_spot, 32 * 32).T @ dy, ops._gather(table.by_cell, dy), 1e-5)
    step = jax.jit(lambda f: jnp.sum(ops.spot_pool(f, table)))
    for platform, has_product in (("cuda", True), ("cpu", False)):
        text = export.export(step, platforms=[platform])(jax.ShapeDtypeStruct((32, 32, 4), jnp.float32)).mlir_module()
        assert ("dot_general" in text) == has_product


def test_tiles_of_one_layout_stack_and_share_a_program():
    rng = np.random.default_rng(4)
    tiles = [
        Spots.discs(rng.uniform(0, 44, (9, 2)), 6),
        Spots.discs(rng.uniform(0, 44, (30, 2)), rng.uniform(0, 4, 30)),
        Spots.discs(np.zeros((0, 2)), 1),
        Spots.concatenate([Spots.squares(rng.uniform(0, 44, (50, 2)), 2), Spots.discs([[20, 20]], 20)]),
    ]
    matrices = [tables.spot_matrix(spots, image_hw=IMAGE, grid_hw=GRID) for spots in tiles]
    layout = tables.merge_layouts([tables.layout_of(matrix) for matrix, _ in matrices])
    each = [tables.table_of_matrix(*pair, layout=layout) for pair in matrices]
    stacked = tables.stack_tables(each)
    features = jax.random.normal(jax.random.key(0), (4, *GRID, 3))
    gradient = jax.random.normal(jax.random.key(1), (4, layout.spots, 3))
    values, changes = jax.jit(lambda f, t, g: both_ways(lambda f: ops.spot_pool(f, t), f, g))(
        features, stacked, gradient
    )
    for tile, spots in enumerate(tiles):
        own = tables.spot_table(spots, image_hw=IMAGE, grid_hw=GRID)
        count = len(spots)
        expected = both_ways(lambda f, own=own: ops.spot_pool(f, own), features[tile], gradient[tile, :count])
        assert_close(values[tile, :count], expected[0], 1e-6)
        assert_close(changes[tile], expected[1], 1e-6)
        np.testing.assert_array_equal(values[tile, count:], 0)
        np.testing.assert_array_equal(stacked.count[tile, count:], 0)


def test_cache_makes_a_table_once_and_forgets_the_least_recently_used():
    made = []

    def get(key):
        def make():
            made.append(key)
            return tables.spot_table(Spots.discs([[9, 9]], 4), image_hw=IMAGE, grid_hw=GRID)

        return cache.get(key, make)

    cache = tables.TableCache()
    assert get("a") is get("a")
    cache.max_bytes = 2 * cache.bytes
    for key in ("b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    assert len(cache) == 2
    assert cache.bytes == cache.max_bytes


def test_batch_stays_split_over_devices():
    if len(jax.devices()) < 4:
        pytest.skip("one device: nothing to split over")
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    table = tables.stack_tables(
        [tables.spot_table(Spots.discs([[5, 6], [20, 30]], 5), image_hw=IMAGE, grid_hw=GRID)] * 4
    )
    features = jax.random.normal(jax.random.key(0), (4, *GRID, 3))
    step = jax.jit(jax.value_and_grad(lambda f, t: jnp.sum(jnp.sin(ops.spot_pool(f, t)))))
    value, gradient = step(features, table)
    program = step.lower(*jax.device_put((features, table), split)).compile()
    assert "all-gather" not in program.as_text()
    there, gradient_there = program(*jax.device_put((features, table), split))
    np.testing.assert_allclose(value, there, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradient_there, rtol=1e-5, atol=1e-6)


def test_results_are_the_same_bits_every_time():
    spots = crowded_spots()
    table = tables.spot_table(spots, image_hw=(128, 128), grid_hw=(32, 32))
    features = jax.random.normal(jax.random.key(0), (32, 32, 8))
    step = jax.jit(jax.value_and_grad(lambda f: jnp.sum(ops.spot_pool(f, table) ** 2)))
    first = step(features)
    for _ in range(3):
        for one, other in zip(step(features), first, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("count", [8, 400])  # the linear layer after and before the sum
def test_pooled_linear_equals_the_map_of_genes(count, aggregation):
    rng = np.random.default_rng(5)
    spots = Spots.discs(rng.uniform(-3, 50, (count, 2)), 3)
    table = tables.spot_table(spots, image_hw=IMAGE, grid_hw=GRID, outside="zero")
    masks = jnp.asarray(spot_masks(spots, IMAGE))
    keys = jax.random.split(jax.random.key(0), 3)
    arguments = (
        jax.random.normal(keys[0], (*GRID, 6)),
        jax.random.normal(keys[1], (6, 4)),
        jax.random.normal(keys[2], (4,)),
    )

    def through_the_map(features, kernel, bias):
        genes = features @ kernel + bias[None, None]
        return ops.spot_pool_reference(genes, masks, aggregation=aggregation)

    def fast(features, kernel, bias):
        return ops.pooled_linear(features, kernel, bias, table, aggregation=aggregation)

    weights = jax.random.normal(jax.random.key(9), (count, 4))
    found, expected = (
        jax.value_and_grad(lambda args, f=f: jnp.sum(f(*args) * weights))(arguments) for f in (fast, through_the_map)
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(one, other, 1e-5)


def test_half_precision_features_are_summed_in_float32():
    table = tables.spot_table(Spots.discs([[20, 20]], 15), image_hw=IMAGE, grid_hw=GRID)
    features = jnp.full((*GRID, 2), 1 / 3, jnp.bfloat16)
    value, vjp = jax.vjp(lambda f: ops.spot_pool(f, table), features)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, np.full((1, 2), table.count[0] * np.float32(jnp.bfloat16(1 / 3))), rtol=1e-5)
    assert vjp(value)[0].dtype == jnp.bfloat16


def test_spots_beside_the_image_are_refused_unless_asked_for():
    spots = by_centres(Spots.discs([[10, 10], [-20, 10], [10, 500]], 3))
    with pytest.raises(InputError, match=r"outside the image of 44 x 48 px: spots '1', '2' of 3"):
        tables.spot_table(spots, image_hw=IMAGE, grid_hw=GRID)
    assert tables.spot_table(spots, image_hw=IMAGE, grid_hw=GRID, outside="zero").count.tolist() == [29, 0, 0]
    with pytest.raises(InputError, match="choose raise or zero"):
        tables.spot_table(spots, image_hw=IMAGE, grid_hw=GRID, outside="drop")


def test_tables_of_another_grid_or_layout_are_refused():
    table = tables.spot_table(Spots.discs([[10, 10]], 3), image_hw=IMAGE, grid_hw=GRID)
    with pytest.raises(InputError, match=r"grid_hw=\(5, 5\)"):
        ops.spot_pool(jnp.zeros((5, 5, 2)), table)
    with pytest.raises(InputError, match="choose sum or mean"):
        ops.spot_pool(jnp.zeros((*GRID, 2)), table, aggregation="max")
    with pytest.raises(InputError, match="must not be finer"):
        tables.spot_table(Spots.discs([[1, 1]], 3), image_hw=(4, 4), grid_hw=(8, 8))
    matrix, count = tables.spot_matrix(Spots.discs([[10, 10]] * 3, 6), image_hw=IMAGE, grid_hw=GRID)
    for layout in (
        tables.Layout(2, 132, ((99, 2),), ((9, 132),)),
        tables.Layout(3, 132, ((2, 3),), ((9, 132),)),
        tables.Layout(3, 9, ((99, 3),), ((9, 9),)),
    ):
        with pytest.raises(InputError, match="layout"):
            tables.table_of_matrix(matrix, count, layout=layout)
