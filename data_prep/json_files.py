"""JSON from files: read within limits, checked against what it must hold, and sealed with a hash of itself.

Nothing that a file says is used before `require` has seen its type and range, so that any JSON at all ends in one line
that names the file, the place in it, what is there and what was expected.
"""

import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import files
from data_prep.errors import InputError

MAX_MB = 32  # what a model knows of 40,000 genes takes 6
MAX_DEPTH = 64
SEAL = "sha256"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # possessive: linear, whatever the text
_HUGE = re.compile(rb"[0-9]{100}|[eE]\+?(?:[0-9]{4}|[2-9][0-9]{2})")  # all other numbers are finite
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


# -------------------------------------------------------------------------------------------------------- reading


def read(path: Path, *, remedy: str, max_mb: float = MAX_MB) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        remedy: what to do when it holds none, for messages.
        max_mb: millions of bytes it may have.

    Raises:
        InputError: not there, not readable, or no such JSON; see `parse`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: no regular file, expected JSON; {remedy}")
        if status.st_size > max_mb * 1e6:
            raise InputError(f"{path}: {status.st_size / 1e6:.0f} MB, expected at most {max_mb:g} MB of JSON; {remedy}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    return parse(data, str(path), remedy=remedy)


def parse(data: bytes | str, name: str, *, remedy: str, nan: bool = False) -> dict[str, Any]:
    """The object that JSON text in UTF-8 holds: no key twice, no NaN, no number too large, at most 64 levels deep.

    Args:
        name: of the file, for messages.
        nan: take NaN and infinity for numbers.

    Raises:
        InputError: anything else, naming what.
    """
    try:
        data = data.encode() if isinstance(data, str) else data
        bare = _STRING.sub(b"", data)
        depths = np.frombuffer(bare.translate(None, _NO_BRACKETS), np.uint8)
        depth = int(np.cumsum(np.where((depths == ord("[")) | (depths == ord("{")), 1, -1)).max(initial=0))
        if depth > MAX_DEPTH:
            raise ValueError(f"{depth} levels deep, expected at most {MAX_DEPTH}")
        if huge := _HUGE.search(bare):
            raise ValueError(f"a number is as large as {huge[0][:12].decode()}...")
        values = json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=float if nan else _no_number
        )
        if rb"\u" in data:
            json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: no readable JSON ({_first_line(error)}); {remedy}") from None
    if not isinstance(values, dict):
        raise InputError(f"{name}: holds {_kind(values)}, expected an object in braces; {remedy}")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {files.shown(key)} appears twice")
        values[key] = value
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0][:120] or type(error).__name__


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


# ------------------------------------------------------------------------------------------------ what it must hold


class Kind(NamedTuple):
    """What a value must be: how messages call it, and whether one is."""

    says: str
    fits: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole_number(low: int = 0, high: int = 2**53) -> Kind:
    """An integer from `low` to `high`."""
    above = f"a whole number from {low}" + (f" to {high}" if high < 2**53 else "")
    return Kind(above, lambda value: type(value) is int and low <= value <= high)


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
    """A number from `low` to `high`."""
    limits = "" if low == -math.inf else f" from {low:g}" + ("" if high == math.inf else f" to {high:g}")
    return Kind(f"a number{limits}", lambda value: _number(value) and low <= value <= high)


def one_of(*values: Any) -> Kind:
    """One of some values."""
    says = " or ".join(map(repr, values))
    return Kind(says, lambda value: any(type(value) is type(each) and value == each for each in values))


def either(*kinds: Kind) -> Kind:
    """What any of some kinds is."""
    return Kind(" or ".join(kind.says for kind in kinds), lambda value: any(kind.fits(value) for kind in kinds))


def numbers(low: float = -math.inf, *, whole: bool = False, length: int | None = None) -> Kind:
    """A list of numbers from `low` on, `length` of them."""
    kinds, word = ("iu", "whole numbers") if whole else ("iuf", "numbers")

    def fits(value: Any) -> bool:
        if not isinstance(value, list) or length not in (None, len(value)):
            return False
        try:
            found = np.array(value) if value else np.zeros(0, np.int64)
        except (ValueError, OverflowError):  # ragged
            return False
        return found.ndim == 1 and found.dtype.kind in kinds and bool(np.all(np.isfinite(found) & (found >= low)))

    count = "" if length is None else f"{length} "
    return Kind(f"a list of {count}{word}" + ("" if low == -math.inf else f" from {low:g}"), fits)


