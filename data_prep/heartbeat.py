"""Signs of life: on a terminal, a command that has said nothing for two seconds shows what it is at, and for how long.

The line goes away as soon as anything else is written. Where a progress bar is on the screen, that is drawn anew: its
clock goes on.
"""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

QUIET_S = 2.0
_at = ["working"]  # what the command is at, the innermost last


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Within it that is what the command is at: "compiling"."""
    _at.append(what)
    try:
        yield
    finally:
        _at.pop()


class Heartbeat:
    """While entered, shows signs of life on stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may print, too
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._last, self._complete, self._shown = time.monotonic(), True, 0
        self._write = sys.stderr.write
        self._streams: list[Any] = []

    def __enter__(self) -> "Heartbeat":
        if sys.stderr.isatty():
            self._streams = [*{sys.stdout, sys.stderr}]  # they may be one
            for stream in self._streams:
                stream.write = functools.partial(self._written, stream.write)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._streams:
            self._thread.join()
            self._clear()
            for stream in self._streams:
                del stream.write  # the class's own is back

    def _written(self, write: Callable[[str], int], text: str) -> int:
        """What `write` of a stream is meanwhile."""
        with self._lock:
            self._clear()
            if text:
                self._last, self._complete = time.monotonic(), text.endswith(("\n", "\r"))
            return write(text)

    def _beat(self) -> None:
        while not self._ended.wait(QUIET_S / 4):
            with tqdm.get_lock():  # no bar is closed meanwhile
                bars = [bar for bar in getattr(tqdm, "_instances", ()) if not bar.disable]
                quiet = time.monotonic() - self._last
                if quiet < QUIET_S:
                    continue
                for bar in bars:
                    bar.refresh(nolock=True)
            if not bars:
                self._show(f"{_at[-1]} ... {quiet:.0f} s")

    def _show(self, line: str) -> None:
        with self._lock:
            if self._complete:  # else it would be written over
                self._clear()
                self._write(line)
                sys.stderr.flush()
                self._shown = len(line)

    def _clear(self) -> None:
        with self._lock:
            if self._shown:
                self._write(f"\r{' ' * self._shown}\r")
                sys.stderr.flush()
                self._shown = 0
