"""Readers: one module per layout, found by its name; each turns files into `Section`s and says why it applies.

A reader module offers

    detect(path) -> str | None                    why `path` is in this layout, or None
    find_sections(path, **options)                every section listed -> what it lacks ("" when complete)
    list_sections(path, *, sections, skip_incomplete, **options) -> list of names to read
    read_section(path, name, **options) -> Section
    read_sections(path, *, sections, skip_incomplete, **options) -> iterator of Section

Options, keywords every one of these functions takes (a layout leaves alone what does not concern it):

    um_per_px        the slides' scale as the user states it, which wins over what files and the spot pitch say
    image            full-resolution image, for layouts that keep it elsewhere: a file, or a folder of
                     <section>.<extension>
    gene_table       HGNC complete set to name genes by, in place of the shipped table
    resolve_aliases  replace outdated gene symbols by official ones
    bin_um           Visium HD: the bin sizes to read, e.g. (8, 16); all present by default
"""

import contextlib
import glob
import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType

from data_prep.errors import InputError
from data_prep.readers import _packed

_LEVELS_BELOW, _MOST_FOLDERS = 2, 50  # of a source in no layout that are looked into


def layout_names() -> list[str]:
    """Names of the reader modules, as `--layout` takes them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_layout(path: str | Path, layout: str = "auto") -> tuple[ModuleType, str]:
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
        return importlib.import_module(f"{__name__}.{layout}"), "given by --layout"
    readers = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = {reader: reason for reader in readers if (reason := reader.detect(path))}
    if not found:
        raise InputError(f"{path}: layout not recognised (it holds {_contents(path)}); {_remedy(path, readers)}")
    if len(found) > 1:
        reasons = "; ".join(f"{reader.__name__.rpartition('.')[2]}: {reason}" for reader, reason in found.items())
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


def _below(path: Path, readers: list[ModuleType]) -> list[str]:
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


def _layout_of(folder: Path, readers: list[ModuleType]) -> str:
    for reader in readers:
        with contextlib.suppress(InputError):
            if reader.detect(folder):
                return reader.__name__.rpartition(".")[2]
    return ""


def _remedy(path: Path, readers: list[ModuleType]) -> str:
    """What to do about a source that is in no layout."""
    if path.is_dir() and (below := _below(path, readers)):
        more = f" and {len(below) - 3} more" if len(below) > 3 else ""
        return f"data sets lie below it, give one: {', '.join(below[:3])}{more}"
    folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())] if path.is_dir() else [path]
    if packed := [archive for folder in folders for archive in _packed.archives(folder)]:
        more = f", and {len(packed) - 1} more like it" if len(packed) > 1 else ""
        return f"{packed[0].name} is still packed, unpack it: {_packed.remedy(packed[0])}{more}"
    if path.name == "segmented_outputs":
        return "the cells Space Ranger segmented are not read, give binned_outputs"
    return f"name it with --layout {'|'.join(layout_names())}, see docs/layouts for the files each expects"


def _contents(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
