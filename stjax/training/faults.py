"""What a long run survives: SIGTERM, which saves and ends it; hanging, which a watchdog ends; a loss that is no number.

Train holds the first two for as long as it runs; see docs/scale.md for what they promise.
"""

import contextlib
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np

from data_prep.errors import InputError
from stjax import checkpoint
from stjax.views import Items

COMPILING = 10  # what compiles may take this many times as long


class Stopped(BaseException):
    """The run was told to end, and has saved what is worth saving. Like KeyboardInterrupt, it is no `Exception`.

    Attributes:
        signal: what told it; `data_prep.cli.run` sends it again where Python could not raise this.
    """

    signal = signal.SIGTERM


class StopOnSigterm:
    """While entered, SIGTERM raises `Stopped` at once, or, within `with stop.held():`, only sets `stop.asked`.

    Held, the program finishes what it does, saves, and raises `Stopped` itself. Only the main thread hears signals; in
    any other this does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._held = False
        self._previous: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> "StopOnSigterm":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within it the signal is only noted."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True
        if not self._held:
            raise Stopped("stopped by SIGTERM; the same command goes on")


@contextlib.contextmanager
def exits_when_stopped() -> Iterator[None]:
    """Ends the program, when it is `Stopped`, with a word and exit code 0.

    `STJAX_STOPPED_EXIT_CODE` sets another code, for schedulers that take 0 for "finished" and would not start it again.

    Raises:
        InputError: the variable holds no exit code.
    """
    text = os.environ.get("STJAX_STOPPED_EXIT_CODE", "0")
    if not (text.isdigit() and int(text) < 256):
        raise InputError(f"STJAX_STOPPED_EXIT_CODE is {text!r}, expected a number from 0 to 255")
    try:
        yield
    except Stopped as stopped:
        print(stopped, flush=True)
        sys.exit(int(text))


def saved_so_far(checkpoints: Path) -> str:
    """What an interrupted run has saved, and how to go on."""
    if not (found := checkpoint.steps(checkpoints)):
        return "nothing is saved yet; the same command begins anew"
    return f"the run is saved up to step {found[0]}; the same command resumes it there"


class Watchdog:
    """Ends the process, with every thread's stack on stderr and exit code 1, when it makes no progress.

    A collective whose other host is gone waits for ever, and a hung process holds its machines: better end and resume.

    Args:
        timeout_s: seconds between two calls of `beat`; `COMPILING` times as many before what compiles. 0: never.
    """

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        self.beat("the first step", compiles=True)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.timeout_s:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.timeout_s:
            self._thread.join()

    def beat(self, what: str, *, compiles: bool = False) -> None:
        """Tells that the run goes on, and what comes next ("step 12", "saving"); what compiles may take longer."""
        self._what, self._allowed = what, self.timeout_s * (COMPILING if compiles else 1)
        self._deadline = time.monotonic() + self._allowed

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self.timeout_s / 4)):
            if time.monotonic() > self._deadline:
                print(
                    f"error: {self._what} has not ended after {self._allowed:g} s (config.step_timeout_s); another "
                    "host may be gone, or the data not be read; stacks follow. The same command resumes the run",
                    file=sys.stderr,
                )
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                sys.stderr.flush()
                os._exit(1)


def require_finite(loss: float, step: int, index: np.ndarray, items: Items, saved: Path) -> None:
    """Raises FloatingPointError, naming step, records and the last good checkpoint, for a loss that is no number."""
    if math.isfinite(loss):
        return
    spots = ", ".join(items.describe(int(i)) for i in index)
    found = checkpoint.steps(saved)
    good = f"the last good checkpoint is {saved / str(found[0])}" if found else "none was saved before"
    raise FloatingPointError(f"the loss is {loss} at step {step}; its batch holds {spots}; {good}")
