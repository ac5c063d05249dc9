"""Reads the weights (initialisers) of an ONNX model, and nothing else of it: the few fields of its protobuf that say
where they lie, in the file or in one next to it. Neither onnx nor a runtime is needed, and nothing is executed.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from data_prep import files

# TensorProto.DataType
_DTYPES = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    16: ml_dtypes.bfloat16,
}
# Fields: ModelProto.graph; GraphProto.initializer; of TensorProto; of StringStringEntryProto.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DTYPE, _NAME, _RAW, _EXTERNAL = 1, 2, 8, 9, 13
_KEY, _VALUE = 1, 2


Place = tuple[np.dtype, tuple[int, ...], Callable[[], np.ndarray]]


def listed(path: Path) -> dict[str, Place]:
    """The initialisers of an ONNX model by name: each its dtype, its shape, and what reads it.

    Raises:
        ValueError: it is damaged, or its numbers are kept in a way that is not read.
        OSError: a file next to it is missing.
    """
    return _places(path)[0]


def beside(path: Path) -> list[Path]:
    """The files next to an ONNX model that it has tensors in, in the order of their names; raises as `listed`."""
    return [path.with_name(name) for name in sorted(_places(path)[1])]


def _places(path: Path) -> tuple[dict[str, Place], dict[str, int]]:
    """The tensors, and {file beside: bytes of it that are theirs}."""
    found, taken = {}, {}
    for graph in _all(_message(memoryview(path.read_bytes())), _GRAPH):
        for tensor in _all(_message(graph), _INITIALIZER):
            fields = list(_message(tensor))
            name = bytes(next(_all(fields, _NAME), b"")).decode()
            if name in found:
                raise ValueError(f"tensor {files.shown(name)} appears twice")
            found[name] = _place(path, name, fields, taken)
    if not found:
        raise ValueError("it holds no weights")
    return found, taken


def _place(path: Path, name: str, fields: list[tuple[int, Any]], taken: dict[str, int]) -> Place:
    """Where a tensor lies; `taken` counts the bytes of the neighbouring files that belong to one."""
    number = next(_all(fields, _DTYPE), 0)
    if number not in _DTYPES:
        raise ValueError(f"tensor {files.shown(name)} has data type {number}, which is not read")
    dtype, shape = np.dtype(_DTYPES[number]), tuple(_dims(fields))
    count = math.prod(shape) * dtype.itemsize
    if entries := list(_all(fields, _EXTERNAL)):
        pairs = [list(_message(entry)) for entry in entries]
        about = {bytes(next(_all(pair, _KEY))).decode(): bytes(next(_all(pair, _VALUE))).decode() for pair in pairs}
        where = about["location"]
        if Path(where).name != where:
            raise ValueError(f"tensor {files.shown(name)} lies in {files.shown(where)}, not in a file next to it")
        beside, start = path.parent / where, int(about.get("offset", 0))
        size = beside.stat().st_size
        if not beside.is_file():
            raise ValueError(f"tensor {files.shown(name)} lies in {files.shown(where)}, which is no file")
        taken[where] = taken.get(where, 0) + count
        if taken[where] > size:
            raise ValueError(f"its tensors take more bytes of {where} than the {size} it has")
        if int(about.get("length", count)) != count or not 0 <= start <= size - count:
            raise ValueError(f"tensor {files.shown(name)} of shape {shape[:8]} does not fit where it lies in {where}")
        return dtype, shape, functools.partial(_read, functools.partial(_part, beside, start, count), dtype, shape)
    raw = next(_all(fields, _RAW), b"")
    if len(raw) != count:
        raise ValueError(f"tensor {files.shown(name)} of shape {shape[:8]} has {len(raw)} bytes, expected {count}")
    return dtype, shape, functools.partial(_read, functools.partial(bytes, raw), dtype, shape)


def _read(part: Callable[[], bytes], dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(part(), dtype, math.prod(shape)).reshape(shape)


def _part(path: Path, start: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(count)
    if len(data) != count:
        raise ValueError(f"{path.name} ends early")
    return data


def _dims(fields: list[tuple[int, Any]]) -> Iterator[int]:
    """Sides of a tensor, each a number or, packed, several as bytes."""
    for value in _all(fields, _DIMS):
        if isinstance(value, int):
            yield value
        else:
            at = 0
            while at < len(value):
                side, at = _number(value, at)
                yield side


def _all(fields: Any, number: int) -> Iterator[Any]:
    return (value for field, value in fields if field == number)


def _message(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(field, value) of a protobuf message: whole numbers, and bytes as views."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _number(data, at)
        else:
            length, at = (8 if kind == 1 else 4, at) if kind in (1, 5) else _number(data, at)
            if kind not in (1, 2, 5) or at + length > len(data):
                raise ValueError("a field of its protobuf ends beyond it")
            value, at = data[at : at + length], at + length
        yield tag >> 3, value


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A number in protobuf's variable length, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number of its protobuf is too long")
