"""TRIPLEX against NumPy, part by part and whole; its size, its quirks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax.models import triplex
from stjax.models.attention import BlockSpec
from tests.models import in_numpy
from tests.models import section_batches as sections

WIDTH, HEADS, W = 8, 2, sections.WINDOWS
PART = triplex.Part(2, HEADS, 2, 0.0)
RNG = np.random.default_rng(0)
TINY = triplex.SPECS["tiny"]


def on_array(x, grid, p, name):
    """[N, D] at places [N, 2]: each spot and those in the eight places around it."""
    at = {tuple(place): n for n, place in enumerate(grid.tolist())}
    found = np.array(x)
    for n, (column, row) in enumerate(grid.tolist()):
        for i in range(3):
            for j in range(3):
                near = at.get((column + j - 1, row + i - 1))
                if near is not None:
                    found[n] += x[near] * p[f"{name}.conv.kernel"][i, j, 0]
        found[n] += p[f"{name}.conv.bias"]
    return found


def of_section(x, grid, p, name, part):
    for number in range(part.blocks):
        x = in_numpy.block(x, p, f"{name}.blocks.{number}", heads=part.heads)
        x = on_array(x, grid, p, f"{name}.on_array") if number == 0 else x
    return in_numpy.norm(x, p, f"{name}.norm", 1e-5)


def of_windows(x, inside, p, name, part):
    unseen = np.where(inside, 0, -1e9)[None, None]
    for number in range(part.blocks):
        bias = np.zeros((part.heads, W * W, W * W))
        for a in range(W * W):
            for b in range(W * W):
                apart = abs(a // W - b // W) * W + abs(a % W - b % W)
                bias[:, a, b] = p[f"{name}.distances.{number}"][:, apart]
        x = in_numpy.block(x, p, f"{name}.blocks.{number}", heads=part.heads, bias=bias + unseen)
    return in_numpy.norm(x, p, f"{name}.norm", 1e-5)


def fused(own, patch, windows, inside, p, name, part):
    found = 0
    for context, unseen in ((patch, 0), (windows, np.where(inside, 0, -1e9))):
        x, bias = own[None], np.broadcast_to(unseen, (part.heads, 1, len(context)))
        for number in range(part.blocks):
            x = in_numpy.block(x, p, f"{name}.blocks.{number}", heads=part.heads, context=context, bias=bias)
        found = found + x[0]
    return in_numpy.norm(found, p, f"{name}.norm", 1e-5)


@pytest.fixture(scope="module")
def given():
    return sections.batch()


def in_double(module):
    """A part all of whose parameters matter, and these by name, called "m"."""
    model = in_numpy.shaken(module, jnp.float64)
    return model, {f"m.{name}": array for name, array in in_numpy.parameters(model).items()}


def test_sections_of_different_extents_lie_on_the_array_as_numpy_has_them(given):
    x = RNG.normal(size=(2, 8, WIDTH))
    with jax.enable_x64(True):
        model, p = in_double(triplex.Section(PART, WIDTH, sections.GRID, rngs=nnx.Rngs(0)))
        options = {"train": False, "key": None, "rematerialise": False}
        grid = np.where(given["present"][..., None], given["grid"], 10**6)
        found = np.asarray(model(jnp.asarray(x), jnp.asarray(grid), jnp.asarray(given["present"]), **options))
    for item, count in enumerate((7, 4)):
        wanted = of_section(x[item, :count], given["grid"][item, :count], p, "m", PART)
        np.testing.assert_allclose(found[item, :count], wanted, rtol=0, atol=1e-11)


def test_windows_attend_by_their_distance_and_not_beyond_the_image(given):
    x, inside = RNG.normal(size=(8, W * W, WIDTH)), given["context_mask"][0]
    with jax.enable_x64(True):
        model, p = in_double(triplex.Neighbours(BlockSpec(WIDTH, HEADS, 5, eps=1e-5), 2, W, rngs=nnx.Rngs(0)))
        options = {"train": False, "key": None, "rematerialise": False}
        found = np.asarray(model(jnp.asarray(x), jnp.asarray(inside), **options))
    for n in range(8):
        np.testing.assert_allclose(found[n], of_windows(x[n], inside[n], p, "m", PART), rtol=0, atol=1e-11)


def test_fusion_asks_patch_and_windows_by_the_same_weights(given):
    own, patch, windows = (RNG.normal(size=(8, *count, WIDTH)) for count in ((), (4,), (W * W,)))
    inside = given["context_mask"][0]
    with jax.enable_x64(True):
        model, p = in_double(triplex.Fusion(PART, WIDTH, rngs=nnx.Rngs(0)))
        options = {"train": False, "key": None, "rematerialise": False}
        found = model(*map(jnp.asarray, (own, patch, windows, inside)), **options)
    for n in range(8):
        wanted = fused(own[n], patch[n], windows[n], inside[n], p, "m", PART)
        np.testing.assert_allclose(found[n], wanted, rtol=0, atol=1e-11)


def test_the_whole_computes_what_numpy_does(given):
    model = sections.build("triplex", "tiny")
    for path, leaf in in_numpy.flat(model):  # the backbone stays as it is: it has tests of its own
        if path[0] != "backbone" and path[-1] in ("bias", "scale"):
            leaf[...] = leaf[...] + 0.3 * jax.random.normal(jax.random.key(len(path)), leaf.shape)
    p, inputs = in_numpy.parameters(model), sections.keywords("triplex", "tiny", given)
    maps = model.backbone(inputs["images"].reshape(-1, 64, 64, 3), train=False, key=None)["stages"][-1]
    maps = np.asarray(maps, np.float64).reshape(2, 8, -1, maps.shape[-1])
    found = model(**inputs, train=False)
    for item, count in enumerate((7, 4)):
        vectors = in_numpy.standardised(given["features"][item, :count].astype(np.float64), p)
        spots = of_section(
            in_numpy.linear(vectors, p, "of_spot"), given["grid"][item, :count], p, "section", TINY.section
        )
        for n in range(count):
            patch = in_numpy.linear(maps[item, n], p, "of_patch")
            windows = in_numpy.standardised(given["context"][item, n].astype(np.float64), p)
            inside = given["context_mask"][item, n]
            windows = of_windows(in_numpy.linear(windows, p, "of_window"), inside, p, "neighbours", TINY.neighbours)
            of_heads = {
                "main": fused(spots[n], patch, windows, inside, p, "fusion", TINY.fusion),
                "target": patch.mean(0),
                "neighbours": windows[inside].mean(0),
                "section": spots[n],
            }
            assert found.keys() == of_heads.keys()
            for name, x in of_heads.items():
                wanted = in_numpy.linear(x, p, f"heads.{name}")
                np.testing.assert_allclose(found[name][item, n], wanted, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("variant", "options", "millions"),
    [
        ("her2st", {}, 29.29),
        ("her2st", {"neighbour_mlp": "as_released", "target_layer": False}, 27.46),
        ("stnet", {}, 40.32),
        ("stnet", {"neighbour_mlp": "as_released", "target_layer": False}, 31.68),
    ],
)
def test_it_is_as_large_as_the_published_one(variant, options, millions):
    facts = {"image_size_px": 224, "grid_size": (64, 64), "context": 5}
    facts |= {name: np.ones(512) for name in ("feature_mean", "feature_std")}

    def parameters():
        return nnx.state(triplex.build(variant, num_main=250, rngs=nnx.Rngs(0), **facts, **options), nnx.Param)

    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(parameters)))
    assert round(count / 1e6, 2) == millions


@pytest.mark.slow
def test_patches_that_fill_up_an_item_are_no_part_of_the_statistics():
    def after(batch):
        model = sections.build("triplex", "tiny")
        model(**sections.keywords("triplex", "tiny", batch), train=True, key=None)
        return [leaf for path, leaf in in_numpy.parameters(model).items() if path.endswith((".var", ".mean"))]

    batch = sections.filled_up(sections.batch((4,), most=4), 0)
    repeated = sections.asked(batch, [0, 1, 2, 3, 0, 0])
    filled = sections.filled_up(batch, 2)
    for one, other in zip(after(repeated), after(filled), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_spot_beyond_the_array_is_never_laid_where_another_is(given):
    batch = {name: np.array(array) for name, array in given.items()}
    batch["grid"][0, 2] = (sections.GRID[0], 0)
    found = sections.runner(sections.build("triplex", "tiny"), "triplex", "tiny")(batch)
    assert np.isnan(found[0, 2]).all()
    assert np.isfinite(found[1, :4]).all()


def test_a_frozen_backbone_has_neither_gradient_nor_statistics(given):
    model = sections.build("triplex", "tiny", tune="frozen")
    before = in_numpy.parameters(model)
    model(**sections.keywords("triplex", "tiny", given), train=True, key=None)
    for name, array in in_numpy.parameters(model).items():
        np.testing.assert_array_equal(array, before[name])
    assert not any("backbone" in map(str, path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("variant", "options", "says"),
    [
        ("visium", {}, "'visium'; triplex has her2st, stnet, skin, tiny"),
        ("tiny", {"backbone": "ciga"}, "backbone is 'ciga'; choose one of resnet18, "),
        ("tiny", {"neighbour_mlp": "narrow"}, "neighbour_mlp is 'narrow'; choose one of ratio, as_released"),
        ("tiny", {"target_layer": False}, "last stage has 128 channels, TRIPLEX's blocks 32; leave .*target_layer on"),
    ],
)
def test_what_cannot_be_built_is_refused(variant, options, says):
    with pytest.raises(InputError, match=says):
        sections.build("triplex", variant, **options)
