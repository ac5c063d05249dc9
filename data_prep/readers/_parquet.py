"""Columns of Parquet files, some rows at a time, as 10x writes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from data_prep import budgets, files, json_files
from data_prep.errors import InputError

_ROWS = 1_000_000


def batches(
    path: Path, *, texts: Sequence[str] = (), numbers: Sequence[str] = (), blobs: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The columns asked for, a million rows at a time: texts as pyarrow strings, numbers as [N] float64, blobs as lists
    of bytes.

    Args:
        texts, numbers, blobs: names of columns that must be there. Texts may be stored as bytes or whole numbers.

    Raises:
        InputError: truncated or damaged, a column that is missing or holds something else, or a value that is missing.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            kinds = dict.fromkeys(texts, _texts) | dict.fromkeys(numbers, _numbers) | dict.fromkeys(blobs, _blobs)
            _check(path, file, list(kinds))
            for batch in file.iter_batches(batch_size=_ROWS, columns=list(kinds)):
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


def _texts(path: Path, name: str, column: Any) -> Any:
    found = column.cast(pyarrow.string())
    _whole(path, name, found)
    lengths = pyarrow.compute.call_function("binary_length", [found]).to_numpy(zero_copy_only=False)
    longest = int(lengths.max(initial=0))
    if longest > files.MAX_NAME_BYTES:
        raise InputError(f"{path}: column {name} has a text of {longest} letters; copy or download it again")
    return found


def _blobs(path: Path, name: str, column: Any) -> list[bytes]:
    if not (pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type)):
        raise InputError(f"{path}: column {name} is of type {column.type}, expected bytes; write it again as these")
    _whole(path, name, column)
    return column.to_pylist()


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)):
        raise InputError(f"{path}: column {name} is of type {column.type}, expected numbers; copy or download it again")
    _whole(path, name, column)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _whole(path: Path, name: str, column: Any) -> None:
    if column.null_count:
        raise InputError(f"{path}: column {name} lacks {column.null_count} values; copy or download it again")
