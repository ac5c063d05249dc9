"""The first seconds of a command: its imports, which show signs of life on a terminal and which Ctrl-C ends with a
word and exit code 130, and a package that is not installed with a line and exit code 2.

Python imports `data_prep` or `stjax` before the module that `python -m` or the program `stjax` names, so that both ask
here first, and this imports next to nothing. An import cannot be trusted to let KeyboardInterrupt through, and has
nothing to clean up: the process ends on the spot. `data_prep.cli.run` ends this before it calls a command's `main`.
"""

import contextlib
import os
import signal
import sys
from types import TracebackType

PROGRAM = "stjax"
_shown = contextlib.ExitStack()  # the signs of life


def watch() -> None:
    """Ends the process on Ctrl-C from here on where it is a command's; a program that imports us is left alone."""
    started_as = (getattr(sys, "argv", None) or [""])[0]
    if started_as == "-m" or started_as.replace("\\", "/").rpartition("/")[2].removesuffix(".exe") == PROGRAM:
        begin()
        if sys.stderr.isatty() and "--multiprocessing-fork" not in sys.orig_argv:  # worker processes stay quiet
            from data_prep import heartbeat

            _shown.enter_context(heartbeat.doing("starting"))
            _shown.enter_context(heartbeat.Heartbeat())


def begin() -> None:
    """Until `over`, unless somebody else does: ends the process on Ctrl-C, and says how to get a package it lacks."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _excepthook
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, _end)
        except ValueError:
            return  # only the main thread may


def over() -> None:
    """Ctrl-C raises KeyboardInterrupt again, and signs of life are whoever's comes next."""
    _shown.close()
    if sys.excepthook is _excepthook:
        sys.excepthook = sys.__excepthook__
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    from data_prep import extras

    if (text := extras.explain(error)) is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2)  # which is what becomes of the process


def _end(number: int, frame: object) -> None:
    del number, frame
    os.write(2, (b"\r\x1b[K" if os.isatty(2) else b"") + b"interrupted\n")  # a sign of life may stand there
    os._exit(130)
