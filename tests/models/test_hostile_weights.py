"""Weights files made to hang, to fill the memory, or to pass for other numbers; and sound ones that look like them."""

import json
import pickle
import shutil
import struct
import time
import tracemalloc
import warnings
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import manifest, trained
from stjax.inference import model_folder
from stjax.models import weight_files, weights
from tests.models.test_weights import as_legacy, build
from tests.models.test_weights import write as write_safetensors
from tests.stjax.make_exported import FOLDER as EXPORTED

NUMBERS = np.arange(6, dtype=np.float32)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


def values(*numbers: int) -> bytes:
    return b"(" + b"".join(map(whole, numbers)) + b"t"


def tensor(shape, stride, *, offset=0, key="0", length=6, kind="FloatStorage") -> bytes:
    """Pickle operations that leave a tensor on the stack."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + whole(length) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + whole(offset)
        + values(*shape)
        + values(*stride)
        + b"\x89}tR"
    )


def state(**tensors: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + each for name, each in tensors.items()) + b"u"


def write(path, operations: bytes, *, legacy=False, storages=(("0", NUMBERS),), extra=()):
    content = b"\x80\x02" + operations + b"."
    if legacy:
        data = pickle.dumps([key for key, _ in storages], protocol=2)
        data += b"".join(struct.pack("<q", len(array)) + array.tobytes() for _, array in storages)
        path.write_bytes(as_legacy(content) + data)
        return path
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name twice
        for name, data in (
            ("data.pkl", content),
            *((f"data/{key}", array.tobytes()) for key, array in storages),
            *extra,
        ):
            archive.writestr(f"w/{name}", data)
    return path


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def write_pth(request, tmp_path):
    return lambda operations, **options: write(tmp_path / "w.pth", operations, legacy=request.param, **options)


@pytest.fixture(autouse=True)
def _within_seconds_and_megabytes():
    """Of every file here: none has more than some megabytes."""
    tracemalloc.start()
    started = time.process_time()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    assert time.process_time() - started < 20


# ------------------------------------------------------------------------------------------------- time and memory


def test_values_shared_and_nested_without_end_are_not_walked(write_pth):
    pairs = b")q\xf0" + b"h\xf0\x86q\xf0" * 60  # 2 to the 60 when written out
    for there in (text("epoch"), text("state_dict")):
        path = write_pth(b"}(" + there + pairs + text("a") + tensor((2, 3), (3, 1)) + b"u")
        assert path.stat().st_size < 2000
        with pytest.raises(InputError, match="is no tensor"):
            weight_files.read(path)
    inside = b"}(" + text("epoch") + pairs + text("state_dict") + state(a=tensor((2, 3), (3, 1))) + b"u"
    np.testing.assert_array_equal(weight_files.read(write_pth(inside))["a"], NUMBERS.reshape(2, 3))


def test_a_nested_key_is_not_hashed(write_pth):
    with pytest.raises(InputError, match="has a key of type tuple"):
        weight_files.read(write_pth(b"}" + b")q\xf0" + b"h\xf0\x86q\xf0" * 60 + b"Ns"))


def test_lists_that_hold_themselves_are_not_walked(write_pth):
    with pytest.raises(InputError, match="is no tensor"):
        weight_files.read(write_pth(b"}" + text("a") + b"]q\x01h\x01as"))


@pytest.mark.parametrize("depth", [100, 20_000])
def test_depth_is_no_matter(write_pth, depth):
    with pytest.raises(InputError, match="is no tensor"):
        weight_files.read(write_pth(b"}" + text("a") + b")" + b"\x85" * depth + b"s"))


def test_the_memo_takes_what_is_in_it_whatever_its_numbers(write_pth):
    operations = b"}r\xff\xff\xff\xff" + text("a") + tensor((2, 3), (3, 1)) + b"s"
    np.testing.assert_array_equal(weight_files.read(write_pth(operations))["a"], NUMBERS.reshape(2, 3))


@pytest.mark.parametrize(
    "length", [b"\x8e" + struct.pack("<Q", 2**40), b"B\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8]
)
def test_lengths_that_the_file_does_not_have_are_not_allocated(write_pth, length):
    with pytest.raises(InputError, match=r"damaged or truncated|refused"):
        weight_files.read(write_pth(length))


@pytest.mark.parametrize("legacy", [False, True])
def test_endless_operations_are_over_the_budget_that_is_named(tmp_path, monkeypatch, legacy):
    operations = b"}" + text("a") + b"(" + b"N" * 10_000 + b"ts"
    path = write(tmp_path / "w.pth", operations, legacy=legacy)
    monkeypatch.setenv("STJAX_BUDGET", "0.01")
    with pytest.raises(InputError, match=r"over the budget of 10,000 .*STJAX_BUDGET=2"):
        weight_files.read(path)
    monkeypatch.delenv("STJAX_BUDGET")
    with pytest.raises(InputError, match="is no tensor"):
        weight_files.read(path)


def test_a_list_walked_again_and_again_counts_as_often(write_pth, monkeypatch):
    monkeypatch.setenv("STJAX_BUDGET", "0.01")
    pairs = b"](" + b"X\x01\x00\x00\x00kN\x86" * 1000 + b"eq\x01"
    operations = pairs + b"ccollections\nOrderedDict\nq\x02" + b"h\x02h\x01\x85R" * 100 + b"}"
    with pytest.raises(InputError, match="over the budget"):
        weight_files.read(write_pth(operations))


def test_a_tiny_storage_seen_as_a_giant_tensor_is_over_the_budget(write_pth):
    for shape in ((10**9,), (2**31, 2**31), (2**40, 2**40)):
        with pytest.raises(InputError, match="its tensors would take"):
            weight_files.read(write_pth(state(a=tensor(shape, (0,) * len(shape)))))


def test_many_names_for_one_storage_are_over_the_budget(tmp_path):
    numbers = np.zeros(1 << 20, np.float32)
    tied = {f"t{i}": tensor((1 << 20,), (1,), length=1 << 20) for i in range(30)}
    with pytest.raises(InputError, match="its tensors would take 125,829,120 bytes"):
        weight_files.read(write(tmp_path / "w.pth", state(**tied), storages=(("0", numbers),)))
    few = dict(list(tied.items())[:20])
    assert len(weight_files.read(write(tmp_path / "w.pth", state(**few), storages=(("0", numbers),)))) == 20


# ------------------------------------------------------------------------------------------- what is no tensor, inert

MADE = b"cos\nmkdir\n(" + text("made") + b"t"  # a class or function, and its arguments
INERT = {
    "a call": MADE + b"R",
    "an object": MADE + b"\x81",
    "an object with names": MADE + b"}\x92",
    "a name alone": b"cos\nmkdir\n",
    "a name on the stack": text("os") + text("mkdir") + b"\x93",
    "attributes": MADE + b"R}b",
    "items": MADE + b"R(" + text("a") + b"Nu",
    "an item": MADE + b"R" + text("a") + b"Ns",
    "elements": MADE + b"R(NNe",
    "an element": MADE + b"RNa",
    "what another call makes of it": b"ccollections\nOrderedDict\n" + MADE + b"R\x85R",
    "a set": b"\x8f(" + text("a") + b"\x90",
    "a frozen set": b"(" + text("a") + b"\x91",
    "a call of a storage": b"ctorch\nFloatStorage\n)R",
    "an object of a storage": b"ctorch\nFloatStorage\n)\x81",
    "a call of a value": b"N)R",
    "a tensor of unknown numbers": tensor((2, 3), (3, 1), kind="ComplexFloatStorage"),
}


@pytest.mark.parametrize("what", INERT)
def test_what_is_no_tensor_is_passed_over_beside_the_weights_and_refused_among_them(write_pth, what):
    sound = text("a") + tensor((6,), (1,))
    beside = b"}(" + text("other") + b"}(" + text("b") + INERT[what] + b"u" + text("state_dict") + b"}(" + sound + b"uu"
    np.testing.assert_array_equal(weight_files.read(write_pth(beside))["a"], NUMBERS)
    for inside in (b"}(" + sound + text("b") + INERT[what] + b"u", INERT[what]):
        for operations in (inside, b"}" + text("state_dict") + inside + b"s"):
            with pytest.raises(
                InputError, match=r"is refused: it (asks for|calls|holds) .*; nothing in it was executed"
            ):
                weight_files.read(write_pth(operations))


def test_keys_that_take_for_ever_to_hash_are_passed_over_beside_the_weights(write_pth):
    pairs = b")q\xf0" + b"h\xf0\x86q\xf0" * 60
    operations = b"}(" + text("callbacks") + b"}" + pairs + b"Ns" + text("model") + state(a=tensor((6,), (1,))) + b"u"
    np.testing.assert_array_equal(weight_files.read(write_pth(operations))["a"], NUMBERS)


def test_what_a_checkpoint_names_beside_its_weights_is_said(tmp_path):
    arrays = {name: array for name, array in weights.tensors(build()).items() if array.dtype == np.float32}
    inside = state(
        **{
            name: tensor(array.shape, [step // 4 for step in array.strides], key=name, length=array.size)
            for name, array in arrays.items()
        }
    )
    operations = b"}(" + text("callbacks") + INERT["a call"] + text("state_dict") + inside + b"u"
    report = weights.load(build(1), write(tmp_path / "w.ckpt", operations, storages=tuple(arrays.items())))
    assert str(report).endswith("it also names os.mkdir: neither imported nor called")


# ----------------------------------------------------------------------------------------------- places in the file


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (tensor((7,), (1,)), "reaches beyond its 6 numbers"),
        (tensor((2,), (6,)), "reaches beyond"),
        (tensor((1,), (1,), offset=6), "reaches beyond"),
        (tensor((2,), (-1,), offset=5), "no whole numbers from 0"),
        (tensor((-2,), (1,)), "no whole numbers from 0"),
        (tensor((1,), (1,), offset=-1), "no whole numbers from 0"),
        (tensor((2,), (2**63,)), "no whole numbers from 0"),
        (tensor((2, 3), (1,)), "2 sides and 1 strides"),
        (tensor((1,) * 40, (1,) * 40), "40 sides"),
        (tensor((6,), (1,), length=2**40), "more numbers than the file has bytes"),
        (tensor((6,), (1,), length=-1), "more numbers than the file has bytes"),
        (tensor((2,), (1,), length=5), "storage '0' has"),
        (tensor((2,), (1,), key="9"), "storage '9' is missing|belong to no tensor"),
        (tensor((2,), (1,), key="../../etc/passwd"), "is missing|belong to no tensor"),
    ],
)
def test_tensors_that_do_not_lie_in_their_storage_are_refused(write_pth, made, message):
    with pytest.raises(InputError, match=message):
        weight_files.read(write_pth(state(a=made)))


def test_a_storage_of_two_types_is_refused(write_pth):
    two = state(a=tensor((2,), (1,)), b=tensor((2,), (1,), kind="IntStorage"))
    with pytest.raises(InputError, match="is of several types or lengths"):
        weight_files.read(write_pth(two))


def test_tensors_without_numbers_and_scalars_are_read(write_pth):
    found = weight_files.read(write_pth(state(a=tensor((0, 2**40), (1, 1)), b=tensor((), (), offset=5))))
    assert found["a"].shape == (0, 2**40)
    assert found["b"] == 5


def test_what_an_optimiser_keeps_is_passed_over(write_pth):
    beside = b"}" + whole(0) + tensor((3,), (1,), key="1", length=3) + b"s"
    operations = b"}(" + text("optimizer") + beside + text("state_dict") + state(a=tensor((6,), (1,))) + b"u"
    path = write_pth(operations, storages=(("1", NUMBERS[:3]), ("0", NUMBERS)))
    np.testing.assert_array_equal(weight_files.read(path)["a"], NUMBERS)


def test_names_that_are_the_same_without_their_prefix_are_refused(write_pth):
    two = b"}(" + text("1") + tensor((6,), (1,)) + whole(1) + tensor((3,), (1,)) + b"u"
    with pytest.raises(InputError, match="two tensors have the same name"):
        weight_files.read(write_pth(two))


def test_what_is_read_cannot_be_written_to(write_pth):
    found = weight_files.read(write_pth(state(a=tensor((6,), (0,)))))["a"]
    assert not found.flags.writeable


# -------------------------------------------------------------------------------------------------------- archives


def test_a_member_twice_is_refused(tmp_path):
    operations = state(a=tensor((6,), (1,)))
    path = write(tmp_path / "w.pth", operations, extra=[("data/0", (NUMBERS + 1).tobytes())])
    with pytest.raises(InputError, match="a name appears twice"):
        weight_files.read(path)


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + state(a=tensor((6,), (1,))) + b".")
        archive.writestr("w/data/0", bytes(1 << 24))
    with pytest.raises(InputError, match="it is compressed"):
        weight_files.read(path)


def test_sizes_that_an_archive_declares_are_not_believed(tmp_path):
    path = write(tmp_path / "w.pth", state(a=tensor((6,), (1,), length=2**20)), extra=[("big", bytes(2**20))])
    data = path.read_bytes()
    place = data.rindex(b"PK\x01\x02", 0, data.index(b"w/data/0", data.index(b"PK\x01\x02")))
    for size in (2**22, 2**32 - 2):
        lying = struct.pack("<II", size, size)
        path.write_bytes(data[: place + 20] + lying + data[place + 28 :])
        with pytest.raises(InputError, match="damaged or truncated"):
            weight_files.read(path)


# ----------------------------------------------------------------------------------------------------- safetensors


def safetensors(path, header, data: bytes = NUMBERS.tobytes()):
    content = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


def entry(start, stop, shape=(3,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 12), "b": entry(8, 20)}, "begins at byte 8, the one before it ends at 12"),
        ({"a": entry(0, 12), "b": entry(0, 12)}, "begins at byte 0"),
        ({"a": entry(12, 24)}, "begins at byte 12"),
        ({"a": entry(0, 12)}, "12 bytes at its end belong to no tensor"),
        ({"a": entry(0, 12), "b": entry(12, 28, (4,))}, "of 24"),
        ({"a": entry(12, 0), "b": entry(12, 24)}, "lies at bytes 12 to 0"),
        ({"a": entry(-12, 0), "b": entry(0, 24, (6,))}, "expected a list of 2 whole numbers from 0"),
        ({"a": entry(0.0, 24.0, (6,))}, "whole numbers"),
        ({"a": entry(0, 24, (True,) * 3)}, "whole numbers"),
        ({"a": entry(0, 24, (2**32, 2**32))}, "lies at bytes"),
        ({"a": entry(0, 24, (1,) * 70 + (6,))}, "."),
        ({"a": entry(0, 24, (6,), "F8_E5M2")}, "'F8_E5M2', expected 'F64' or"),
        ({"a": {"dtype": "F32", "shape": [6]}}, r"\[a\]|data_offsets is missing"),
        ({"a": [1]}, "expected an object"),
        ('{"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}, "a": {"dtype": "I32", "shape": [6], '
         '"data_offsets": [0, 24]}}', "key 'a' appears twice"),
        ('{"a": ' + "[" * 10_000 + "]" * 10_000 + "}", "levels deep"),
        ('{"a": ' + "1" * 10_000 + "}", "."),
    ],
)  # fmt: skip
def test_safetensors_whose_header_does_not_fit_the_data_are_refused(tmp_path, header, message):
    with pytest.raises(InputError, match=message) as caught:
        weight_files.read(safetensors(tmp_path / "w.safetensors", header))
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_safetensors_header_over_the_budget_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 25) + b"{")
        file.truncate(1 << 26)
    with pytest.raises(InputError, match="its header would take 33,554,432 bytes, over the budget of 16,777,216"):
        weight_files.read(path)


def test_safetensors_in_any_order_are_read_in_that_of_the_header(tmp_path):
    header = {"b": entry(12, 24), "none": entry(12, 12, (0, 3)), "a": entry(0, 12)}
    found = weight_files.read(safetensors(tmp_path / "w.safetensors", header))
    assert list(found) == ["b", "none", "a"]
    np.testing.assert_array_equal(found["b"], NUMBERS[3:])


# --------------------------------------------------------------------------------------------- numbers that are none


@pytest.fixture(scope="module")
def tensors():
    return weights.tensors(build(1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(8, -np.inf, np.float16), "holds numbers that are not finite"),
        (np.full(8, 1e300), "holds numbers that are not finite"),  # in float32
        (np.full(8, 3, np.int8), "holds int8, expected numbers with a fraction"),
        (np.zeros((10**5, 10**4), np.bool_)[:0], "has shape 0 x 10000"),
    ],
)
def test_parameters_that_are_no_numbers_are_named(tmp_path, tensors, array, message):
    tensors = tensors | {"features.0.1.bias": array}
    with pytest.raises(InputError, match=rf"features\.0\.1\.bias {message}"):
        weights.load(build(), write_safetensors(tmp_path, tensors))


def test_a_negative_variance_is_named(tmp_path, tensors):
    tensors = tensors | {"features.0.1.running_var": np.full(8, -1, np.float32)}
    with pytest.raises(InputError, match=r"features\.0\.1\.running_var holds a negative variance"):
        weights.load(build(), write_safetensors(tmp_path, tensors))


def test_a_mask_beside_the_parameters_may_be_infinite(tmp_path, tensors):
    mask = {"head.mask": np.full(3, -np.inf, np.float32)}
    assert weights.load(build(), write_safetensors(tmp_path, tensors | mask)).unused == ("head.mask",)


def test_shapes_are_compared_before_anything_is_copied(tmp_path, tensors):
    giant = state(**{name: tensor((1 << 17,), (0,)) for name in tensors})
    with pytest.raises(InputError, match="has shape 131072"):
        weights.load(build(), write(tmp_path / "w.pth", giant))


def test_bfloat16_is_a_number_with_a_fraction(tmp_path, tensors):
    half = {name: array.astype(jnp.bfloat16) if array.dtype == np.float32 else array for name, array in tensors.items()}
    assert weights.load(build(), write_safetensors(tmp_path, half)).loaded == len(nnx.to_flat_state(nnx.state(build())))


def test_check_finite_names_what_is_not():
    arrays = {"a": np.ones(2), "b": np.array([1, np.nan]), "c": jnp.array([jnp.inf]), "d": np.arange(3)}
    with pytest.raises(InputError, match="the model: b, c hold NaN or infinity"):
        weight_files.check_finite(arrays.items(), "the model")


def test_an_exported_model_with_a_nan_is_not_loaded(tmp_path):
    folder = shutil.copytree(EXPORTED, tmp_path / "model")
    tensors = weight_files.read(folder / "weights.safetensors")
    name = next(name for name, array in tensors.items() if array.dtype == np.float32)
    odd = tensors[name].copy()
    odd.flat[0] = np.nan
    weight_files.write_safetensors(folder / "weights.safetensors", tensors | {name: odd}, metadata={})
    (folder / "manifest.json").unlink()
    manifest.seal(folder, {"format": model_folder.FORMAT, "version": model_folder.VERSION})
    with pytest.raises(InputError, match=f"{name} hold NaN or infinity"):
        trained.load(folder)
