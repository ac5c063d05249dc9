"""Damage to bytes whose meaning is not known: flips, cuts, repeats, odd numbers where lengths may stand."""

import random
import re
import struct
from collections.abc import Callable

# What lengths, counts and offsets are seldom tested with, by their width in bytes.
INTEGERS = {
    1: (0, 1, 0x7F, 0x80, 0xFF),
    2: (0, 1, 3, 0x7FFF, 0x8000, 0xFFFF),
    4: (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 0x40000000),
    8: (0, 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
}
# What may stand where a number is written out.
WRITTEN = (
    *("0", "-1", "1", "-0", "0.5", "1e3", "1e30", "1e999", "-1e999", "nan", "NaN", "inf", "-inf", "NA", ""),
    *("2147483647", "2147483648", "-2147483649", "4294967296", "9223372036854775808", "99999999999999999999999"),
    *(
        "1_000",
        "1,5",
        "0x10",
        "٣",
        "\uff11\uff12",
        "1 2",
        "--1",
        "+1",
        "1e",
        "True",
        "null",
        "9" * 5000,
        "\0",
        '"',
        "=1+1",
    ),
)
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?")
_SHORT = 1 << 16  # bytes of a span that is cut, repeated or overwritten, at most


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + min(_SHORT, int(rng.expovariate(1 / 20)) + 1))


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _noise(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    data[start:end] = rng.randbytes(end - start)


def _zero(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    data[start:end] = bytes(end - start)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    del data[start:end]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    data[start:start] = data[start:end] * rng.choice((1, 1, 2, 100))


def _move(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    place = rng.randrange(len(data))
    data[place:place] = data[start:end]


def _append(data: bytearray, rng: random.Random) -> None:
    data += rng.choice((b"\0", b"\0" * 1000, b"\n", rng.randbytes(50), bytes(data[:_SHORT])))


def _integer(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4, 4, 8, 8))
    place = rng.randrange(max(1, len(data) - width))
    value = rng.choice(INTEGERS[width])
    if rng.random() < 0.3:  # a little more or less than what stands there
        there = int.from_bytes(data[place : place + width], "little")
        value = (there + rng.choice((-8, -1, 1, 8))) % (1 << 8 * width)
    data[place : place + width] = value.to_bytes(width, rng.choice(("little", "little", "big")))


def _number(data: bytearray, rng: random.Random) -> None:
    found = list(_NUMBER.finditer(bytes(data[: 1 << 20])))
    if not found:
        return _integer(data, rng)
    match = rng.choice(found)
    data[match.start() : match.end()] = rng.choice(WRITTEN).encode()
    return None


def _float(data: bytearray, rng: random.Random) -> None:
    width = rng.choice(("<f", "<d"))
    value = struct.pack(width, rng.choice((float("nan"), float("inf"), -1.0, 0.0, 1e30)))
    place = rng.randrange(max(1, len(data) - len(value)))
    data[place : place + len(value)] = value


OPERATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip, _byte, _noise, _zero, _cut, _remove, _repeat, _move, _append, _integer, _integer, _integer),
    *(_number, _number, _float),
)


def damage(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damaged bytes, and what was done to them."""
    changed, done = bytearray(data), []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        operation = rng.choice(OPERATIONS)
        operation(changed, rng)
        done.append(operation.__name__.strip("_"))
    return bytes(changed), f"bytes: {', '.join(done)}"
