"""Pieces of HTML. Every text that comes from a file passes `escape`."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

DASH, MINUS = "\u2013", "\u2212"  # for a number that does not exist, and before a negative one


def escape(value: Any) -> str:
    """Text for HTML content and quoted attributes."""
    return html.escape(str(value), quote=True)


def number(value: Any, decimals: int = 3) -> str:
    """A number as the page shows it: a true minus sign, and a dash for what does not exist."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return DASH
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def interval(ends: Any, decimals: int = 3) -> str:
    """ "low to high", or nothing."""
    if not isinstance(ends, Sequence) or len(ends) != 2 or any(end is None for end in ends):
        return ""
    return f"{number(ends[0], decimals)} to {number(ends[1], decimals)}"


def with_ends(value: Any, ends: Any, decimals: int = 3) -> str:
    """A number with its interval below, in a table."""
    spread = interval(ends, decimals)
    return number(value, decimals) + (f"<small>{spread}</small>" if spread else "")


def listed(items: Iterable[Any], *, most: int = 12) -> str:
    """Names with commas and an "and", escaped."""
    names = [escape(item) for item in items]
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else "none"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, text: Sequence[int] = ()) -> str:
    """A table that scrolls by itself where it is wide.

    Args:
        head, rows: cells as HTML; the first of a row is its header.
        caption: plain text.
        text: columns that are not numbers, besides the first.
    """
    css = ["" if place and place not in text else ' class="text"' for place in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(css, head, strict=True))
    body = "".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(css[1:], rest, strict=True))
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<p class="caption">{escape(caption)}</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(caption)}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def notice(kind: str, title: str, text: str) -> str:
    """A box that is seen: "danger", "warning" or "note". `text` is HTML."""
    return f'<div class="notice {kind}" role="note"><strong>{escape(title)}</strong> <span>{text}</span></div>'
