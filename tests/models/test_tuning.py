"""What is trained of a network and what is not; low-rank updates, and what they merge into."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import encoders, models
from stjax.models import efficientnet, resnet, tuning, weight_files, weights
from tests.models.test_encoder_weights import FORMS, SMALL, released

FORM = "registers c"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    network = SMALL | FORMS[FORM] | {"layers": 3}
    monkeypatch.setitem(
        encoders.ENCODERS, "small", dataclasses.replace(encoders.ENCODERS["uni"], network=network, px=32)
    )


def build(*, seed=0, blank=False, **options):
    kinds = {"num_main": 3, "num_aux": 2, "dtype": "float32", "rngs": nnx.Rngs(seed), "blank": blank}
    model = models.build(module="encoder", variant="small", options=options, **kinds)
    for block in model.backbone.blocks if not blank else ():
        for gamma in (block.gamma1, block.gamma2):  # as at the start they are too small for steps to be seen
            gamma.set_value(jnp.full(gamma.shape, 0.5))
    return model


def images(side=32):
    return jax.random.normal(jax.random.key(1), (2, side, side, 3))


def outputs(model, x=None, *, train=False):
    graphdef, params, statistics = models.split(model)
    run = jax.jit(lambda *of, x: models.apply(graphdef, of[0], of[1], {"images": x}, train=train, key=None)[0])
    return run(params, statistics, x=images() if x is None else x)


def trained(model, *, steps=3):
    """A model after some steps of SGD, and the paths of the arrays that they changed."""
    graphdef, params, statistics = models.split(model)
    before = params, statistics
    tx = optax.sgd(0.1)
    slots = tx.init(params)

    @jax.jit
    def step(params, statistics, slots):
        def loss_of(params):
            found, after = models.apply(
                graphdef, params, statistics, {"images": images()}, train=True, key=jax.random.key(2)
            )
            return jnp.mean((found["main"] - 1.0) ** 2), after

        gradients, statistics = jax.grad(loss_of, has_aux=True)(params)
        updates, slots = tx.update(gradients, slots)
        return optax.apply_updates(params, updates), statistics, slots

    for _ in range(steps):
        params, statistics, slots = step(params, statistics, slots)
    changed = set()
    for old, new in zip(before, (params, statistics), strict=True):
        for (path, a), (_, b) in zip(nnx.to_flat_state(old), nnx.to_flat_state(new), strict=True):
            if np.any(np.asarray(a.get_value()) != np.asarray(b.get_value())):
                changed.add(".".join(map(str, path)))
    return nnx.merge(graphdef, params, statistics), changed


def test_updates_start_at_nothing():
    frozen, tuned = build(tune="frozen"), build(tune="lora", targets="attention.qkv,attention.out,mlp1,mlp2")
    for part in ("main", "aux"):  # whose heads have drawn other random numbers
        getattr(tuned, part).kernel.set_value(getattr(frozen, part).kernel[...])
        getattr(tuned, part).bias.set_value(getattr(frozen, part).bias[...])
    for train in (False, True):
        expected, found = outputs(frozen, train=train), outputs(tuned, train=train)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("blocks", [0, 1])
def test_merged_updates_give_the_same_outputs_in_a_plain_network(blocks):
    model, _ = trained(build(tune="lora", blocks=blocks, rank=2, targets="attention.qkv,attention.out,mlp1,mlp2"))
    expected = outputs(model)
    start = outputs(build(tune="frozen"))
    assert float(jnp.abs(expected["main"] - start["main"]).max()) > 1e-3
    plain = tuning.merged(model)
    for name, values in outputs(plain).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, atol=1e-6)
    ours, whole = (nnx.to_flat_state(nnx.state(each, nnx.Param)) for each in (plain, build()))
    assert [(path, leaf.shape) for path, leaf in ours] == [(path, leaf.shape) for path, leaf in whole]


HEADS = {"main.kernel", "main.bias"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tune": "frozen"}, set()),
        ({"tune": "lora", "blocks": 1, "targets": "mlp1"}, {"blocks.2.mlp1.update.down", "blocks.2.mlp1.update.up"}),
        (
            {"tune": "lora"},
            {
                f"blocks.{i}.attention.{layer}.update.{part}"
                for i in range(3)
                for layer in ("qkv", "out")
                for part in ("down", "up")
            },
        ),
    ],
)
def test_training_changes_what_is_asked_for_and_nothing_else(options, expected):
    _, changed = trained(build(**options))
    assert changed == HEADS | {f"backbone.{path}" for path in expected}


def test_the_last_blocks_and_what_follows_them_are_trained_as_a_whole():
    model = build(tune="last", blocks=2)
    _, changed = trained(model)
    every = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
    later = {path for path in every if path.startswith(("backbone.blocks.1.", "backbone.blocks.2.", "backbone.norm."))}
    assert len(later) == 2 * 14 + 2
    assert changed == HEADS | later


def test_frozen_batch_norms_predict_and_trained_ones_learn():
    backbone = efficientnet.build("tiny", rngs=nnx.Rngs(0))
    options = {"num_main": 3, "num_aux": 0, "dtype": "float32", "rngs": nnx.Rngs(0)}
    model = models.build(module="efficientnet", variant="tiny", **options, options={"tune": "last", "blocks": 1})
    _, changed = trained(model)
    stages = len(backbone.stages)
    statistics = {path for path in changed if path.endswith((".mean", ".var"))}
    assert statistics
    assert {path.split(".")[1] for path in statistics} == {"stages", "top"}
    assert {path.split(".")[2] for path in changed if ".stages." in path} == {str(stages - 1)}
    _, changed = trained(models.build(module="efficientnet", variant="tiny", **options, options={"tune": "frozen"}))
    assert changed == HEADS


def test_what_leads_to_a_frozen_stage_is_frozen():
    model = models.build(
        module="densenet", variant="121", num_main=1, num_aux=0, dtype="float32", rngs=nnx.Rngs(0),
        options={"tune": "last", "blocks": 2},
    )  # fmt: skip
    kept = {".".join(map(str, path[:3])) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    parts = {name.split(".", 1)[1].rsplit(".", 1)[0] if "norm" in name else name.split(".", 1)[1] for name in kept}
    assert {"stages.2", "stages.3", "transitions.1", "transitions.2", "norm"} <= parts
    assert not {"stages.0", "stages.1", "transitions.0", "stem.conv"} & parts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "lores"}, "tune is 'lores'; choose one of all, frozen, last, lora"),
        ({"tune": "last", "blocks": 4}, "blocks is 4; this encoder has 3"),
        ({"tune": "lora", "targets": "query"}, "targets has 'query'; .*attention.out, attention.qkv, mlp1, mlp2"),
        ({"tune": "lora", "targets": ""}, "targets has ''"),
        ({"tune": "lora", "rank": 0}, "rank is 0"),
        ({"tuned": "lora"}, "options has tuned; encoder takes alpha, blocks"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_a_network_without_linear_layers_has_no_updates():
    with pytest.raises(InputError, match="no linear layers"):
        tuning.tune(resnet.build("18", rngs=nnx.Rngs(0)), "lora", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_go_into_a_tuned_network_and_what_is_frozen_keeps_its_precision(tmp_path, dtype):
    tensors = released("timm", FORM, dtype=dtype) | released("timm", FORM, seed=1, dtype=dtype)
    third = {name.replace("blocks.1.", "blocks.2."): array for name, array in tensors.items()}
    path = tmp_path / "w.safetensors"
    weight_files.write_safetensors(path, tensors | third, metadata={})
    whole, tuned, last = build(), build(tune="lora", blank=True), build(tune="last", blank=True)
    for model in (whole, tuned, last):
        weights.load(model.backbone, path)
    features = [model.backbone(images(), train=False)["features"] for model in (whole, tuned, last)]
    np.testing.assert_array_equal(features[1], features[0])
    np.testing.assert_array_equal(features[2], features[0])
    kernel, bias = tuned.backbone.blocks[0].mlp1.kernel, tuned.backbone.blocks[0].mlp1.bias
    assert (kernel[...].dtype, bias[...].dtype) == (dtype, np.float32)
    assert last.backbone.blocks[2].mlp1.kernel[...].dtype == np.float32  # it is trained
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(nnx.state(tuning.merged(tuned))) if leaf.ndim < 2)


def test_images_are_brought_to_the_encoders_size_as_for_stored_features():
    model = build(tune="frozen")
    large = jnp.full((2, 70, 70, 3), 1.5)
    at_size = outputs(model, jnp.full((2, 32, 32, 3), 1.5))
    np.testing.assert_allclose(outputs(model, large)["main"], at_size["main"], rtol=1e-4, atol=1e-5)
