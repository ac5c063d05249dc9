"""Weights in ONNX models and in Keras' files: what is read, and what is refused."""

import h5py
import numpy as np
import pytest

from data_prep import files
from data_prep.errors import InputError
from stjax.models import weight_files, weights
from tests.models import onnx_writer
from tests.models.onnx_writer import external, field, number, tensor

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.array([1.5, -2.0], np.float16),
    "shape": np.array([0, 8, -1], np.int64),
    "one": np.array(3.0, np.float32),
}
SIX = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize("beside", [frozenset(), frozenset(ARRAYS), frozenset({"half"})])
def test_an_onnx_models_weights_are_read_from_it_and_from_beside_it(beside, tmp_path):
    path = onnx_writer.model(tmp_path / "m.onnx", ARRAYS, beside=beside)
    found = weight_files.read(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_the_hash_is_of_every_file_that_a_model_has_tensors_in_whatever_their_names(tmp_path):
    names = ("a.bin", "weights", "m.onnx.data")
    for name in (*names, "other.onnx.data"):
        (tmp_path / name).write_bytes(SIX.tobytes())
    path = onnx_writer.write(tmp_path / "m.onnx", [tensor(name, SIX, external(name)) for name in reversed(names)])
    whole = weights.sha256(path)
    for name in names:
        (tmp_path / name).write_bytes(SIX[::-1].tobytes())
        assert weights.sha256(path) != whole, name
        (tmp_path / name).write_bytes(SIX.tobytes())
    (tmp_path / "other.onnx.data").unlink()
    assert weights.sha256(path) == whole
    alone = onnx_writer.model(tmp_path / "alone.onnx", ARRAYS)
    (tmp_path / "alone.onnx.data").write_bytes(b"of no concern")
    assert weights.sha256(alone) == files.sha256(alone)
    (tmp_path / "weights").unlink()
    with pytest.raises(InputError, match=r"m\.onnx cannot be read: No such file"):
        weights.sha256(path)


def test_packed_sides_are_read_too(tmp_path):
    sides = field(1, number(2) + number(3))
    packed = sides + field(2, 1) + field(8, b"w") + field(9, SIX.tobytes())
    found = weight_files.read(onnx_writer.write(tmp_path / "m.onnx", [packed]))
    np.testing.assert_array_equal(found["w"], SIX.reshape(2, 3))


ONNX = {
    "elsewhere": ([tensor("w", SIX, external("../m.data"))], "lies in '../m.data', not in a file next to it"),
    "absolute": ([tensor("w", SIX, external("/etc/passwd"))], "lies in '/etc/passwd', not in a file next to it"),
    "above": ([tensor("w", SIX[:0], external(".."))], "lies in '..', which is no file"),
    "missing": ([tensor("w", SIX, external("other.data"))], "No such file"),
    "too long": ([tensor("w", np.zeros(9, np.float32), external("m.data"))], "take more bytes of m.data than the 32"),
    "beyond": ([tensor("w", SIX, external("m.data", offset=12))], "does not fit where it lies in m.data"),
    "before": ([tensor("w", SIX, external("m.data", offset=-4))], "does not fit where it lies in m.data"),
    "length": ([tensor("w", SIX, external("m.data", length=20))], "does not fit where it lies in m.data"),
    "no place": ([tensor("w", SIX, field(13, field(1, b"offset") + field(2, b"0")))], "damaged"),
    "shared": ([tensor(n, SIX, external("m.data")) for n in "ab"], "take more bytes of m.data than the 32 it has"),
    "numbers": ([tensor("w", SIX, field(4, SIX.tobytes()))], "has 0 bytes, expected 24"),
    "bytes": ([tensor("w", SIX, field(9, b"1234567"))], "has 7 bytes, expected 24"),
    "type": ([field(1, 6) + field(2, 8) + field(8, b"w")], "data type 8, which is not read"),
    "twice": ([tensor("w", SIX)] * 2, "tensor 'w' appears twice"),
    "huge": ([field(1, 2**62) + tensor("w", SIX)], "expected"),
    "none": ([], "it holds no weights"),
    "name": ([field(1, 1) + field(2, 2) + field(8, b"\xff") + field(9, b"1")], "damaged"),
}


@pytest.mark.parametrize("what", ONNX)
def test_onnx_models_that_are_refused(what, tmp_path):
    tensors, message = ONNX[what]
    (tmp_path / "m.data").write_bytes(bytes(32))
    path = onnx_writer.write(tmp_path / "m.onnx", tensors)
    with pytest.raises(InputError, match=message) as caught:
        weight_files.read(path)
    assert str(caught.value).startswith(f"weights file {path} ")
    assert "\n" not in str(caught.value)


def test_an_onnx_model_cut_anywhere_is_refused_or_lacks_what_is_cut(tmp_path):
    path = onnx_writer.model(tmp_path / "m.onnx", ARRAYS)
    whole = path.read_bytes()
    for end in range(1, len(whole) - 4):  # the last field is of no concern
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="damaged or truncated"):
            weight_files.read(path)


def test_a_number_without_end_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08" + b"\xff" * 40)
    with pytest.raises(InputError, match="a number of its protobuf is too long"):
        weight_files.read(tmp_path / "m.onnx")


def keras(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_keras_arrays_come_by_torchs_names_and_in_its_layout(tmp_path):
    kernel, dense = np.random.default_rng(0).random((3, 2, 4, 5)), np.random.default_rng(1).random((4, 7))
    arrays = {"block1/layers/conv2d/vars/0": kernel, "block1/layers/conv2d/vars/1": np.ones(5)}
    arrays |= {"top/vars/0": dense, "optimizer/vars/7": np.ones(3), "note": np.ones(2)}
    found = weight_files.read(keras(tmp_path / "w.weights.h5", arrays))
    assert set(found) == {"block1/layers/conv2d.weight", "block1/layers/conv2d.bias", "top.weight"}
    np.testing.assert_array_equal(found["block1/layers/conv2d.weight"][4, 3, 2, 1], kernel[2, 1, 3, 4])
    np.testing.assert_array_equal(found["top.weight"], dense.T)


def test_a_keras_file_that_is_cut_or_leads_elsewhere_is_refused(tmp_path):
    path = keras(tmp_path / "w.h5", {"conv/vars/0": np.ones((3, 3, 4, 5), np.float32)})
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["conv/vars/0"] = h5py.ExternalLink(str(path), "conv/vars/0")
    path.write_bytes(path.read_bytes()[:-500])
    for each, message in ((path, "truncated, damaged or not a Keras"), (other, "another file")):
        with pytest.raises(InputError, match=message) as caught:
            weight_files.read(each)
        assert "\n" not in str(caught.value)
