import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from data_prep.errors import InputError
from stjax.models.efficientnet import build

# torchvision's, less its classifier of 1000 classes.
PARAMETERS = {"b0": 4007548, "b1": 6513184, "b2": 7700994, "b3": 10696232, "b4": 17548616, "b5": 28340784}


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


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameter_count_is_torchvisions(variant):
    params = nnx.state(build(variant, rngs=nnx.Rngs(0)), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[variant]


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


def test_gradients_are_finite_and_statistics_are_those_of_the_global_batch(small):
    graphdef, params, statistics = small
    x = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    step = jax.jit(lambda p, s, x, key: jax.value_and_grad(train_loss, has_aux=True)(p, s, graphdef, x, key))
    (loss, after), gradients = step(params, statistics, x, jax.random.key(2))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradients))
    if len(jax.devices()) < 8:
        pytest.skip("one device: nothing to shard over")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
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
