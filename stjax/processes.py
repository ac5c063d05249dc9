"""Command lines in processes of their own, so many at a time, each with its share of the GPUs."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from data_prep.errors import InputError
from stjax.training import faults

Task = TypeVar("Task")
Result = TypeVar("Result")


class Ended(NamedTuple):
    """A process that ended: its exit code, the processor time it took, and the most memory it held."""

    code: int
    processor_s: float
    peak_bytes: int


def _most_memory(pid: int) -> int:
    """The most bytes that a running process has held so far; 0 where the system keeps no such file."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class Pool:
    """Runs `processes` commands at a time; while it is entered, SIGTERM and Ctrl-C end all of them.

    Args:
        gpus_per_process: of place i those from i * this on; 0: every process sees all.

    Raises:
        InputError: there would be no process.
    """

    def __init__(self, processes: int, gpus_per_process: int = 0):
        if processes < 1:
            raise InputError("--processes is 0, expected at least 1")
        self._gpus, self._free = gpus_per_process, list(range(processes))
        self._running: set[subprocess.Popen[str]] = set()
        self.ended = False
        self._threads = ThreadPoolExecutor(processes)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Pool":
        self._stack.enter_context(faults.StopOnSigterm())
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        self._stack.close()

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
        """`work` of each task, in threads; it calls `run`. What ends this ends every process: each saves and ends."""
        try:
            return list(self._threads.map(work, tasks))
        except BaseException:
            self.ended = True
            self._threads.shutdown(wait=False, cancel_futures=True)
            for process in list(self._running):
                process.terminate()
            raise

    def run(self, label: str, arguments: Sequence[str], *, log: Path | None = None) -> Ended:
        """`python -m` of some arguments; every line that it prints appears behind `label`.

        Args:
            log: a file that gets the lines too, behind what it holds.

        Raises:
            InputError: all have been told to end.
        """
        if self.ended:
            raise InputError(f"{label} is not begun: the command was told to end")
        place, environment = self._free.pop(), dict(os.environ)
        if self._gpus:
            own = range(place * self._gpus, (place + 1) * self._gpus)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, own))
        line = [sys.executable, "-m", *arguments]
        try:
            with (
                contextlib.nullcontext() if log is None else log.open("a", encoding="utf-8") as file,
                subprocess.Popen(
                    line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
                ) as process,  # in a group of its own, which Ctrl-C does not reach: it is told to save
            ):
                self._running.add(process)
                seen = 0
                for text in process.stdout or ():
                    seen = _most_memory(process.pid) or seen
                    print(f"[{label}] {text}", end="", flush=True)
                    if file is not None:
                        file.write(text)
                        file.flush()
                _, status, used = os.wait4(process.pid, 0)  # as process.wait(), but it says what was used
                process.returncode = os.waitstatus_to_exitcode(status)
            self._running.discard(process)
            peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            if seen and used.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
                peak = seen  # Linux counts what this process held when it started that one as that one's
            return Ended(process.returncode, used.ru_utime + used.ru_stime, peak)
        finally:
            self._free.append(place)
