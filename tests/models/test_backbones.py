"""What all backbones owe: sizes, shapes, finite gradients, and torchvision's numbers, stored without its weights."""

import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax.models import densenet, efficientnet, inception, resnet, vit, weights
from stjax.ops.cpu.elementwise import compiler_options
from tests.models import rule_weights

GOLDEN = np.load(Path(__file__).parent / "data" / "golden.npz")
# torchvision's, less the classifier.
PARAMETERS = {
    "efficientnet_b0": 4007548,
    "efficientnet_b1": 6513184,
    "efficientnet_b2": 7700994,
    "efficientnet_b3": 10696232,
    "efficientnet_b4": 17548616,
    "efficientnet_b5": 28340784,
    "resnet18": 11176512,
    "resnet50": 23508032,
    "resnet101": 42500160,
    "inception_v3": 21785568,
    "vit_b_16": 85798656,
    "vit_b_32": 87455232,
    "densenet121": 6953856,
}
EVERY_FAMILY = ("efficientnet_b0", "resnet18", "inception_v3", "vit_b_32", "densenet121")
TRAINED = ("resnet18", "vit_b_32")


def slow_but(fast):
    return [pytest.param(n, marks=() if n in fast else pytest.mark.slow) for n in rule_weights.MODELS]


def build(name, size=None):
    module, variant, side = rule_weights.MODELS[name]
    return importlib.import_module(f"stjax.models.{module}").build(
        variant, rngs=nnx.Rngs(jax.random.key(0)), image_size_px=size or side
    )


@pytest.mark.parametrize("name", rule_weights.MODELS)
def test_parameter_count_is_torchvisions(name):
    params = jax.eval_shape(lambda: nnx.state(build(name, 224), nnx.Param))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[name]


def compare(name, mode, outputs):
    stages, main = outputs
    wanted = GOLDEN[f"{name}/{mode}/main"]
    assert np.abs(main - wanted).max() < 1e-4 * np.abs(wanted).max()
    sizes = [float(jnp.abs(stage).mean()) for stage in stages]
    np.testing.assert_allclose(sizes, GOLDEN[f"{name}/{mode}/stages"], rtol=1e-4)


def head(features):
    weight, bias = rule_weights.head(features.shape[1])
    return features @ weight.T + bias[None]


@pytest.mark.parametrize("name", slow_but(EVERY_FAMILY))
def test_evaluation_gives_torchvisions_numbers(name, tmp_path):
    model = build(name)
    rule_weights.load(model, tmp_path)
    graphdef, state = nnx.split(model)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(state, images):
        outputs = nnx.merge(graphdef, state)(images, train=False, key=None)
        return outputs["stages"], head(outputs["features"])

    compare(name, "evaluation", run(state, jnp.asarray(rule_weights.images(rule_weights.MODELS[name][2]))))


@pytest.mark.parametrize("name", slow_but(TRAINED))
def test_training_gives_torchvisions_numbers_statistics_and_gradients(name, tmp_path):
    model = build(name)
    rule_weights.load(model, tmp_path)
    graphdef, params, statistics = nnx.split(model, nnx.Param, ...)
    images = jnp.asarray(rule_weights.images(rule_weights.MODELS[name][2]))

    @functools.partial(jax.jit, compiler_options=compiler_options())
    @functools.partial(jax.grad, has_aux=True)
    def step(params, statistics):
        merged = nnx.merge(graphdef, params, statistics, copy=True)
        outputs = merged(images, train=True, key=None)
        main = head(outputs["features"])
        loss = jnp.mean((main - rule_weights.wanted()) ** 2)
        return loss, (outputs["stages"], main, nnx.split(merged, nnx.Param, ...)[2])

    gradients, (stages, main, after) = step(params, statistics)
    compare(name, "training", (stages, main))
    found = weights.tensors(nnx.merge(graphdef, gradients, after))
    norms = {key: float(np.linalg.norm(value)) for key, value in sorted(found.items()) if "tracked" not in key}
    statistics = [norm for key, norm in norms.items() if "running" in key]
    np.testing.assert_allclose(statistics, GOLDEN[f"{name}/training/statistics"], rtol=1e-4)
    wanted = GOLDEN[f"{name}/training/gradients"]
    gradients = [norm for key, norm in norms.items() if "running" not in key]
    np.testing.assert_allclose(gradients, wanted, rtol=1e-3, atol=1e-4 * wanted.max())


