"""What every command line shares: options, exit codes, progress bars, tables, and results as the last lines printed."""

import argparse
import contextlib
import csv
import difflib
import functools
import importlib.util
import io
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep import extras, startup, system_errors
from data_prep.errors import InputError
from data_prep.heartbeat import Heartbeat

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
        with Heartbeat():
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
        if (text := extras.explain(error)) is not None:
            _fail(f"error: {text}", 2)
        if (text := system_errors.explain(error)) is None:
            raise
        print(f"error: {one_line(text)}", file=sys.stderr)
        raise RefusedBySystem(1) from None
    finally:
        sys.unraisablehook = previous


def _unraisable(otherwise: Callable[[Any], None], found: Any) -> None:
    """What becomes of an error that Python has nobody to raise to, in a destructor, a callback of garbage collection or
    a library's thread; else it is printed and forgotten."""
    number = signal.SIGINT if found.exc_type is KeyboardInterrupt else getattr(found.exc_type, "signal", None)
    if number is not None:
        # Neither Ctrl-C nor a request to stop is to be forgotten: it comes once more, a moment later, out of here.
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number)).start()
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
    """argparse's, which refuses an option given twice: of two values the last would count without a word. It takes `-`
    and `_` in the name of an option for the same, says which option one that does not exist comes near to, and shows
    the description as it is."""

    def __init__(self, prog: str, *, renamed: Mapping[str, str] | None = None, **kwargs: Any):
        """`renamed`: options that once had another name, {old: new}; the old one goes on working, with a note."""
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog, allow_abbrev=False, **kwargs)
        self.given: set[str] = set()
        self.renamed = renamed or {}
        for name in (None, "store"):
            self.register("action", name, _StoreOnce)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """argparse's. Raises InputError for an option given twice and one that does not exist."""
        arguments = self._as_declared(sys.argv[1:] if args is None else args)
        for option in map(_option_of, itertools.takewhile("--".__ne__, arguments)):
            if option and option not in self._option_string_actions:
                raise no_such_option(option, self._option_string_actions)
        return super().parse_args(arguments, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """argparse's, which `parse_args` calls too."""
        self.given = set()
        return super().parse_known_args(self._as_declared(sys.argv[1:] if args is None else args), namespace)

    def _as_declared(self, arguments: Sequence[str]) -> list[str]:
        """Arguments with their options spelt as they are declared, of which they may be the beginning."""
        declared = {spelling(option): option for option in self._option_string_actions if option[:2] == "--"}
        old = {spelling(option): new for option, new in self.renamed.items()}
        result = list(arguments)
        for place, argument in enumerate(itertools.takewhile("--".__ne__, arguments)):
            if option := _option_of(argument):
                asked = spelling(option)
                known = declared if asked in declared else declared | old
                found = [asked] if asked in known else [each for each in known if each.startswith(asked)]
                if len(found) == 1:
                    new = known[found[0]]
                    if found[0] not in declared:
                        print(f"note: {option} is now called {new}", file=sys.stderr)
                    result[place] = new + argument[len(option) :]
        return result


def _option_of(argument: str) -> str:
    """ "--name" of "--name" and of "--name=value", "" of what is none."""
    return argument.partition("=")[0] if argument[:2] == "--" and argument[2:3].isalpha() else ""


def spelling(option: str) -> str:
    """The one of all spellings of an option's name, "--patch_size-px" for instance, that has no "-" within."""
    return option[:2] + option[2:].replace("-", "_")


def no_such_option(option: str, known: Iterable[str]) -> InputError:
    """The error for an option that does not exist, with the nearest of those that do."""
    known_as = {spelling(each): each for each in known}
    near = difflib.get_close_matches(spelling(option), known_as, n=1)
    return InputError(
        f"there is no option {option}; " + (f"did you mean {known_as[near[0]]}?" if near else "see --help")
    )


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


def named_files(text: str) -> dict[str, str]:
    """ "a=FILE, b=FILE" to {"a": its whole path, ...}, as the type of an option."""
    found = {}
    for part in names(text):
        name, _, file = part.partition("=")
        if not (name and file):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list such as densenet121=weights.pth")
        found[name] = str(Path(file).resolve())
    return found


def whole_numbers(text: str) -> tuple[int, ...]:
    """ "8, 16" to (8, 16), as the type of an option."""
    try:
        return tuple(int(number) for number in names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 8,16") from error


def add_reading(group: Any) -> None:
    """Adds the options of `data_prep.readers._sections.Reading` to a parser, or a group of one."""
    group.add_argument(
        "--source-um-per-px", type=float, metavar="X", help="the slides' scale, overriding what files state"
    )
    group.add_argument("--image", type=Path, metavar="PATH", help="full-resolution image, where kept elsewhere")
    group.add_argument("--gene-table", type=Path, metavar="FILE", help="HGNC complete set to name genes by")
    group.add_argument("--resolve-aliases", action="store_true", help="replace outdated gene symbols")
    group.add_argument("--bin-um", type=whole_numbers, metavar="8,16", help="Visium HD bin sizes (all)")
    group.add_argument(
        "--areas", metavar="KIND", help="cells, nuclei, squares:100, discs:55:100, where a layout has them"
    )
    group.add_argument(
        "--elements",
        metavar="KIND=NAME",
        help="SpatialData: which image, shapes, table and system to take, such as table=square_008um,image=he",
    )
    help_of_blocks = "Visium HD: of each size, only blocks of N x N bins, one every UM micrometres (all)"
    group.add_argument("--bin-blocks", type=_bin_blocks, metavar="N/UM", help=help_of_blocks)


def _bin_blocks(text: str) -> tuple[int, float]:
    try:
        side, every = text.split("/")
        return int(side), float(every)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form N/UM, such as 4/200") from error


def _spaceless(name: str) -> str:
    """Without the spaces around commas, which may be typed or not."""
    return ",".join(part.strip() for part in name.split(","))


def progress(
    items: Iterable[Any] | None = None, *, total: int | None = None, description: str = "", unit: str = "it"
) -> tqdm:
    """A progress bar on stderr when that is a terminal, or in a notebook; silent otherwise."""
    kind, shown = (_notebook_bar(), True) if _in_notebook() else (tqdm, sys.stderr.isatty())
    return kind(items, total=total, desc=description, unit=unit, disable=not shown, leave=False)


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel, whose output is no terminal and shows bars all the same."""
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(interactive).__name__ == "ZMQInteractiveShell"


def _notebook_bar() -> type[tqdm]:
    """tqdm's widget where ipywidgets is installed, else its line of text."""
    if importlib.util.find_spec("ipywidgets") is None:
        return tqdm
    from tqdm.notebook import tqdm as widget

    return widget


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
