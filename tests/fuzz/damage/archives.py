"""Damage to what is packed: gzip and zip, .npz among them."""

import ast
import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.damage import raw, tables, values

_BOMB_MEMBER = gzip.compress(bytes(1 << 20), mtime=0)  # a megabyte of zeros in a kilobyte


def damage_gzip(path: Path, rng: random.Random) -> str:
    """A gzipped file: what it holds, how it is packed, or a bomb."""
    inner = gzip.decompress(path.read_bytes())
    action = rng.random()
    if action < 0.02:
        path.write_bytes(_BOMB_MEMBER * 3000)  # members one after the other unpack to one text
        return "gzip bomb of zeros"
    if action < 0.04:
        line = inner.split(b"\n", 1)[0] + b"\n"
        text = line * ((1 << 20) // len(line) + 1)
        path.write_bytes(gzip.compress(inner, 1) + gzip.compress(text, 6) * 2000)
        return "gzip bomb of lines"
    if action < 0.08:
        path.write_bytes(gzip.compress(inner)[: rng.randrange(len(inner) + 2)] + rng.randbytes(rng.choice((0, 8))))
        return "gzip cut"
    if action < 0.11:
        path.write_bytes(rng.choice((inner, gzip.compress(gzip.compress(inner)), zlib.compress(inner))))
        return "packed otherwise"
    if action < 0.35 or b"\0" in inner[:1000]:
        changed, what = raw.damage(inner, rng)
    elif path.name.endswith(".json.gz"):
        text, what = values.damage_json(inner.decode(), rng)
        changed = text.encode(errors="replace")
    else:
        text, what = tables.damage_text(inner.decode(), rng)
        changed = text.encode(errors="replace")
    path.write_bytes(gzip.compress(changed, 1, mtime=0))
    return f"inside gzip: {what}"


def rezip(members: list[tuple[str, bytes]], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of members in this order; a name may stand twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.NameToInfo.pop(name, None)  # or it warns of a second one
            archive.writestr(info, data)
    return buffer.getvalue()


def members_of(data: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of a sound zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def damage_members(
    members: list[tuple[str, bytes]],
    rng: random.Random,
    inside: Callable[[str, bytes, random.Random], tuple[bytes, str]],
) -> tuple[list[tuple[str, bytes]], str]:
    """Members of an archive with one changed, renamed, gone, or there twice.

    Args:
        inside: damages one member's content.
    """
    members = list(members)
    place = rng.randrange(len(members))
    name, data = members[place]
    action = rng.choice(("inside",) * 9 + ("twice", "renamed", "gone", "swapped"))
    if action == "inside":
        changed, action = inside(name, data, rng)
        members[place] = (name, changed)
    elif action == "twice":
        members.append((name, raw.damage(data, rng)[0]))
    elif action == "renamed":
        members[place] = (rng.choice((f"{name}x", "../" + name, "", name.upper())), data)
    elif action == "gone":
        del members[place]
    else:
        other = rng.randrange(len(members))
        members[place], members[other] = (name, members[other][1]), (members[other][0], data)
    return members, f"{action} ({name})"


def damage_zip_fields(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A zip file whose headers say other sizes, offsets, flags or methods than are true."""
    changed = bytearray(data)
    signature, fields = rng.choice(
        (
            (b"PK\x01\x02", {"flags": (8, 2), "method": (10, 2), "crc": (16, 4), "packed": (20, 4), "size": (24, 4),
                             "name length": (28, 2), "extra length": (30, 2), "offset": (42, 4)}),
            (b"PK\x03\x04", {"flags": (6, 2), "method": (8, 2), "packed": (18, 4), "size": (22, 4),
                             "name length": (26, 2), "extra length": (28, 2)}),
            (b"PK\x05\x06", {"entries": (10, 2), "directory size": (12, 4), "directory offset": (16, 4)}),
        )
    )  # fmt: skip
    starts = [i for i in range(len(data)) if data.startswith(signature, i)]
    name = rng.choice(sorted(fields))
    offset, width = fields[name]
    if starts:
        place = rng.choice(starts) + offset
        changed[place : place + width] = rng.choice(raw.INTEGERS[width]).to_bytes(width, "little")
    return bytes(changed), f"zip {name}"


def damage_npz(path: Path, rng: random.Random) -> str:
    """An .npz file: one array's header or numbers, or the archive."""
    data = path.read_bytes()
    if rng.random() < 0.2:
        data, what = damage_zip_fields(data, rng)
    else:
        members, what = damage_members(members_of(data), rng, damage_npy)
        data = rezip(members, compression=rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)))
    path.write_bytes(data)
    return what


def damage_npy(name: str, data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One array as .npy: its type, shape, order, version, or its numbers."""
    del name
    if data[:6] != b"\x93NUMPY" or rng.random() < 0.35:
        return raw.damage(data, rng)
    (length,) = struct.unpack("<H", data[8:10])
    header = ast.literal_eval(data[10 : 10 + length].decode())
    numbers = data[10 + length :]
    shape = tuple(header["shape"])
    action = rng.choice(("shape", "shape", "descr", "descr", "fortran_order", "numbers", "fill"))
    if action == "shape":
        shapes = ((), (0,), (*shape, 1), shape[:-1], shape[::-1], (2**31,), (2**62,), (-1,), (2**33, *shape[1:]),
                  (len(numbers),), tuple(side + 1 for side in shape), (1,) * 40, (2**32, 2**32))  # fmt: skip
        header["shape"] = rng.choice(shapes)
    elif action == "descr":
        header["descr"] = rng.choice(("|O", "<f8", "<i8", "<u8", "<i4", "|b1", "<f2", "|S1", "<U1", "<c8", "<M8[s]",
                                      "|V8", [("a", "<i4"), ("b", "<i4")], ">i4", "nonsense"))  # fmt: skip
    elif action == "fortran_order":
        header["fortran_order"] = rng.choice((True, None, 1, "x"))
    else:
        width = max(1, len(numbers) // max(1, len(numbers) // 8))
        fill = rng.choice((b"\xff", b"\x7f", b"\x80", b"\0", b"\0\0\xc0\x7f", b"\1\0\0\0\0\0\0\0")) * width
        count = rng.choice((1, 1, len(numbers)))
        start = rng.randrange(max(1, len(numbers))) // 8 * 8
        numbers = (numbers[:start] + fill[: len(numbers) - start] * count)[: len(numbers)] + numbers[
            start + len(fill) :
        ]
    text = f"{header!r}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) % 65536) + text + numbers, f"npy {action}"
