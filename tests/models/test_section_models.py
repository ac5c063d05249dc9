"""What all models of sections owe: padding, order and company of spots, randomness in training alone, and that they
learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from stjax import losses, models
from tests.models import in_numpy
from tests.models import section_batches as sections

MODELS = [("histogene", "pixels_tiny"), ("histogene", "features_tiny"), ("triplex", "tiny"), ("egn", "tiny")]
LOOKED_UP = [("bleep", "frozen"), ("bleep", "trained")]  # of outputs that jump where weights move
GRAPHS = [("eggn", "tiny"), ("sgn", "tiny")]  # whose spots hardly differ at first, in single precision alone
OPTIONS = {("bleep", "frozen"): {"k": 3}, ("bleep", "trained"): {"k": 3, "backbone": "efficientnet_tiny"}}
AS_SEQUENCE = [("histogene", "pixels_tiny")]  # the spots asked about are all it knows of a section
NO_DROPOUT = [("egn", "tiny"), *GRAPHS]
LOSS = {"triplex": "triplex"}  # of the module; any other's is the squared error
# What no output depends on: the last bridge hands on exemplars that nobody asks.
UNUSED = {"egn": {f"layers.3.bridge.norm_exemplar.{name}" for name in ("scale", "bias")}}
each = pytest.mark.parametrize("which", MODELS + LOOKED_UP + GRAPHS, ids=" ".join)
each_smooth = pytest.mark.parametrize("which", MODELS, ids=" ".join)


@functools.cache
def model(which):
    """One all of whose constants matter, and its prediction."""
    built = sections.build(*which, **OPTIONS.get(which, {}))
    if which in GRAPHS:
        in_numpy.louder(built)
    return built, sections.runner(built, *which)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@each
def test_outputs_are_float32_of_each_spot_and_differ(which):
    found = model(which)[1](sections.batch())
    assert found.shape == (2, 8, sections.GENES)
    assert found.dtype == np.float32
    assert np.std(found[0, :7], axis=0).min() > 1e-3


@each
def test_what_fills_up_an_item_changes_no_spot(which):
    run, batch = model(which)[1], sections.batch()
    before, after = run(batch), run(sections.filled_up(batch, 3))
    close(after[:, :8][batch["spots_mask"]], before[batch["spots_mask"]])


@each
def test_spots_in_another_order_give_the_same_in_that_order(which):
    run, batch = model(which)[1], sections.batch()
    order = np.random.default_rng(1).permutation(8)
    mask = batch["spots_mask"][:, order]
    close(run(sections.reordered(batch, order))[mask], run(batch)[:, order][mask])


@each
def test_a_section_is_the_same_alone_and_beside_a_larger_one(which):
    run, batch = model(which)[1], sections.batch()
    for item in range(2):
        alone = run({name: array[item : item + 1] for name, array in batch.items()})
        close(alone[0][batch["spots_mask"][item]], run(batch)[item][batch["spots_mask"][item]])


@pytest.mark.parametrize(
    "which", [each for each in MODELS + LOOKED_UP + GRAPHS if each not in AS_SEQUENCE], ids=" ".join
)
def test_a_spot_is_the_same_asked_about_alone_and_among_others(which):
    run, batch = model(which)[1], sections.batch()
    whole = run(batch)
    for spots in ([2], [3, 0, 1]):
        close(run(sections.asked(batch, spots)), whole[:, spots])


@each
def test_only_training_is_random(which):
    built, batch = model(which)[0], sections.keywords(*which, sections.batch())
    graphdef, params, statistics = models.split(built)

    @functools.partial(jax.jit, static_argnames="train")
    def run(key, *, train):
        return models.apply(graphdef, params, statistics, batch, train=train, key=jax.random.key(key))[0]["main"]

    np.testing.assert_array_equal(run(0, train=False), run(1, train=False))
    differs = np.abs(run(0, train=True) - run(1, train=True)).max()
    assert (differs > 1e-4) == (which not in NO_DROPOUT)


@each_smooth
def test_a_tiny_set_is_learnt_and_every_parameter_with_it(which):
    batch = sections.batch((4, 3), most=4)
    inputs, mask = sections.keywords(*which, batch), jnp.asarray(batch["spots_mask"], jnp.float32)
    targets = {"main": jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, sections.GENES)), jnp.float32)}
    graphdef, params, statistics = models.split(sections.build(*which))
    loss_function, optimizer = losses.LOSSES[LOSS.get(which[0], "mse")], optax.adam(3e-3)

    @jax.jit
    def step(params, statistics, state):
        def loss_of(params):
            outputs, after = models.apply(graphdef, params, statistics, inputs, train=True, key=None)
            return loss_function(outputs, targets, {"mask": mask}, 1.0)[0], after

        (loss, after), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), after, state, loss, gradients

    state, found = optimizer.init(params), []
    for number in range(120):
        params, statistics, state, loss, gradients = step(params, statistics, state)
        found.append(float(loss))
        if number == 1:  # at first a layer may be hidden behind one that starts at 0
            without = {".".join(map(str, path)) for path, leaf in nnx.to_flat_state(gradients) if not np.any(leaf[...])}
            assert without == UNUSED.get(which[0], set())
    assert all(np.isfinite(found))
    assert found[-1] < 0.05 * found[0]


@each_smooth
def test_it_computes_in_half_precision_and_gives_single(which):
    built = models.build(
        module=which[0], variant=which[1], num_main=sections.GENES, num_aux=0, dtype="bfloat16", rngs=nnx.Rngs(0),
        facts=sections.facts(), options={"rematerialise": True},
    )  # fmt: skip
    graphdef, params, statistics = models.split(built)
    batch = sections.batch()
    inputs = sections.keywords(*which, batch)

    def loss(params):
        outputs, _ = models.apply(graphdef, params, statistics, inputs, train=True, key=jax.random.key(0))
        assert all(output.dtype == jnp.float32 for output in outputs.values())
        return sum(jnp.sum(output**2) for output in outputs.values())

    shapes = jax.eval_shape(jax.grad(loss), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    half = sections.runner(built, *which)(batch)[batch["spots_mask"]]
    wanted = model(which)[1](batch)[batch["spots_mask"]]
    assert np.abs(half - wanted).max() < 0.1 * np.abs(wanted).max()
    assert np.abs(half - wanted).max() > 0
