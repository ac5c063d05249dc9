"""Damages files: any of them byte by byte, and those of a known format so that what it says is odd but well-formed.

Every function takes a file (or its bytes) and a `random.Random`, which alone decides what happens, and says in a few
words what it did.
"""

import importlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.damage import archives, hdf5, raw, tables, values

Damage = Callable[[Path, random.Random], str]


def damage_json(path: Path, rng: random.Random) -> str:
    """Another value somewhere in a JSON file."""
    text, what = values.damage_json(path.read_text(), rng)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return what


def _imported(module: str, function: str) -> Damage:
    """Imported when needed: tifffile and pyarrow take a while."""

    def call(path: Path, rng: random.Random) -> str:
        return getattr(importlib.import_module(f"tests.fuzz.damage.{module}"), function)(path, rng)

    return call


BY_SUFFIX: dict[str, Damage] = {
    ".json": damage_json,
    ".csv": tables.damage_table,
    ".tsv": tables.damage_table,
    ".mtx": tables.damage_table,
    ".gz": archives.damage_gzip,
    ".npz": archives.damage_npz,
    ".h5": hdf5.damage_hdf5,
    ".h5ad": hdf5.damage_hdf5,
    ".tif": _imported("images", "damage_tiff"),
    ".svs": _imported("images", "damage_tiff"),
    ".tiff": _imported("images", "damage_tiff"),
    ".png": _imported("images", "damage_png"),
    ".jpg": _imported("images", "damage_jpeg"),
    ".parquet": _imported("parquet", "damage_parquet"),
    ".pth": _imported("weights", "damage_pth"),
    ".safetensors": _imported("weights", "damage_safetensors"),
}


def damage_bytes(path: Path, rng: random.Random) -> str:
    """Bytes changed anywhere in a file."""
    data, what = raw.damage(path.read_bytes(), rng)
    path.write_bytes(data)
    return what


def damage_file(path: Path, rng: random.Random, *, structured: float = 0.65) -> str:
    """Damages one file.

    Args:
        structured: how often by what it means rather than by its bytes, where the format is known.
    """
    known = BY_SUFFIX.get(path.suffix)
    if known is None or rng.random() >= structured:
        return f"{path.name}: {damage_bytes(path, rng)}"
    try:
        return f"{path.name}: {known(path, rng)}"
    except Exception:  # damaged before, and no longer what its name says
        return f"{path.name}: {damage_bytes(path, rng)}"


def damage_folder(folder: Path, rng: random.Random, *, only: Sequence[str] = ("*",)) -> str:
    """Damages a file of a folder, seldom two, seldom a file as a whole.

    Args:
        only: patterns of those to choose from, each as likely as the others however many files it finds.
    """
    done = []
    for _ in range(1 if rng.random() < 0.9 else 2):
        everything = sorted(file for file in folder.rglob("*") if file.is_file())
        pattern = rng.choice(only)
        files = [file for file in everything if file.match(pattern)] or everything
        if not files:
            break
        file = rng.choice(files)
        done.append(_whole_file(file, files, rng) if rng.random() < 0.03 else damage_file(file, rng))
    return "; ".join(done)


def _whole_file(file: Path, files: list[Path], rng: random.Random) -> str:
    what = rng.choice(("removed", "empty", "a folder", "another file's content", "a dangling link"))
    other = rng.choice(files).read_bytes()
    file.unlink()
    if what == "empty":
        file.write_bytes(b"")
    elif what == "a folder":
        file.mkdir()
    elif what == "another file's content":
        file.write_bytes(other)
    elif what == "a dangling link":
        file.symlink_to("nowhere")
    return f"{file.name}: {what}"
