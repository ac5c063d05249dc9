"""Messages in Python's words: what a command calls `--source-um-per-px` is an argument here."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from data_prep.errors import InputError

_OPTION = re.compile(r"(stjax[ .][a-z_-]+ )?(?<![\w-])--(?:config\.)?([A-Za-z][\w.-]*\w)")


@contextlib.contextmanager
def in_python(**renamed: str) -> Iterator[None]:
    """Within it, errors and printed notes name arguments of Python in place of options of the command line.

    Args:
        renamed: arguments that are called otherwise than the option, {option with "_": argument}.
    """

    def argument(option: re.Match[str]) -> str:
        if option[1]:  # a command that is to be run
            return option[0]
        name = option[2].replace("-", "_")
        return renamed.get(name, name)

    def reworded(text: str) -> str:
        return _OPTION.sub(argument, text)

    try:
        with contextlib.redirect_stdout(_Reworded(sys.stdout, reworded)):
            yield
    except InputError as error:
        raise InputError(reworded(str(error))) from error.__cause__


class _Reworded:
    """A stream of text, of which what is written is reworded, and nothing else differs."""

    def __init__(self, stream: Any, reworded: Callable[[str], str]):
        self._stream, self._reworded = stream, reworded

    def write(self, text: str) -> int:
        """As the stream's."""
        return self._stream.write(self._reworded(text))

    def flush(self) -> None:
        """As the stream's."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
