"""Readers: one module per layout, found by its name; each turns files into `Section`s and says why it applies.

A reader module offers

    detect(path) -> str | None                        why `path` is in this layout, or None
    find_sections(path, reading) -> dict[str, str]    every section listed -> what it lacks ("" when complete)
    read_section(path, name, reading) -> Section      one that lacks nothing
    check(path, names, reading)                       may be left out: refuses sections that cannot be read together
    AREAS                                             may be left out: kinds of `_areas` to choose from, the usual first
    ELEMENTS                                          may be left out: what `--elements` names, where there is a choice

where `reading` is `_sections.Reading`; `Reader` makes of them what others call.
"""

import contextlib
import dataclasses
import functools
import glob
import importlib
import os
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep import unpack
from data_prep.errors import InputError
from data_prep.readers import _areas, _slides_table
from data_prep.readers._sections import Reading, choose
from data_prep.section import Section

_LEVELS_BELOW, _MOST_FOLDERS = 2, 50  # of a source in no layout that are looked into


class Reader:
    """The reader of one layout. `options` are the fields of `Reading`.

    Attributes:
        name: the layout's.
    """

    def __init__(self, name: str):
        self.name = name
        self._module = importlib.import_module(f"{__name__}.{name}")

    def detect(self, path: str | Path) -> str | None:
        """Why `path` is in this layout, or None."""
        return self._module.detect(Path(path))

    def find_sections(self, path: str | Path, **options: Any) -> dict[str, str]:
        """Every section listed -> what it lacks ("" when complete)."""
        return self._module.find_sections(Path(path), self._reading(options))

    def list_sections(
        self, path: str | Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
    ) -> list[str]:
        """Names of the sections to read; see `data_prep.readers._sections.choose`."""
        names = choose(self.find_sections(path, **options), Path(path), sections, skip_incomplete)
        if check := getattr(self._module, "check", None):
            check(Path(path), names, self._reading(options))
        return names

    def read_section(self, path: str | Path, name: str, **options: Any) -> Section:
        """One section, its spots in the order of its counts.

        Raises:
            InputError: a missing, malformed or contradictory file, with its place and what to do.
        """
        self.list_sections(path, sections=[name], **options)
        reading = self._reading(options)
        stated = _slides_table.of_section(_slides_table.read(Path(path)), name)
        um_per_px = _slides_table.one_scale(Path(path), name, stated, reading.um_per_px)
        return self._module.read_section(Path(path), name, dataclasses.replace(reading, um_per_px=um_per_px))

    def read_sections(
        self, path: str | Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
    ) -> Iterator[Section]:
        """The sections one by one; the first is read when asked for."""
        for name in self.list_sections(path, sections=sections, skip_incomplete=skip_incomplete, **options):
            yield self.read_section(path, name, **options)

    def _reading(self, options: dict[str, Any]) -> Reading:
        """How to read. Raises InputError for areas or elements that the layout does not have."""
        reading = Reading(**options)
        if offered := getattr(self._module, "AREAS", None):
            _areas.parse(reading.areas, offered)
        elif reading.areas is not None:
            raise InputError(
                f"--areas is {reading.areas!r}, but layout {self.name} has one kind of areas; leave it out"
            )
        if reading.elements is not None and not hasattr(self._module, "ELEMENTS"):
            raise InputError(f"--elements is {reading.elements!r}, but layout {self.name} has none; leave it out")
        return reading


@functools.cache
def reader(layout: str) -> Reader:
    """The reader of a layout by its name."""
    return Reader(layout)


def layout_names() -> list[str]:
    """Names of the reader modules, as `--layout` takes them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_layout(path: str | Path, layout: str = "auto") -> tuple[Reader, str]:
    """The reader for `path` and the reason it applies.

    Args:
        path: the source folder (or file, where the layout is one).
        layout: a reader's name, or "auto" to recognise it.

    Raises:
        InputError: no such path, an empty folder, an unknown layout name, none or several recognised.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(missing(path, "the folder that holds the data set"))
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{path}: the folder is empty; give the folder that holds the data set")
    names = layout_names()
    if layout != "auto":
        if layout not in names:
            raise InputError(f"Unknown layout {layout!r}; expected auto or one of {', '.join(names)}")
        return reader(layout), "given by --layout"
    readers = [reader(name) for name in names]
    found = {each: reason for each in readers if (reason := each.detect(path))}
    if not found:
        raise InputError(f"{path}: layout not recognised (it holds {_contents(path)}); {_remedy(path, readers)}")
    if len(found) > 1:
        reasons = "; ".join(f"{each.name}: {reason}" for each, reason in found.items())
        raise InputError(f"{path}: several layouts recognised ({reasons}); choose one with --layout")
    return found.popitem()


def missing(path: Path, give: str) -> str:
    """What is said of a source that is not there.

    Args:
        give: what to give instead.
    """
    if glob.has_magic(str(path)):
        return f"{path}: is a pattern, which nobody expands here; give {give}: {path.parent}"
    return f"{path}: no such file or folder; give {give}"


def _below(path: Path, readers: list[Reader]) -> list[str]:
    """Folders below a source, two levels at most, in which a layout is recognised, and which."""
    folders = [path]
    for _ in range(_LEVELS_BELOW):
        folders = [below for folder in folders for below in sorted(folder.iterdir()) if _is_open_folder(below)]
        folders = folders[:_MOST_FOLDERS]
        if found := [f"{folder} ({layout})" for folder in folders if (layout := _layout_of(folder, readers))]:
            return found
    return []


def _is_open_folder(path: Path) -> bool:
    return path.is_dir() and path.name[0] != "." and os.access(path, os.R_OK | os.X_OK)


def _layout_of(folder: Path, readers: list[Reader]) -> str:
    for each in readers:
        with contextlib.suppress(InputError):
            if each.detect(folder):
                return each.name
    return ""


def _remedy(path: Path, readers: list[Reader]) -> str:
    """What to do about a source that is in no layout."""
    if path.is_dir() and (below := _below(path, readers)):
        more = f" and {len(below) - 3} more" if len(below) > 3 else ""
        return f"data sets lie below it, give one: {', '.join(below[:3])}{more}"
    folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())] if path.is_dir() else [path]
    if packed := [archive for folder in folders for archive in unpack.archives(folder)]:
        more = f", and {len(packed) - 1} more like it" if len(packed) > 1 else ""
        return f"{packed[0].name} is still packed, unpack it: {unpack.remedy(packed[0])}{more}"
    return f"name it with --layout {'|'.join(layout_names())}, see docs/layouts for the files each expects"


def _contents(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
