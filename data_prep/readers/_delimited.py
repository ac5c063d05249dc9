"""Columns of large delimited text, some rows at a time, however many gigabytes it has."""

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv

from data_prep import budgets, files
from data_prep.errors import InputError
from data_prep.readers import _columns, _text

_BLOCK_BYTES = 1 << 22  # pyarrow reads 32 of them ahead


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._held = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        part = self._held[: len(buffer)]
        buffer[: len(part)] = part
        self._held = self._held[len(part) :]
        return len(part)


def batches(path: Path, *, texts: Sequence[str] = (), numbers: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The columns asked for, as `_parquet.batches` gives them, of a table with a header; gzipped or not.

    Args:
        texts, numbers: names of columns that must be there.

    Raises:
        InputError: unreadable, ragged or cut short, a column that is missing, or a value that is missing or no number.
    """
    pieces = _text.pieces(path)
    head = _beginning(path, pieces)
    first = _text.decode(path, head.splitlines()[0])
    mark = _text.separator_of(first, ",")
    header = [name.strip().strip('"') for name in first.split(mark)]
    kinds = dict.fromkeys(texts, _columns.texts) | dict.fromkeys(numbers, _columns.numbers)
    _text.columns(path, header, [], list(kinds))
    place = {name: str(header.index(name)) for name in kinds}
    types = {place[name]: pyarrow.string() if name in texts else pyarrow.float64() for name in kinds}
    try:
        with pyarrow.csv.open_csv(
            io.BufferedReader(_Stream(itertools.chain([head], pieces)), _BLOCK_BYTES),
            pyarrow.csv.ReadOptions(
                block_size=_BLOCK_BYTES, skip_rows=1, column_names=[str(number) for number in range(len(header))]
            ),
            pyarrow.csv.ParseOptions(delimiter=mark),
            pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types)),
        ) as table:
            for batch in table:
                yield {name: read(path, name, batch.column(place[name])) for name, read in kinds.items()}
    except (pyarrow.ArrowException, OSError, LookupError, ValueError, TypeError, MemoryError) as error:
        reason = files.shown(" ".join(str(error).split()), most=200)
        raise InputError(f"{path}: damaged or cut short ({reason}); copy or download it again") from error


def _beginning(path: Path, pieces: Iterator[bytes]) -> bytes:
    """The first piece, and others until there is a whole line."""
    held = b""
    for piece in pieces:
        held += piece
        budgets.LINE.check(path, len(held))
        if b"\n" in held or b"\r" in held:
            break
    return held
