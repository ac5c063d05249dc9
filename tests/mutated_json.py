"""JSON as a hostile or broken hand leaves it: an object with one place missing, or with junk in it."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep import json_files
from data_prep.errors import InputError

JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**18,
    1e200,
    "",
    "../../x",
    "a\0b",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    "x" * 5_000,
)
_DEEPEST, _ELEMENTS = 6, 1  # places looked at: of lists, the first elements
_PART = 3  # every place meets a part of the junk, its neighbours the others


def mutants(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what was done, the object) of each."""
    for number, place in enumerate(_places(values)):
        where = ".".join(map(str, place))
        changed, parent = _copied(values, place)
        del parent[place[-1]]
        yield f"without {where}", changed
        for junk in JUNK[number % _PART :: _PART]:
            changed, parent = _copied(values, place)
            parent[place[-1]] = copy.deepcopy(junk)
            yield f"{where} = {str(junk)[:20]}", changed


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, ...]]:
    if depth == _DEEPEST or not isinstance(value, dict | list):
        return
    for key in list(value) if isinstance(value, dict) else range(min(len(value), _ELEMENTS)):
        yield (key,)
        yield from ((key, *rest) for rest in _places(value[key], depth + 1))


def _copied(values: dict[str, Any], place: tuple[Any, ...]) -> tuple[dict[str, Any], Any]:
    """A copy, of which only what is on the way to `place` is new, and what holds that place."""
    changed: Any = copy.copy(values)
    parent = changed
    for key in place[:-1]:
        parent[key] = copy.copy(parent[key])
        parent = parent[key]
    return changed, parent


def refusal(what: str, call: Callable[[], Any]) -> str:
    """The message of the `InputError` that a call raises, one line; "" when it raises none. No other error passes."""
    try:
        call()
    except InputError as error:
        message = str(error)
    else:
        return ""
    assert message, what
    assert "\n" not in message, what
    return message


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a sealed JSON file, in place, as one who knows the hash's recipe would."""
    content = json.loads(path.read_text())
    content.pop(json_files.SEAL, None)
    change(content)
    json_files.write(path, json_files.sealed(content))
