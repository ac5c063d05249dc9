"""Names of spots by the million: as bytes, a quarter of what text takes, and compared by numbers that stand for them.

A list of names is [N] str, or [N] bytes (dtype S, ASCII) where a whole slide has millions of bins.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep import on_disk

_MOST_CODES = 1 << 62


def texts(names: Any) -> np.ndarray:
    """[N] str of either kind of names."""
    return np.asarray(names, dtype=str)


def places_of(names: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[N] int64: index of each name in `among` (unique), -1 where it is not there. Millions take a second."""
    found = _codes(names, among) if names.dtype.kind == among.dtype.kind == "S" else None
    if found is not None:
        return _places(*found)
    import pyarrow  # which an extra brings, as wherever it is imported late
    import pyarrow.compute

    options = pyarrow.compute.SetLookupOptions(value_set=pyarrow.array(texts(among)))
    places = pyarrow.compute.call_function("index_in", [pyarrow.array(texts(names))], options)
    return places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def twice(names: np.ndarray) -> tuple[str, int] | None:
    """The first name that appears again, and how often it appears; None where all differ."""
    codes = _codes(names) if names.dtype.kind == "S" else None
    if codes is not None:
        (code,) = codes
        code.sort()
        if (code[1:] > code[:-1]).all():
            return None
    elif len(set(names.tolist())) == len(names):
        return None
    values, first, times = np.unique(names, return_index=True, return_counts=True)
    if not (times > 1).any():
        return None
    repeated = np.argmin(np.where(times > 1, first, len(names)))
    return str(texts(values[repeated])), int(times[repeated])


def _places(code: np.ndarray, among: np.ndarray) -> np.ndarray:
    order = None
    if not (among[1:] > among[:-1]).all():
        order = np.argsort(among, kind="stable")
        among = among[order]
    places = np.full(len(code), -1, np.int64)
    for rows in on_disk.blocks(len(code) if len(among) else 0):
        part = code[rows]
        at = np.minimum(np.searchsorted(among, part), len(among) - 1)
        hit = among[at] == part
        places[rows][hit] = at[hit] if order is None else order[at[hit]]
    return places


def _codes(*lists: np.ndarray) -> list[np.ndarray] | None:
    """[N] int64 of each list of bytes, the same of the same name, else different; None where they vary too much.

    A barcode has few letters that vary, and few values for each: their ranks are the digits of a number.
    """
    width = max(names.dtype.itemsize for names in lists)
    seen = np.zeros((width, 256), bool)
    for names in lists:
        for _, letters in _blocks(names, width):
            for place in range(width):
                seen[place, letters[place]] = True
    values = seen.sum(axis=1).tolist()
    varied = [place for place in range(width) if values[place] > 1]
    numbers = 1
    for place in varied:
        numbers *= values[place]
    if numbers > _MOST_CODES:
        return None
    rank = np.cumsum(seen, axis=1, dtype=np.int64) - 1
    codes = []
    for names in lists:
        code = np.zeros(len(names), np.int64)
        for start, letters in _blocks(names, width):
            part = code[start : start + letters.shape[1]]
            for place in varied:
                part *= values[place]
                part += rank[place, letters[place]]
        codes.append(code)
    return codes


def _blocks(names: np.ndarray, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Where each block of names begins, and its letters, uint8 [width, n]."""
    for rows in on_disk.blocks(len(names), names):
        part = names[rows].astype(f"S{width}")
        yield rows.start, np.ascontiguousarray(part.view(np.uint8).reshape(len(part), width).T)
