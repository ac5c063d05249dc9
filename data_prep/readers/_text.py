"""Delimited text, read exactly: every fault is named with its file, line and remedy."""

import codecs
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import budgets
from data_prep.errors import InputError
from data_prep.readers import _packed

_SEPARATORS = ("\t", ",", ";")
_BOMS = {  # the longer first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_MOST_LINES, _MOST_GENES = 12_000_000, 1_000_000
_DECIMAL_COMMA = re.compile(r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$")
_THOUSANDS = re.compile(r"^[+-]?\d{1,3}(,\d{3})+$")


def read_text(path: Path, budget: budgets.Budget = budgets.UNPACKED) -> str:
    """A text file, gzipped or not (told by content, as names lie), in UTF-8, UTF-16 or Windows' and Latin-1's letters.

    Args:
        budget: of what it may unpack to.

    Raises:
        InputError: missing, truncated, corrupt, empty, no text, or over the budget.
    """
    data = _packed.read_bytes(path, budget)
    _packed.check_kind(path, data)
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not text (byte {error.start} is not {error.encoding.upper()}); expected a table"
        ) from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty; copy or download it again")
    return text


def _encoding(data: bytes) -> str:
    """By the text's mark, else UTF-16 where every other byte is zero, else UTF-8, else (no control codes) cp1252."""
    marked = next((name for mark, name in _BOMS.items() if data.startswith(mark)), None)
    if marked:
        return marked
    zeros = [data[first:4096:2].count(0) / max(1, len(data[first:4096:2])) for first in (0, 1)]
    if max(zeros) > 0.9 and min(zeros) < 0.1:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "utf-8" if _CONTROL.search(data) else "cp1252"  # which Latin-1 is a part of
    return "utf-8"


def read_rows(path: Path, separator: str, *, row_names: bool = False) -> list[list[str]]:
    """[N][columns] str: the lines of a small table, header included, all of one length.

    Args:
        path: the table.
        separator: what the layout has between fields; tab, comma or semicolon is taken where the first line has more of
            them.
        row_names: the first column may be R's row names, above which R writes nothing: the header then gets "" there.

    Raises:
        InputError: unreadable, or a line with another number of fields than the first.
    """
    lines = _lines(path, read_text(path, budgets.TABLE))
    try:
        rows = [row for row in csv.reader(lines, delimiter=_separator(lines, separator)) if row]
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({error}); copy or download the file again") from error
    if row_names and len(rows) > 1 and all(len(row) == len(rows[0]) + 1 for row in rows[1:]):
        rows[0].insert(0, "")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise InputError(
                f"{path}: line {number} has {len(row)} fields, expected {len(rows[0])} like the first line; "
                "the table is ragged or cut short, copy or download it again"
            )
    return rows


def _lines(path: Path, text: str) -> list[str]:
    """The lines of a text. Raises InputError where they are more than any table has."""
    number = sum(map(text.count, _LINE_ENDS))
    if number > _MOST_LINES:
        raise InputError(f"{path}: {number:,} lines, expected at most {_MOST_LINES:,}; check that this is a table")
    return text.splitlines()


def _separator(lines: Sequence[str], expected: str) -> str:
    """What separates fields: of those the first line has most of, the expected one where it is among them."""
    first = next((line for line in lines if line.strip()), "")
    fields = {mark: len(next(csv.reader([first[:100_000]], delimiter=mark), [])) for mark in _SEPARATORS}
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


def read_count_table(path: Path) -> tuple[list[str], list[str], scipy.sparse.csr_array]:
    """A spots x genes table with row and column names, separated by tabs, or by commas or semicolons throughout.

    Returns:
        [S] spot names, [G] gene names, and [S, G] int32 counts.

    Raises:
        InputError: unreadable or ragged, or a count that is no non-negative whole number, with its line and gene.
    """
    lines = _lines(path, read_text(path).replace('"', ""))
    mark = _separator(lines, "\t")
    if lines[0].count(mark) > _MOST_GENES:
        raise InputError(
            f"{path}: its first line has {lines[0].count(mark) + 1:,} fields, expected a gene each, at most "
            f"{_MOST_GENES:,}; check that this is the count table"
        )
    genes = lines[0].split(mark)
    fields = lines[1].count(mark) + 1 if len(lines) > 1 else 0
    genes = genes if len(genes) == fields - 1 else genes[1:]  # R leaves out the corner cell
    if fields < 2 or not genes:
        raise InputError(
            f"{path}: {len(lines) - 1} rows of {fields} fields, expected a tab-separated table with one row per spot "
            "and one column per gene; check that this is the count table"
        )
    spots, data, indices, indptr = [], [], [], [0]
    for line_number, line in enumerate(lines[1:], start=2):
        if (fields := line.count(mark) + 1) != len(genes) + 1:
            raise InputError(
                f"{path}: line {line_number} has {fields} fields, expected {len(genes) + 1} (a spot and "
                f"{len(genes)} genes); the table is ragged or cut short, copy or download it again"
            )
        cells = line.split(mark)
        row = _counts(path, line_number, cells[1:], genes)
        nonzero = np.flatnonzero(row)
        spots.append(cells[0].strip())
        indices.append(nonzero.astype(np.int32))
        data.append(row[nonzero].astype(np.int32))
        indptr.append(indptr[-1] + len(nonzero))
    matrix = (np.concatenate(data), np.concatenate(indices), np.array(indptr, np.int32))
    return spots, [gene.strip() for gene in genes], scipy.sparse.csr_array(matrix, shape=(len(spots), len(genes)))


def _counts(path: Path, line_number: int, cells: list[str], genes: list[str]) -> np.ndarray:
    """[G] float64: one row of whole, non-negative, finite counts."""
    text = "".join(cells)
    try:
        plain = text.isascii() and "_" not in text
        row = np.array(cells, dtype=np.float64) if plain else np.array([number(cell) for cell in cells])
    except ValueError:
        row = np.array([number(cell) for cell in cells])
    wrong = np.flatnonzero(~((row >= 0) & (row < 2**31) & (row == np.floor(row))))
    if len(wrong):
        cell, gene = cells[wrong[0]], genes[wrong[0]]
        raise InputError(
            f"{path}: line {line_number}, gene {gene}: count is {cell!r}, expected a non-negative whole number; "
            "give the raw counts, not normalised ones"
        )
    return row
