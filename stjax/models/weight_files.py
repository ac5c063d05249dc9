"""Reads tensors, and nothing else, from `.safetensors` and PyTorch's `.pth` of both generations; writes the former.

PyTorch's files are pickles, which can ask for any Python function to be called. The unpickler here knows five names,
all of them data: anything else is refused before it is looked up. Neither torch nor safetensors is needed.
"""

import collections
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from data_prep.errors import InputError

Tensors = dict[str, np.ndarray]

_SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


def read(path: Path) -> Tensors:
    """All tensors of a weights file by name; its kind is told by its content.

    Raises:
        InputError: missing, damaged, truncated, not a weights file, or a pickle that asks for more than tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[8:9] == b"{":  # first: the length before it may begin as the others do
                return _read_safetensors(file, path.stat().st_size)
            if start[:2] == b"PK":
                return _named(_read_zip(file), path)
            if start[:1] == b"\x80":
                return _named(_read_legacy(file), path)
    except OSError as error:
        raise InputError(f"weights file {path} cannot be read: {error.strerror or error}") from None
    except _RefusedError as error:
        raise InputError(f"weights file {path} is refused: {error}; nothing in it was executed") from None
    except Exception as error:  # whatever a damaged file makes of the parsers, it is a damaged file
        raise InputError(f"weights file {path} is damaged or truncated: {error}") from None
    raise InputError(f"{path} is neither a .safetensors nor a PyTorch .pth file; give one of these")


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], *, metadata: Mapping[str, str]) -> None:
    """Writes tensors under their names, and plain text about them."""
    names = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in tensors.items():
        span = [offset, offset + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": span}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for an aligned start of the data
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())
    temporary.replace(path)


def _read_safetensors(file: BinaryIO, size: int) -> Tensors:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"its header claims {length} bytes of {size}")
    header = json.loads(file.read(length))
    data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, stop) = np.dtype(_SAFETENSORS[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if not 0 <= start <= stop <= len(data) or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name} of shape {shape} lies at bytes {start} to {stop} of {len(data)}")
        tensors[name] = np.frombuffer(data[start:stop], dtype).reshape(shape)
    return tensors


# -------------------------------------------------------------------------------------------------- PyTorch's pickles


class _RefusedError(Exception):
    """A file asks for something else than tensors."""


class _Storage(NamedTuple):
    """Numbers to come, in the file under `key`."""

    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, storages: Mapping[str, np.ndarray]) -> np.ndarray:
        """The numbers, copied out."""
        if self.storage.key not in storages:
            raise ValueError(f"storage {self.storage.key} is missing")
        data = storages[self.storage.key]
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError(f"a tensor has shape {self.shape} and strides {self.stride}")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if math.prod(self.shape) and last >= data.size:
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its {data.size} numbers")
        strides = [step * data.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides).copy()


class _Named:
    """What a name in the pickle stands for; without attributes, so that a pickle can leave nothing on it."""

    __slots__ = ("_call", "dtype")

    def __init__(self, call: Callable[..., Any] | None = None, dtype: Any = None):
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "dtype", dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _RefusedError(f"it sets the attribute {name}")

    def __call__(self, *arguments: Any) -> Any:
        if self._call is None:
            raise _RefusedError("it calls a storage")
        return self._call(*arguments)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise _RefusedError("a tensor is made of something else than a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Unpickler(pickle.Unpickler):
    """Knows tensors, their storages and ordered dictionaries."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _STORAGES:
            return _Named(dtype=np.dtype(_STORAGES[name]))
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Named(_rebuild_tensor)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Named(_rebuild_parameter)
        if (module, name) == ("torch", "Size"):
            return _Named(tuple)
        raise _RefusedError(f"it asks for {module}.{name}, where only tensors are read")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(storage, _Named) or storage.dtype is None:
            raise _RefusedError("it refers to something else than a storage")
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("its storages are views of others, as only torch before 0.4 wrote them")
        return _Storage(str(key), storage.dtype, int(count))


def _read_zip(file: BinaryIO) -> Any:
    """torch.save since 1.6: a zip of `NAME/data.pkl` and `NAME/data/KEY`, not compressed."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("it is compressed, which torch.save never does")
        pickles = [name for name in entries if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("it is a zip file without one data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        with archive.open(pickles[0]) as stream:
            content = _Unpickler(stream).load()
        storages = {}
        for tensor in _tensors(content):
            key, dtype, count = tensor.storage
            if key not in storages:
                storages[key] = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
                if storages[key].size != count:
                    raise ValueError(f"storage {key} has {storages[key].size} numbers, not {count}")
    return _resolve(content, storages)


def _read_legacy(file: BinaryIO) -> Any:
    """torch.save before 1.6: pickles one after the other, then the storages."""
    if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise ValueError("it is a pickle, but not torch.save's")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("it was written on a big-endian machine")
    content = _Unpickler(file).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in _tensors(content)}
    storages = {}
    for key in _Unpickler(file).load():
        if key not in dtypes:
            raise ValueError(f"storage {key} belongs to no tensor")
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(count * dtypes[key].itemsize)
        storages[key] = np.frombuffer(data, dtypes[key])
        if storages[key].size != count:
            raise ValueError(f"storage {key} ends early")
    return _resolve(content, storages)


def _tensors(content: Any) -> list[_Tensor]:
    if isinstance(content, _Tensor):
        return [content]
    if isinstance(content, Mapping):
        return [tensor for value in content.values() for tensor in _tensors(value)]
    return []


def _resolve(content: Any, storages: Mapping[str, np.ndarray]) -> Any:
    if isinstance(content, _Tensor):
        return content.array(storages)
    if isinstance(content, Mapping):
        return {key: _resolve(value, storages) for key, value in content.items()}
    return content


def _named(content: Any, path: Path) -> Tensors:
    """A state dict, bare or inside a training checkpoint, without DataParallel's prefix."""
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"weights file {path} holds no state dict; save one with torch.save(model.state_dict(), ...)")
    if odd := [name for name, value in content.items() if not isinstance(value, np.ndarray)]:
        raise InputError(f"weights file {path}: {odd[0]} is no tensor; save model.state_dict() alone")
    if all(str(name).startswith("module.") for name in content):
        content = {str(name).removeprefix("module."): value for name, value in content.items()}
    return dict(content)
