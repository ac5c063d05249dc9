"""Probes: what they compute, what they train, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import models
from stjax.inference.model_folder import names
from stjax.models import weights

D, MAIN, AUX = 6, 3, 2
RNG = np.random.default_rng(0)
MEAN, STD = RNG.normal(size=D), RNG.uniform(0.5, 2, D)
X = jnp.asarray(RNG.normal(MEAN, STD, (5, D)), jnp.float32)


def build(variant, *, aux=AUX, **options):
    facts = {"feature_mean": MEAN, "feature_std": STD}
    given = {"num_main": MAIN, "num_aux": aux, "dtype": "float32", "rngs": nnx.Rngs(1), "facts": facts}
    return models.build(module="probe", variant=variant, **given, options=options)


def test_a_linear_probe_is_a_linear_map_of_standardised_features():
    model = build("linear")
    found = model(features=X, train=True, key=jax.random.key(0))  # nothing is dropped
    for name, head in model.linear_heads().items():
        expected = (np.asarray(X) - MEAN) / STD @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])
        np.testing.assert_allclose(np.asarray(found[name])[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_feature_that_hardly_varies_in_training_does_not_run_away():
    for variant in ("linear", "mlp"):
        model = build(variant)
        found = [np.asarray(model(features=X + offset, train=False, key=None)["main"]) for offset in (1e3, 1e9)]
        np.testing.assert_array_equal(*found)
        assert np.abs(found[0]).max() < 30


def test_a_perceptron_drops_hidden_units_in_training_alone():
    model = build("mlp", hidden=16, dropout=0.5)
    assert model.backbone.hidden.kernel.shape == (D, 16)
    still = [np.asarray(model(features=X, train=False, key=None)["main"]) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    trained = [np.asarray(model(features=X, train=True, key=jax.random.key(i))["main"]) for i in range(200)]
    assert np.std(trained, axis=0).min() > 0
    np.testing.assert_allclose(np.mean(trained, axis=0), still[0], atol=0.2)


def test_statistics_of_features_are_no_parameters_and_get_no_gradient():
    for variant, hidden in (("linear", 0), ("mlp", 512)):
        graphdef, params, statistics = models.split(build(variant))
        known = names({"params": params, "statistics": statistics})
        assert [name for name in known if name.startswith("statistics")] == [
            "statistics.backbone.mean", "statistics.backbone.std"
        ]  # fmt: skip
        sizes = sum(leaf.size for leaf in jax.tree.leaves(params))
        width = hidden or D
        assert sizes == hidden * (D + 1) + (MAIN + AUX) * (width + 1)

        def loss(params, graphdef=graphdef, statistics=statistics):
            outputs, _ = models.apply(graphdef, params, statistics, {"features": X}, train=False, key=None)
            return jnp.sum((outputs["main"] - 1) ** 2) + jnp.sum(outputs["aux"] ** 2)  # "linear" starts at 0

        for leaf in jax.tree.leaves(jax.grad(loss)(params)):
            assert np.isfinite(leaf).all()
            assert np.abs(leaf).max() > 0


def test_an_encoder_in_front_makes_features_of_images_and_is_not_trained():
    model = build("mlp", aux=0)
    images = RNG.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    state = {"layer": {"kernel": jnp.asarray(RNG.normal(size=(3, D)), jnp.float16)}}

    def function(state, images):
        return jnp.mean(images.astype(jnp.float32), axis=(1, 2)) @ state["layer"]["kernel"].astype(jnp.float32)

    expected = model(features=function(state, images), train=False, key=None)["main"]
    before = len(jax.tree.leaves(models.split(model)[1]))
    model.put_in_front(function, state)
    graphdef, params, statistics = models.split(model)
    assert len(jax.tree.leaves(params)) == before
    assert "statistics.front.weights.layer.kernel" in names({"params": params, "statistics": statistics})
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {np.dtype("float32"), np.dtype("float16")}
    found, _ = models.apply(graphdef, params, statistics, {"images": images}, train=False, key=None)
    np.testing.assert_array_equal(found["main"], expected)


def test_its_trunk_is_written_and_read_back(tmp_path):
    model, other = build("mlp"), build("mlp")
    other.backbone.hidden.kernel[...] = other.backbone.hidden.kernel[...] * 0
    weights.save(model.backbone, tmp_path / "backbone.safetensors")
    weights.load(other.backbone, tmp_path / "backbone.safetensors")
    for found, expected in zip(
        jax.tree.leaves(nnx.state(other.backbone)), jax.tree.leaves(nnx.state(model.backbone)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("variant", "options", "says"),
    [
        ("deep", {}, "linear, mlp"),
        ("mlp", {"hidden": 0}, "hidden 0 and dropout 0.25; expected at least 1, and 0 to below 1"),
        ("mlp", {"dropout": 1.0}, "hidden 512 and dropout 1.0"),
        ("mlp", {"width": 3}, "config.model.options has width; probe takes .*dropout, hidden"),
    ],
)
def test_other_probes_are_refused(variant, options, says):
    with pytest.raises(InputError, match=says):
        build(variant, **options)
