"""Writes small ONNX models, as far as they are weights, by protobuf's rules."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_DTYPES = {"float32": 1, "uint8": 2, "int64": 7, "float16": 10, "float64": 11}


def number(value: int) -> bytes:
    """A number in protobuf's variable length."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def field(which: int, value: int | bytes) -> bytes:
    """A field with a whole number, or with bytes."""
    if isinstance(value, int):
        return number(which << 3) + number(value)
    return number(which << 3 | 2) + number(len(value)) + value


def external(location: str, **about: int) -> bytes:
    """The fields of a tensor that say where it lies."""
    pairs = {"location": location, **{key: str(value) for key, value in about.items()}}
    return b"".join(field(13, field(1, k.encode()) + field(2, v.encode())) for k, v in pairs.items()) + field(14, 1)


def tensor(name: str, array: np.ndarray, data: bytes | None = None) -> bytes:
    """A tensor whose numbers are in it, or what says where they are."""
    sides = b"".join(field(1, side) for side in array.shape)
    about = sides + field(2, _DTYPES[array.dtype.name]) + field(8, name.encode())
    return about + (field(9, array.tobytes()) if data is None else data)


def write(path: Path, tensors: list[bytes]) -> Path:
    """A model of the given tensors, with nodes and other fields beside them that are of no concern."""
    node = field(1, field(1, b"input") + field(4, b"Conv"))
    graph = node + field(2, b"graph") + b"".join(field(5, each) for each in tensors)
    version = field(1, 10)
    path.write_bytes(version + field(2, b"pytorch") + field(7, graph) + field(8, field(2, 18)))
    return path


def model(path: Path, arrays: Mapping[str, np.ndarray], *, beside: frozenset[str] = frozenset()) -> Path:
    """A model of the given arrays, those named in `beside` in a file of their own, `<name>.data`."""
    tensors, data = [], b""
    other = path.with_name(f"{path.name}.data")
    for name, array in arrays.items():
        where = external(other.name, offset=len(data), length=array.nbytes) if name in beside else None
        data += array.tobytes() if name in beside else b""
        tensors.append(tensor(name, array, where))
    if beside:
        other.write_bytes(data)
    return write(path, tensors)