TEXT = Kind("text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of text", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = whole_number()
SIZE_PX = whole_number(1, 1 << 20)
POSITIVE = Kind("a positive number", lambda value: _number(value) and value > 0)
SHA256 = Kind("64 hexadecimal digits", lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None)
NAME = Kind("a name that can be a file's", lambda value: not files.fault_of_name(value))
PLACE = Kind("a path inside the folder", lambda value: not files.fault_of_path(value))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
ANY = Kind("anything", lambda _: True)


class Maybe(NamedTuple):
    """What may be null."""

    of: Any


class Each(NamedTuple):
    """An object whose values are all alike; `key` is what its keys must be."""

    of: Any
    key: Kind = TEXT


class Lacking(NamedTuple):
    """A key's value that may not be there at all."""

    of: Any


def require(values: Any, expected: Any, name: str, *, remedy: str) -> Any:
    """The values, if they are what is expected.

    Args:
        expected: a `Kind`; a dict of what each key must hold, others may be there; a list of the one thing that all
            elements must be; or `Maybe`, `Each`, `Lacking`.
        name: of the file, for messages.

    Raises:
        InputError: they are not; it names the file and the place in it.
    """
    if fault := _fault(values, expected, ""):
        raise InputError(f"{name}: {fault}; {remedy}")
    return values


def _fault(value: Any, expected: Any, place: str) -> str:
    """The first thing that is not as expected, "" if there is none."""
    if isinstance(expected, Kind):
        return "" if expected.fits(value) else _says(value, expected.says, place)
    if isinstance(expected, Maybe | Lacking):
        return "" if value is None and isinstance(expected, Maybe) else _fault(value, expected.of, place)
    if isinstance(expected, list):
        if not isinstance(value, list):
            return _says(value, "a list", place)
        return next((f for i, each in enumerate(value) if (f := _fault(each, expected[0], f"{place}[{i}]"))), "")
    if not isinstance(value, dict):
        return _says(value, "an object", place)
    if isinstance(expected, Each):
        for key, each in value.items():
            inside = f"{place}[{files.shown(key)}]"
            if found := _fault(key, expected.key, f"{place} key") or _fault(each, expected.of, inside):
                return found
        return ""
    inner = f"{place}." if place else ""
    for key, each in expected.items():
        if key not in value:
            if not isinstance(each, Lacking):
                return f"{inner}{key} is missing"
        elif found := _fault(value[key], each, f"{inner}{key}"):
            return found
    return ""


def _says(value: Any, expected: str, place: str) -> str:
    if isinstance(value, dict | list):
        found = f"{_kind(value)} of {len(value)}"
    else:
        found = files.shown(value)
    return f"{place.strip() or 'it'} is {found}, expected {expected}"


# -------------------------------------------------------------------------------------------- writing and sealing


def write(path: Path, values: Mapping[str, Any], *, lines: bool = False, sync: bool = False) -> None:
    """Writes JSON whole or not at all.

    Args:
        lines: a line per key, and one per element of a list of objects: long lists of numbers stay on one line.
        sync: return when it is on disk.
    """
    text = _lines(values) if lines else json.dumps(values, indent=1, allow_nan=False)
    files.write_text(path, text + "\n", sync=sync)


def _lines(values: Mapping[str, Any]) -> str:
    parts = []
    for key, item in values.items():
        objects = isinstance(item, list) and item and isinstance(item[0], dict)
        texts = [json.dumps(element, allow_nan=False) for element in item] if objects else []
        text = "[\n" + ",\n".join(texts) + "\n]" if objects else json.dumps(item, allow_nan=False)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"


def digest(values: Mapping[str, Any] | Sequence[Any]) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the hash of all of them, by which `unsealed` tells whether they have changed."""
    plain = json.loads(json.dumps(values, allow_nan=False))  # as they will be read: keys are text
    return {SEAL: digest(plain), **plain}


def unsealed(values: dict[str, Any], name: str, *, remedy: str) -> dict[str, Any]:
    """What was `sealed`.

    Args:
        values: of the file `name`.

    Raises:
        InputError: they have changed since, or were never sealed.
    """
    if SEAL not in values:
        raise InputError(
            f"{name}: has no hash of itself (key {SEAL!r}): it was edited, or written before stjax kept one; {remedy}"
        )
    content = {key: value for key, value in values.items() if key != SEAL}
    if values[SEAL] != digest(content):
        raise InputError(f"{name}: has changed since it was written (its hash is another); {remedy}")
    return content


def read_sealed(path: Path, *, remedy: str) -> dict[str, Any]:
    """The values that a file holds `sealed`. Raises InputError as `read` and `unsealed` do."""
    return unsealed(read(path, remedy=remedy), str(path), remedy=remedy)
