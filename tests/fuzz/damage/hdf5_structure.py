"""Damage to what HDF5 files are made of: headers of objects, trees, heaps, indices and packed chunks.

Bytes changed anywhere mostly hit numbers. Here they hit what the library follows: counts, lengths, types and addresses,
and addresses are exchanged for others of the file, so that trees, headers and heaps lead to one another or in a circle.
Newer structures have checksums, which are mostly made right again.
"""

import functools
import io
import random
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from tests.fuzz.damage import raw

_SIGNATURES = (
    *(b"\x89HDF\r\n\x1a\n", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"FHIB", b"FSHD"),
    *(b"FSSE", b"BTHD", b"BTIN", b"BTLF", b"EAHD", b"EAIB", b"EASB", b"EADB", b"FAHD", b"FADB", b"SMTB", b"SMLI"),
)
_NEAR = 60  # bytes from the beginning of a structure, on average
_FAR = 1024  # bytes in which addresses are looked for
_LONGEST = 700  # bytes of a structure whose checksum is mended
_WORD = 0xFFFFFFFF


class _File(NamedTuple):
    """What is where in a file.

    Attributes:
        structures: addresses by kind.
        chunks: (address, bytes) of packed chunks.
    """

    structures: dict[str, list[int]]
    chunks: list[tuple[int, int]]


def damage_structure(path: Path, rng: random.Random) -> str:
    """Changes one to four places of a sound file's structure, in the newest version of HDF5's format now and then."""
    sound, newest = path.read_bytes(), rng.random() < 0.3
    if newest:
        sound = _newest(sound)
    file, data = _look(sound), bytearray(sound)
    known = sorted(address for addresses in file.structures.values() for address in addresses)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if file.chunks and rng.random() < 0.15:
            done.append(_damage_chunk(data, file.chunks, rng))
            continue
        kind = rng.choice(sorted(file.structures))
        start = rng.choice(file.structures[kind])
        action = rng.choice((_address, _address, _integer, _integer, _flip))
        action(data, start, known, rng)
        done.append(f"{action.__name__.strip('_')} of {kind}")
    if rng.random() < 0.8:
        _mend_checksums(data, sound)
    path.write_bytes(data)
    return f"{path.name}: structure{' (newest)' if newest else ''}: {', '.join(done)}"


@functools.lru_cache(maxsize=8)
def _look(content: bytes) -> _File:
    structures: dict[str, list[int]] = {}
    for signature in _SIGNATURES:
        place = content.find(signature)
        while place >= 0:
            structures.setdefault(signature.decode("latin-1").strip("\x89\r\n\x1a"), []).append(place)
            place = content.find(signature, place + 1)
    chunks = []

    def note(_: str, thing: Any) -> None:
        structures.setdefault("header", []).append(h5py.h5o.get_info(thing.id).addr)
        if isinstance(thing, h5py.Dataset) and thing.chunks:
            found = (thing.id.get_chunk_info(index) for index in range(min(4, thing.id.get_num_chunks())))
            chunks.extend((chunk.byte_offset, chunk.size) for chunk in found)

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(note)
    return _File(structures, chunks)


@functools.lru_cache(maxsize=4)
def _newest(content: bytes) -> bytes:
    """The same in the newest version of each structure, with indices for chunks that can grow."""
    written = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(written, "w", libver="latest") as new:
        _copy(old, new, 0)
    return written.getvalue()


def _copy(old: Any, new: Any, number: int) -> int:
    for key, value in old.attrs.items():
        new.attrs.create(key, value, dtype=old.attrs.get_id(key).dtype)
    for name, thing in sorted(old.items()):
        number += 1
        if isinstance(thing, h5py.Group):
            number = _copy(thing, new.create_group(name), number)
            continue
        chunked = bool(thing.shape) and all(thing.shape)
        growing = (None, *thing.shape[1:]) if chunked and number % 2 else None
        settings = {"compression": "gzip", "maxshape": growing, "shuffle": number % 3 == 0} if chunked else {}
        made = new.create_dataset(name, data=thing[()], dtype=thing.dtype, **settings)
        for key, value in thing.attrs.items():
            made.attrs.create(key, value, dtype=thing.attrs.get_id(key).dtype)
    return number


