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

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from data_prep.errors import InputError
from data_prep.readers import _packed


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
        raise InputError(f"{path}: no such file or folder; give the folder that holds the data set")
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
        raise InputError(f"{path}: layout not recognised (it holds {_contents(path)}); {_remedy(path, names)}")
    if len(found) > 1:
        reasons = "; ".join(f"{reader.__name__.rpartition('.')[2]}: {reason}" for reader, reason in found.items())
        raise InputError(f"{path}: several layouts recognised ({reasons}); choose one with --layout")
    return found.popitem()


def _remedy(path: Path, names: list[str]) -> str:
    """What to do about a source that is in no layout."""
    folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())] if path.is_dir() else [path]
    if packed := [archive for folder in folders for archive in _packed.archives(folder)]:
        more = f", and {len(packed) - 1} more like it" if len(packed) > 1 else ""
        return f"{packed[0].name} is still packed, unpack it: {_packed.remedy(packed[0])}{more}"
    if path.name == "segmented_outputs":
        return "the cells Space Ranger segmented are not read, give binned_outputs"
    return f"name it with --layout {'|'.join(names)}, see docs/layouts for the files each expects"


def _contents(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
