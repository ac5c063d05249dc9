"""PixNet over published encoders, shrunken: pyramids from tokens and stages, windows, what is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import encoders, models
from stjax.models import pixnet, pyramids, resnet, tuning
from tests.models.test_encoder_weights import SMALL
from tests.models.test_pixnet import table

GENES = 5
TOKENS = {"t8": (8, 64), "t14": (14, 56), "t16": (16, 64)}  # patch, and side of the images they are trained on
WINDOW = 64


@pytest.fixture(scope="module", autouse=True)
def small_encoders():
    """Shrunken ones of tokens of each stride, and of stages: a ResNet and a Swin transformer."""
    with pytest.MonkeyPatch.context() as patch:
        made_small(patch)
        yield


def made_small(patch):
    patch.setattr(resnet, "_WIDTHS", (8, 12, 16, 24))
    patch.setitem(resnet.SPECS, "18", resnet.Spec((1, 1, 1, 1), bottleneck=False))
    network = {"width": 16, "blocks": (1, 2, 1, 1), "heads": (1, 2, 2, 4), "window": 2}
    swin = dataclasses.replace(encoders.ENCODERS["ctranspath"], network=network, embedding=128, px=64)
    patch.setitem(encoders.ENCODERS, "swin", swin)
    for name, (patch_px, px) in TOKENS.items():
        network = SMALL | {"layers": 4, "patch_px": patch_px, "grid": px // patch_px, "layer_scale": True}
        entry = dataclasses.replace(encoders.ENCODERS["uni"], network=network, px=px)
        patch.setitem(encoders.ENCODERS, name, entry)


def build(variant, *, side=2 * WINDOW, options=None, **of_model):
    kinds = {"num_main": GENES, "num_aux": 0, "dtype": "float32", "rngs": nnx.Rngs(0), **of_model}
    given = {"width": 8, "aggregation": "mean"} | (options or {})
    return models.build(module="pixnet", variant=variant, options=given, facts={"image_size_px": side}, **kinds)


def images(height=2 * WINDOW, width=2 * WINDOW, batch=1):
    return jax.random.normal(jax.random.key(1), (batch, height, width, 3))


@pytest.mark.parametrize("variant", TOKENS)
def test_tokens_of_any_stride_make_the_four_levels(variant):
    model = build(variant)
    levels = jax.eval_shape(lambda x: model.encode(x, train=False), images())
    width = SMALL["width"]
    finest, second = (width // 2, width) if variant == "t8" else (width // 4, width // 2)
    assert [level.shape for level in levels] == [
        (1, 32, 32, finest), (1, 16, 16, second), (1, 8, 8, width), (1, 4, 4, width)
    ]  # fmt: skip
    assert model.layout.window_px == WINDOW
    assert model.gene_map(images()).shape == (1, 32, 32, GENES)


@pytest.mark.parametrize("variant", TOKENS)
@pytest.mark.parametrize("pyramid", ["simple", "taps"])
def test_each_window_is_seen_by_itself(variant, pyramid):
    model = build(variant, options={"pyramid": pyramid})
    x = images(WINDOW, 2 * WINDOW)
    whole = model.encode(x, train=False)
    for number in (0, 1):
        alone = model.encode(x[:, :, number * WINDOW : (number + 1) * WINDOW], train=False)
        for level, of_whole in zip(alone, whole, strict=True):
            part = level.shape[2]
            found = of_whole[:, :, number * part : (number + 1) * part]
            np.testing.assert_allclose(found, level, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("variant", "window_px"), [("ciga_resnet18", 0), ("swin", WINDOW)])
def test_stages_are_the_levels_of_encoders_that_have_them(variant, window_px):
    model = build(variant)
    assert (model.layout.window_px, model.layout.tokens, model.pyramid) == (window_px, 0, None)
    x = images(WINDOW, WINDOW)
    stages = model.backbone(x, train=False)["stages"]
    for level, stage in zip(model.encode(x, train=False), stages, strict=True):
        np.testing.assert_allclose(level, stage, rtol=1e-5, atol=1e-5)


def test_what_the_encoder_sees_of_a_window_is_what_it_was_trained_on():
    """Tokens of 14 px see 64 px of the tile as 56 px; the last tokens are normalised."""
    model = build("t14")
    x = images(WINDOW, WINDOW)
    shrunk = jax.image.resize(x, (1, 56, 56, 3), "cubic", antialias=True)
    expected = model.backbone(shrunk, train=False)["tokens"].reshape(1, 4, 4, -1)
    np.testing.assert_allclose(model.encode(x, train=False)[2], expected, rtol=1e-4, atol=1e-5)


def test_taps_take_each_level_from_a_block_of_its_own():
    model = build("t16", options={"pyramid": "taps"})
    assert model.layout.levels == (0, 1, 2, 3)
    x = images(WINDOW, WINDOW)
    stages = model.backbone(x, train=False)["stages"]
    found = model.encode(x, train=False)
    np.testing.assert_allclose(found[2], model.backbone.norm(stages[2]), rtol=1e-4, atol=1e-5)
    pooled = jnp.max(model.backbone.norm(stages[3]).reshape(1, 2, 2, 2, 2, -1), axis=(2, 4))
    np.testing.assert_allclose(found[3], pooled, rtol=1e-4, atol=1e-5)


def test_taps_of_a_deep_transformer_are_evenly_spaced():
    shapes = {24: (5, 11, 17, 23), 12: (2, 5, 8, 11), 40: (9, 19, 29, 39)}

    class Deep(nnx.Module):
        def __init__(self, depth):
            self.depth = depth

        def __call__(self, x, *, train, key):
            del train, key
            return {"stages": (x[:, ::16, ::16],) * self.depth}

    for depth, levels in shapes.items():
        layout = pyramids.layout_of(Deep(depth), pyramid="taps", window_px=0, published=True)
        assert layout.levels == levels


class Stages(nnx.Module):
    """A network whose stages are at the strides given."""

    def __init__(self, strides):
        self.all = strides

    def __call__(self, x, *, train, key):
        del train, key
        return {"stages": tuple(x[:, ::stride, ::stride] for stride in self.all)}


@pytest.mark.parametrize(("strides", "pooled"), [((4, 8, 16, 32), 0), ((1, 2, 4, 8), 2), ((1, 2, 4, 8, 16), 1)])
def test_levels_that_a_published_encoder_lacks_are_pooled(strides, pooled):
    layout = pyramids.layout_of(Stages(strides), pyramid="simple", window_px=0, published=True)
    assert (layout.strides, layout.pooled, layout.tokens) == ((4, 8, 16, 32), pooled, 0)
    x = images(64, 64)
    maps = layout.maps(Stages(strides), x, train=False, key=None)
    assert [level.shape[1] for level in maps] == [16, 8, 4, 2]
    if pooled:
        last = maps[-pooled - 1]
        side = last.shape[1] // 2
        expected = last.reshape(1, side, 2, side, 2, 3).max(axis=(2, 4))
        np.testing.assert_array_equal(maps[-pooled], expected)
    alone = pyramids.layout_of(Stages(strides), pyramid="simple", window_px=0, published=False)
    assert alone.strides == layout.strides[: len(layout.strides) - pooled]


@pytest.mark.parametrize("tune", ["frozen", "last", "lora"])
def test_gradients_reach_what_is_tuned_and_all_of_the_decoder(tune):
    model = build("t14", options={"tune": tune, "rank": 2, "blocks": 1})
    for block in model.backbone.blocks:
        for gamma in (block.gamma1, block.gamma2):
            gamma.set_value(jnp.full(gamma.shape, 0.5))
        if tune == "lora" and hasattr(vars(block.attention.qkv).get("update"), "up"):
            for layer in (block.attention.qkv, block.attention.out):
                layer.update.up.set_value(jnp.full(layer.update.up.shape, 0.1))
    graphdef, params, statistics = models.split(model)
    spots = table(1)

    def loss_of(params):
        inputs = {"images": images(WINDOW, WINDOW), "spots": spots}
        found, _ = models.apply(graphdef, params, statistics, inputs, train=True, key=jax.random.key(0))
        return jnp.mean((found["main"] - 1) ** 2)

    gradients = nnx.to_flat_state(jax.jit(jax.grad(loss_of))(params))
    for path, leaf in gradients:
        if path[0] != "backbone" or "attention" in path:
            assert bool(jnp.any(leaf.get_value() != 0)), path
    of_backbone = {".".join(map(str, path[1:4])) for path, _ in gradients if path[0] == "backbone"}
    expected = {"frozen": set(), "lora": {"blocks.3.attention"}}
    if tune == "last":
        assert of_backbone == {"norm.scale", "norm.bias"} | {
            f"blocks.3.{part}" for part in ("attention", "gamma1", "gamma2", "mlp1", "mlp2", "norm1", "norm2")
        }
    else:
        assert of_backbone == expected[tune]


def test_a_blank_encoder_takes_no_memory_and_has_the_same_places():
    whole, blank = build("t16", options={"tune": "lora"}), build("t16", options={"tune": "lora"}, blank=True)
    assert blank.backbone.blocks[0].mlp1.kernel.get_value().strides == (0, 0)
    for (path, a), (other, b) in zip(*(nnx.to_flat_state(nnx.state(model)) for model in (whole, blank)), strict=True):
        assert (path, a.shape, type(a)) == (other, b.shape, type(b))
    assert isinstance(blank.backbone.embed.kernel, tuning.Frozen)


@pytest.mark.parametrize(
    ("variant", "side", "options", "message"),
    [
        ("t16", 96, {}, r"tiles are 96 px, expected multiples of 64, the windows that the encoder sees; .*window_px"),
        ("t16", 128, {"window_px": 48}, "window_px is 48, expected a multiple of 32"),
        ("t16", 128, {"pyramid": "deep"}, "pyramid is 'deep'; choose one of simple, taps"),
        ("efficientnet_tiny", 128, {"pyramid": "taps"}, "taps is for transformers"),
        ("t99", 128, {}, "'t99'; pixnet has resnet18, .* and what `stjax encoders` lists"),
    ],
)
def test_what_cannot_be_is_refused(variant, side, options, message):
    with pytest.raises(InputError, match=message):
        build(variant, side=side, options=options)


def test_images_of_other_sizes_than_whole_windows_are_refused():
    with pytest.raises(InputError, match="96 x 64 px, expected multiples of 64, the windows"):
        build("t16").encode(images(64, 96), train=False)


def test_windows_of_an_encoder_are_the_images_it_was_trained_on():
    names = ("uni", "h0_mini", "lunit_s8", "t14", "conch", "ctranspath", "shell", "hed_vgg16", "efficientnet_lite1")
    assert [pixnet.own_window_px(encoders.ENCODERS[name]) for name in names] == [
        224, 256, 224, WINDOW, 448, 224, 128, 0, 0
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["kaiko_s8", "conch", "ctranspath", "resnet50_imagenet", "shell", "hed_vgg16"])
def test_one_of_each_kind_of_network_makes_four_levels(name):
    side = pixnet.own_window_px(encoders.ENCODERS[name]) or 256

    def levels():
        options = {"num_main": 1, "width": 4, "aggregation": "mean", "image_size_px": side}
        return pixnet.build(name, **options, rngs=nnx.Rngs(0)).encode(jnp.zeros((1, side, side, 3)), train=False)

    assert [side // level.shape[1] for level in jax.eval_shape(levels)] == [4, 8, 16, 32]
