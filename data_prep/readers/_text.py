"""Delimited text, read exactly: every fault is named with its file, line and remedy."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep.errors import InputError


def read_text(path: Path) -> str:
    """A text file, gzipped or not (told by content, as names lie).

    Raises:
        InputError: missing, truncated, corrupt, empty or not UTF-8.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: file not found; the layout needs it, add it or leave its section out") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: truncated or corrupt gzip ({error}); copy or download the file again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text (byte {error.start} is not UTF-8); expected a table") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty; copy or download it again")
    return text


def read_rows(path: Path, separator: str) -> list[list[str]]:
    """[N][columns] str: the lines of a small table, header included, all of one length.

    Raises:
        InputError: unreadable, or a line with another number of fields than the first.
    """
    try:
        rows = [row for row in csv.reader(read_text(path).splitlines(), delimiter=separator) if row]
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({error}); copy or download the file again") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise InputError(
                f"{path}: line {number} has {len(row)} fields, expected {len(rows[0])} like the first line; "
                "the table is ragged or cut short, copy or download it again"
            )
    return rows


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


def numbers(path: Path, column: str, values: Sequence[str], *, first_line: int = 2) -> np.ndarray:
    """[N] float64 from text.

    Raises:
        InputError: a value that is no finite number, with its line.
    """
    for index, value in enumerate(values):
        try:
            finite = np.isfinite(float(value))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(
                f"{path}: line {first_line + index}, column {column} is {value!r}, expected a number; correct the file"
            )
    return np.array(values, dtype=np.float64)


def read_count_table(path: Path) -> tuple[list[str], list[str], scipy.sparse.csr_array]:
    """A tab-separated spots x genes table with row and column names.

    Returns:
        [S] spot names, [G] gene names, and [S, G] int32 counts.

    Raises:
        InputError: unreadable or ragged, or a count that is no non-negative whole number, with its line and gene.
    """
    lines = read_text(path).replace('"', "").splitlines()
    genes = lines[0].split("\t")
    fields = lines[1].count("\t") + 1 if len(lines) > 1 else 0
    genes = genes if len(genes) == fields - 1 else genes[1:]  # R leaves out the corner cell
    if fields < 2 or not genes:
        raise InputError(
            f"{path}: {len(lines) - 1} rows of {fields} fields, expected a tab-separated table with one row per spot "
            "and one column per gene; check that this is the count table"
        )
    spots, data, indices, indptr = [], [], [], [0]
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(genes) + 1:
            raise InputError(
                f"{path}: line {number} has {len(cells)} fields, expected {len(genes) + 1} (a spot and {len(genes)} "
                "genes); the table is ragged or cut short, copy or download it again"
            )
        row = _counts(path, number, cells[1:], genes)
        nonzero = np.flatnonzero(row)
        spots.append(cells[0].strip())
        indices.append(nonzero.astype(np.int32))
        data.append(row[nonzero].astype(np.int32))
        indptr.append(indptr[-1] + len(nonzero))
    matrix = (np.concatenate(data), np.concatenate(indices), np.array(indptr, np.int32))
    return spots, [gene.strip() for gene in genes], scipy.sparse.csr_array(matrix, shape=(len(spots), len(genes)))


def _counts(path: Path, number: int, cells: list[str], genes: list[str]) -> np.ndarray:
    """[G] float64: one row of whole, non-negative, finite counts."""
    try:
        row = np.array(cells, dtype=np.float64)
    except ValueError:
        row = np.array([_number(cell) for cell in cells])
    wrong = np.flatnonzero(~((row >= 0) & (row < 2**31) & (row == np.floor(row))))
    if len(wrong):
        cell, gene = cells[wrong[0]], genes[wrong[0]]
        raise InputError(
            f"{path}: line {number}, gene {gene}: count is {cell!r}, expected a non-negative whole number; "
            "give the raw counts, not normalised ones"
        )
    return row


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
