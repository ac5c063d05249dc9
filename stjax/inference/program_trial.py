"""A serialized function, read by another process before this one does.

Bytes of somebody's make MLIR's reader ask for gigabytes (a count that they declare), print without end, or end the
process. The other process may take only so much memory and time; it is no sandbox.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

from data_prep import budgets, trial
from data_prep.errors import InputError

_TOO_MUCH = 3  # exit code


def check(path: Path, data: bytes) -> None:
    """Has another process read a function, once for the same bytes; one that is refused there is refused here too.

    Raises:
        InputError: that took too much memory or time, or ended the process.
    """
    size = len(data)
    code = _tried(data)
    if code == _TOO_MUCH:
        budgets.PROGRAM.check(path, budgets.PROGRAM.limit(size) + 1, file_bytes=size)
    if code:
        raise InputError(f"{path}: reading it takes too long or ends the process; it is damaged or hostile")


@functools.lru_cache(maxsize=16)
def _tried(data: bytes) -> int:
    """How the process ended."""
    memory, seconds = budgets.PROGRAM.limit(len(data)), budgets.PROGRAM_SECONDS.limit(len(data))
    done = subprocess.run(
        [*trial.command(__name__), str(memory), str(seconds)],
        input=data,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=trial.environment() | {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"},  # each arena maps 64 MiB
        check=False,
    )
    return done.returncode


def main(memory: int, seconds: int) -> None:
    """Reads a function as `stjax.inference.exported_program` does, and ends the process: with 0 also where it is none,
    as the caller says why."""
    from jax import export

    data, threads = bytearray(sys.stdin.buffer.read()), os.cpu_count() or 1
    trial.limit(memory + threads * (8 << 20), seconds)  # with their stacks
    try:
        export.deserialize(data).mlir_module()
    except BaseException as error:
        os._exit(_TOO_MUCH if isinstance(error, MemoryError) or "bad_alloc" in str(error) else 0)
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
