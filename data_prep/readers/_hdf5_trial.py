"""HDF5 files of others, gone through by another process before this one opens them.

Damaged ones make the library ask for gigabytes, go round in circles deaf to signals, or end the process. The other
process may take only so much memory and time, and is killed and named when it takes more. It is forked for each file
from one that has everything imported, which takes milliseconds.
"""

import atexit
import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep import budgets, trial, unpack
from data_prep.errors import InputError
from data_prep.readers import _hdf5_structure

_TOO_MUCH, _DAMAGED = 3, 4  # exit codes
_ROWS = 65_536  # of texts read at a time
_OBJECT = 60  # bytes of one of Python's objects, besides what it holds
_MEMORY = 1 << 30  # besides what the texts may take
_LOCK = threading.Lock()


def source(path: Path) -> Path | io.BytesIO:
    """What h5py opens: the file, or what it holds where it is gzipped as a whole."""
    with path.open("rb") as file:
        packed = file.read(2) == unpack.GZIP
    return io.BytesIO(unpack.read_bytes(path)) if packed else path


def check(path: Path) -> None:
    """Has another process go through all of a file but its numbers; once for a file that stays as it is.

    Raises:
        InputError: that took too much memory or time, or ended the process; or texts cannot be read: whoever reads them
            again may be told to take any number of bytes, as the library takes their lengths from where it should not.
    """
    if not hasattr(os, "fork"):  # Windows
        return
    status = path.stat()
    size, seconds = status.st_size, budgets.HDF5_SECONDS.limit(status.st_size)
    code = _tried(path, size, seconds, (status.st_ino, status.st_mtime_ns))
    if code == _TOO_MUCH:
        budgets.HDF5_TEXTS.check(path, budgets.HDF5_TEXTS.limit(size) + 1, file_bytes=size)
    if code == _DAMAGED:
        raise InputError(f"{path}: texts in it cannot be read; it is damaged, copy or download it again")
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        budgets.HDF5_SECONDS.check(path, seconds + 1, file_bytes=size)
    if code < 0:
        raise InputError(
            f"{path}: reading it ends the HDF5 library ({signal.Signals(-code).name}); it is damaged, copy or download "
            "it again"
        )


@functools.lru_cache(maxsize=4096)
def _tried(path: Path, size: int, seconds: int, version: tuple[int, ...]) -> int:
    """How the process that went through a file ended; as it hangs again where it has hung, it is not tried again."""
    del version
    with _LOCK:
        server = _server(os.getpid())
        try:
            server.stdin.write(json.dumps([str(path.absolute()), size, seconds]) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())
        except (OSError, ValueError) as error:
            _stop(server)
            _server.cache_clear()
            raise InputError(
                f"{path}: the process that looks at HDF5 files was ended; run the command again"
            ) from error


@functools.lru_cache(maxsize=1)
def _server(process: int) -> Any:
    """The process that is forked from; `process` is this one, as those forked from it need their own."""
    del process
    server = subprocess.Popen(
        trial.command(__name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=trial.environment(),
        start_new_session=True,  # not interrupted with the command: it ends with its input
    )
    atexit.register(_stop, server)
    return server


def _stop(server: Any) -> None:
    """Ends the process, also where it has ended by itself."""
    for stream in (server.stdin, server.stdout):
        with contextlib.suppress(OSError):
            stream.close()
    server.wait()


def serve() -> None:
    """Goes through the files that are named to it, each in a process of its own, and says how that ended."""
    for line in sys.stdin:
        path, size, seconds = json.loads(line)
        child = os.fork()
        if not child:
            _go_through(Path(path), size, seconds)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _go_through(path: Path, size: int, seconds: int) -> None:
    """Reads all but numbers, and ends the process: with 0 also where something is wrong, as the reader says what."""
    code, most, taken = 0, budgets.HDF5_TEXTS.limit(size), 0
    try:
        trial.limit(_MEMORY + most, seconds)
        with h5py.File(source(path)) as file:
            for thing in _hdf5_structure.walk(file, path):
                parts = [functools.partial(_read_attribute, thing, name) for name in thing.attrs]
                parts += [functools.partial(_read_texts, thing)] if isinstance(thing, h5py.Dataset) else []
                taken += sum(map(_taken, parts))
                if taken > most:
                    raise MemoryError
    except BaseException as error:
        code = _TOO_MUCH if _lacks_memory(error) else _DAMAGED if isinstance(error, _DamagedError) else 0
    os._exit(code)


def _taken(read: Callable[[], int]) -> int:
    """What reading a part takes; what h5py has no type for may be what nobody reads."""
    try:
        return read()
    except Exception as error:
        if _lacks_memory(error):
            raise
        if isinstance(error, OSError) and "filter" not in str(error):  # one that is not installed damages nothing
            raise _DamagedError from error
        return 0


class _DamagedError(Exception):
    """The library cannot read a text."""


def _lacks_memory(error: BaseException) -> bool:
    text = str(error).replace("end of allocation", "")  # of the file
    return isinstance(error, MemoryError) or "allocat" in text  # as HDF5 words it


def _read_attribute(thing: Any, name: str) -> int:
    return _size(thing.attrs[name])


def _read_texts(thing: Any) -> int:
    """Bytes of what a data set holds of any length; and its chunks are looked up."""
    if thing.chunks:
        thing.id.get_num_chunks()
    if not thing.dtype.hasobject or not thing.size:
        return 0
    if not thing.shape:
        return _size(thing[()])
    return sum(_size(thing[start : start + _ROWS]) for start in range(0, len(thing), _ROWS))


def _size(values: Any) -> int:
    """About how many bytes values take as Python's objects."""
    if isinstance(values, np.ndarray | np.void) and values.dtype.names:
        return sum(_size(values[name]) for name in values.dtype.names)
    if isinstance(values, np.ndarray) and values.dtype.hasobject:
        each = values.ravel().tolist()
        texts = {*map(type, each)} <= {bytes, str}
        return _OBJECT * len(each) + sum(map(len, each)) if texts else sum(map(_size, each))
    return _OBJECT + (len(values) if isinstance(values, bytes | str) else getattr(values, "nbytes", 0))


if __name__ == "__main__":
    serve()
