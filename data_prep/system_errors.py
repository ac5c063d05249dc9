"""What the system refuses: full or read-only disks, forbidden folders. Told in a line, and before long work where it
can be known."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.errors import InputError

_FULL = "free some space, or write to another disk, and give the command again"
_ELSEWHERE = "choose another folder"
REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "write to another disk, whose file system takes larger files",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: "ask for the right to it, or choose another folder",
    errno.EPERM: "ask for the right to it, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend the link, or choose another folder",
    errno.EIO: "the disk or its connection fails: use another",
    errno.ESTALE: "the network folder was mounted anew: give the command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "close other programs, or use a machine with more memory",
}


def explain(error: BaseException) -> str | None:
    """One line on an error of the operating system: what it concerns, what it is, what to do. None for another error.

    Libraries wrap such errors in their own (Orbax, HDF5, ArrayRecord): then their text is looked through.
    """
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else None
        if number is None:
            number = next((code for code in REMEDIES if os.strerror(code) in str(each)), None)
        elif each is not error and number not in REMEDIES:
            continue  # handled: what was raised then is another error
        if number is None and isinstance(each, OSError) and "requested and" in str(each):  # NumPy's short write
            number = errno.ENOSPC
        if number is not None:
            file = each.filename if isinstance(each, OSError) else None
            where = "" if file is None else f"{os.fsdecode(file) if isinstance(file, bytes) else file}: "
            return f"{where}{os.strerror(number)}" + (f"; {REMEDIES[number]}" if number in REMEDIES else "")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those it came of or that it holds."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _chain(each)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def check_folder(folder: Path, option: str) -> None:
    """Makes sure that files can be written in a folder, which may not be there yet: better now than after hours.

    Args:
        option: which names it, such as "--out".

    Raises:
        InputError: they cannot.
    """
    place = folder
    try:
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if place.is_symlink() and not place.exists():
            raise InputError(f"{option} {folder}: {place} is a link to nothing; {REMEDIES[errno.ELOOP]}")
        if not place.is_dir():
            which = "" if place == folder else f": {place}"
            raise InputError(f"{option} {folder}{which} is no folder; choose another")
        for name in folder.relative_to(place).parts:  # to be made
            with contextlib.suppress(FileNotFoundError):
                (place / name).lstat()  # one too long is told here
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(bytes(4096))  # a full disk makes empty files
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, _ELSEWHERE)
        raise InputError(
            f"{option} {folder} cannot be written: {place}: {os.strerror(error.errno or 0)}; {remedy}"
        ) from None


def check_file(path: Path, option: str) -> None:
    """`check_folder` of a file that is to be written or replaced. Raises InputError when it cannot be."""
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file in it")
    check_folder(path.parent, option)
