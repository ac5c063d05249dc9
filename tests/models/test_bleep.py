"""BLEEP against NumPy, its size, whom it asks, what it learns, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import losses, models
from stjax.models import bleep
from tests.models import in_numpy
from tests.models import section_batches as sections
from tests.models.in_numpy import gelu, linear, norm, standardised

RNG = np.random.default_rng(0)
TRAINED = {"backbone": "efficientnet_tiny"}
COUNTS = (7, 4)  # spots of the two sections of a batch


def projected(x, p, name):
    first = linear(x, p, f"{name}.first")
    return norm(first + linear(gelu(first), p, f"{name}.second"), p, f"{name}.norm", 1e-5)


def retrieved(image, group, p, bank, k):
    """Mean targets [M] of the k rows of a bank, one after another, that are nearest to an embedding [256]."""
    cosine = {}
    for row, targets in enumerate(bank["targets"].astype(np.float64)):
        if bank["group"][row] != group:
            known = projected(targets, p, "expression")
            cosine[row] = image @ known / np.linalg.norm(image) / np.linalg.norm(known)
    best = sorted(cosine, key=lambda row: -cosine[row])[:k]
    return np.mean([bank["targets"][row] for row in best], axis=0)


def shaken(variant, **options):
    """A model all of whose constants matter, beside the bank that it is built with."""
    model = sections.build("bleep", variant, **options)
    kept = {name: getattr(model.bank, name)[...] for name in ("targets", "group")}
    in_numpy.shaken(model)
    for name, array in kept.items():
        getattr(model.bank, name)[...] = array
    return model


def embeddings(model, variant, targets, *, train=False, seed=0):
    inputs = sections.keywords("bleep", variant, sections.batch()) | {"targets": jnp.asarray(targets, jnp.float32)}
    graphdef, params, statistics = models.split(model)
    found, _ = models.apply(graphdef, params, statistics, inputs, train=train, key=jax.random.key(seed))
    return {name: np.asarray(found[f"{name}_embedding"]) for name in ("image", "expression")}


@pytest.mark.parametrize("k", [1, 5, 50])
def test_it_is_the_mean_of_the_profiles_that_are_nearest_of_other_groups(k):
    model, batch = shaken("frozen", k=k), sections.batch()
    found, p, bank = (
        sections.runner(model, "bleep", "frozen")(batch),
        in_numpy.parameters(model),
        sections.facts()["bank"],
    )
    for item, count in enumerate(COUNTS):
        for n in range(count):
            image = projected(standardised(batch["features"][item, n].astype(np.float64), p), p, "image")
            wanted = retrieved(image, batch["group"][item, n], p, bank, k)
            np.testing.assert_allclose(found[item, n], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_of_patches_the_features_are_the_backbones():
    model, batch = sections.build("bleep", "trained", k=3, **TRAINED), sections.batch()
    found, p, bank = (
        sections.runner(model, "bleep", "trained")(batch),
        in_numpy.parameters(model),
        sections.facts()["bank"],
    )
    for item, count in enumerate(COUNTS):
        own = model.backbone(jnp.asarray(batch["images"][item]), train=False)["features"]
        for n in range(count):
            image = projected(np.asarray(own[n], np.float64), p, "image")
            wanted = retrieved(image, batch["group"][item, n], p, bank, 3)
            np.testing.assert_allclose(found[item, n], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"temperature": 4.0}, {"normalise": True, "temperature": 0.1}])
def test_embeddings_are_both_projections_scaled_for_the_loss(options):
    model, batch, targets = shaken("frozen", **options), sections.batch(), RNG.normal(size=(2, 8, sections.GENES))
    found, p = embeddings(model, "frozen", targets), in_numpy.parameters(model)
    given = {"image": standardised(batch["features"].astype(np.float64), p), "expression": targets}
    for name, x in given.items():
        wanted = projected(x, p, name)
        if options.get("normalise"):
            wanted = wanted / np.linalg.norm(wanted, axis=-1, keepdims=True)
        wanted = wanted / np.sqrt(options.get("temperature", 1.0))
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_a_training_spot_sees_nothing_of_its_own_group(seed):
    rng, batch = np.random.default_rng(seed), sections.batch(seed=seed)
    given = sections.facts(seed)
    given["bank"]["group"] = rng.integers(0, rng.integers(2, 6), sections.BANK).astype(np.int32)
    own = int(given["bank"]["group"][0])
    batch["group"] = np.full((2, 8), own, np.int32)
    run, k = {}, int(rng.integers(1, 13))
    for name in ("before", "after"):
        model = sections.build("bleep", "frozen", given=given, k=k)
        run[name] = sections.runner(model, "bleep", "frozen")(batch)
        given["bank"]["targets"] = np.where(
            given["bank"]["group"][:, None] == own,
            RNG.normal(size=(sections.BANK, sections.GENES)),
            given["bank"]["targets"],
        )
    np.testing.assert_array_equal(run["before"], run["after"])


def test_what_is_dropped_is_dropped_in_training_alone():
    model, targets = sections.build("bleep", "frozen"), RNG.normal(size=(2, 8, sections.GENES))
    for train in (False, True):
        one, other = (embeddings(model, "frozen", targets, train=train, seed=seed) for seed in (0, 1))
        for name, found in one.items():
            assert (np.abs(found - other[name]).max() > 1e-3) == train


def loss_of(model, variant, targets, **options):
    """A function of parameters to the loss and the statistics after."""
    graphdef, params, statistics = models.split(model)
    inputs = sections.keywords("bleep", variant, sections.batch()) | {"targets": jnp.asarray(targets, jnp.float32)}

    def loss(params):
        key = jax.random.key(0)
        outputs, after = models.apply(graphdef, params, statistics, inputs, train=True, key=key, **options)
        return losses.bleep(outputs, {}, inputs["spots_mask"].astype(jnp.float32))[0], after

    return loss, params, statistics


@pytest.mark.parametrize("variant", bleep.NEEDS)
def test_gradient_reaches_every_parameter(variant):
    model = sections.build("bleep", variant, **(TRAINED if variant == "trained" else {}))
    loss, params, _ = loss_of(model, variant, RNG.normal(size=(2, 8, sections.GENES)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss, has_aux=True))(params)[0]):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_a_frozen_backbone_learns_nothing():
    model = sections.build("bleep", "trained", **TRAINED)
    loss, params, before = loss_of(model, "trained", RNG.normal(size=(2, 8, sections.GENES)), frozen_backbone=True)
    gradients, after = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients["backbone"]))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients["image"]))
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_what_fills_up_an_item_is_no_part_of_batchnorms_statistics():
    model, after = sections.build("bleep", "trained", **TRAINED), []
    graphdef, params, statistics = models.split(model)
    for spoilt in (0.0, 1e4):
        batch = sections.batch()
        batch["images"][~batch["spots_mask"]] = spoilt
        inputs = sections.keywords("bleep", "trained", batch)
        after.append(models.apply(graphdef, params, statistics, inputs, train=True, key=jax.random.key(0))[1])
    for one, other in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_learns_a_tiny_set_by_heart():
    batch, rng = sections.batch((8, 8), seed=3), np.random.default_rng(4)
    targets = rng.normal(size=(2, 8, sections.GENES)).astype(np.float32)
    batch["group"][:] = -1
    bank = {"targets": targets.reshape(-1, sections.GENES), "group": np.repeat(np.arange(2, dtype=np.int32), 8)}
    model = sections.build("bleep", "frozen", given=sections.facts() | {"bank": bank}, k=1)
    inputs = sections.keywords("bleep", "frozen", batch)
    graphdef, params, statistics = models.split(model)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, key):
        def value(params):
            given = inputs | {"targets": jnp.asarray(targets)}
            outputs, _ = models.apply(graphdef, params, statistics, given, train=True, key=key)
            return losses.bleep(outputs, {}, jnp.ones((2, 8)))[0]

        loss, gradient = jax.value_and_grad(value)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    def pcc(params):
        found = np.asarray(models.apply(graphdef, params, statistics, inputs, train=False, key=None)[0]["main"])
        return min(np.corrcoef(found[..., gene].ravel(), targets[..., gene].ravel())[0, 1] for gene in range(3))

    assert pcc(params) < 0.9
    state = optimizer.init(params)
    for number in range(200):
        params, state, _ = step(params, state, jax.random.key(number))
    assert pcc(params) > 0.95


@pytest.mark.parametrize(("variant", "resnet50"), [("frozen", 0), ("trained", 23_508_032)])
def test_it_is_as_large_as_the_published_one(variant, resnet50):
    def parameters():
        bank = {"targets": np.zeros((9, 250)), "group": np.arange(9, dtype=np.int32)}
        facts = {name: np.ones(2048) for name in ("feature_mean", "feature_std")}
        return nnx.state(bleep.build(variant, bank=bank, **facts, image_size_px=224, rngs=nnx.Rngs(0)), nnx.Param)

    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(parameters)))
    assert count == resnet50 + sum(256 * (inputs + 1) + 256 * 257 + 2 * 256 for inputs in (2048, 250))


@pytest.mark.parametrize("variant", bleep.NEEDS)
def test_its_bank_holds_no_features(variant):
    model = sections.build("bleep", variant, **(TRAINED if variant == "trained" else {}))
    names = {name for name in in_numpy.parameters(model) if name.startswith("bank.")}
    assert names == {"bank.targets", "bank.group"}


@pytest.mark.parametrize(
    ("variant", "options", "says"),
    [
        ("thawed", {}, "'thawed'; bleep has frozen, trained"),
        ("frozen", {"k": 0}, "k 0 and temperature 1; expected at least 1, and above 0"),
        ("frozen", {"temperature": 0.0}, "k 50 and temperature 0; expected"),
        ("frozen", {"backbone": "resnet18"}, "backbone is 'resnet18', and bleep frozen has none; leave it empty"),
        ("trained", {"backbone": "vgg"}, "backbone is 'vgg'; choose one of resnet18"),
    ],
)
def test_other_options_are_refused(variant, options, says):
    with pytest.raises(InputError, match=says):
        sections.build("bleep", variant, **options)
