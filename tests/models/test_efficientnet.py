import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from data_prep.errors import InputError
from stjax.models.efficientnet import EfficientNet, Spec, Stage, build

# Two blocks, one of each kind: every further one is compiled for several devices.
TWO_BLOCKS = Spec((Stage(1, 3, 1, 8, 8, 1), Stage(4, 5, 2, 8, 16, 1)), dropout_rate=0.1)


def train_loss(params, statistics, graphdef, x, key):
    model = nnx.merge(graphdef, params, statistics, copy=True)
    loss = jnp.mean(model(x, train=True, key=key)["features"] ** 2)
    return loss, nnx.split(model, nnx.Param, ...)[2]


@pytest.fixture(scope="module")
def small():
    return nnx.split(build("tiny", rngs=nnx.Rngs(0)), nnx.Param, ...)


@pytest.fixture(scope="module")
def b0():
    return nnx.split(build("b0", rngs=nnx.Rngs(0)), nnx.Param, ...)


def test_unknown_variant_is_named():
    with pytest.raises(InputError, match=r"'b9'.*b0, b1"):
        build("b9", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("height", "width"), [(45, 70)])
def test_stages_and_features_have_their_shapes(b0, height, width):
    graphdef, params, statistics = b0
    x = jnp.ones((2, height, width, 3))
    run = jax.jit(lambda p, s, x: nnx.merge(graphdef, p, s)(x, train=False, key=None))
    outputs = run(params, statistics, x)
    strides = (2, 2, 4, 8, 16, 16, 32, 32, 32)
    channels = (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    expected = [(2, -(-height // s), -(-width // s), c) for s, c in zip(strides, channels, strict=True)]
    assert [stage.shape for stage in outputs["stages"]] == expected
    assert outputs["features"].shape == (2, 1280)
    assert outputs["features"].dtype == jnp.float32


def test_gradients_are_finite_and_statistics_are_those_of_the_global_batch():
    model = EfficientNet(TWO_BLOCKS, dtype=jnp.float32, rematerialise=False, rngs=nnx.Rngs(0))
    graphdef, params, statistics = nnx.split(model, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    step = jax.jit(lambda p, s, x, key: jax.value_and_grad(train_loss, has_aux=True)(p, s, graphdef, x, key))
    (loss, after), gradients = step(params, statistics, x, jax.random.key(2))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradients))
    if len(jax.devices()) < 2:
        pytest.skip("one device: nothing to shard over")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    whole = NamedSharding(mesh, PartitionSpec())
    (sharded_loss, sharded_after), sharded_gradients = step(
        *jax.device_put((params, statistics), whole), sharded, jax.random.key(2)
    )
    np.testing.assert_allclose(loss, sharded_loss, rtol=1e-4)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(sharded_after), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients)))
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(sharded_gradients), strict=True):
        assert float(jnp.linalg.norm((one - other).ravel())) <= 1e-3 * float(norm)


def test_randomness_comes_from_the_key_alone(small):
    graphdef, params, statistics = small
    x = jax.random.normal(jax.random.key(1), (16, 16, 16, 3))
    run = jax.jit(lambda key: train_loss(params, statistics, graphdef, x, key)[0])
    assert run(jax.random.key(3)) == run(jax.random.key(3))
    assert run(jax.random.key(3)) != run(jax.random.key(4))
