import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from data_prep import npz
from data_prep.errors import InputError
from tests.fuzz.damage.archives import members_of, rezip

EXPECTED = {"a": ("f", 2), "b": ("iu", 1)}
A, B = np.arange(6.0).reshape(2, 3), np.arange(4, dtype=np.uint8)


def header(shape, descr="<f8"):
    """An array's header, whatever it says."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def write(path, **members):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=A, b=B, other=np.zeros(3))
    content = dict(members_of(buffer.getvalue())) | {f"{name}.npy": data for name, data in members.items()}
    path.write_bytes(rezip(list(content.items()), compression=zipfile.ZIP_DEFLATED))
    return path


def test_arrays_are_read_as_they_were_saved(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", a=np.asfortranarray(A), b=B)
    found = npz.read(tmp_path / "t.npz", EXPECTED, remedy="do")
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"], A)
    assert found["b"].dtype == np.uint8


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": header((2**40, 3))}, "array of shape"),
        ({"a": header((2**62, 2**62))}, "array of shape"),
        ({"a": header((2, 3)) + A.tobytes()[:-8]}, "has another length than it says"),
        ({"a": header((2, 3)) + A.tobytes() + b"x"}, "has another length than it says"),
        ({"a": header((-2, 3))}, "."),
        ({"a": header((2, 3), "|O") + bytes(48)}, "an array of object"),
        ({"a": header((2, 3), "|V0")}, "an array of"),
        ({"a": header((6,)) + A.tobytes()}, "a is a 1-dimensional array of float64, expected 2 dimensions"),
        ({"b": header((4,), "<f4") + bytes(16)}, "b is a 1-dimensional array of float32"),
        ({"a": b"\x93NUMPY\x01\x00\xff\xff{"}, "."),
        ({"a": b""}, "."),
        ({"a": header("(" * 5000)}, "."),
        ({"a": header((1,) * 70) + bytes(8)}, "."),
    ],
)
def test_arrays_that_are_other_than_they_say_are_refused(tmp_path, members, message):
    with pytest.raises(InputError, match=rf"(?s)damaged table.*{message}"):
        npz.read(write(tmp_path / "t.npz", **members), EXPECTED, remedy="do this")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = write(tmp_path / "t.npz", a=header((1 << 23, 5)) + bytes(5 << 26))
    tracemalloc.start()
    with pytest.raises(InputError, match="an array it declares would take 335,544"):
        npz.read(path, EXPECTED, remedy="do")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_missing_array_and_no_archive_are_refused(tmp_path):
    path = write(tmp_path / "t.npz")
    with pytest.raises(InputError, match="it has no array c"):
        npz.read(path, EXPECTED | {"c": ("f", 1)}, remedy="do")
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"damaged table .*; do"):
        npz.read(path, EXPECTED, remedy="do")
