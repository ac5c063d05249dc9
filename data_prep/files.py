"""Files: written whole or not at all, locked, hashed, and named so that they stay in their folder.

Every command writes through these, so that what a kill, a full disk, a second process or somebody else's link can do is
decided in one place. JSON is read by `data_prep.json_files`.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import on_disk
from data_prep.errors import InputError

MAX_NAME_BYTES = 200  # file systems take 255, of which endings and genes need some
_UNFINISHED, _LOCK, _BEFORE = ".stjax-", ".lock", ".before"
_ABANDONED_S = 24 * 3600
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # what file systems say
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


# -------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def whole(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path for a file or a folder to write, which takes the place of `path` once the block ends without an error.

    It lies in a folder next to `path` that this process alone may enter, new and of a random name: no link that
    somebody planted is followed, and two writers never share one. What killed writers left next to `path` is removed.

    Args:
        sync: return when it is on disk.

    Raises:
        InputError: a file was written, and `path` is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path.parent)
    with _own_folder(path.parent) as folder:
        made = folder / path.name
        yield made
        if sync:
            flush(made)
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and not made.is_dir():
            raise InputError(f"{path} is a folder, a file is to be written there; choose another place, or remove it")
        if made.is_dir() and os.path.lexists(path):
            path.rename(folder / _BEFORE)  # no folder takes another's place in one step
        made.replace(path)
        if sync:
            _flush_one(path.parent)


@contextlib.contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A new folder that this process alone may enter, held by a lock, which tells it from one that a kill left."""
    with contextlib.ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{_host()}-", dir=parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):  # removed by who took it for left over, before it was locked
                handle = _open_locked(folder / _LOCK)
                if handle is not None:
                    stack.callback(os.close, handle)
                    break  # else somebody is about to
        yield folder


def _remove_unfinished(parent: Path) -> None:
    """Removes what killed writers of this machine left in a folder, and those of others a day ago."""
    with os.scandir(parent) as entries:
        found = [entry for entry in entries if entry.name.startswith(_UNFINISHED)]
    for entry in found:
        folder = Path(entry.path)
        with contextlib.suppress(OSError):
            if not entry.is_dir(follow_symlinks=False):
                continue
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
            elif entry.name.startswith(f"{_UNFINISHED}{_host()}-") and (folder / _LOCK).exists():
                # Of this machine alone: some file systems keep locks from other machines.
                handle = _open_locked(folder / _LOCK, needed=True)
                if handle is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(handle)


