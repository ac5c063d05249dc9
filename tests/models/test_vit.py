"""The vision transformer against one written in NumPy, in every form that encoders have; positions rule by rule."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax.models import vit
from stjax.models.positions import resize_positions
from tests.models.in_numpy import block, norm, parameters, shaken

SIZES = {"patch_px": 8, "layers": 2, "heads": 2, "width": 12, "mlp": 20, "grid": 4}
FORMS = {
    "plain": vit.Spec(**SIZES),
    "eps": vit.Spec(**SIZES, eps=1e-2),
    "scaled": vit.Spec(**SIZES, layer_scale=True),
    "gated": vit.Spec(**SIZES, gated=True),
    "b": vit.Spec(**SIZES, registers=3, positions="b", layer_scale=True, gated=True),
    "c": vit.Spec(**SIZES, registers=3, positions="c", layer_scale=True),
    "d": vit.Spec(**SIZES, registers=3, positions="d", gated=True),
}


def build(spec, *, pooling="class", dtype=jnp.float32):
    """A small network all of whose parameters matter."""
    model = vit.of_spec(spec, image_size_px=32, pooling=pooling, dtype=dtype, rematerialise=False, rngs=nnx.Rngs(0))
    return shaken(model)


def reference(image, p, spec):
    """[32, 32, 3] to every token at the end, [1 + R + 16, D], and the patches' after the first block."""
    px, grid = spec.patch_px, spec.grid
    patches = image.reshape(grid, px, grid, px, 3).transpose(0, 2, 1, 3, 4).reshape(grid * grid, -1)
    patches = patches @ p["embed.kernel"].reshape(-1, spec.width) + p["embed.bias"]
    rows = {"a": 1, "b": 1 + spec.registers, "c": 0, "d": 0}[spec.positions]
    assert len(p["positions"]) == rows + grid * grid
    first = np.concatenate([p["token"][None], p.get("registers", np.zeros((0, spec.width)))])
    x = np.concatenate([first + p["positions"][:rows] if rows else first, patches + p["positions"][rows:]])
    after = []
    for i in range(spec.layers):
        x = block(x, p, f"blocks.{i}", heads=spec.heads, eps=spec.eps, gated=spec.gated)
        after.append(x[1 + spec.registers :])
    return norm(x, p, "norm", spec.eps), after


@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_what_numpy_does(form):
    spec = FORMS[form]
    model = build(spec)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    outputs = model(jnp.asarray(images), train=False)
    for n, image in enumerate(images.astype(np.float64)):
        tokens, after = reference(image, parameters(model), spec)
        first = 1 + spec.registers
        for name, wanted in (
            ("class", tokens[0]),
            ("features", tokens[0]),
            ("registers", tokens[1:first]),
            ("tokens", tokens[first:]),
        ):
            np.testing.assert_allclose(outputs[name][n], wanted, rtol=1e-4, atol=2e-5, err_msg=name)
        for stage, wanted in zip(outputs["stages"], after, strict=True):
            np.testing.assert_allclose(stage[n].reshape(16, -1), wanted, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("pooling", vit.POOLINGS)
def test_pooling_leaves_registers_out(pooling):
    model = build(FORMS["c"], pooling=pooling)
    outputs = model(jax.random.normal(jax.random.key(1), (2, 32, 32, 3)), train=False)
    mean = outputs["tokens"].mean(1)
    wanted = {"class": [outputs["class"]], "mean": [mean], "class+mean": [outputs["class"], mean]}[pooling]
    np.testing.assert_allclose(outputs["features"], np.concatenate(wanted, axis=1), rtol=1e-6)
    assert outputs["features"].shape == (2, model.num_features)


def test_other_pooling_is_refused():
    with pytest.raises(InputError, match=r"pooling is 'max'; choose one of class, class\+mean, mean"):
        vit.build("b16", rngs=nnx.Rngs(0), pooling="max")


def test_half_precision_parameters_compute_as_their_numbers_in_single():
    model = build(FORMS["b"])
    graphdef, state = nnx.split(model)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), state)
    images = jax.random.normal(jax.random.key(1), (2, 48, 32, 3))
    found = nnx.merge(graphdef, half)(images, train=False)["features"]
    back = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    wanted = nnx.merge(graphdef, back)(images, train=False)["features"]
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, wanted)


def keys(t, a):
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resized(old, new, rule):
    """[old] numbers at [new] places, place by place."""
    found = []
    for i in range(new):
        if rule == "R1":
            stretch = max(len(old) / new, 1)
            centre = (i + 0.5) * len(old) / new
            taken = [(keys((j + 0.5 - centre) / stretch, -0.5), value) for j, value in enumerate(old)]
            found.append(sum(w * value for w, value in taken) / sum(w for w, _ in taken))
            continue
        at = {
            "R0": i * (len(old) - 1) / max(new - 1, 1),
            "R2": (i + 0.5) * len(old) / (new + 0.1) - 0.5,
            "R3": (i + 0.5) * len(old) / new - 0.5,
            "R4": min(max((i + 0.5) * len(old) / new - 0.5, 0), len(old) - 1),
        }[rule]
        if rule == "R4":
            low = min(math.floor(at), len(old) - 2)
            found.append((low + 1 - at) * old[low] + (at - low) * old[low + 1])
            continue
        near = range(math.floor(at) - 1, math.floor(at) + 3)
        found.append(sum(keys(at - j, -0.75) * old[min(max(j, 0), len(old) - 1)] for j in near))
    return found


@pytest.mark.parametrize("rule", ["R0", "R1", "R2", "R3", "R4"])
@pytest.mark.parametrize("grid", [(16, 16), (28, 32), (9, 14), (1, 5)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_positions_follow_their_rule(rule, grid, prefix):
    old = np.random.default_rng(0).standard_normal((prefix + 196, 2))
    with jax.enable_x64(True):
        found = np.asarray(resize_positions(jnp.asarray(old), grid, prefix=prefix, rule=rule))
    np.testing.assert_array_equal(found[:prefix], old[:prefix])
    columns = np.stack([[resized(row, grid[1], rule) for row in old[prefix:, c].reshape(14, 14)] for c in range(2)])
    wanted = np.stack([[resized(column, grid[0], rule) for column in plane.T] for plane in columns])  # [c, w, h]
    np.testing.assert_allclose(found[prefix:].reshape(*grid, 2), wanted.transpose(2, 1, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["R0", "R1", "R2", "R3", "R4"])
def test_positions_of_an_equal_grid_are_untouched(rule):
    positions = jax.random.normal(jax.random.key(0), (17, 3)).astype(jnp.float16)
    assert resize_positions(positions, (4, 4), rule=rule) is positions


@pytest.mark.parametrize("grid", [(16, 16), (37, 20), (9, 5)])
def test_rule_r1_is_that_of_jax(grid):
    old = np.random.default_rng(0).standard_normal((196, 3))
    with jax.enable_x64(True):
        wanted = jax.image.resize(jnp.asarray(old).reshape(14, 14, 3), (*grid, 3), "cubic", antialias=True)
        found = resize_positions(jnp.asarray(old), grid, prefix=0, rule="R1")
    np.testing.assert_allclose(found.reshape(*grid, 3), wanted, rtol=0, atol=1e-12)