TWO_BLOCKS = efficientnet.Spec(
    (efficientnet.Stage(1, 3, 1, 8, 8, 1), efficientnet.Stage(4, 5, 2, 8, 16, 1)), dropout_rate=0.1
)
SMALL = {
    "resnet": lambda **o: resnet.ResNet(resnet.Spec((1, 1, 1, 1), bottleneck=False), **o),
    "densenet": lambda **o: densenet.DenseNet(densenet.Spec((1, 2), growth=8, stem=16), **o),
    "efficientnet": lambda **o: efficientnet.EfficientNet(TWO_BLOCKS, **o),
    "vit": lambda **o: vit.VisionTransformer(vit.Spec(16, 1, 2, 32, 64), image_size_px=64, **o),
}


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_rematerialisation_wraps_every_block_in_training_alone(name):
    module, variant, side = rule_weights.MODELS[name]

    def count(train):
        def forward(images):
            model = importlib.import_module(f"stjax.models.{module}").build(
                variant, rngs=nnx.Rngs(jax.random.key(0)), image_size_px=side, rematerialise=True
            )
            return model(images, train=train, key=None)["features"]

        return str(jax.make_jaxpr(forward)(jnp.zeros((2, side, side, 3)))).count("prevent_cse")

    model = jax.eval_shape(lambda: build(name))
    blocks = model.blocks if module == "vit" else [block for stage in model.stages for block in stage]
    assert (count(train=True), count(train=False)) == (len(blocks), 0)


@pytest.mark.parametrize(
    "family", [pytest.param(n, marks=() if n == "efficientnet" else pytest.mark.slow) for n in SMALL]
)
def test_rematerialised_training_is_the_same(family):
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))

    def step(rematerialise):
        model = SMALL[family](dtype=jnp.float32, rematerialise=rematerialise, rngs=nnx.Rngs(0))
        graphdef, params, statistics = nnx.split(model, nnx.Param, ...)

        def loss_of(params):
            merged = nnx.merge(graphdef, params, statistics, copy=True)
            features = merged(images, train=True, key=jax.random.key(1))["features"]
            return jnp.mean(features**2), nnx.split(merged, nnx.Param, ...)[2]

        return jax.jit(jax.grad(loss_of, has_aux=True))(params)

    plain, again = step(False), step(True)
    for kind in range(2):  # gradients, statistics; what is zero but for rounding is held to the size of the others
        ones, others = (jax.tree.leaves(found[kind]) for found in (plain, again))
        assert len(ones) == len(others)
        largest = max((float(jnp.linalg.norm(one)) for one in ones), default=0)
        for one, other in zip(ones, others, strict=True):
            assert float(jnp.linalg.norm(one - other)) <= 1e-3 * float(jnp.linalg.norm(one)) + 1e-5 * largest


@pytest.mark.parametrize("family", SMALL)
def test_half_precision_computes_in_it_and_keeps_parameters_and_features_wide(family):
    model = SMALL[family](dtype=jnp.bfloat16, rematerialise=False, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    outputs, after = jax.eval_shape(
        lambda s, x: (lambda m: (m(x, train=True, key=None), nnx.state(m)))(nnx.merge(graphdef, s)),
        state,
        jax.ShapeDtypeStruct((2, 64, 48, 3), jnp.float32),
    )
    assert all(stage.dtype == jnp.bfloat16 for stage in outputs["stages"])
    assert outputs["features"].dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize(
    ("module", "variant", "size", "message"),
    [
        (resnet, "34", 224, "'34'; resnet has 18, 50, 101"),
        (densenet, "201", 224, "densenet has 121"),
        (inception, "v4", 224, "inception has v3"),
        (inception, "v3", 64, "patches are 64 px; Inception-v3 needs at least 75 px"),
        (vit, "l16", 224, "vit has b16, b32"),
        (vit, "b32", 112, "squares of 32 px: use a multiple of it, for example 128"),
    ],
)
def test_what_cannot_be_built_is_refused(module, variant, size, message):
    with pytest.raises(InputError, match=message):
        module.build(variant, rngs=nnx.Rngs(0), image_size_px=size)
