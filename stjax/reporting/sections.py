"""A section's spots from its .h5ad, as `evaluate` and `predict` leave it. The file may be another's: it is opened as
raw data are, only the parts that are shown are read, and each is checked against the others."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data_prep import budgets, csr
from data_prep.errors import InputError
from data_prep.files import fault_of_text, shown
from data_prep.readers import _h5ad_file
from data_prep.spots import Spots


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnSection:
    """A section's spots, as `evaluate` wrote them.

    Attributes:
        spots: [S] in full-resolution pixels, drawn as discs of one size.
        prediction, truth: [S, G] float32 in the order of the per-gene table; truth is None where nothing was measured.
        lower, upper: [S, G], the ends of the prediction's interval, or None.
        thumbnail: [h, w, 3] uint8; thumbnail_scale: its pixels per full-resolution pixel.
    """

    name: str
    patient: str
    spots: Spots
    prediction: np.ndarray
    truth: np.ndarray | None
    lower: np.ndarray | None
    upper: np.ndarray | None
    thumbnail: np.ndarray
    thumbnail_scale: float
    um_per_px: float


def read(path: Path, name: str, genes: pd.DataFrame, *, remedy: str) -> tuple[DrawnSection, dict[str, Any]]:
    """An .h5ad's content, genes in the order of the table and NaN where the file lacks one; and what it says of the
    checkpoint and the data it was made with.

    Args:
        genes: the per-gene table.
        remedy: what to do with a file that cannot be read, for messages.

    Raises:
        InputError: no such file, or one whose parts do not fit together.
    """
    try:
        with _h5ad_file.opened(path) as file:
            return _Reader(file, path).section(name, genes), _made(file)
    except InputError as error:
        fault = str(error).removeprefix(f"{path}: ").partition("; copy or download")[0]
        raise InputError(f"{path} is not readable ({fault}); {remedy}") from None


def _made(file: Any) -> dict[str, Any]:
    """The single values among `uns["stjax"]` by which the report tells a stale file."""
    found = {}
    for key in ("checkpoint_step", "data_sha256"):
        part = file.get(f"uns/stjax/{key}")
        if isinstance(part, h5py.Dataset) and part.shape == ():
            value = part[()]
            found[key] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


@dataclasses.dataclass(frozen=True)
class _Reader:
    """An open file."""

    file: Any
    path: Path

    def section(self, name: str, genes: pd.DataFrame) -> DrawnSection:
        picture = f"uns/spatial/{name}"
        spots, symbols = self._names("obs"), self._names("var")
        columns = self._columns(symbols, genes)
        xy = self._numbers("obsm/spatial", (len(spots), 2))
        if not np.isfinite(xy).all():
            raise self._fault("obsm/spatial has places that are no numbers")
        patient = self._column("obs", "patient", len(spots)) if len(spots) else None
        prediction = self._layer("X", (len(spots), len(symbols)), columns)
        others = {
            key: self._layer(f"layers/{key}", (len(spots), len(symbols)), columns)
            if f"layers/{key}" in self.file
            else None
            for key in ("truth", "lower", "upper")
        }
        return DrawnSection(
            name=name,
            patient="" if patient is None else str(patient[0]),
            spots=Spots.discs(xy, self._positive(f"{picture}/scalefactors/spot_diameter_fullres") / 2, spots),
            prediction=prediction,
            **others,
            thumbnail=self._thumbnail(f"{picture}/images/lowres"),
            thumbnail_scale=self._positive(f"{picture}/scalefactors/tissue_lowres_scalef"),
            um_per_px=self._positive(f"{picture}/scalefactors/microns_per_pixel", missing=np.nan),
        )

    def _fault(self, text: str) -> InputError:
        return InputError(f"{self.path}: {text}")

    def _names(self, table: str) -> np.ndarray:
        """[N] str, the names of a table's rows."""
        key = self.file[table].attrs.get("_index") if isinstance(self.file.get(table), h5py.Group) else None
        if not isinstance(key, str) or not key or key not in self.file[table]:
            raise self._fault(f"{table} is no table with an index")
        return self._texts(f"{table}/{key}")

    def _column(self, table: str, name: str, length: int) -> np.ndarray | None:
        """[N] str, or None where the table has no such column."""
        if f"{table}/{name}" not in self.file:
            return None
        values = self._texts(f"{table}/{name}")
        if len(values) != length:
            raise self._fault(f"{table}/{name} has {len(values)} rows, expected {length}")
        return values

    def _texts(self, key: str) -> np.ndarray:
        values = _h5ad_file.element(self.file, key, self.path)
        if not isinstance(values, np.ndarray | pd.Categorical | pd.api.extensions.ExtensionArray) or values.ndim != 1:
            raise self._fault(f"{key} is no column of a table")
        texts = ["" if missing else str(value) for value, missing in zip(values, pd.isna(values), strict=True)]
        if fault := next((fault for text in set(texts) if (fault := fault_of_text(text))), ""):
            raise self._fault(f"{key} has a name that {fault}")
        return np.array(texts, str)

    def _columns(self, symbols: np.ndarray, genes: pd.DataFrame) -> np.ndarray:
        """[G] column of each gene of the table in the file, -1 where it has none."""
        names = self._column("var", "symbol", len(symbols))
        ids = self._column("var", "ensembl_id", len(symbols))
        names, ids = symbols if names is None else names, np.full(len(symbols), "") if ids is None else ids
        there: dict[tuple[str, str], int] = {}
        for column, (symbol, gene_id) in enumerate(zip(names.tolist(), ids.tolist(), strict=True)):
            there.setdefault((symbol or gene_id, gene_id), column)
        return np.array([there.get(key, -1) for key in zip(genes["gene"], genes["ensembl_id"], strict=True)], np.int64)

    def _layer(self, key: str, shape: tuple[int, int], columns: np.ndarray) -> np.ndarray:
        """[S, G] float32 of a matrix [S, genes of the file]."""
        budgets.HDF5_DATASET.check(self.path, 4 * shape[0] * max(shape[1], len(columns)))
        values = self._numbers(key, shape)
        with np.errstate(over="ignore"):  # to infinity
            dense = np.asarray(values, np.float32)
        if np.isinf(dense).any():
            raise self._fault(f"{key} has values beyond all numbers")
        result = np.full((shape[0], len(columns)), np.nan, np.float32)
        result[:, columns >= 0] = dense[:, columns[columns >= 0]]
        return result

    def _numbers(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this shape."""
        values = _h5ad_file.element(self.file, key, self.path)
        if hasattr(values, "tocsr") and values.shape == shape:
            csr.check(values, origin=f"{self.path}: {key}")
            values = values.toarray()
        if getattr(values, "shape", None) != shape or values.dtype.kind not in "iufb":
            found = f"{getattr(values, 'shape', type(values).__name__)} {getattr(values, 'dtype', '')}".strip()
            raise self._fault(f"{key} is {found}, expected numbers of {shape}")
        return np.asarray(values)

    def _thumbnail(self, key: str) -> np.ndarray:
        """[h, w, 3] uint8."""
        values = _h5ad_file.element(self.file, key, self.path)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
            raise self._fault(f"{key} is no picture")
        if values.ndim != 3 or not all(values.shape) or values.shape[2] < 3:
            raise self._fault(f"{key} is {values.shape}, expected a picture in colour")
        if values.dtype == np.uint8:
            return values[..., :3]
        if values.dtype.kind != "f":
            raise self._fault(f"{key} holds {values.dtype}, expected bytes or numbers from 0 to 1")
        # scanpy's convention allows 0..1
        return np.clip(np.rint(np.nan_to_num(values[..., :3]) * 255), 0, 255).astype(np.uint8)

    def _positive(self, key: str, *, missing: float | None = None) -> float:
        """A single positive number."""
        if missing is not None and key not in self.file:
            return missing
        value = _h5ad_file.element(self.file, key, self.path)
        number = float(value) if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf" else np.nan
        if missing is not None and np.isnan(number) and np.asarray(value).dtype.kind == "f":
            return missing
        if not 0 < number < np.inf:
            raise self._fault(f"{key} is {shown(value)}, expected a positive number")
        return number
