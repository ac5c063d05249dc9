"""HDF5 files that make the library ask for gigabytes, hang or die: another process finds out."""

import functools
import io
import struct
import types

import h5py
import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.readers import _hdf5_trial, _matrix


def names(path):
    with _matrix.hdf5(path, "a file") as file:
        return sorted(file)


@pytest.mark.parametrize("place", ["attribute", "data set"])
def test_a_text_that_declares_gigabytes_is_never_asked_for(tmp_path, place):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("group")
        if place == "attribute":
            group.attrs["title"] = "x" * 1234
        else:
            group["title"] = np.array(["x" * 1234], dtype=object)
    assert names(path) == ["group"]
    data = path.read_bytes()
    heap = struct.pack("<Q", data.index(b"GCOL"))  # where texts are; their lengths stand before
    assert data.count(struct.pack("<I", 1234) + heap) == 1
    path.write_bytes(data.replace(struct.pack("<I", 1234) + heap, struct.pack("<I", 0xF0000000) + heap))
    with pytest.raises(InputError, match=r"all texts in it would take .* over the budget of .* STJAX_BUDGET="):
        names(path)


def test_a_text_that_lies_beyond_the_file_is_not_read_twice(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["title"] = np.array(["x" * 1234], dtype=object)
    data = path.read_bytes()
    heap = struct.pack("<Q", data.index(b"GCOL"))
    path.write_bytes(data.replace(struct.pack("<I", 1234) + heap, struct.pack("<IQ", 1234, 0x70000000)))
    with pytest.raises(InputError, match=r"a.h5: texts in it cannot be read; it is damaged"):  # by chance gigabytes
        names(path)


def test_texts_that_share_their_letters_are_counted_each(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["texts"] = np.array(["x" * 1_000_000, *("y" * 77 for _ in range(999))], dtype=object)
        start, many = file["texts"].id.get_offset(), len(file["texts"])
    assert names(path) == ["texts"]
    data = bytearray(path.read_bytes())
    data[start : start + 16 * many] = data[start : start + 16] * many
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"all texts in it would take"):
        names(path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("-11\n", r"reading it ends the HDF5 library \(SIGSEGV\); it is damaged"),
        ("-9\n", "going through it would take 11 seconds, over the budget of 10"),
        ("", "the process that looks at HDF5 files was ended"),
    ],
)
def test_a_file_that_hangs_or_kills_the_library_is_named(tmp_path, monkeypatch, answer, message):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    server = types.SimpleNamespace(stdin=io.StringIO(), stdout=io.StringIO(answer), wait=lambda: None)
    monkeypatch.setattr(_hdf5_trial, "_server", functools.lru_cache(lambda _: server))
    with pytest.raises(InputError, match=message):
        names(path)


def test_a_file_is_killed_when_its_time_is_over(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("group")
        for number in range(200_000):  # a few seconds' work
            file[str(number)] = group
    monkeypatch.setattr(_hdf5_trial.budgets.HDF5_SECONDS.__class__, "limit", lambda *_: 1)
    with pytest.raises(InputError, match="going through it would take 2 seconds, over the budget of 1"):
        _hdf5_trial.check(path)
    monkeypatch.setattr(_hdf5_trial, "_server", None)
    with pytest.raises(InputError, match="going through it"):  # and not tried again
        _hdf5_trial.check(path)


def test_another_process_is_started_when_one_is_gone(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    assert names(path) == ["x"]
    server = _hdf5_trial._server(_hdf5_trial.os.getpid())
    server.kill()
    server.wait()
    with h5py.File(path, "r+") as file:
        file["longer"] = 1
    with pytest.raises(InputError, match="was ended; run the command again"):
        names(path)
    assert names(path) == ["longer", "x"]
