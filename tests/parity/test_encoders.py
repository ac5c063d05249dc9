"""The encoders that are no plain vision transformers against PyTorch's twins, same weights, float64 and float32.

Needs torch, timm and torchvision, which are no dependencies of stjax; see test_torchvision.py.
"""

import contextlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stjax import encoders
from stjax.benchmarks import pytorch as bench_torch
from stjax.models import encoder, swin, weights
from tests.models import small_encoders
from tests.parity import torch_encoders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bench_torch.import_torchvision() is None or importlib.util.find_spec("timm") is None,
        reason="torch, torchvision and timm are not installed",
    ),
]
WITHIN = {"float64": 1e-10, "float32": 1e-5}


def cast(network, dtype):
    """Our network with parameters and computation in another dtype."""
    graphdef, state = nnx.split(network)
    twin = nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), state))
    for part in (twin, getattr(twin, "trunk", twin)):
        part.dtype = dtype
    return twin


@pytest.mark.parametrize("precision", WITHIN)
@pytest.mark.parametrize("name", small_encoders.NETWORKS)
def test_encoder_equals_its_twin(name, precision, tmp_path):
    network, tensors = small_encoders.loaded(name, tmp_path)
    wanted = torch_encoders.run(name, network, tensors, precision)
    with jax.enable_x64(True) if precision == "float64" else contextlib.nullcontext():
        graphdef, state = nnx.split(cast(network, jnp.dtype(precision)))
        images = jnp.asarray(small_encoders.images(name), precision)
        found = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, train=False))(state, images)
    pairs = [*zip(found["stages"], wanted["stages"], strict=True), (found["features"], wanted["features"])]
    apart = [float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs))) for ours, theirs in pairs]
    print(f"\n{name} {precision}: stages {max(apart[:-1]):.1e}, features {apart[-1]:.1e}")
    assert max(apart) < WITHIN[precision]


@pytest.mark.parametrize("name", ["ctranspath", "conch", "conch_v1_5"])
def test_full_network_has_the_names_and_shapes_of_its_twin(name):
    import torch

    of = encoders.ENCODERS[name]
    network = nnx.eval_shape(lambda: encoder.build(name, rngs=nnx.Rngs(0)))
    leaves = weights._leaves(network)
    names = weights._names(network, leaves)[of.families[-1]]
    ours = {each[0]: weights._expected(path, leaves[path].shape, 1) for path, each in names.items()}
    make = torch_encoders.swin_module if name == "ctranspath" else torch_encoders.conch_module
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in make(network, of.px).state_dict().items()}
    assert ours == {key: shape for key, shape in theirs.items() if not key.endswith(weights._RECOMPUTED)}


@pytest.mark.parametrize("grid", [(10, 17), (7, 16), (5, 9)])
def test_windows_that_do_not_fit_a_grid_are_filled_as_torchvision_fills_them(grid):
    import torch
    from torchvision.models.swin_transformer import SwinTransformerBlock

    with jax.enable_x64(True):
        ours = swin.Block(16, 2, 7, shifted=True, rngs=nnx.Rngs(0))
        theirs = SwinTransformerBlock(16, 2, [7, 7], [3, 3]).double().eval()
        state = theirs.state_dict()
        rng = np.random.default_rng(0)
        state = {
            key: value if key.endswith("index") else torch.from_numpy(rng.normal(0, 0.5, tuple(value.shape)))
            for key, value in state.items()
        }
        theirs.load_state_dict(state)
        names = {"mlp1": "mlp.0", "mlp2": "mlp.3", "attention.qkv": "attn.qkv", "attention.out": "attn.proj"}
        for path, leaf in nnx.to_flat_state(nnx.state(ours)):
            layer, part = ".".join(map(str, path[:-1])), path[-1]
            name = f"{names.get(layer, layer)}.{'bias' if part == 'bias' else 'weight'}"
            value = state["attn.relative_position_bias_table" if part == "offsets" else name].numpy()
            leaf.set_value(jnp.asarray(value.T if part == "kernel" else value))
        x = rng.normal(size=(2, *grid, 16))
        found = np.asarray(ours(jnp.asarray(x), train=False))
        wanted = theirs(torch.from_numpy(x)).detach().numpy()
    assert np.max(np.abs(found - wanted)) < 1e-12 * np.max(np.abs(wanted))
