"""Shrunken copies of every published vision transformer against what timm, transformers and torchvision make of the
same file; the numbers are those of `tests.parity.make_golden`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax import encoders
from stjax.models import encoder as networks
from stjax.models import weight_files
from tests.models import small_vits

GOLDEN = np.load(Path(__file__).parent / "data" / "vits.npz")


def test_every_vision_transformer_is_there():
    assert set(GOLDEN) == {name for name, entry in encoders.ENCODERS.items() if entry.module == "vit"}


@pytest.mark.parametrize("name", GOLDEN)
def test_shrunken_copy_makes_the_features_of_its_library(monkeypatch, tmp_path, name):
    family = encoders.find(name).families[0]
    entry = small_vits.shrunken(name, family)
    monkeypatch.setitem(encoders.ENCODERS, "small", entry)
    shapes = small_vits.shapes("small", family)
    tensors = {key: small_vits.array(key, shape) for key, shape in shapes.items()}
    weight_files.write_safetensors(tmp_path / "w.safetensors", tensors, metadata={})
    model, _ = networks.load("small", tmp_path / "w.safetensors")
    images = jnp.asarray(small_vits.images(entry.px, 1))
    found = jax.jit(lambda images: model(images, train=False)["features"])(images)
    np.testing.assert_allclose(found, GOLDEN[name], rtol=0, atol=1e-5 * np.abs(GOLDEN[name]).max())
