"""Small AnnData sources as public files have them: a section on a Visium-like or square array, and its slide."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from PIL import Image

SIDE_PX = 400
UM_PER_PX = 2.0


def barcodes(count: int) -> list[str]:
    """Distinct barcodes such as AAAAAAAAAAAAACGT-1, the same in every sample, as Visium's are."""
    letters = np.array(list("ACGT"))
    digits = np.arange(count)[:, None] // 4 ** np.arange(8)[::-1] % 4
    return ["AAAAAAAA" + "".join(row) + "-1" for row in letters[digits]]


def hexagonal(rows: int = 6, columns: int = 6, pitch_px: float = 100.0 / UM_PER_PX) -> tuple[np.ndarray, np.ndarray]:
    """(array_col, array_row) [S, 2] as Visium counts them, and pixels [S, 2]."""
    row, place = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    array_xy = np.column_stack([2 * place + row % 2, row])
    return array_xy, 40.0 + array_xy * [pitch_px / 2, pitch_px * np.sqrt(3) / 2]


def square(rows: int = 6, columns: int = 6, pitch_px: float = 50.0) -> tuple[np.ndarray, np.ndarray]:
    """(array_col, array_row) [S, 2] of a square array, and pixels [S, 2]."""
    row, column = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    array_xy = np.column_stack([column, row])
    return array_xy, 40.0 + array_xy * pitch_px


def table(array_xy: np.ndarray, spot_xy: np.ndarray, *, library: str = "L", **factors: float) -> anndata.AnnData:
    """Spots with three genes, as scanpy's read_visium leaves them."""
    count = len(spot_xy)
    obs = pd.DataFrame(
        {"in_tissue": 1, "array_row": array_xy[:, 1], "array_col": array_xy[:, 0]}, index=barcodes(count)
    )
    genes = {"gene_ids": ["ENSG00000141510", "ENSG00000075624", "ENSG00000141736"]}
    var = pd.DataFrame(genes, index=["TP53", "ACTB", "ERBB2"])
    counts = np.arange(count * 3).reshape(count, 3) % 7
    made = anndata.AnnData(counts.astype(np.float32), obs=obs, var=var)
    made.obsm["spatial"] = spot_xy.copy()
    made.uns["spatial"] = {library: {"scalefactors": dict(factors)}}
    return made


def visium(*, library: str = "L", shift_px: float = 0.0, **factors: float) -> anndata.AnnData:
    """Visium at 2 um per pixel."""
    array_xy, spot_xy = hexagonal()
    factors = {"spot_diameter_fullres": 65.0 / UM_PER_PX} | factors
    return table(array_xy, spot_xy + shift_px, library=library, **factors)


def write(folder: Path, name: str, made: Any, *, images: tuple[str, ...] | None = None) -> Path:
    """The file, and white slides beside it: one of the same name by default."""
    folder.mkdir(exist_ok=True)
    with anndata.settings.override(allow_write_nullable_strings=False):  # texts as arrays, whatever version of anndata
        made.write_h5ad(folder / f"{name}.h5ad")
    for image in (name,) if images is None else images:
        Image.new("RGB", (SIDE_PX, SIDE_PX), "white").save(folder / f"{image}.png")
    return folder
