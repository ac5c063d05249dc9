"""Where the spots of an .h5ad file lie: arrays and tables in `obsm`, columns of `obs`; names decide x and y."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from data_prep.errors import InputError
from data_prep.readers._h5ad_file import element

_KEYS = ("spatial", "xspatial", "spatialfullres")
# Pixels of the full-resolution image as Space Ranger, Seurat and others name them, (x, y): letters alone are compared
_PIXELS = (
    ("pxlcolinfullres", "pxlrowinfullres"),
    ("pxlcol", "pxlrow"),
    ("imagecol", "imagerow"),
    ("pixelcol", "pixelrow"),
    ("pixelx", "pixely"),
    ("xpixel", "ypixel"),
    ("xpx", "ypx"),
)
_PLAIN = (("x", "y"), ("xcoord", "ycoord"), ("spatialx", "spatialy"), ("coordx", "coordy"))
_ARRAY = ("arrayrow", "arraycol", "row", "col")  # places on the array, not in the image
_SAME_PX = 1.0  # tables round


def read(file: Any, obs: pd.DataFrame, path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """`find` in an open file."""
    return find(
        obs,
        list(file.get("obsm", {})),
        lambda key: element(file, f"obsm/{key}", path),
        lambda: _picture_scales(file),
        path,
    )


def find(
    obs: pd.DataFrame,
    obsm: Sequence[str],
    value_of: Callable[[str], Any],
    picture_scales: Callable[[], Sequence[tuple[str, float]]],
    path: Path | str,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """[S, 2] float64 (x, y), full-resolution pixels, NaN where a spot has no place; [S] z, 0 if none; what was chosen.

    Args:
        obsm: keys of `obsm`, and `value_of` one of them.
        picture_scales: gives names and values of the scale factors of small pictures, of every library.
        path: where they are from, for messages.

    Raises:
        InputError: no coordinates, or some whose order cannot be told.
    """
    named = _pair(obs, _PIXELS)
    keys = {letters(name): name for name in obsm}
    key = next((keys[wanted] for wanted in _KEYS if wanted in keys), None)
    if key is None:
        named = named or _pair(obs, _PLAIN)
        if named is None:
            raise InputError(
                f"{path}: obsm['spatial'] not found (obsm holds {', '.join(obsm) or 'nothing'}); "
                "put (x, y) in full-resolution pixels there"
            )
        x, y = named
        note = f"obsm['spatial'] not found: x and y are obs[{x!r}] and obs[{y!r}], taken as full-resolution pixels"
        xy = _numbers(obs[[x, y]], f"obs[{x!r}] and obs[{y!r}]", path)
        return xy, np.zeros(len(xy)), (note,)
    value, place = value_of(key), f"obsm[{key!r}]"
    xyz, notes = _table(value, place, path) if isinstance(value, pd.DataFrame) else _array(value, place, path, len(obs))
    xy, z = xyz[:, :2], np.zeros(len(xyz))
    if xyz.shape[1] == 3:
        z, notes = xyz[:, 2], (*notes, f"the third coordinate of {place} is not used")
    if named is None:
        return xy, z, notes
    by_name = _numbers(obs[list(named)], f"obs[{named[0]!r}]", path)
    xy, contradiction = _compare(picture_scales, xy, by_name, place, f"obs[{named[0]!r}] and obs[{named[1]!r}]")
    return xy, z, notes + contradiction


def _table(value: pd.DataFrame, place: str, path: Path | str) -> tuple[np.ndarray, tuple[str, ...]]:
    """[S, 2] or [S, 3]: by the names of its columns, never by their position, unless they are no names."""
    pair = _pair(value, _PIXELS) or _pair(value, _PLAIN)
    if pair is not None:
        third = [name for name in value if letters(name) == "z"]
        xyz = _numbers(value[[*pair, *third[:1]]], place, path)
        return xyz, (f"x and y are the columns {pair[0]!r} and {pair[1]!r} of {place}",)
    names = ", ".join(map(str, value.columns))
    if all(re.fullmatch(r"(spatial|xspatial|dim|v)?\d+", letters(name)) for name in value.columns):
        xyz, notes = _array(value.to_numpy(), place, path, len(value))
        return xyz, (f"x and y are the first two columns of {place} ({names}), in that order", *notes)
    known = {letters(name) for name in value.columns}
    what = "places on the array and not in the image" if known & set(_ARRAY) else "no known names"
    raise InputError(
        f"{path}: the columns of {place} are {names or 'none'}, {what}; name them pxl_col_in_fullres (x) and "
        "pxl_row_in_fullres (y), full-resolution pixels"
    )


def _array(value: Any, place: str, path: Path | str, spots: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """[S, 2] or [S, 3], as scanpy has it: (x, y) and perhaps z."""
    value = value.toarray() if scipy.sparse.issparse(value) else np.asarray(value)
    if value.shape not in ((spots, 2), (spots, 3)):
        raise InputError(f"{path}: {place} is {value.shape}, expected ({spots}, 2): x and y of each spot")
    xyz = _numbers(pd.DataFrame(value), place, path)
    if spots > 1 and np.all(xyz == xyz[0]):
        raise InputError(f"{path}: {place} is {value.shape}, expected a place for each spot: all are at {xyz[0]}")
    return xyz, ()


def _compare(
    picture_scales: Callable[[], Sequence[tuple[str, float]]],
    xy: np.ndarray,
    by_name: np.ndarray,
    place: str,
    names: str,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The coordinates to take where columns of `obs` state pixels too, and what is said of a contradiction."""
    known = np.isfinite(xy).all(axis=1) & np.isfinite(by_name).all(axis=1)
    if not known.any() or _near(xy[known], by_name[known]):
        return xy, ()
    if _near(xy[known], by_name[known, ::-1]):
        return by_name, (f"{place} holds (row, col): x and y are {names}",)
    for name, factor in picture_scales():
        for order, what in ((slice(None), ""), (slice(None, None, -1), " and (row, col)")):
            if _near(xy[known], by_name[known, order] * factor):
                return by_name, (f"{place} is in pixels of a smaller picture ({name}{what}): x and y are {names}",)
    return xy, (f"{place} is used, although {names} say otherwise",)


