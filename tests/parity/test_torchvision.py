"""Every backbone against torchvision's, same weights. Needs PyTorch, which is no dependency of stjax:

pip install torch==2.13.0; pip install --no-deps torchvision==0.28.0

In float64 all agree to rounding, gradients of every parameter included: the models are the same functions. In float32
so do outputs and statistics; a gradient may meet a ReLU that rounding tips to the other side, in torch as here, so both
are measured against float64's. Set OMP_NUM_THREADS=1 on a busy machine: torch's threads wait for one another.
"""

import contextlib
import importlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stjax.benchmarks import pytorch as bench_torch
from stjax.models import weights
from tests.models import rule_weights
from tests.parity import torch_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bench_torch.import_torchvision() is None, reason="torch and torchvision are not installed"),
]
# STJAX_PARITY=resnet18,vit_b_16 runs some alone: all take a quarter of an hour.
NAMES = [name for name in rule_weights.MODELS if name in os.environ.get("STJAX_PARITY", name).split(",")]
# Largest difference relative to the largest number, and of the gradient of each parameter in norm.
OUTPUTS_WITHIN = {"float64": 1e-9, "float32": 1e-4}
GRADIENTS_WITHIN = {"float64": 1e-8, "float32": 1e-3}


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """A model of ours and torchvision's twin, in float32, and what a training pass of the twin gives in float64."""
    name = request.param
    module, variant, side = rule_weights.MODELS[name]
    build = importlib.import_module(f"stjax.models.{module}").build
    backbone = build(variant, rngs=nnx.Rngs(0), image_size_px=side)
    tensors = rule_weights.load(backbone, tmp_path_factory.mktemp("weights"))
    twin = torch_models.build(name, tensors, backbone.num_features)
    return name, backbone, twin, torch_models.run(name, twin, train=True, precision="float64")


def cast(module, dtype):
    """Our model with parameters and computation in another dtype."""
    graphdef, state = nnx.split(module)
    twin = nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), state))
    twin.dtype = dtype
    return twin


def apart(found, expected) -> float:
    return float(np.max(np.abs(np.asarray(found) - expected)) / np.max(np.abs(expected)))


@pytest.mark.parametrize("precision", OUTPUTS_WITHIN)
def test_backbone_equals_torchvisions(pair, precision):
    name, backbone, twin, exact = pair
    within = OUTPUTS_WITHIN[precision]
    evaluated = torch_models.run(name, twin, train=False, precision=precision)
    trained = exact if precision == "float64" else torch_models.run(name, twin, train=True, precision=precision)
    dtype = jnp.dtype(precision)
    with jax.enable_x64(True) if precision == "float64" else contextlib.nullcontext():
        graphdef, params, statistics = nnx.split(cast(backbone, dtype), nnx.Param, ...)
        images = jnp.asarray(rule_weights.images(rule_weights.MODELS[name][2]), dtype)
        weight, bias = rule_weights.head(backbone.num_features)

        def run(params, statistics, *, train):
            model = nnx.merge(graphdef, params, statistics, copy=True)
            outputs = model(images, train=train, key=None)
            main = outputs["features"] @ weight.T + bias[None]
            loss = jnp.mean((main - rule_weights.wanted()) ** 2)
            return loss, (outputs["stages"], main, nnx.split(model, nnx.Param, ...)[2])

        # Evaluation: every stage, and the head.
        _, (stages, main, _) = jax.jit(lambda p, s: run(p, s, train=False))(params, statistics)
        assert len(stages) == len(evaluated["stages"])
        outputs = [
            apart(found, wanted)
            for found, wanted in zip((*stages, main), (*evaluated["stages"], evaluated["main"]), strict=True)
        ]

        # Training: the same, BatchNorm's statistics after the step, the gradient of every parameter.
        step = jax.jit(jax.grad(lambda p, s: run(p, s, train=True), has_aux=True))
        gradients, (stages, main, after) = step(params, statistics)
        outputs += [
            apart(found, wanted)
            for found, wanted in zip((*stages, main), (*trained["stages"], trained["main"]), strict=True)
        ]
        ours = weights.tensors(nnx.merge(graphdef, gradients, after))  # gradients in place of parameters
        buffers = {key: apart(ours[key], value) for key, value in trained["statistics"].items()}
        errors = gradient_errors(ours, exact["gradients"])
        theirs = gradient_errors(trained["gradients"], exact["gradients"])
        assert len(errors) == len(theirs) == len(jax.tree.leaves(params))
        worst = max(errors, key=lambda key: errors[key])
        print(
            f"\n{name} {precision}: outputs {max(outputs):.1e}, statistics {max(buffers.values(), default=0):.1e}, "
            f"gradients {errors[worst]:.1e} ({worst}), torch's {max(theirs.values()):.1e}; "
            f"median {np.median(list(errors.values())):.1e}, torch's {np.median(list(theirs.values())):.1e}"
        )
        assert max(outputs) < within
        assert max(buffers.values(), default=0) < within, max(buffers, key=lambda key: buffers[key])
        assert errors[worst] < max(GRADIENTS_WITHIN[precision], 3 * max(theirs.values())), worst


def gradient_errors(found, exact):
    """{name: norm of the difference, relative}; a gradient that is zero but for rounding (a bias before BatchNorm) is
    held to the size of the others."""
    norms = {key: float(np.linalg.norm(value)) for key, value in exact.items() if "tracked" not in key}
    floor = 1e-4 * max(norms.values())
    return {
        key: float(np.linalg.norm(found[key] - exact[key])) / max(norm, floor)
        for key, norm in norms.items()
        if not key.startswith(("fc.", "classifier.", "heads."))
    }


def test_parameters_are_as_many_as_torchvisions(pair):
    _, backbone, twin, _ = pair
    ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(backbone, nnx.Param)))
    head = rule_weights.OUTPUTS * (backbone.num_features + 1)
    assert ours + head == sum(parameter.numel() for parameter in twin.parameters())
