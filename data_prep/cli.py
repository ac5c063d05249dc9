"""What every command line shares: exit codes, progress bars, and results as the last lines printed."""

import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

from data_prep.errors import InputError

_MOST_LETTERS, _START = 493, 300


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command line and exit: 0 on success, 2 on bad usage or input, 1 on anything else.

    Args:
        main: takes the arguments after the program name; raises `InputError` on bad input.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log file shows how far a run is, as a terminal does; and a name may hold what the locale cannot write.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:  # training diverged: no fault of the program, nothing a traceback explains
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again as it flushes
        sys.exit(1)


def one_line(message: str) -> str:
    """A message on one line of at most 493 characters, 500 after "error: ": its start, and its end, which says what to
    do. What a terminal would take for a command is shown as "?": files are quoted in messages."""
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    return text if len(text) <= _MOST_LETTERS else f"{text[:_START]} ... {text[_START + 5 - _MOST_LETTERS :]}"


def progress(
    items: Iterable[Any] | None = None, *, total: int | None = None, description: str = "", unit: str = "it"
) -> tqdm:
    """A progress bar on stderr when that is a terminal, silent otherwise."""
    return tqdm(items, total=total, desc=description, unit=unit, disable=not sys.stderr.isatty(), leave=False)
