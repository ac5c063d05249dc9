"""Reads stjax's docstrings as they are meant: `a, b: text` describes both a and b, `Example:` holds code."""

import re
from typing import Any

import griffe

_SEVERAL = re.compile(r"^( +)(\w+), (\w+(?:, \w+)*): ", re.MULTILINE)
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with everything that is documented."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = _SEVERAL.sub(_one_each, text)


def _one_each(match: re.Match[str]) -> str:
    indent, first, others = match.groups()
    return f"{indent}{first}: (and {', '.join(f'`{name}`' for name in others.split(', '))}) "
