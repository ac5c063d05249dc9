"""The first seconds of a command: its imports, which Ctrl-C ends with a word and exit code 130.

Python imports `data_prep` or `stjax` before the module that `python -m` or the program `stjax` names, so that both ask
here first, and this imports next to nothing. An import cannot be trusted to let KeyboardInterrupt through, and has
nothing to clean up: the process ends on the spot. `data_prep.cli.run` ends this before it calls a command's `main`.
"""

import os
import signal
import sys

PROGRAM = "stjax"


def watch() -> None:
    """Ends the process on Ctrl-C from here on where it is a command's; a program that imports us is left alone."""
    started_as = (getattr(sys, "argv", None) or [""])[0]
    if started_as == "-m" or started_as.replace("\\", "/").rpartition("/")[2].removesuffix(".exe") == PROGRAM:
        begin()


def begin() -> None:
    """Ends the process on Ctrl-C, until `over`, unless somebody else handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, _end)
        except ValueError:
            return  # only the main thread may


def over() -> None:
    """Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    del number, frame
    os.write(2, b"interrupted\n")
    os._exit(130)
