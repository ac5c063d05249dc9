"""Interprets the pickles of torch.save: tensors, their storages, and plain values. There is nothing here to execute.

A pickle is a program for a small machine that Python's own unpickler runs with all of Python at hand: it calls what the
file names, allocates its memo as the file says, and hashes what the file nests. This one knows the operations that
checkpoints consist of, counts them, keeps its memo in a dictionary, and has five names that mean data. For any other
name, as a trainer's settings and callbacks have them, a `Placeholder` stands: never imported, called or filled.
"""

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from data_prep import budgets

STORAGES = {
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
_SET = "it holds a set, where only tensors are read"
_LONGEST_LINE = 1000  # of what an operation says in text: names, written numbers
_TOO_FEW = "its pickle takes more values than it has given"
_MOST_PLACES = 0xFFFFFFFF  # of its memo
_LARGEST_KEY = 1 << 31  # of whole numbers as keys: their hashes cannot be made to collide


class RefusedError(Exception):
    """A file asks for something else than tensors."""


class Placeholder:
    """What stands for a value that is no data, and for all that the pickle makes of it.

    Attributes:
        why: what it is, for whoever wanted a tensor there.
    """

    def __init__(self, why: str):
        self.why = why


class Storage(NamedTuple):
    """Numbers to come, in the file under `key`."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage, as the pickle describes it: nothing of it is checked."""

    storage: Storage
    offset: Any
    shape: Any
    stride: Any


class _Name(NamedTuple):
    """A name in the pickle: of a storage's type, or of what `REDUCE` applies to arguments."""

    text: str
    dtype: np.dtype | None = None
    apply: Callable[..., Any] | None = None


class _Mark:
    """Where a group of values begins on the stack."""


_MARK = _Mark()


class _Bounded:
    """A file whose `read` and `readline` allocate no more than there is."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self._file.tell())))

    def readline(self) -> bytes:
        line = self._file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("a name or number in its pickle has no end")
        return line


class Reader:
    """Reads the pickles of one file, one after the other.

    Attributes:
        storages: {key: storage} of those met so far.
        foreign: names in place of which there is a `Placeholder`.
    """

    def __init__(self, path: Path, file: IO[bytes], size: int, *, file_bytes: int):
        """
        Args:
            path: of the weights file, for messages.
            file: at the start of a pickle.
            size: bytes of `file`.
            file_bytes: of the weights file, storages and all.
        """
        self.storages: dict[str, Storage] = {}
        self.foreign: set[str] = set()
        self._path, self._file, self._file_bytes = path, _Bounded(file, size), file_bytes
        self._operations = 0
        self._most = budgets.PICKLE_OPERATIONS.limit(file_bytes)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The value of the next pickle: None, bool, int, float, str, bytes, tuple, list, dict, `Tensor`, `Storage`,
        `Placeholder`.

        Lists, dictionaries and tuples may hold themselves, and be nested or shared without end.

        Raises:
            RefusedError: it asks for something else than these.
            ValueError: it is damaged.
            InputError: it is longer than any weights file's.
        """
        self._stack, self._memo = [], {}
        try:
            for operation, argument, _ in pickletools.genops(self._file):  # pyright: ignore[reportArgumentType]
                self._count(1)
                if operation.name == "STOP":
                    return self._stack.pop()
                self._do(operation.name, argument)
        except IndexError:
            raise ValueError(_TOO_FEW) from None
        raise ValueError("its pickle has no end")

    def _count(self, operations: int) -> None:
        self._operations += operations
        if self._operations > self._most:
            budgets.PICKLE_OPERATIONS.check(self._path, self._operations, file_bytes=self._file_bytes)

    def _do(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case _ if name in _VALUES:
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            case "TUPLE" | "LIST" | "DICT":
                values = self._group()
                stack.append({"TUPLE": tuple, "LIST": list, "DICT": _dict}[name](values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._taken(int(name[-1]))))
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS" | "ADDITEMS":
                values = self._group()
                _extend(stack[-1], values)
            case "SETITEM":
                values = self._taken(2)
                _set(stack[-1], values)
            case "SETITEMS":
                values = self._group()
                _set(stack[-1], values)
            case "BINPUT" | "LONG_BINPUT" | "PUT" | "MEMOIZE":
                place = len(self._memo) if argument is None else argument
                if not 0 <= place <= _MOST_PLACES:
                    raise ValueError(f"its pickle keeps a value under {str(place)[:20]}")
                self._memo[place] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                if argument not in self._memo:
                    raise ValueError(f"its pickle refers to value {argument}, which it has not given")
                stack.append(self._memo[argument])
            case "FROZENSET":
                self._group()
                stack.append(Placeholder(_SET))
            case "GLOBAL":
                stack.append(self._named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self._named(*self._taken(2)))
            case "NEWOBJ" | "NEWOBJ_EX":
                made = self._taken(2 if name == "NEWOBJ" else 3)[0]
                stack.append(made if isinstance(made, Placeholder) else Placeholder(_called(made)))
            case "REDUCE":
                stack.append(self._applied(*self._taken(2)))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "BUILD":  # attributes of an ordered dictionary, where torch keeps versions: left out
                stack.pop()
                if not isinstance(stack[-1], dict | Placeholder):
                    raise RefusedError("it sets attributes of something else than a dictionary")
            case "PROTO" | "FRAME":
                pass
            case _:
                raise RefusedError(f"its pickle uses the operation {name}, which no state dict needs")

    def _taken(self, count: int) -> list[Any]:
        """The last `count` values, taken off."""
        if len(self._stack) < count:
            raise ValueError(_TOO_FEW)
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def _group(self) -> list[Any]:
        """The values since the last mark, taken off with it."""
        stack = self._stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is _MARK:
                values = stack[place + 1 :]
                del stack[place:]
                return values
        raise ValueError("its pickle ends a group that it has not begun")

    def _applied(self, name: Any, arguments: Any) -> Any:
        if isinstance(name, Placeholder):
            return name
        if not isinstance(name, _Name) or name.apply is None or not isinstance(arguments, tuple):
            return Placeholder(_called(name))
        if arguments and isinstance(arguments[0], Placeholder):
            return arguments[0]
        self._count(sum(len(each) for each in arguments if isinstance(each, list | tuple)))  # they may be walked
        return name.apply(*arguments)

    def _named(self, module: Any, name: Any) -> _Name | Placeholder:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("its pickle names something by what is no text")
        if module == "torch" and name in STORAGES:
            return _Name(f"torch.{name}", dtype=np.dtype(STORAGES[name]))
        if (module, name) in _APPLIED:
            return _Name(f"{module}.{name}", apply=_APPLIED[module, name])
        text = f"{module[:80]}.{name[:80]}"
        self.foreign.add(text)
        return Placeholder(f"it asks for {text}, where only tensors are read")

    def _storage(self, reference: Any) -> Storage | Placeholder:
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise RefusedError("it refers to something else than a storage")
        _, name, key, _, length = reference[:5]
        if isinstance(name, Placeholder):
            return name
        if not isinstance(name, _Name) or name.dtype is None or not isinstance(key, str | int):
            raise RefusedError("it refers to something else than a storage")
        if len(reference) > 5 and reference[5] is not None:
            raise ValueError("its storages are views of others, as only torch before 0.4 wrote them")
        if not isinstance(length, int) or not 0 <= length <= self._file_bytes:
            raise ValueError("a storage has more numbers than the file has bytes")
        storage = Storage(str(key), name.dtype, length)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {storage.key[:40]} is of several types or lengths")
        return storage


def _dict(values: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _set(made, values)
    return made


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Placeholder):
        raise RefusedError("it appends to something else than a list")


def _set(target: Any, values: list[Any]) -> None:
    """Pairs of keys and values. Keys are texts and small whole numbers: others, which may take for ever to hash, are
    held as placeholders."""
    if isinstance(target, Placeholder):
        return
    if not isinstance(target, dict):
        raise RefusedError("it sets items of something else than a dictionary")
    if len(values) % 2:
        raise ValueError("a dictionary has a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < _LARGEST_KEY):
            key = Placeholder(f"a dictionary has a key of type {type(key).__name__}")
        target[key] = value


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for pair in arguments[0] if arguments else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("an ordered dictionary is made of something else than pairs")
        _set(made, list(pair))
    return made


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise RefusedError("a tensor is made of something else than a storage")
    return Tensor(storage, offset, shape, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _size(shape: Any = ()) -> Any:
    return tuple(shape) if isinstance(shape, list | tuple) else shape


_APPLIED = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
}


def _called(made: Any) -> str:
    return f"it calls {made.text if isinstance(made, _Name) else 'something that has no name'}"


_VALUES = frozenset((
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
))  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Placeholder(_SET),
    "MARK": lambda: _MARK,
}