def _damage_chunk(data: bytearray, chunks: list[tuple[int, int]], rng: random.Random) -> str:
    start, length = rng.choice(chunks)
    if rng.random() < 0.5:
        changed = raw.damage(bytes(data[start : start + length]), rng)[0]
        what = "a chunk's bytes"
    else:
        changed = zlib.compress(bytes(rng.choice((0, 1, 100, 1 << 20, 1 << 26))), 9)
        what = "another chunk"
    data[start : start + length] = changed[:length].ljust(length, b"\0")
    return what


def _address(data: bytearray, start: int, known: list[int], rng: random.Random) -> None:
    """An address in the structure becomes another structure's, or its own."""
    fields = [
        place
        for place in range(start, min(start + _FAR, len(data) - 8))
        if 0 < int.from_bytes(data[place : place + 8], "little") < len(data) and data[place + 4 : place + 8] == bytes(4)
    ]
    if not fields:
        return _integer(data, start, known, rng)
    to = rng.choice((start, rng.choice(known), rng.choice(known), rng.randrange(len(data)), len(data) - 1, 2**64 - 1))
    place = rng.choice(fields)
    data[place : place + 8] = to.to_bytes(8, "little")
    return None


def _integer(data: bytearray, start: int, known: list[int], rng: random.Random) -> None:
    """A number near the structure's beginning becomes another."""
    del known
    width = rng.choice((1, 1, 2, 4, 8))
    place = min(start + int(rng.expovariate(1 / _NEAR)), len(data) - width)
    value = rng.choice(raw.INTEGERS[width])
    if rng.random() < 0.4:
        there = int.from_bytes(data[place : place + width], "little")
        value = (there + rng.choice((-8, -1, 1, 2, 8, 16))) % (1 << 8 * width)
    data[place : place + width] = value.to_bytes(width, "little")


def _flip(data: bytearray, start: int, known: list[int], rng: random.Random) -> None:
    """Bits near the structure's beginning."""
    del known
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = min(start + int(rng.expovariate(1 / _NEAR)), len(data) - 1)
        data[place] ^= 1 << rng.randrange(8)


def _mend_checksums(data: bytearray, sound: bytes) -> None:
    for start, length in _checked(sound):
        if data[start : start + length] != sound[start : start + length]:
            data[start + length : start + length + 4] = _lookup3(data[start : start + length]).to_bytes(4, "little")


@functools.lru_cache(maxsize=8)
def _checked(sound: bytes) -> list[tuple[int, int]]:
    """(address, bytes) of the structures that a checksum follows."""
    found = []
    for signature in _SIGNATURES:
        start = sound.find(signature)
        while start >= 0:
            for length in range(8, min(_LONGEST, len(sound) - start - 4)):
                end = start + length
                if int.from_bytes(sound[end : end + 4], "little") == _lookup3(sound[start:end]):
                    found.append((start, length))
                    break
            start = sound.find(signature, start + 1)
    return found


def _lookup3(data: bytes | bytearray) -> int:
    """HDF5's checksum of metadata: hashlittle of Bob Jenkins' lookup3 (2006, public domain), from 0."""
    a = b = c = (0xDEADBEEF + len(data)) & _WORD
    whole = max(0, (len(data) - 1) // 12) * 12
    for place in range(0, whole, 12):
        a = (a + int.from_bytes(data[place : place + 4], "little")) & _WORD
        b = (b + int.from_bytes(data[place + 4 : place + 8], "little")) & _WORD
        c = (c + int.from_bytes(data[place + 8 : place + 12], "little")) & _WORD
        for shift in (4, 6, 8, 16, 19, 4):  # a, b and c take turns
            a = ((a - c) & _WORD) ^ ((c << shift | c >> 32 - shift) & _WORD)
            a, b, c = b, (c + b) & _WORD, a
    rest = data[whole:].ljust(12, b"\0")
    a = (a + int.from_bytes(rest[:4], "little")) & _WORD
    b = (b + int.from_bytes(rest[4:8], "little")) & _WORD
    c = (c + int.from_bytes(rest[8:], "little")) & _WORD
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - ((b << shift | b >> 32 - shift) & _WORD)) & _WORD
        a, b, c = b, c, a
    return b