def _near(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.all(np.abs(first - second) <= _SAME_PX))


def _picture_scales(file: Any) -> list[tuple[str, float]]:
    """Names and values of the scale factors of small pictures, of every library."""
    found = []

    def collect(name: str, part: Any) -> None:
        key = name.rpartition("/")[2]
        if re.fullmatch(r"tissue_\w+_scalef", key) and getattr(part, "size", 0) == 1:
            found.append((key, float(np.ravel(part[()])[0])))

    if "uns/spatial" in file and hasattr(file["uns/spatial"], "visititems"):
        file["uns/spatial"].visititems(collect)
    return found


def _pair(table: pd.DataFrame, pairs: tuple[tuple[str, str], ...]) -> tuple[Any, Any] | None:
    """The columns that are x and y by their names."""
    columns = {letters(name): name for name in table.columns}
    return next(((columns[x], columns[y]) for x, y in pairs if x in columns and y in columns), None)


def letters(name: Any) -> str:
    """A name in lower case, without what separates its words."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _numbers(table: Any, place: str, path: Path | str) -> np.ndarray:
    """[S, columns] float64; text that is a number is one, as a misread header makes text of all of a column."""
    if all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes):
        found = table.to_numpy(dtype=np.float64)
        return np.where(np.isfinite(found), found, np.nan)
    text = table.astype(object).map(lambda value: value.decode() if isinstance(value, bytes) else value)
    found = text.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    words = text.notna().to_numpy() & np.isnan(found) & ~text.isin(["", "nan", "NaN", "NA", "None"]).to_numpy()
    if words.any():
        raise InputError(f"{path}: {place} holds {text.to_numpy()[words][0]!r}, expected numbers: x and y in pixels")
    return np.where(np.isfinite(found), found, np.nan)
