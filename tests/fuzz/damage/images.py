"""Damage to images: TIFF tags and their values, PNG chunks with sound checksums, JPEG segments and scans."""

import random
import struct
import zlib
from pathlib import Path

from tests.fuzz.damage import raw

_TIFF_CODES = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 284, 296, 317, 320, 322, 323, 324,
               325, 330, 338, 339, 347, 700, 32997, 32998, 33628, 34412, 34665, 50838, 50839)  # fmt: skip
_TIFF_KINDS = (1, 2, 3, 4, 5, 7, 12, 13, 16, 18)
_OME = (
    *(
        (b'SizeC="', b'SizeC="1000000000'),
        (b'SizeT="1"', b'SizeT="999999999"'),
        (b"<TiffData", b"<TiffData/><TiffData"),
    ),
    *((b'PlaneCount="1"', b'PlaneCount="99999999"'), (b'IFD="0"', b'IFD="-7"'), (b"<Pixels", b"<Pixels " * 1000)),
    *((b"XYCZT", b"YX"), (b'"3"', b'"-3"'), (b"uint8", b"float"), (b"</OME>", b"<x>" * 3000 + b"</OME>")),
)


def damage_tiff(path: Path, rng: random.Random) -> str:
    """Tags of any page given another type, count or value; pages in another order; other data of a tile."""
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    pages, entries = _directories(bytes(data), order, big)
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.choice(entries)
        action = rng.choice(
            ("value", "value", "value", "count", "count", "kind", "code", "next", "tags", "text", "data")
        )
        code, kind = struct.unpack_from(order + "HH", data, place)
        wide, at = ("Q", place + 12) if big else ("I", place + 8)
        form = "H" if kind == 3 else wide
        if action == "value":
            there = struct.unpack_from(order + form, data, at)[0]
            width = struct.calcsize(order + form)
            value = rng.choice((*raw.INTEGERS[width], there + 1, there - 1, there * 1000, 2, 4, 8, 16, 7, 34925, 30000))
            struct.pack_into(order + form, data, at, value % (1 << 8 * width))
        elif action == "count":
            value = rng.choice((0, 1, 2, 3, 5, 100, len(data) // 8, len(data), 2**30, 2**32 - 1))
            struct.pack_into(order + wide, data, place + 4, value)
        elif action == "kind":
            struct.pack_into(order + "H", data, place + 2, rng.choice(_TIFF_KINDS))
        elif action == "code":
            struct.pack_into(order + "H", data, place, rng.choice(_TIFF_CODES))
        elif action == "next":
            page, count = rng.choice(pages)
            end = page + (8 + 20 * count if big else 2 + 12 * count)
            struct.pack_into(order + wide, data, end, rng.choice((*(p for p, _ in pages), 7, len(data) - 4)))
        elif action == "tags":
            page, count = rng.choice(pages)
            struct.pack_into(
                order + ("Q" if big else "H"), data, page, rng.choice((0, count + 1, count - 1, 4096, 65535))
            )
        elif action == "text":
            old, new = rng.choice(_OME)
            data = data.replace(old, (new + b" " * len(old))[: len(old)] if len(old) >= len(new) else new)
        else:
            changed, _ = raw.damage(bytes(data[8:]), rng)
            data = bytearray(data[:8] + changed)
        done.append(f"{action} of {code}")
        if len(data) < 100 or action in ("text", "data"):
            break  # what follows stands elsewhere now
    path.write_bytes(data)
    return f"tiff: {', '.join(done)}"


def _directories(data: bytes, order: str, big: bool) -> tuple[list[tuple[int, int]], list[int]]:
    """(place, number of tags) of all pages, with those below them, and the places of all tags."""
    wide, head, entry, inline = ("Q", 8, 20, 12) if big else ("I", 2, 12, 8)
    waiting = [struct.unpack_from(order + wide, data, 8 if big else 4)[0]]
    pages, entries = [], []
    while waiting and len(pages) < 50:  # of a file that was damaged before
        page = waiting.pop()
        if not page or page in [place for place, _ in pages]:
            continue
        count = struct.unpack_from(order + ("Q" if big else "H"), data, page)[0]
        pages.append((page, count))
        for index in range(count):
            place = page + head + entry * index
            entries.append(place)
            code, _, values = struct.unpack_from(order + "HH" + wide, data, place)
            if code == 330:
                at = place + inline
                at = at if values == 1 else struct.unpack_from(order + wide, data, at)[0]
                waiting += struct.unpack_from(f"{order}{min(values, 50)}{wide}", data, at)
        waiting += struct.unpack_from(order + wide, data, page + head + entry * count)
    return pages, entries


def damage_png(path: Path, rng: random.Random) -> str:
    """Chunks changed, doubled, moved, removed and put in; their checksums are right."""
    data = path.read_bytes()
    chunks, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        index = rng.randrange(len(chunks))
        name, content = chunks[index]
        action = rng.choice(
            ("change", "change", "change", "double", "move", "remove", "new", "new", "header", "header")
        )
        if action == "change" and content:
            chunks[index] = (name, raw.damage(content, rng)[0])
        elif action == "double":
            chunks.insert(index, (name, content))
        elif action == "move":
            chunks.insert(rng.randrange(len(chunks)), chunks.pop(index))
        elif action == "remove" and len(chunks) > 1:
            del chunks[index]
        elif action == "new":
            chunks.insert(rng.randrange(len(chunks) + 1), _chunk(rng))
        elif len(chunks[0][1]) >= 13:
            header = bytearray(chunks[0][1])
            if rng.random() < 0.5:
                side = rng.choice((0, 1, 31_000, 2**31 - 1, 2**32 - 1, 100_000, 12_000))
                struct.pack_into(">I", header, rng.choice((0, 4)), side)
            else:
                header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            chunks[0] = (chunks[0][0], bytes(header))
        done.append(f"{action} {name.decode(errors='replace')}")
    out = data[:8]
    for name, content in chunks:
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(out)
    return f"png: {', '.join(done)}"


def _chunk(rng: random.Random) -> tuple[bytes, bytes]:
    bomb = zlib.compress(bytes(rng.choice((100, 1 << 20, 1 << 24))))
    frame = struct.pack(">IIIIIHHBB", 0, rng.choice((1, 64, 10**9)), rng.choice((1, 48, 10**9)), 0, 0, 1, 1, 0, 0)
    return rng.choice(
        (
            *((b"zTXt", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb)),
            *((b"tEXt", b"dpi\0" + b"9" * 5000), (b"acTL", struct.pack(">II", rng.choice((1, 2, 2**32 - 1)), 0))),
            *((b"fcTL", frame), (b"fdAT", b"\0\0\0\1" + bomb), (b"IDAT", bomb), (b"PLTE", rng.randbytes(30))),
            *((b"tRNS", rng.randbytes(6)), (b"pHYs", struct.pack(">IIB", 0, 2**32 - 1, 1)), (b"eXIf", b"II*\0" * 50)),
        )
    )


def damage_jpeg(path: Path, rng: random.Random) -> str:
    """Segments changed, doubled, moved, removed; scans a thousand times over; another size in the header."""
    data = path.read_bytes()
    parts, place = [], 2
    while place + 4 <= len(data):
        kind = data[place + 1]
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == 0xDA:  # with its data
            while end + 1 < len(data) and not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        parts.append(data[place:end])
        place = end
        if data[place : place + 2] == b"\xff\xd9":
            break
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        index = rng.randrange(len(parts))
        part = parts[index]
        action = rng.choice(("change", "change", "double", "move", "remove", "scans", "size", "size", "sampling"))
        frames = [i for i, other in enumerate(parts) if other[1:2] in (b"\xc0", b"\xc1", b"\xc2") and len(other) > 12]
        if action == "change":
            parts[index] = part[:2] + raw.damage(part[2:] or b"\0", rng)[0]
        elif action == "double":
            parts.insert(index, part)
        elif action == "move":
            parts.insert(rng.randrange(len(parts)), parts.pop(index))
        elif action == "remove" and len(parts) > 1:
            del parts[index]
        elif action == "scans":
            scans = [other for other in parts if other[1:2] == b"\xda"]
            parts += [other[:40] for other in scans[-1:]] * rng.choice((10, 90, 1000))
        elif frames:
            frame = bytearray(parts[frames[0]])
            if action == "size":
                struct.pack_into(">H", frame, rng.choice((5, 7)), rng.choice((0, 1, 100, 9000, 31_000, 65_535)))
            else:
                frame[rng.randrange(4, len(frame))] = rng.choice((0, 1, 0x11, 0x12, 0x22, 0x44, 0xFF, 12, 16))
            parts[frames[0]] = bytes(frame)
        done.append(f"{action} {part[1:2].hex()}")
    path.write_bytes(data[:2] + b"".join(parts) + data[place:])
    return f"jpeg: {', '.join(done)}"
