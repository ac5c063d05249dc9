"""Predictions as files, a module a format, found by its name: a new output is one file.

A module offers

    SUFFIX                                             of its files, e.g. ".h5ad"
    write(path, prediction, model, *, genes, shown)    writes one section to `path`, whole or not at all: a
                                                       `stjax.inference.prediction.SectionPrediction`

`genes` are the columns of the model's main panel to write. A module with `ONE_GENE = True` draws `shown` alone, a file
a gene. Modules are imported only when asked for, so that one may need an extra.
"""

import difflib
import hashlib
import importlib
import pkgutil
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from data_prep import extras
from data_prep.errors import InputError

_MOST_BYTES = 40  # a section's name may have 200, a file's 255
MOST_MAPS = 12  # of genes that somebody names
DEFAULT_FORMATS = ("h5ad", "png")


def file_name(name: str) -> str:
    """A gene's name as part of a file name, of at most 40 bytes."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    if len(plain.encode()) <= _MOST_BYTES:
        return plain
    start = plain.encode()[: _MOST_BYTES - 9].decode(errors="ignore")
    return f"{start}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def format_names() -> list[str]:
    """The formats there are, as `--formats` takes them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get_formats(names: Sequence[str]) -> dict[str, ModuleType]:
    """The modules of some formats, by name. Raises InputError for an unknown one, or one whose extra is missing."""
    known, found = format_names(), {}
    for name in (name.lower().removeprefix(".") for name in names):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"format {name!r} is not known, expected some of {', '.join(known)}{hint}")
        try:
            found[name] = importlib.import_module(f"{__name__}.{name}")
        except ImportError as error:
            lacking = extras.explain(error) or error
            raise InputError(f"format {name} needs packages that are not here: {lacking}") from error
    return found


def by_suffix(path: Path) -> ModuleType:
    """The module of the format that a path's ending names: ".csv", ".zarr" of SpatialData. Raises InputError as
    `get_formats`."""
    ending = path.suffix.lower().removeprefix(".")
    name = "spatialdata" if ending == "zarr" else ending
    if name not in (known := format_names()):
        endings = ", ".join(".zarr" if each == "spatialdata" else f".{each}" for each in known)
        raise InputError(f"{path}: the ending {path.suffix!r} names no format, expected one of {endings}")
    return get_formats([name])[name]


def drawn(expression: np.ndarray, columns: np.ndarray, *, asked: bool) -> np.ndarray:
    """Which genes a picture shows: those asked for, `MOST_MAPS` at most, else the one that varies most.

    Args:
        expression: [S, M] of the main panel.
        columns: [G] of it, the genes to choose from.
        asked: whether somebody named them.
    """
    if asked and len(columns) <= MOST_MAPS:
        return columns
    return columns[[np.argmax(expression[:, columns].std(axis=0))]]


def default_formats() -> list[str]:
    """`DEFAULT_FORMATS`; those that need an extra which is not installed are left out, with a note."""
    found = []
    for name in DEFAULT_FORMATS:
        try:
            found += get_formats([name])
        except InputError as error:
            print(f"note: left out: {error}")
    return found


def require_space(out: Path, size: int) -> None:
    """Raises InputError when the disk of a folder has less room than the `size` bytes that are sure to be needed."""
    if (free := shutil.disk_usage(out).free) < size:
        raise InputError(
            f"--out {out}: the disk has {free / 1e6:,.0f} MB free, results take at least {size / 1e6:,.0f} MB; make "
            "room, choose another, or write fewer genes (--genes)"
        )
