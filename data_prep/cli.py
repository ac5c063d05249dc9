"""What every command line shares: options, exit codes, progress bars, tables, and results as the last lines printed."""

import argparse
import contextlib
import csv
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep import startup, system_errors
from data_prep.errors import InputError

_MOST_LETTERS, _START = 493, 300


class RefusedBySystem(SystemExit):
    """The exit of a command after a full disk and the like."""


def program(main: Callable[[list[str]], None]) -> None:
    """`run`, as all that this process does: after a full disk and the like it ends on the spot, as libraries would go
    on failing while it ends, with tracebacks or, as HDF5, a segmentation fault."""
    try:
        run(main)
    except RefusedBySystem as refused:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(refused.code or 0))


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command line and exit: 0 on success, 2 on bad usage or input, 130 on Ctrl-C, 1 on anything else.

    However it ends, it leaves by `SystemExit`, which a program that calls it, a notebook for instance, may catch.

    Args:
        main: takes the arguments after the program name; raises `InputError` on bad input.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log file shows how far a run is, as a terminal does; and a name may hold what the locale cannot write.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    previous = sys.unraisablehook
    sys.unraisablehook = functools.partial(_unraisable, previous)
    try:
        startup.over()
        main(sys.argv[1:])
    except InputError as error:
        _fail(f"error: {one_line(str(error))}", 2)
    except FloatingPointError as error:  # training diverged: no fault of the program, nothing a traceback explains
        _fail(f"error: {error}", 1)
    except KeyboardInterrupt as error:
        _fail(": ".join(filter(None, ("interrupted", str(error)))), 130)
    except BrokenPipeError:  # whoever read the output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again as it flushes
        sys.exit(1)
    except Exception as error:
        if (text := system_errors.explain(error)) is None:
            raise
        print(f"error: {one_line(text)}", file=sys.stderr)
        raise RefusedBySystem(1) from None
    finally:
        sys.unraisablehook = previous


def _unraisable(otherwise: Callable[[Any], None], found: Any) -> None:
    """What becomes of an error that Python has nobody to raise to, in a destructor, a callback of garbage collection or
    a library's thread; else it is printed and forgotten."""
    if found.exc_type is KeyboardInterrupt:
        # Ctrl-C is not to be forgotten: it comes once more, a moment later, when Python is out of here.
        again = (threading.main_thread().ident, signal.SIGINT)
        threading.Timer(0.05, signal.pthread_kill, again).start()
    elif str(found.exc_value) != "Event loop is closed":  # of threads that go on when Orbax has met a full disk
        otherwise(found)


def _fail(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def when_interrupted(say: Callable[[], str]) -> Iterator[None]:
    """What `run` adds to "interrupted" when Ctrl-C ends what is done within: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(say()) from None


class Parser(argparse.ArgumentParser):
    """argparse's, which refuses an option given twice: of two values the last would count without a word. It shows
    the description as it is."""

    def __init__(self, prog: str, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog, **kwargs)
        self.given: set[str] = set()
        for name in (None, "store"):
            self.register("action", name, _StoreOnce)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """argparse's, which `parse_args` calls too."""
        self.given = set()
        return super().parse_known_args(args, namespace)


class _StoreOnce(argparse.Action):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if option_string is not None and self.dest in parser.given:
            raise given_twice(self.option_strings[0], getattr(namespace, self.dest), values)
        parser.given.add(self.dest)
        setattr(namespace, self.dest, values)


def given_twice(option: str, first: Any, second: Any) -> InputError:
    """The error for an option that takes one value and was given two."""
    values = " and ".join("no value" if value is None else f"{value}" for value in (first, second))
    return InputError(f"{option} is given twice, with {values}; give it once")


def one_line(message: str) -> str:
    """A message on one line of at most 493 characters, 500 after "error: ": its start, and its end, which says what to
    do. What a terminal would take for a command is shown as "?": files are quoted in messages."""
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    return text if len(text) <= _MOST_LETTERS else f"{text[:_START]} ... {text[_START + 5 - _MOST_LETTERS :]}"


def names(text: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """ "A, B" to ("A", "B"); of names with commas in them, those in double quotes or `known` stay whole.

    `Study, 2020: P1, B` is two names where the first is known, as is `"Study, 2020: P1", B` in any case.
    """
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    parts = [part.strip() for row in rows for part in row]
    whole_of = {_spaceless(name): name for name in known}
    found: list[str] = []
    while parts:
        lengths = range(len(parts), 0, -1)
        length = next((each for each in lengths if ",".join(parts[:each]) in whole_of), 1)
        name = ",".join(parts[:length])
        found.append(whole_of.get(name, name))
        del parts[:length]
    return tuple(name for name in found if name)


def whole_numbers(text: str) -> tuple[int, ...]:
    """ "8, 16" to (8, 16), as the type of an option."""
    try:
        return tuple(int(number) for number in names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 8,16") from error


def add_reading(group: Any) -> None:
    """Adds the options of `data_prep.readers._sections.Reading` to a parser, or a group of one."""
    group.add_argument("--source-um-per-px", type=float, metavar="X", help="the slides' scale, whatever files say")
    group.add_argument("--image", type=Path, metavar="PATH", help="full-resolution image, where kept elsewhere")
    group.add_argument("--gene-table", type=Path, metavar="FILE", help="HGNC complete set to name genes by")
    group.add_argument("--resolve-aliases", action="store_true", help="replace outdated gene symbols")
    group.add_argument("--bin-um", type=whole_numbers, metavar="8,16", help="Visium HD bin sizes (all)")


def _spaceless(name: str) -> str:
    """Without the spaces around commas, which may be typed or not."""
    return ",".join(part.strip() for part in name.split(","))


def progress(
    items: Iterable[Any] | None = None, *, total: int | None = None, description: str = "", unit: str = "it"
) -> tqdm:
    """A progress bar on stderr when that is a terminal, silent otherwise."""
    return tqdm(items, total=total, desc=description, unit=unit, disable=not sys.stderr.isatty(), leave=False)


def table(rows: Sequence[Sequence[str]], *, align: str, least: Sequence[int] = ()) -> list[str]:
    """Lines of a table, as `table_line` makes them, in columns as wide as their widest cell.

    Args:
        least: width of each column, unless a cell needs more.
    """
    least = least or [0] * len(align)
    widths = [max(low, *(len(row[place]) for row in rows)) for place, low in enumerate(least)]
    return [table_line(row, align=align, widths=widths) for row in rows]


def table_line(cells: Sequence[str], *, align: str, widths: Sequence[int]) -> str:
    """One line of a table, two blanks at least between cells, whatever their length.

    Args:
        align: "<" or ">" for each column: to the left, or, as numbers, to the right.
    """
    padded = (f"{cell:{side}{width}}" for cell, side, width in zip(cells, align, widths, strict=True))
    return "  ".join(padded).rstrip()