def is_unfinished(path: Path) -> bool:
    """Whether a path is what `whole` writes into, or a kill left of that."""
    return path.name.startswith(_UNFINISHED)


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Writes UTF-8 text whole or not at all; with `sync`, returns when it is on disk."""
    with whole(path, sync=sync) as made:
        made.write_text(text, encoding="utf-8")


def below(folder: Path) -> list[Path]:
    """Every file and folder below a folder, ascending; links to folders are followed, to each folder once."""
    found, seen = [], {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        found += [Path(place, name) for name in (*folders, *names)]
        real = {os.path.realpath(Path(place, name)): name for name in sorted(folders, reverse=True)}
        folders[:] = sorted(name for path, name in real.items() if path not in seen)
        seen |= real.keys()
    return sorted(found)


def flush(path: Path) -> None:
    """Returns when a file, or a folder and all in it, is on disk, so that a rename never outruns what it renames."""
    for each in (*(path.rglob("*") if path.is_dir() else ()), path):
        _flush_one(each)


def _flush_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -------------------------------------------------------------------------------------------------------- locking


@contextlib.contextmanager
def lock(path: Path, *, busy: str, shared: bool = False, wait_s: float = 0.0) -> Iterator[None]:
    """Holds a lock file, which the system releases however the process ends. Its folder is made.

    Args:
        busy: what the error says when another process holds it.
        shared: let others in that share it too; the file is then left there.
        wait_s: for how long to try again.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = _open_locked(path, shared=shared)
        except FileNotFoundError:
            continue  # whoever held it removed the folder meanwhile
        except OSError as error:
            raise InputError(f"{path.parent} cannot be written ({error.strerror}); choose another place") from None
        if handle is not None:
            break
        if time.monotonic() >= until:
            raise InputError(busy)
        time.sleep(0.1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # Only our own: whoever removed that already has let others make a new one.
            if not shared and os.path.samestat(path.lstat(), os.fstat(handle)):
                path.unlink()
        os.close(handle)


def _open_locked(path: Path, *, shared: bool = False, needed: bool = False) -> int | None:
    """A handle of a file that holds its lock, None if another process does.

    Args:
        needed: None too where the file system has no locks; else such a file counts as locked.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(path.lstat(), os.fstat(handle)):
                return handle
        except FileNotFoundError:
            pass  # removed by whoever held it, as it would be by us: the next one made is another file
        except OSError as error:
            if error.errno in _NO_LOCKS and not needed:
                return handle
            os.close(handle)
            if isinstance(error, BlockingIOError) or error.errno in _NO_LOCKS:
                return None
            raise
        os.close(handle)


def others_can_write(folder: Path) -> str:
    """Why what is found in a folder may be another user's, "" if it is this user's, or root's, alone."""
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    return "can be written by other users" if status.st_mode & 0o022 else ""


# ------------------------------------------------------------------------------------------------ files that may lack


def is_there(path: Path) -> bool:
    """Whether there is such a file, of those that may be absent.

    Raises:
        InputError: something is there that is no file: as if it were absent, what it says would be guessed.
    """
    if path.is_file():
        return True
    if os.path.lexists(path):
        found = "a folder" if path.is_dir() else "a link to nothing" if not path.exists() else "no regular file"
        raise InputError(f"{path}: {found}, expected a file; put the file there, or remove it")
    return False


# -------------------------------------------------------------------------------------------------------- hashing


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder, as 64 hexadecimal digits."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            digest.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -------------------------------------------------------------------------------------------------- names in paths


def fault_of_name(name: Any) -> str:
    """Why a name cannot be that of a file or folder, "" if it can: no separator, no way out of the folder it is in."""
    if not isinstance(name, str) or not name:
        return "is no name"
    if found := fault_of_text(name):
        return found
    if "/" in name or "\\" in name:
        return "contains a path separator"
    if name.startswith("."):
        return "begins with a dot"
    return ""


def fault_of_path(path: Any) -> str:
    """Why a path cannot be that of a file inside a folder, "" if it can: names joined by "/"."""
    if not isinstance(path, str) or not path:
        return "is no path"
    return next((fault for part in path.split("/") if (fault := fault_of_name(part))), "")


def fault_of_text(text: str) -> str:
    """Why text cannot name a patient, a spot or a gene, "" if it can."""
    if _CONTROL.search(text):
        return "contains a control character"
    if len(text.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return ""


def check_name(name: Any, what: str) -> str:
    """The name. Raises InputError, which begins with `what` and the name, where it cannot be a file's."""
    if fault := fault_of_name(name):
        raise InputError(f"{what} {shown(name)} {fault}; results are files of that name: rename it")
    return name


def check_lengths(names: Iterable[str | bytes], what: str) -> None:
    """Raises InputError, which begins with `what`, for the first of many texts that is longer than a name can be.

    To be asked before they become an array of texts, which is as wide as its longest.
    """
    if (long := next((name for name in names if len(name) > MAX_NAME_BYTES), None)) is not None:
        raise InputError(f"{what} {shown(long)} is longer than {MAX_NAME_BYTES} bytes; correct the file")


def check_texts(names: np.ndarray, what: str) -> None:
    """Raises InputError, which begins with `what`, for the first of many names that cannot be one.

    Args:
        names: [N] str, or bytes, see `data_prep.names`.
    """
    names = np.asarray(names)
    names = names if names.dtype.kind in "SU" else names.astype(str)
    letters = max(names.dtype.itemsize // (4 if names.dtype.kind == "U" else 1), 1)
    for rows in on_disk.blocks(len(names), names, size=max(1, (1 << 22) // letters)):
        part = np.ascontiguousarray(names[rows], dtype=f"U{letters}")
        codes = part.view(np.uint32).reshape(len(part), letters)  # [n, letters], zeros behind the text
        odd = ((codes < 0x20) & (codes != 0)) | (codes > 0x7E)
        odd[:, 1:] |= (codes[:, :-1] == 0) & (codes[:, 1:] != 0)  # a zero inside
        if letters > MAX_NAME_BYTES:
            odd[:, 0] |= codes[:, MAX_NAME_BYTES] != 0
        for row in np.flatnonzero(odd.any(axis=1)):
            if fault := fault_of_text(str(part[row])):
                raise InputError(f"{what} {shown(part[row])} {fault}; correct the file")


def shown(value: Any, *, most: int = 60) -> str:
    """A value from a file as messages show it: on one line, its end cut off where it is long."""
    text = repr(str(value)[: 4 * most]) if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
