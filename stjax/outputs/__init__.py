"""Predictions as files, a module a format, found by its name: a new output is one file.

A module offers

    SUFFIX                                             of its files, e.g. ".h5ad"
    write(path, prediction, model, *, genes, shown)    writes one section to `path`, whole or not at all: a
                                                       `stjax.inference.prediction.SectionPrediction`

`genes` are the columns of the model's main panel to write. A module with `ONE_GENE = True` draws `shown` alone, a file
a gene. Modules are imported only when asked for, so that one may need an extra.
"""

import contextlib
import difflib
import importlib
import os
import pkgutil
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from data_prep.errors import InputError

DEFAULT_FORMATS = ("h5ad", "png")


def file_name(name: str) -> str:
    """A gene's name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


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
            raise InputError(
                f"format {name} needs packages that are not here ({error}); install the extra: "
                "pip install 'stjax[interop]'"
            ) from error
    return found


def require_space(out: Path, size: int) -> None:
    """Raises InputError when the disk of a folder has less room than the `size` bytes that are sure to be needed."""
    if (free := shutil.disk_usage(out).free) < size:
        raise InputError(
            f"--out {out}: the disk has {free / 1e6:,.0f} MB free, results take at least {size / 1e6:,.0f} MB; make "
            "room, choose another, or write fewer genes (--genes)"
        )


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path`, of a file or folder to write, which takes its place once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
