"""Published encoders against timm, transformers and torchvision. Needs them and PyTorch, no dependencies of stjax:

pip install torch==2.14.1 timm==1.0.31 transformers==5.24.0 safetensors; pip install --no-deps torchvision==0.29.1

Full networks are compared by names and shapes, without numbers; shrunken copies by every token they compute, from a
file that both sides read.
"""

import contextlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stjax import encoders
from stjax.encoders import DINOV2, HF_DINOV2, HF_VIT, TIMM
from stjax.models import encoder as networks
from stjax.models import weight_files
from stjax.models.positions import resize_positions
from tests.models import small_vits

needs = [importlib.util.find_spec(name) for name in ("torch", "timm", "transformers", "torchvision")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(None in needs, reason="torch, torchvision, timm and transformers are not all installed"),
]
VITS = {name: entry for name, entry in encoders.ENCODERS.items() if entry.module == "vit"}
PAIRS = [(name, family) for name, entry in VITS.items() for family in entry.families]
WITHIN = {"float64": 1e-10, "float32": 1e-5}  # largest difference, relative to the largest number
# One of each layout of positions and rule to resize them; of R2 no library has a network.
RESIZED = [
    ("uni", TIMM),
    ("virchow2", TIMM),
    ("h_optimus_0", TIMM),
    ("kaiko_l14", TIMM),
    ("kaiko_s8", TIMM),
    ("hibou_b", HF_DINOV2),
    ("dinov2_s_reg", HF_DINOV2),
    ("dinov2_s_reg", DINOV2),
    ("phikon", HF_VIT),
    ("phikon_v2", HF_DINOV2),
    ("midnight_12k", HF_DINOV2),
]


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_full_network_has_the_names_shapes_and_parameters_of_its_library(name, family):
    import torch

    from tests.parity import vit_models

    with torch.device("meta"):
        theirs = vit_models.build(name, family, small=False)
        published = vit_models.published(theirs, family)
    found = {key: tuple(tensor.shape) for key, tensor in published.items() if not key.endswith("mask_token")}
    assert small_vits.shapes(name, family) == found
    model = nnx.eval_shape(lambda: networks.build(name, rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    added = VITS[name].network["width"] if VITS[name].network.get("positions") == "d" and family != TIMM else 0
    assert count + added == sum(tensor.numel() for key, tensor in published.items() if not key.endswith("mask_token"))


@pytest.fixture
def shrunken(monkeypatch, tmp_path):
    """Makes a shrunken copy of an encoder, filled from a file, and its library's twin, filled from the same."""

    def make(name, family):
        import torch

        from tests.parity import vit_models

        entry = small_vits.shrunken(name, family)
        monkeypatch.setitem(encoders.ENCODERS, "small", entry)
        twin = vit_models.build(name, family, small=True)
        with torch.no_grad():
            published = vit_models.published(twin, family)
        tensors = {key: small_vits.array(key, tuple(tensor.shape)) for key, tensor in published.items()}
        vit_models.fill(twin, tensors, family)
        path = tmp_path / "w.safetensors"
        weight_files.write_safetensors(path, tensors, metadata={})
        model, report = networks.load("small", path)
        assert report.source == family or (report.source, family) == (TIMM, DINOV2)
        return model, twin, entry

    return make


def compare(model, twin, entry, family, *, px, precision):
    """Every token of both, and what the pooling makes of them."""
    from tests.parity import vit_models

    images = small_vits.images(px)
    theirs = vit_models.run(twin, images, family, precision=precision)  # [B, 1 + R + N, D]
    with jax.enable_x64(True) if precision == "float64" else contextlib.nullcontext():
        graph, state = nnx.split(model)
        state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), precision), state)

        def run(state, images):
            network = nnx.merge(graph, state)
            network.dtype = jnp.dtype(precision)
            return network(images, train=False)

        ours = jax.jit(run)(state, jnp.asarray(images, precision))
        tokens = np.concatenate([ours["class"][:, None], ours["registers"], ours["tokens"]], axis=1)
        first = 1 + ours["registers"].shape[1]
        pooled = [theirs[:, 0]] if entry.pooling == "class" else [theirs[:, 0], theirs[:, first:].mean(1)]
        pairs = {"tokens": (tokens, theirs), "features": (ours["features"], np.concatenate(pooled, axis=1))}
        for what, (found, wanted) in pairs.items():
            assert str(found.dtype) == precision
            apart = float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())
            print(f"\n{entry.title} {family} {px} px {precision} {what}: {apart:.1e}", end="")
            assert apart < WITHIN[precision]


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_shrunken_copy_computes_what_its_library_does(shrunken, name, family):
    model, twin, entry = shrunken(name, family)
    for precision in ("float32", "float64"):
        compare(model, twin, entry, family, px=entry.px, precision=precision)


@pytest.mark.parametrize(("name", "family"), RESIZED)
def test_other_sizes_of_images_give_what_its_library_does(shrunken, name, family):
    model, twin, entry = shrunken(name, family)
    for px in (224, 256, 448):
        patch = entry.network["patch_px"]
        compare(model, twin, entry, family, px=px // patch * patch, precision="float32")


INTERPOLATE = {  # as the publishers call torch.nn.functional.interpolate, of a grid from M to h x w
    "R0": lambda h, w, _: {"size": (h, w), "mode": "bicubic", "align_corners": True},
    "R1": lambda h, w, _: {"size": (h, w), "mode": "bicubic", "align_corners": False, "antialias": True},
    "R2": lambda h, w, m: {"scale_factor": ((h + 0.1) / m, (w + 0.1) / m), "mode": "bicubic", "antialias": False},
    "R3": lambda h, w, _: {"size": (h, w), "mode": "bicubic", "align_corners": False},
}


@pytest.mark.parametrize("rule", INTERPOLATE)
@pytest.mark.parametrize("prefix", [0, 1, 5, 9])
@pytest.mark.parametrize(("old", "patch_px"), [(14, 16), (16, 14), (37, 14), (28, 8)])
def test_positions_are_resized_as_torch_does(rule, prefix, old, patch_px):
    import torch

    positions = np.random.default_rng(0).standard_normal((prefix + old * old, 6))
    for height, width in ((224, 224), (256, 256), (448, 448), (224, 448)):
        grid = height // patch_px, width // patch_px
        planes = torch.from_numpy(positions[prefix:].reshape(1, old, old, 6)).permute(0, 3, 1, 2)
        equal = grid == (old, old)  # then none of them calls it
        wanted = planes if equal else torch.nn.functional.interpolate(planes, **INTERPOLATE[rule](*grid, old))
        with jax.enable_x64(True):
            found = np.asarray(resize_positions(jnp.asarray(positions), grid, prefix=prefix, rule=rule))
        np.testing.assert_array_equal(found[:prefix], positions[:prefix])
        wanted = wanted.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], 6).numpy()
        np.testing.assert_allclose(found[prefix:], wanted, rtol=0, atol=1e-12)
