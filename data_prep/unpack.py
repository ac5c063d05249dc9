"""Files that are packed, or not what their name says: what they are by their first bytes, and how to unpack them."""

import os
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep import budgets
from data_prep.errors import InputError

GZIP = b"\x1f\x8b"
_PACKED, _PIECE = 1 << 16, 1 << 20  # bytes given to zlib at a time, as it copies what is left; and taken of it
_TAR_PLACE, _TAR = slice(257, 262), b"ustar"
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
# First bytes -> what such a file is, and what to do with it; {} is the file
_KINDS = {
    b"BZh": ("packed with bzip2", "unpack it: bunzip2 {}"),
    b"\xfd7zXZ\0": ("packed with xz", "unpack it: unxz {}"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it: unzstd {}"),
    b"7z\xbc\xaf": ("a 7-Zip archive", "unpack it: 7z x {}"),
    b"PK\x03\x04": ("a zip archive", "unpack it: unzip {}"),
    b"\x89HDF": ("an HDF5 file", "check its name"),
    b"%PDF": ("a PDF", "check its name"),
    b"version https://git-lfs": ("a Git LFS pointer and not the file itself", "fetch it: git lfs pull"),
}


def read_bytes(path: Path, budget: budgets.Budget = budgets.UNPACKED) -> bytearray:
    """The bytes of a file; of a gzipped one, told by content as names lie, what it holds.

    Args:
        budget: of what it may hold.

    Raises:
        InputError: missing, unreadable, truncated or corrupt gzip, or over the budget.
    """
    whole = bytearray()  # grows where it is, and is not copied at the end
    for piece in pieces(path, budget):
        whole += piece
    return whole


def pieces(path: Path, budget: budgets.Budget = budgets.UNPACKED) -> Iterator[bytes]:
    """As `read_bytes`, a megabyte or two at a time."""
    total = 0
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            packed = file.read(len(GZIP)) == GZIP
            file.seek(0)
            for piece in _unpacked(file) if packed else iter(lambda: file.read(_PIECE), b""):
                total += len(piece)
                if packed:
                    budget.check(path, total, file_bytes=size)
                yield piece
    except FileNotFoundError as error:
        raise InputError(f"{path}: file not found; the layout needs it, add it or leave its section out") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: truncated or corrupt gzip ({error}); copy or download the file again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """What gzipped data holds, one member or many.

    Raises:
        EOFError, zlib.error: truncated or corrupt.
    """
    rest, member, held = b"", None, bytearray()
    while rest or (rest := file.read(_PACKED)) or member is not None:
        if not rest:
            raise EOFError("it ends in the middle")
        if member is None:
            rest = rest.lstrip(b"\0")  # as `gzip` pads
            if not rest:
                continue
            member = zlib.decompressobj(wbits=31)
        held += member.decompress(rest, _PIECE)
        if len(held) >= _PIECE:
            yield bytes(held)
            held.clear()
        rest = member.unused_data if member.eof else member.unconsumed_tail
        if member.eof:
            member = None
    if held:
        yield bytes(held)


def check_kind(path: Path, data: bytes | bytearray, expected: str = "a table") -> None:
    """Raise `InputError` where `data`, the bytes of `path` once gunzipped, is known for another kind of file.

    Args:
        expected: what the file should be, for the message.
    """
    name = shlex.quote(str(path))
    if data[_TAR_PLACE] == _TAR:
        raise InputError(f"{path}: a tar archive, expected {expected}; unpack it: tar -xf {name}")
    if data.startswith(GZIP):
        raise InputError(f"{path}: gzipped twice, expected {expected}; unpack it once: gunzip {name}")
    if data.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in data[:2000]:
        raise InputError(f"{path}: an Excel workbook, expected {expected}; save it as tab-separated text")
    for head, (what, remedy) in _KINDS.items():
        if data.startswith(head):
            raise InputError(f"{path}: {what}, expected {expected}; {remedy.format(name)}")
    if data[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{path}: a web page, expected {expected}; the download failed, repeat it")


def archives(path: Path) -> list[Path]:
    """`path` itself if it is an archive by its name, else the archives in that folder, in name order."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in files if file.name.lower().endswith(_ARCHIVES) and file.name[0] != "."]


def remedy(file: Path, into: str = "") -> str:
    """The command that unpacks an archive or a gzipped file.

    Args:
        file: the packed file.
        into: a folder for what an archive holds, next to it; by default the folder it lies in.
    """
    name = file.name.lower()
    target = file.parent / into
    first = f"mkdir -p {shlex.quote(str(target))} && " if into else ""
    if name.endswith(".zip"):
        return f"{first}unzip {shlex.quote(str(file))} -d {shlex.quote(str(target))}"
    if name.endswith(_ARCHIVES):
        return f"{first}tar -xf {shlex.quote(str(file))} -C {shlex.quote(str(target))}"
    return f"gunzip {shlex.quote(str(file))}"
