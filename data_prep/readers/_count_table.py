"""Count tables as text, spots x genes: read line by line from the packed file, never held whole."""

import array
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import budgets, csr, files
from data_prep.errors import InputError
from data_prep.readers import _text

_MOST_NAMES = 300_000  # of genes, or of spots
_CORNERS = ("", "barcode", "cell", "entityid", "spot")  # what stands above the names of spots
_MOST_DIGITS = 10  # of 2,147,483,647
_ROW_BYTES, _COUNT_BYTES = 160, 8  # that a row, and a count that is not zero, take
_DIGITS = b"0123456789"
_MOST_NUMBERS = 0.5  # of the genes' names: a real table may have an odd one


def genes(path: Path) -> list[str]:
    """[G] the genes that a table names in its first line. Raises InputError as `read`."""
    lines = _lines(path)
    head = next(lines)
    return _header(path, head, next(lines, b""))[0]


def read(path: Path, *, most_rows: int = _MOST_NAMES) -> tuple[list[str], list[str], scipy.sparse.csr_array]:
    """A spots x genes table with row and column names, separated by tabs, or by commas or semicolons throughout.

    Args:
        most_rows: more than the layout can have, which no table of counts has.

    Returns:
        [S] spot names, [G] gene names, and [S, G] int32 counts.

    Raises:
        InputError: unreadable, ragged or over the budget, or a count that is no non-negative whole number, with its
            line and gene.
    """
    lines = _lines(path)
    head, first = next(lines), next(lines, b"")
    names, mark = _header(path, head, first)
    size = path.stat().st_size
    spots: list[str] = []
    data, indices, indptr = array.array("i"), array.array("i"), array.array("q", [0])
    for number, line in enumerate(itertools.chain([first], lines), start=2):
        row = _row(path, number, line, mark, names)
        (there,) = row.nonzero()
        spots.append(_text.decode(path, line.partition(mark)[0]).strip())
        indices.frombytes(there.astype(np.int32).tobytes())
        data.frombytes(row[there].astype(np.int32).tobytes())
        indptr.append(len(data))
        if number > most_rows:
            raise InputError(f"{path}: more than {most_rows:,} rows, expected a spot or a gene each; check the file")
        budgets.COUNT_TABLE.check(path, _ROW_BYTES * number + _COUNT_BYTES * len(data), file_bytes=size)
    parts = (np.array(data, np.int32), np.array(indices, np.int32), np.array(indptr))
    return spots, names, csr.make(*parts, (len(spots), len(names)), origin=f"{path}")


def _lines(path: Path) -> Iterator[bytes]:
    return (line.rstrip(b"\r\n").replace(b'"', b"") for line in _text.read_lines(path))


def _header(path: Path, line: bytes, first: bytes) -> tuple[list[str], bytes]:
    """The genes that the first line names, and what separates fields; `first` is the line of the first spot."""
    mark = _text.separator_of(_text.decode(path, line), "\t").encode()
    if line.count(mark) > _MOST_NAMES:
        raise InputError(
            f"{path}: its first line has {line.count(mark) + 1:,} fields, expected a gene each, at most "
            f"{_MOST_NAMES:,}; check that this is the count table"
        )
    names = [name.strip() for name in _text.decode(path, line).split(mark.decode())]
    files.check_lengths(names, f"{path}: gene")
    fields = first.count(mark) + 1 if first else 0
    genes = names if len(names) == fields - 1 else names[1:]  # R leaves out the corner cell
    if genes is names and names[0].casefold() in _CORNERS:
        raise InputError(
            f"{path}: its first line has {len(names)} fields, {names[0]!r} and {len(names) - 1} genes, but the second "
            f"has {fields}; the table is ragged or cut short, copy or download it again"
        )
    if fields < 2 or not genes:
        raise InputError(
            f"{path}: its second line has {fields} fields, expected a tab-separated table with one row per spot and "
            "one column per gene; check that this is the count table"
        )
    if sum(name.isdecimal() for name in genes) > _MOST_NUMBERS * len(genes):
        raise InputError(
            f"{path}: its first line names genes {', '.join(map(files.shown, genes[:3]))}, numbers as counts are; the "
            "line of gene names is missing (or they are numbers, which are not known): put symbols or Ensembl ids there"
        )
    return genes, mark


def _row(path: Path, number: int, line: bytes, mark: bytes, genes: list[str]) -> np.ndarray:
    """[G] whole, non-negative, finite counts of a line."""
    if (fields := line.count(mark) + 1) != len(genes) + 1:
        raise InputError(
            f"{path}: line {number} has {fields} fields, expected {len(genes) + 1} (a spot and {len(genes)} genes); "
            "the table is ragged or cut short, copy or download it again"
        )
    cells = line.partition(mark)[2]
    counts = _digits(cells, mark)
    return _numbers(path, number, _text.decode(path, cells).split(mark.decode()), genes) if counts is None else counts


def _digits(cells: bytes, mark: bytes) -> np.ndarray | None:
    """[G] int64 where all cells are counts written as digits alone, as nearly always; else None."""
    if not cells or cells.translate(None, _DIGITS + mark):
        return None
    text = np.frombuffer(cells + mark, np.uint8)
    (ends,) = (text == mark[0]).nonzero()  # [G]
    lengths = ends.copy()
    lengths[1:] -= ends[:-1] + 1
    most = int(lengths.max())
    if not 0 < lengths.min() <= most <= _MOST_DIGITS:
        return None
    counts = text[ends - 1].astype(np.int64) - ord("0")
    for place in range(1, most):
        longer = np.flatnonzero(lengths > place)
        counts[longer] += (text[ends[longer] - 1 - place].astype(np.int64) - ord("0")) * 10**place
    return counts if counts.max() < 2**31 else None


def _numbers(path: Path, line: int, cells: list[str], genes: list[str]) -> np.ndarray:
    """[G] float64 of counts written in any other way."""
    text = "".join(cells)
    try:
        plain = text.isascii() and "_" not in text
        row = np.array(cells, dtype=np.float64) if plain else np.array([_text.number(cell) for cell in cells])
    except ValueError:
        row = np.array([_text.number(cell) for cell in cells])
    wrong = np.flatnonzero(~((row >= 0) & (row < 2**31) & (row == np.floor(row))))
    if len(wrong):
        cell, gene = cells[wrong[0]], genes[wrong[0]]
        raise InputError(
            f"{path}: line {line}, gene {gene}: count is {cell!r}, expected a non-negative whole number; "
            "give the raw counts, not normalised ones"
        )
    return row
