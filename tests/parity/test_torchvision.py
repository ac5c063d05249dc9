"""Every backbone against torchvision's, same weights. Needs PyTorch, which is no dependency of stjax:

pip install torch==2.13.0; pip install --no-deps torchvision==0.28.0
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stjax import bench_torch, models
from stjax.models import weights
from stjax.models.heads import PatchModel
from tests.models import rule_weights
from tests.parity import torch_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bench_torch.import_torchvision() is None, reason="torch and torchvision are not installed"),
]


@pytest.fixture(scope="module", params=rule_weights.MODELS)
def pair(request, tmp_path_factory):
    """A model of ours and torchvision's twin."""
    name, folder = request.param, tmp_path_factory.mktemp("weights")
    module, variant, side = rule_weights.MODELS[name]
    build = importlib.import_module(f"stjax.models.{module}").build
    backbone = build(variant, rngs=nnx.Rngs(0), image_size_px=side)
    tensors = rule_weights.load(backbone, folder)
    model = PatchModel(backbone, num_main=rule_weights.OUTPUTS, num_aux=0, rngs=nnx.Rngs(0))
    weight, bias = rule_weights.head(backbone.num_features)
    model.main.kernel[...], model.main.bias[...] = jnp.asarray(weight.T), jnp.asarray(bias)
    return name, model, torch_models.build(name, tensors, backbone.num_features)


def apart(found, expected) -> float:
    """Largest difference, relative to the largest number expected."""
    return float(np.max(np.abs(np.asarray(found) - expected)) / np.max(np.abs(expected)))


def test_evaluation_agrees_in_every_stage_and_the_head(pair):
    name, model, twin = pair
    graphdef, state = nnx.split(model)
    images = jnp.asarray(rule_weights.images(rule_weights.MODELS[name][2]))

    @jax.jit
    def run(state, images):
        merged = nnx.merge(graphdef, state)
        stages = merged.backbone(images, train=False, key=None)["stages"]
        return stages, merged(images, train=False, key=None)["main"][:, 0]

    stages, main = run(state, images)
    expected = torch_models.run(name, twin, train=False)
    assert len(stages) == len(expected["stages"])
    for found, wanted in zip(stages, expected["stages"], strict=True):
        assert apart(found, wanted) < 1e-4
    assert apart(main, expected["main"]) < 1e-4


def test_training_agrees_in_outputs_statistics_and_gradients(pair):
    name, model, twin = pair
    graphdef, params, statistics = models.split(model)
    images = jnp.asarray(rule_weights.images(rule_weights.MODELS[name][2]))

    @jax.jit
    def step(params, statistics, images):
        def loss_of(params):
            outputs, after = models.apply(graphdef, params, statistics, images, train=True, key=None)
            main = outputs["main"][:, 0]
            return jnp.mean((main - rule_weights.wanted()) ** 2), (main, after)

        return jax.grad(loss_of, has_aux=True)(params)

    gradients, (main, after) = step(params, statistics, images)
    expected = torch_models.run(name, twin, train=True)
    assert apart(main, expected["main"]) < 1e-4

    # The gradients in place of the parameters, written under torch's names.
    trained = nnx.merge(graphdef, gradients, after)
    found = weights.tensors(trained.backbone)
    for key, value in expected["statistics"].items():
        assert apart(found[key], value) < 1e-4, key
    largest = max(float(np.linalg.norm(value)) for value in expected["gradients"].values())
    for key, value in expected["gradients"].items():
        if key.startswith(("fc.", "classifier.", "heads.")):
            ours = trained.main.kernel[...].T if key.endswith("weight") else trained.main.bias[...]
        else:
            ours = found[key]
        # A gradient that is zero but for rounding (a bias before BatchNorm) is held to the size of the others.
        scale = max(float(np.linalg.norm(value)), 1e-4 * largest)
        assert np.linalg.norm(np.asarray(ours) - value) < 1e-3 * scale, key


def test_parameters_are_as_many_as_torchvisions(pair):
    _, model, twin = pair
    ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert ours == sum(parameter.numel() for parameter in twin.parameters())
