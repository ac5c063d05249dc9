"""Any JSON at all is read, or refused in one line that names the file and what is wrong with it."""

import os
from pathlib import Path
from typing import Any

import pytest

from data_prep import json_files
from data_prep.errors import InputError
from data_prep.json_files import COUNT, FLAG, NAME, PLACE, POSITIVE, SHA256, TEXT, TEXTS, Each, Lacking, Maybe

REFUSED = {
    "empty": b"",
    "cut short": b'{"a": [1,',
    "a list": b"[]",
    "a number": b"3",
    "a key twice": b'{"a": 1, "a": 2}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "an infinite number": b'{"a": 1e999}',
    "digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 70 + b"1" + b"}" * 70,
    "half a surrogate pair": rb'{"a": "\ud800"}',
    "no text": b"\xff\xfe",
    "an endless string": b'"\\' * 1_000_000,
    "strings without end": b'{"' + b'\\"' * 1_000_000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sound_object_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(REFUSED[name])
    with pytest.raises(InputError) as error:
        json_files.read(tmp_path / "a.json", remedy="make it anew")
    message = str(error.value)
    assert "a.json" in message
    assert message.endswith("; make it anew")
    assert "\n" not in message
    assert len(message) < 500


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * 2_000_000)
    for name, word in (("absent", "No such file"), ("pipe", "no regular file"), ("large", "at most 1 MB")):
        with pytest.raises(InputError, match=word):
            json_files.read(tmp_path / name, remedy="", max_mb=1)
    with pytest.raises(InputError, match="regular file"):
        json_files.read(tmp_path, remedy="")


def test_sound_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = {"a": [0.1, -3, 1e-300, "é😀[{", None, True], "b": {"c": {}}}
    json_files.write(tmp_path / "a.json", values)
    assert json_files.read(tmp_path / "a.json", remedy="") == values
    assert json_files.parse('\ufeff{"a": 1}', "a", remedy="") == {"a": 1}


EXPECTED = {
    "name": NAME,
    "count": COUNT,
    "scale": Maybe(POSITIVE),
    "files": [{"file": PLACE, "sha256": SHA256}],
    "genes": TEXTS,
    "sums": json_files.numbers(0, whole=True),
    "by": Each(FLAG),
    "new": Lacking(TEXT),
}
SOUND = {
    "name": "A 1",
    "count": 3,
    "scale": None,
    "files": [{"file": "a/b.npz", "sha256": "0" * 64}],
    "genes": ["a"],
    "sums": [],
    "by": {"x": True},
    "more": 1,
}


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("name", "../a", "name is '../a'"),
        ("count", True, "count is True"),
        ("count", -1, "count is -1"),
        ("count", 2**60, "count is 1152921504606846976"),
        ("count", 1.0, "count is 1.0"),
        ("scale", 0, "scale is 0, expected a positive number"),
        ("scale", "1", "scale is '1'"),
        ("files", {}, "files is an object of 0, expected a list"),
        ("files", [3], r"files\[0\] is 3, expected an object"),
        ("files", [{"file": "/etc/passwd", "sha256": "0" * 64}], r"files\[0\].file is '/etc/passwd'"),
        ("files", [{"file": "a", "sha256": "0"}], r"files\[0\].sha256 is '0'"),
        ("genes", ["a", 3], "genes is a list of 2, expected a list of text"),
        ("sums", [1, [2]], "sums is a list"),
        ("sums", [-1], "sums is a list"),
        ("sums", [1.5], "sums is a list"),
        ("sums", [2**70], "sums is a list"),
        ("by", {"x": 1}, r"by\['x'\] is 1, expected true or false"),
        ("new", 3, "new is 3, expected text"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(key: str, value: Any, place: str) -> None:
    assert json_files.require(SOUND, EXPECTED, "a.json", remedy="") is SOUND
    with pytest.raises(InputError, match=f"a.json: {place}"):
        json_files.require(SOUND | {key: value}, EXPECTED, "a.json", remedy="make it anew")


def test_a_missing_key_is_named() -> None:
    values = {key: value for key, value in SOUND.items() if key != "count"}
    with pytest.raises(InputError, match=r"a.json: count is missing; make it anew"):
        json_files.require(values, EXPECTED, "a.json", remedy="make it anew")


def test_a_seal_tells_a_change_and_its_own_absence(tmp_path: Path) -> None:
    values = {"b": [1.5, 2], "a": "é"}
    made = json_files.sealed(values)
    assert json_files.unsealed(dict(made), "a.json", remedy="") == values
    for changed in (made | {"a": "e"}, made | {"more": 1}, made | {"sha256": 3}):
        with pytest.raises(InputError, match=r"a.json: has changed since it was written.*; make it anew"):
            json_files.unsealed(changed, "a.json", remedy="make it anew")
    path = tmp_path / "b.json"
    json_files.write(path, made)
    assert json_files.read_sealed(path, remedy="") == values
    for without in (values, values | {"sha257": made["sha256"]}):
        json_files.write(path, without)
        with pytest.raises(InputError, match=r"b.json: has no hash of itself \(key 'sha256'\).*; make it anew"):
            json_files.read_sealed(path, remedy="make it anew")
