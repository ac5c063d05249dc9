"""Reads tensors, and nothing else, from `.safetensors` and PyTorch's files of both generations, whatever their ending
(`.pth`, `.bin`, Lightning's `.ckpt`); writes the former.

PyTorch's files are pickles, which can ask for any Python function to be called; `torch_pickle` interprets them as
data. What is read takes the memory of the file, `opened` that of one tensor at a time, and no tensor is believed before
its place in the file is. Arrays are read-only. Neither torch nor safetensors is needed.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import ml_dtypes
import numpy as np

from data_prep import budgets, files, json_files
from data_prep.errors import InputError
from stjax.models import onnx_file, torch_pickle
from stjax.models.torch_pickle import Placeholder, RefusedError, Tensor

Tensors = dict[str, np.ndarray]
BARE = "a tensor without a name"  # what a tensor is called that a file holds by itself

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
_HDF5, _ONNX = b"\x89HDF\r\n\x1a\n", b"\x08"  # what the files begin with; ONNX: its first field
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_PART = 1 << 20  # bytes read at once
_COPY = "copy or download it again"
_SPAN = json_files.numbers(0, whole=True, length=2)
_ENTRY = {"dtype": json_files.one_of(*_SAFETENSORS), "shape": json_files.numbers(0, whole=True), "data_offsets": _SPAN}


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a file that is open.

    Attributes:
        read: the array, read-only; raises InputError where the file is damaged.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Opened(dict[str, Stored]):
    """The tensors of a weights file by name.

    Attributes:
        foreign: names of Python that a checkpoint mentions besides its tensors, and that nothing was done with.
    """

    foreign: tuple[str, ...] = ()


def read(path: Path) -> Tensors:
    """All tensors of a weights file by name, read-only; its kind is told by its content.

    Raises:
        InputError: missing, damaged, truncated, not a weights file, a pickle that asks for more than tensors, or one
            that asks for more memory than a file of its size should (`data_prep.budgets`).
    """
    with opened(path, keep=True) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def read_tensor(path: Path) -> np.ndarray:
    """The one tensor of a PyTorch file that holds nothing else, read-only.

    Raises:
        InputError: it holds something else; or see `read`.
    """
    found = read(path)
    if set(found) != {BARE}:
        raise InputError(
            f"{path}: holds {len(found)} tensors by name, expected one alone, as torch.save(tensor, ...) has it"
        )
    return found[BARE]


@contextlib.contextmanager
def opened(path: Path, *, keep: bool = False) -> Iterator[Opened]:
    """The tensors of a weights file by name, each read when it is asked for; within the context alone.

    Args:
        keep: what tensors share is read once and kept, otherwise once for each tensor.

    Raises:
        InputError: see `read`.
    """
    with contextlib.ExitStack() as stack:
        with _faults(path):
            file = stack.enter_context(path.open("rb"))
            tensors = _listed(path, file, stack, keep=keep)
        yield tensors


def beside(path: Path) -> list[Path]:
    """The files next to an ONNX model that it has tensors in; none of another file. Raises InputError: see `read`."""
    with _faults(path), path.open("rb") as file:
        start = file.read(9)
        return onnx_file.beside(path) if start[:1] == _ONNX and start[8:9] != b"{" else []


def _listed(path: Path, file: BinaryIO, stack: contextlib.ExitStack, *, keep: bool) -> Opened:
    size = path.stat().st_size
    start = file.read(9)
    file.seek(0)
    if start[8:9] == b"{":  # first: the length before it may begin as the others do
        return Opened(_listed_safetensors(path, file, size))
    if start[:2] == b"PK":
        return _listed_zip(path, stack.enter_context(zipfile.ZipFile(file)), size, keep=keep)
    if start[:1] == b"\x80":
        return _listed_legacy(path, file, size, keep=keep)
    if start.startswith(_HDF5):
        from stjax.models import keras_file  # with what reads HDF5

        return _placed(path, stack.enter_context(keras_file.listed(path)))
    if start[:1] == _ONNX:
        return _placed(path, onnx_file.listed(path))
    kinds = "a .safetensors nor a PyTorch file (.pth, .bin, .ckpt), nor an .onnx or Keras' .weights.h5"
    raise InputError(f"{path} is neither {kinds}; give one of these")


@contextlib.contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Whatever reading a file raises as an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"weights file {path} cannot be read: {error.strerror or error}") from None
    except RefusedError as error:
        raise InputError(f"weights file {path} is refused: {error}; nothing in it was executed") from None
    except Exception as error:  # whatever a damaged file makes of the parsers, it is a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"weights file {path} is damaged or truncated: {reason}; {_COPY}") from None


def _read_at(file: BinaryIO, start: int, count: int, what: str) -> memoryview:
    file.seek(start)
    return _taken(file, count, what)


def _taken(file: IO[bytes], count: int, what: str) -> memoryview:
    """The next bytes of a file; many, in memory that goes back to the system with them: what is read in turn leaves no
    gaps between what is kept."""
    data, at = memoryview(mmap.mmap(-1, count) if count > _PART else bytearray(count)), 0
    while at < count:
        if not (part := file.read(min(count - at, _PART))):
            raise ValueError(f"{what} ends early")
        data[at : at + len(part)] = part
        at += len(part)
    return data.toreadonly()


def _guarded(path: Path, make: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
    with _faults(path):
        return make(*arguments)


def check_finite(tensors: Iterable[tuple[str, Any]], origin: str) -> None:
    """Refuses parameters and statistics that are no numbers: whatever a network makes of them is none either.

    Args:
        tensors: (name, array).
        origin: whose they are, for the message.

    Raises:
        InputError: naming those that hold NaN or infinity.
    """
    with np.errstate(over="ignore"):
        odd = [name for name, array in tensors if not np.all(np.isfinite(np.asarray(array, np.float32)))]
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise InputError(
            f"{origin}: {', '.join(name[:60] for name in odd[:3])}{more} hold NaN or infinity; its training has "
            "diverged, or it is damaged: use another checkpoint"
        )


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
    with files.whole(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def _listed_safetensors(path: Path, file: BinaryIO, size: int) -> dict[str, Stored]:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise ValueError(f"its header claims {length} bytes of {size}")
    budgets.TENSORS_HEADER.check(path, length, file_bytes=size)
    header = json_files.parse(file.read(length), f"weights file {path}", remedy=_COPY)
    header.pop("__metadata__", None)
    json_files.require(header, json_files.Each(_ENTRY), f"weights file {path}", remedy=_COPY)
    first, held = 8 + length, size - 8 - length
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, stop) = np.dtype(_SAFETENSORS[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if not start <= stop <= held or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"tensor {files.shown(name)} of shape {shape[:8]} lies at bytes {start} to {stop} of {held}"
            )
        if start != end:
            raise ValueError(f"tensor {files.shown(name)} begins at byte {start}, the one before it ends at {end}")
        np.empty((0, *shape), dtype)  # more sides than an array can have
        read = functools.partial(_read_at, file, first + start, stop - start, f"tensor {files.shown(name)}")
        tensors[name] = Stored(
            dtype, tuple(shape), functools.partial(_guarded, path, _shaped, read, dtype, tuple(shape))
        )
        end = stop
    if end != held:
        raise ValueError(f"{held - end} bytes at its end belong to no tensor")
    return {name: tensors[name] for name in header}


def _placed(path: Path, places: Mapping[str, Any]) -> Opened:
    """Tensors given as (dtype, shape, what reads it)."""
    return Opened(
        (name, Stored(dtype, shape, functools.partial(_guarded, path, read)))
        for name, (dtype, shape, read) in places.items()
    )


def _shaped(read: Callable[[], memoryview], dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(read(), dtype, math.prod(shape)).reshape(shape)


# -------------------------------------------------------------------------------------------------- PyTorch's pickles


def _listed_zip(path: Path, archive: zipfile.ZipFile, size: int, *, keep: bool) -> Opened:
    """torch.save since 1.6: a zip of `NAME/data.pkl` and `NAME/data/KEY`, not compressed."""
    entries = _entries(archive, size)
    pickles = [name for name in entries if name.split("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError("it is a zip file without one data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    with archive.open(pickles[0]) as stream:
        reader = torch_pickle.Reader(path, stream, entries[pickles[0]], file_bytes=size)
        tensors = _named(reader.read(), path)
    for key, dtype, count in {tensor.storage for tensor in tensors.values()}:
        name = f"{root}data/{key}"
        if entries.get(name) != count * dtype.itemsize:
            found = "is missing" if name not in entries else f"has {entries[name]} bytes"
            raise ValueError(f"storage {files.shown(key)} {found}, expected {count * dtype.itemsize}")

    def storage(key: str) -> memoryview:
        with archive.open(f"{root}data/{key}") as member:
            return _taken(member, entries[f"{root}data/{key}"], f"storage {files.shown(key)}")

    found = _viewed(tensors, storage, path, size, keep=keep)
    found.foreign = tuple(sorted(reader.foreign))
    return found


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """{name: bytes} of an archive whose members lie in the file of `size` bytes as they are."""
    entries = {entry.filename: entry.file_size for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise ValueError("a name appears twice in its archive")
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError("it is compressed, which torch.save never does")
    if sum(entries.values()) > size:
        raise ValueError(f"its archive claims {sum(entries.values())} bytes of {size}")
    return entries


def _listed_legacy(path: Path, file: BinaryIO, size: int, *, keep: bool) -> Opened:
    """torch.save before 1.6: pickles one after the other, then the storages."""
    reader = torch_pickle.Reader(path, file, size, file_bytes=size)
    if reader.read() != _LEGACY_MAGIC or reader.read() != _LEGACY_PROTOCOL:
        raise RefusedError("it is a pickle, but not torch.save's")
    system = reader.read()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine")
    tensors = _named(reader.read(), path)
    known, keys = dict(reader.storages), reader.read()
    if not isinstance(keys, list) or any(not isinstance(key, str) or key not in known for key in keys):
        raise ValueError("it lists storages that belong to no tensor")
    if len(set(keys)) != len(keys):
        raise ValueError("it lists a storage twice")
    needed = {tensor.storage.key for tensor in tensors.values()}
    places: dict[str, tuple[int, int]] = {}  # key: where it begins, and its bytes
    for key in keys:
        _, dtype, count = known[key]
        if file.read(8) != struct.pack("<q", count):
            raise ValueError(f"storage {files.shown(key)} has another length than its tensors say")
        places[key] = (file.tell(), count * dtype.itemsize)
        if key in needed and sum(places[key]) > size:  # others are an optimiser's, in a training checkpoint
            raise ValueError(f"storage {files.shown(key)} ends early")
        file.seek(sum(places[key]))
    if absent := needed - places.keys():
        raise ValueError(f"storage {files.shown(min(absent))} is missing")

    def storage(key: str) -> memoryview:
        return _read_at(file, *places[key], f"storage {files.shown(key)}")

    found = _viewed(tensors, storage, path, size, keep=keep)
    found.foreign = tuple(sorted(reader.foreign))
    return found


def _named(content: Any, path: Path) -> dict[str, Tensor]:
    """A state dict, bare or inside a training checkpoint, without DataParallel's prefix; or a tensor by itself. The
    rest is left alone."""
    if isinstance(content, Tensor):
        return {BARE: content}
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping | Placeholder):
            content = content[key]
    inside = (*content, *content.values()) if isinstance(content, Mapping) else (content,)
    if foreign := [each for each in inside if isinstance(each, Placeholder)]:
        raise RefusedError(foreign[0].why)
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"weights file {path} holds no state dict; save one with torch.save(model.state_dict(), ...)")
    if odd := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise InputError(f"weights file {path}: {files.shown(odd[0])} is no tensor; save model.state_dict() alone")
    names = [str(name) for name in content]
    if all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    if len(set(names)) != len(names):
        raise ValueError("two tensors have the same name")
    return dict(zip(names, content.values(), strict=True))


def _viewed(
    tensors: Mapping[str, Tensor], read: Callable[[str], memoryview], path: Path, size: int, *, keep: bool
) -> Opened:
    """The tensors as read-only views of their storages, which `read` gives by key, where they lie in them."""
    for name, tensor in tensors.items():
        _check_place(name, tensor)
    seen = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    budgets.TENSORS.check(path, seen, file_bytes=size)
    read = functools.cache(read) if keep else read
    return Opened(
        (name, Stored(tensor.storage.dtype, tensor.shape, functools.partial(_guarded, path, _view, tensor, read)))
        for name, tensor in tensors.items()
    )


def _view(tensor: Tensor, read: Callable[[str], memoryview]) -> np.ndarray:
    dtype = tensor.storage.dtype
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, dtype)
    data = np.frombuffer(read(tensor.storage.key), dtype)
    strides = [step * data.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides, writeable=False)


def _check_place(name: str, tensor: Tensor) -> None:
    """That a tensor lies inside its storage."""
    sides = (tensor.shape, tensor.stride)
    whole = isinstance(tensor.shape, tuple) and isinstance(tensor.stride, tuple)
    if not whole or not all(type(n) is int and 0 <= n < 2**62 for n in (tensor.offset, *itertools.chain(*sides))):
        raise ValueError(
            f"tensor {files.shown(name)} has a shape, strides or an offset that are no whole numbers from 0"
        )
    if len(tensor.shape) != len(tensor.stride) or len(tensor.shape) > 32:
        raise ValueError(f"tensor {files.shown(name)} has {len(tensor.shape)} sides and {len(tensor.stride)} strides")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(*sides, strict=True))
    if math.prod(tensor.shape) and last >= tensor.storage.length:
        raise ValueError(
            f"tensor {files.shown(name)} of shape {tensor.shape[:8]} reaches beyond its {tensor.storage.length} numbers"
        )
