"""Delimited text, read exactly: every fault is named with its file, line and remedy."""

import codecs
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep import budgets, unpack
from data_prep.errors import InputError

_SEPARATORS = ("\t", ",", ";")
_BOMS = {  # the longer first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_LINE = re.compile(r"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")
_LINE_BYTES, _FIELD_BYTES = 120, 64  # that a line and a field of a table take as Python's objects, besides its text
_DECIMAL_COMMA = re.compile(r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$")
_THOUSANDS = re.compile(r"^[+-]?\d{1,3}(,\d{3})+$")


def read_text(path: Path, budget: budgets.Budget = budgets.JSON_TEXT) -> str:
    """A text file, gzipped or not (told by content, as names lie), in UTF-8, UTF-16 or Windows' and Latin-1's letters.

    Args:
        budget: of what it may unpack to.

    Raises:
        InputError: missing, truncated, corrupt, empty, no text, or over the budget.
    """
    data = unpack.read_bytes(path, budget)
    unpack.check_kind(path, data)
    encoding = _wide_encoding(data)
    try:
        text = data.decode(encoding) if encoding else decode(path, data)
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from error
    if not text.strip():
        raise _empty(path)
    return text


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a text file as `read_text` takes it, one by one, ends and all, each for `decode`.

    Raises:
        InputError: as `read_text`, or a line over the budget.
    """
    held: list[bytes] = []
    for piece in pieces(path):
        held.append(piece)
        if b"\n" in piece or b"\r" in piece:
            *lines, last = b"".join(held).splitlines(keepends=True)
            yield from lines
            held = [last]
        budgets.LINE.check(path, sum(map(len, held)))
    yield from b"".join(held).splitlines(keepends=True)


def pieces(path: Path) -> Iterator[bytes]:
    """The letters of a text file as `read_text` takes it, in UTF-8 or what they were, a megabyte or two at a time.

    Raises:
        InputError: as `read_text`.
    """
    packed = unpack.pieces(path)
    first = next(packed, b"")
    unpack.check_kind(path, first)
    if not first.strip():
        raise _empty(path)
    if (encoding := _wide_encoding(first)) is None:
        yield first
        yield from packed
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in itertools.chain([first], packed):
            yield decoder.decode(piece).encode()
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from error


def decode(path: Path, data: bytes | bytearray) -> str:
    """Letters of one byte, or UTF-8's; else (no control codes) those of cp1252, which Latin-1 is a part of.

    Raises:
        InputError: they are none.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if _CONTROL.search(data):
            raise _no_text(path, error) from error
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from error


def _wide_encoding(data: bytes | bytearray) -> str | None:
    """By the text's mark, else UTF-16 where every other byte is zero; None for letters of one byte and UTF-8."""
    if marked := next((name for mark, name in _BOMS.items() if data.startswith(mark)), None):
        return marked
    zeros = [data[first:4096:2].count(0) / max(1, len(data[first:4096:2])) for first in (0, 1)]
    if max(zeros) > 0.9 and min(zeros) < 0.1:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def _no_text(path: Path, error: UnicodeDecodeError) -> InputError:
    return InputError(f"{path}: not text (byte {error.start} is not {error.encoding.upper()}); expected a table")


def _empty(path: Path) -> InputError:
    return InputError(f"{path}: the file is empty; copy or download it again")


def read_rows(path: Path, separator: str, *, row_names: bool = False) -> list[list[str]]:
    """[N][columns] str: the lines of a small table, header included, all of one length.

    Args:
        path: the table.
        separator: what the layout has between fields; tab, comma or semicolon is taken where the first line has more of
            them.
        row_names: the first column may be R's row names, above which R writes nothing: the header then gets "" there.

    Raises:
        InputError: unreadable, over the budget, a line with another number of fields than the first, or a field that
            begins with a quotation mark and does not end with one in its line.
    """
    text = read_text(path, budgets.TABLE_TEXT)
    mark = separator_of(next(line[0] for line in _LINE.finditer(text) if line[0].strip()), separator)
    lines, fields = text.count("\n") + text.count("\r") + 1, text.count(mark)
    budgets.TABLE.check(path, len(text) + _LINE_BYTES * lines + _FIELD_BYTES * fields)
    rows = list(_rows(path, text, mark))
    if row_names and len(rows) > 1 and all(len(row) == len(rows[0]) + 1 for row in rows[1:]):
        rows[0].insert(0, "")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise InputError(
                f"{path}: line {number} has {len(row)} fields, expected {len(rows[0])} like the first line; "
                "the table is ragged or cut short, copy or download it again"
            )
    return rows


def _rows(path: Path, text: str, mark: str) -> Iterator[list[str]]:
    """The fields of each line that is not empty."""
    reader = csv.reader((line[0] for line in _LINE.finditer(text)), delimiter=mark, strict=True)
    line = 0
    try:
        for row in reader:
            if reader.line_num > line + 1:
                raise csv.Error("a quotation mark is not closed")
            line += 1
            if row:
                yield row
    except csv.Error as error:
        raise InputError(
            f"{path}: line {line + 1} is no row of a table ({error}); correct it, or copy the file again"
        ) from error


def separator_of(line: str, expected: str) -> str:
    """What separates the fields of a table's first line: of those it has most of, the expected one if among them."""
    fields = {mark: len(next(csv.reader([line[:100_000]], delimiter=mark), [])) for mark in _SEPARATORS}
    most = max(fields.values())
    return expected if fields[expected] == most else max(fields, key=lambda mark: fields[mark])


def columns(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], needed: Sequence[str]) -> list[list[str]]:
    """The `needed` columns of a table with a header, as text.

    Raises:
        InputError: a needed column is not in the header.
    """
    names = [name.strip() for name in header]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(
            f"{path}: header is {', '.join(names[:8]) or 'empty'}, expected the columns {', '.join(needed)}; "
            f"{', '.join(missing)} not found, check that this is the right file"
        )
    picks = [names.index(name) for name in needed]
    return [[row[pick].strip() for row in rows] for pick in picks]


def numbers(path: Path, column: str, values: Sequence[str], *, lines: Sequence[int] | None = None) -> np.ndarray:
    """[N] float64 from text; decimal commas are read where they cannot be separators of thousands.

    Args:
        path, column: for messages.
        values: [N] text.
        lines: [N] line of each value, from 1; by default they follow a header.

    Raises:
        InputError: a value that is no finite number, or may be one of two, with its line.
    """
    found = np.array([number(value) for value in values], dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(found))
    if not len(wrong):
        return found
    first = str(values[wrong[0]])
    place = f"{path}: line {lines[wrong[0]] if lines is not None else wrong[0] + 2}, column {column} is {first!r}"
    if not all(_DECIMAL_COMMA.match(value.strip()) for value in values):
        raise InputError(f"{place}, expected a number; correct the file")
    if all(_THOUSANDS.match(value.strip()) for value in values if "," in value):
        raise InputError(
            f"{place}, which may be {first.replace(',', '.')} or {first.replace(',', '')}; write numbers with a "
            "decimal point and without separators of thousands"
        )
    return np.array([value.replace(",", ".") for value in values], dtype=np.float64)


def number(text: str) -> float:
    """A number as files write it, NaN for anything else (also for `10_13` and digits of other scripts, which Python
    takes for numbers)."""
    try:
        return float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan
