"""A verified folder: `manifest.json`, written last, names every file with its SHA-256."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep import files as on_disk
from data_prep import json_files
from data_prep.errors import InputError

MANIFEST = "manifest.json"
_FILES = json_files.Each(json_files.SHA256, json_files.TEXT)


def seal(folder: Path, content: dict[str, Any], *, required: Sequence[str] = ()) -> None:
    """Writes the manifest of all that is in a folder, in place of one that is there.

    Args:
        content: plain values to keep in it next to the files' hashes.
        required: files without which the folder is of no use.

    Raises:
        InputError: one of those is not there.
    """
    there = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    files = {_name(path, folder): on_disk.sha256(path) for path in there}
    if missing := [name for name in required if name not in files]:
        raise InputError(f"{', '.join(missing)} was not written, or something removed it; nothing is kept, try again")
    (folder / MANIFEST).write_text(_dump(json_files.sealed(content | {"files": files})))


def verify(
    folder: Path, *, what: str, files: bool = True, others: bool = False, required: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads a folder's manifest and checks every file against it.

    Args:
        what: the folder's kind, for messages.
        files: check the files too, not the manifest alone.
        others: let files be that the manifest does not name.
        required: files that it must name.

    Returns:
        The manifest's content.

    Raises:
        InputError: a file is missing, added or changed, naming it.
    """
    name, remedy = f"{what} {folder} has no readable {MANIFEST}", "copy the folder again"
    values = json_files.read(folder / MANIFEST, remedy=f"{name}; {remedy}")
    manifest = json_files.unsealed(values, f"{what} {folder} is damaged: {MANIFEST}", remedy=remedy)
    json_files.require(manifest, {"files": _FILES}, name, remedy=remedy)
    # The hash is of values: comparing the text finds changes that spell the same ones.
    if (folder / MANIFEST).read_bytes() != _dump(values).encode():
        raise InputError(f"{what} {folder} is damaged: {MANIFEST} has changed since it was written")
    expected = manifest["files"]
    if missing := [name for name in required if name not in expected]:
        raise InputError(f"{what} {folder} is not whole: it was sealed without {', '.join(missing)}; make it anew")
    if not files:
        return manifest
    found = {_name(path, folder) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if odd := sorted(set(expected) - found if others else found ^ set(expected)):
        raise InputError(f"{what} {folder} is damaged: {odd[0]} is missing or does not belong to it")
    for name, digest in expected.items():
        if on_disk.sha256(folder / name) != digest:
            raise InputError(f"{what} {folder} is damaged: {name} has changed since it was written")
    return manifest


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _dump(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1)
