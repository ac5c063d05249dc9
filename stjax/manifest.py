"""A folder of files that vouches for itself: `manifest.json` names every file with its SHA-256, and is written last."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_prep.errors import InputError

MANIFEST = "manifest.json"


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest of all that is in a folder.

    Args:
        content: plain values to keep in it beside the files' hashes.
    """
    files = {_name(path, folder): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    content = content | {"files": files}
    (folder / MANIFEST).write_text(_dump({"sha256": _json_sha256(content), **content}))


def verify(folder: Path, *, what: str, files: bool = True, others: bool = False) -> dict[str, Any]:
    """Reads a folder's manifest and checks every file against it.

    Args:
        what: the folder's kind, for messages.
        files: check the files too, not the manifest alone.
        others: let files be that the manifest does not name.

    Returns:
        The manifest's content.

    Raises:
        InputError: a file is missing, added or changed, naming it.
    """
    try:
        text = (folder / MANIFEST).read_bytes().decode()
        manifest = json.loads(text)
        intact = text == _dump(manifest)  # the hash is of values: this finds changes that spell the same ones
        digest = manifest.pop("sha256")
        expected = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{what} {folder} has no readable {MANIFEST} ({error})") from None
    if not intact or digest != _json_sha256(manifest):
        raise InputError(f"{what} {folder} is damaged: {MANIFEST} has changed since it was written")
    if not files:
        return manifest
    found = {_name(path, folder) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if odd := sorted(set(expected) - found if others else found ^ set(expected)):
        raise InputError(f"{what} {folder} is damaged: {odd[0]} is missing or does not belong to it")
    for name, digest in expected.items():
        if _sha256(folder / name) != digest:
            raise InputError(f"{what} {folder} is damaged: {name} has changed since it was written")
    return manifest


def sync(folder: Path) -> None:
    """Flushes a folder and its files, so that a rename never outruns what it renames."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _dump(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1)


def _json_sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
