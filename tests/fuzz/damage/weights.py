"""Damage to weights files: safetensors' header, the operations of torch.save's pickles, the archive around them."""

import io
import itertools
import json
import pickletools
import random
import struct
from pathlib import Path

from tests.fuzz.damage import archives, raw, values

_SOME_OPERATIONS = (
    *(b"0", b"1", b"2", b"(", b"t", b")", b"]", b"}", b"l", b"d", b"a", b"e", b"s", b"u", b"b", b"R", b"Q", b"o"),
    *(
        b"N",
        b"\x88",
        b"K\x01",
        b"M\xff\xff",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"\x85",
        b"\x86",
    ),
    *(b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"h\x00", b"q\xff", b"G" + struct.pack(">d", float("nan")), b"\x81"),
    *(b"\x8d" + struct.pack("<Q", 2**62), b"X\xff\xff\xff\x7f", b"\x95" + struct.pack("<Q", 2**40), b"cos\nsystem\n"),
    *(
        b"ccollections\nOrderedDict\n",
        b"ctorch\nSize\n",
        b"\x80\x05",
        b"\x94",
        b"\x92",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"I" + b"9" * 6000 + b"\n",
        b".",
    ),
)


def damage_safetensors(path: Path, rng: random.Random) -> str:
    """Another header, or other bytes behind it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, numbers = data[8 : 8 + length], data[8 + length :]
    action = rng.random()
    if action < 0.65:
        text, what = values.damage_json(header.decode(), rng)
        header = text.encode(errors="replace")
    elif action < 0.8:
        numbers, what = raw.damage(numbers, rng) if numbers else (b"x", "bytes")
    else:
        entries = json.loads(header)
        names = [name for name in entries if name != "__metadata__"]
        one, other = rng.choice(names), rng.choice(names)
        part = rng.choice(("data_offsets", "shape", "dtype"))
        entries[one][part] = entries[other][part]
        if part == "shape":
            shape = entries[one][part]
            entries[one][part] = rng.choice(([2**32, 2**32], [2**62, 4], [*shape, 0], [*shape, 1], [-1, *shape], shape))
        if part == "data_offsets":
            start, end = entries[one][part]
            entries[one][part] = rng.choice(
                ([start, end + 4], [end, start], [start - 4, end], [start + 4, end], [0, 0])
            )
        header, what = json.dumps(entries).encode(), f"{part} of {one}"
    said = len(header) if rng.random() < 0.95 else rng.choice((0, len(data), 2**63, len(header) + 1, len(header) - 1))
    path.write_bytes(struct.pack("<Q", said) + header + numbers)
    return what


def damage_operations(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A pickle, or several one after the other, with operations put in, taken out, moved or given other arguments."""
    parts: list[bytes] = []
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        start = stream.tell()
        try:
            places = [place for _, _, place in pickletools.genops(stream)]
        except (ValueError, IndexError):  # what follows is no pickle
            stream.seek(start)
            break
        bounds = [*places, stream.tell()]
        parts += [data[a:b] for a, b in itertools.pairwise(bounds)]
    rest = data[stream.tell() :]
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(parts))
        action = rng.choice(("insert", "insert", "remove", "replace", "repeat", "swap", "argument", "argument", "grow"))
        if action == "insert":
            parts.insert(place, rng.choice(_SOME_OPERATIONS))
        elif action == "remove":
            del parts[place]
        elif action == "replace":
            parts[place] = rng.choice(_SOME_OPERATIONS)
        elif action == "repeat":
            parts.insert(place, parts[place] * rng.choice((1, 3, 1000)))
        elif action == "swap":
            other = rng.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        elif action == "grow":  # a pair of the pair before, 40 times over: small here, endless for whoever walks it
            parts.insert(place, b")q\xf0" + b"h\xf0\x86q\xf0" * 40)
        else:
            parts[place] = parts[place][:1] + raw.damage(parts[place][1:] or b"\0", rng)[0]
        parts = parts or [b"."]
        done.append(action)
    return b"".join(parts) + rest, f"pickle: {', '.join(done)}"


def _inside(name: str, data: bytes, rng: random.Random) -> tuple[bytes, str]:
    if name.endswith(".pkl") and data:
        return damage_operations(data, rng)
    return raw.damage(data, rng) if data else (b"\0", "a byte")


def damage_pth(path: Path, rng: random.Random) -> str:
    """torch.save's file of either generation."""
    data = path.read_bytes()
    if data[:2] != b"PK":
        data, what = damage_operations(data, rng)
    elif rng.random() < 0.25:
        data, what = archives.damage_zip_fields(data, rng)
    else:
        members = archives.members_of(data)
        pickles = [member for member in members if member[0].endswith("data.pkl")]
        if rng.random() < 0.7:
            changed, what = damage_operations(pickles[0][1], rng)
            members = [(name, changed if name == pickles[0][0] else content) for name, content in members]
        else:
            members, what = archives.damage_members(members, rng, _inside)
        data = archives.rezip(members, compression=8 if rng.random() < 0.03 else 0)
    path.write_bytes(data)
    return what
