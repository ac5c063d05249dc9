"""Columns of Parquet files, some rows at a time, as 10x writes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from data_prep import budgets, files, json_files
from data_prep.errors import InputError
from data_prep.readers import _columns

_ROWS = 1_000_000
_BUFFER_BYTES = 1 << 20  # of a column; else all of it in a group of rows is read at once


def batches(
    path: Path,
    *,
    texts: Sequence[str] = (),
    numbers: Sequence[str] = (),
    blobs: Sequence[str] = (),
    rows: int = _ROWS,
) -> Iterator[dict[str, Any]]:
    """The columns asked for, some rows at a time: texts as pyarrow strings, numbers as [N] float64, blobs as lists of
    bytes.

    Args:
        texts, numbers, blobs: names of columns that must be there. Texts may be stored as bytes or whole numbers.
        rows: how many at a time.

    Raises:
        InputError: truncated or damaged, a column that is missing or holds something else, or a value that is missing.
    """
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            kinds = dict.fromkeys(texts, _columns.texts) | dict.fromkeys(numbers, _columns.numbers)
            kinds |= dict.fromkeys(blobs, _columns.blobs)
            _check(path, file, list(kinds))
            for batch in file.iter_batches(batch_size=rows, columns=list(kinds)):
                yield {name: read(path, name, batch.column(name)) for name, read in kinds.items()}
    except (pyarrow.ArrowException, OSError, LookupError, ValueError, TypeError, MemoryError) as error:
        reason = files.shown(" ".join(str(error).split()), most=200)
        raise InputError(f"{path}: truncated or not a parquet file ({reason}); copy or download it again") from error


def column_names(path: Path) -> list[str]:
    """Names of the columns. Raises InputError when it is damaged or no Parquet file."""
    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or not a parquet file; copy or download it again") from error


def index_of(path: Path) -> str | range:
    """What pandas keeps a table's rows by: a column, or numbers that are in no column.

    Raises:
        InputError: it is damaged, no Parquet file, or has several such columns.
    """
    try:
        schema = pyarrow.parquet.read_schema(path)
        about = (schema.metadata or {}).get(b"pandas", b"{}")
        rows = pyarrow.parquet.read_metadata(path).num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or not a parquet file; copy or download it again") from error
    named = json_files.parse(about, f"{path}: pandas", remedy="write it again").get("index_columns", [])
    if named == [] or (isinstance(named, list) and len(named) == 1 and isinstance(named[0], dict)):
        start, step = (named[0].get(key) for key in ("start", "step")) if named else (0, 1)
        if type(start) is int and type(step) is int and step:
            return range(start, start + step * rows, step)
    if not (isinstance(named, list) and len(named) == 1 and isinstance(named[0], str)):
        raise InputError(f"{path}: rows are named by {files.shown(named)}, expected one column; write it again")
    return named[0]


def _check(path: Path, file: pyarrow.parquet.ParquetFile, needed: Sequence[str]) -> None:
    """Raise `InputError` for missing columns, and for more than the file justifies."""
    there = file.schema_arrow.names
    if missing := [name for name in needed if name not in there]:
        raise InputError(
            f"{path}: columns are {files.shown(', '.join(there), most=200)}, expected {', '.join(needed)}; "
            f"{', '.join(missing)} not found, check that this is the right file"
        )
    budgets.PARQUET_ROWS.check(path, file.metadata.num_rows)
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    budgets.PARQUET_GROUP.check(path, max((group.total_byte_size for group in groups), default=0))
