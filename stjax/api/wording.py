"""Errors in Python's words: what a command calls `--source-um-per-px` is an argument here."""

import contextlib
import re
from collections.abc import Iterator

from data_prep.errors import InputError

_OPTION = re.compile(r"(?<![\w-])--(?:config\.)?([A-Za-z][\w.-]*\w)")


@contextlib.contextmanager
def in_python(**renamed: str) -> Iterator[None]:
    """Within it, errors name arguments of Python in place of options of the command line.

    Args:
        renamed: arguments that are called otherwise than the option, {option with "_": argument}.
    """

    def argument(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        return renamed.get(name, name)

    try:
        yield
    except InputError as error:
        raise InputError(_OPTION.sub(argument, str(error))) from error.__cause__
