"""Damage to Parquet: columns of another type, order, name or length."""

import random
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tests.fuzz.damage.values import ODD_TEXTS


def damage_parquet(path: Path, rng: random.Random) -> str:
    """One column, or the rows."""
    table = pyarrow.parquet.read_table(path)
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    action = rng.choice(("type", "type", "type", "value", "value", "null", "none", "remove", "rename", "twice", "rows"))
    if action == "type":
        kinds = (pyarrow.string(), pyarrow.float64(), pyarrow.int8(), pyarrow.bool_(), pyarrow.binary(),
                 pyarrow.list_(pyarrow.int64()), pyarrow.date32(), pyarrow.null(), pyarrow.decimal128(9))  # fmt: skip
        kind = rng.choice(kinds)
        try:
            table = table.set_column(place, name, column.cast(kind, safe=False))
        except (pyarrow.ArrowException, ValueError):
            table = table.set_column(place, name, pyarrow.nulls(len(column), kind))
        action = f"type {kind}"
    elif action == "value":
        values = column.to_pylist()
        number = rng.choice((-1, 0, 2**31, 2**53, float("nan"), float("inf"), 1e300, -5.5))
        odd = rng.choice(ODD_TEXTS).encode(errors="replace").decode()
        row = rng.randrange(len(values))
        values[row] = odd if isinstance(values[row], str) else number
        values = [float(v) if isinstance(number, float) and not isinstance(v, str) else v for v in values]
        table = table.set_column(place, name, pyarrow.array(values))
    elif action == "null":
        values = column.to_pylist()
        values[rng.randrange(len(values))] = None
        table = table.set_column(place, name, pyarrow.array(values, column.type))
    elif action == "none":
        table = table.slice(0, 0)
    elif action == "remove":
        table = table.remove_column(place)
    elif action == "rename":
        names = list(table.column_names)
        names[place] = rng.choice((name + "x", name.upper(), "", "barcode"))
        table = table.rename_columns(names)
    elif action == "twice":
        table = table.append_column(name, column)
    else:
        rows = list(range(table.num_rows))
        rng.shuffle(rows)
        table = table.take(rows[: rng.choice((1, len(rows)))] + rows[:3])
    pyarrow.parquet.write_table(table, path)
    return f"parquet: {action} ({name})"
