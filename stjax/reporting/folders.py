"""Texts without the folders of this machine: a report is mailed, and whose machine made it is nobody's business."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PATHS = ("data_dir", "init_from", "encoder_weights")  # settings that name files or folders, wherever these are
# The folders of an absolute path: of /home/jane/slide.jpg, C:\Users\jane\slide.jpg or ~/slide.jpg all but slide.jpg.
_FOLDERS = re.compile(r"(?<![\w./\\~-])(?:file://|[A-Za-z]:|~\w*)?[/\\](?:[^\s/\\:;,'\"<>|()\[\]]+[/\\])*(?=[^\s/\\])")


def without_folders(values: Any, known: Sequence[Path] = ()) -> Any:
    """Plain values, as JSON holds them, in which an absolute path is the name of its file or folder alone.

    Args:
        known: folders that are likely to be named, they or their parents, whatever letters their names have.
    """
    known = [form for path in known for form in (path.absolute(), path.resolve())]
    parents = {parent for path in known for parent in path.parents if len(parent.parts) > 2}
    found = {str(path): path.name for path in known} | {f"{parent}/": "" for parent in parents}
    found[str(Path.home())] = "~"  # whose name is a person's
    return _without(values, sorted(found.items(), key=lambda each: -len(each[0])))


def _without(values: Any, known: list[tuple[str, str]], key: str = "") -> Any:
    if isinstance(values, dict):
        return {name: _without(value, known, name) for name, value in values.items()}
    if isinstance(values, list):
        return [_without(value, known, key) for value in values]
    if not isinstance(values, str):
        return values
    if key in _PATHS:
        return re.split(r"[/\\]", values.rstrip("/\\"))[-1]
    for prefix, name in known:
        values = values.replace(prefix, name)
    return _FOLDERS.sub("", values)
