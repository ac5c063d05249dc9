"""Damage to plain values (what JSON holds): another type, a missing key, a number out of range, a key twice."""

import copy
import json
import random
from pathlib import Path
from typing import Any

from data_prep import json_files

ODD_TEXTS = (
    *("", " ", "nan", "../outside", "/etc/passwd", "a/b", "a\\b", ".", "..", "\0", "a\nb", "x" * 300, "x" * 100_000),
    *("=cmd|' /C calc'!A0", "<script>alert(1)</script>", "\x1b[31mred", "\ud800", "é" * 150, "0", "-1", "%s%n", "{0}"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], {"": None}, [0] * 1000),
    *ODD_TEXTS,
)


def odd(rng: random.Random) -> Any:
    """A value that is seldom expected."""
    return copy.deepcopy(rng.choice(ODD_VALUES))


def places(content: Any, *, most: int = 5000) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside plain content."""
    found: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting and len(found) < most:
        here = waiting.pop()
        if isinstance(here, dict):
            keys: Any = list(here)
        elif isinstance(here, list):
            keys = range(len(here))
        else:
            continue
        for key in keys:
            found.append((here, key))
            waiting.append(here[key])
    return found


def _near(value: Any, rng: random.Random) -> Any:
    """A value of the same type as another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value // 2, float(value), str(value)))
    if isinstance(value, float):
        return rng.choice((value * 1.01, -value, value * 1e6, value * 1e-6, round(value), str(value)))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), value[::-1], value + "\0", "../" + value, [value]))
    if isinstance(value, list):
        return rng.choice((value[:-1], value + value[-1:], value * 2, value[::-1], [value], dict(enumerate(value[:3]))))
    if isinstance(value, dict):
        return rng.choice((list(value.items()), list(value), [value], {"x": value}, {**value, "extra": odd(rng)}))
    return odd(rng)


def damage_content(content: Any, rng: random.Random) -> tuple[Any, str]:
    """Plain content changed at one or two places, and where."""
    root = {"": copy.deepcopy(content)}
    done = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        spots = places(root)
        # half of the time somewhere near the top, where lists of thousands do not drown everything else
        container, key = rng.choice(spots[: rng.choice((30, len(spots)))])
        action = rng.choice(("odd", "odd", "near", "near", "near", "remove", "rename", "other"))
        if action == "odd":
            container[key] = odd(rng)
        elif action == "near":
            container[key] = _near(container[key], rng)
        elif action == "other":  # a value from elsewhere in it
            other, place = rng.choice(spots)
            container[key] = copy.deepcopy(other[place])
        elif container is root:
            container[key] = odd(rng)
        elif action == "rename" and isinstance(container, dict):
            container[rng.choice((f"{key}x", *ODD_TEXTS[:8]))] = container.pop(key)
        else:
            del container[key]
        done.append(f"{action} at {str(key)[:40] or 'top'}")
    return root[""], ", ".join(done)


def damage_json(text: str, rng: random.Random) -> tuple[str, str]:
    """JSON text with other content, or spelt oddly."""
    content = json.loads(text)
    if rng.random() < 0.12:
        return _spelt_oddly(content, rng)
    content, what = damage_content(content, rng)
    return json.dumps(content, indent=rng.choice((None, 1))), what


def _spelt_oddly(content: Any, rng: random.Random) -> tuple[str, str]:
    text = json.dumps(content, indent=1)
    depth = rng.choice((100, 990, 5000, 200_000))
    kinds = {
        "deep lists": lambda: "[" * depth + "]" * depth,
        "deep objects": lambda: '{"a":' * depth + "0" + "}" * depth,
        "deep value": lambda: text.replace("1", "[" * depth + "]" * depth, 1),
        "a long number": lambda: text.replace("1", "1" * 10_000, 1),
        "an exponent": lambda: text.replace("1", "1e400", 1),
        "a key twice": lambda: _key_twice(text, rng),
        "a byte order mark": lambda: "\ufeff" + text,
        "two documents": lambda: text + text,
        "a comment": lambda: text.replace("{", "{ // comment\n", 1),
        "NUL": lambda: text + "\0",
    }
    kind = rng.choice(sorted(kinds))
    return kinds[kind](), kind


def _key_twice(text: str, rng: random.Random) -> str:
    lines = [number for number, line in enumerate(text.split("\n")) if line.rstrip().endswith(",") and '": ' in line]
    if not lines:
        return text
    chosen = rng.choice(lines)
    parts = text.split("\n")
    line = parts[chosen]
    key = line.split('": ')[0]
    parts.insert(chosen, rng.choice((line, f'{key}": {json.dumps(odd(rng))},')))
    return "\n".join(parts)


def write_sealed(file: Path, content: dict[str, Any]) -> None:
    """As `json_files.sealed`, of values too that it does not take."""
    plain = json.loads(json.dumps(content))
    file.write_text(json.dumps({json_files.SEAL: json_files.digest(plain), **plain}, indent=1))
