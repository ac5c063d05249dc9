"""The parts of an .h5ad file the HEST and AnnData readers need, read one by one: nothing else is loaded or trusted."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse

from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _h5ad_counts, _h5ad_places
from data_prep.readers._h5ad_file import as_text, element, opened, table

_INSIDE, _OUTSIDE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


@dataclasses.dataclass(frozen=True)
class SpotTable:
    """Spots as an .h5ad file has them, those without coordinates left out.

    Attributes:
        path: the file.
        obs: [S rows] annotation, indexed by spot id, which may be unique within a sample only.
        spot_xy: [S, 2] float64, (x, y) of the centres in full-resolution pixels.
        spot_z: [S] float64, the third coordinate, 0 where there is none.
        gene_id: [G] str: Ensembl ids where the file has them, else the names.
        symbol: [G] str: `var_names`.
        counts: [S, G] int32, CSR.
        spatial: `uns["spatial"]` without the pictures, see `libraries`.
        notes: what was chosen.
    """

    path: Path
    obs: pd.DataFrame
    spot_xy: np.ndarray
    spot_z: np.ndarray
    gene_id: np.ndarray
    symbol: np.ndarray
    counts: scipy.sparse.csr_array
    spatial: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def read(path: Path) -> SpotTable:
    """Read spots, counts, gene names and scale factors; see `_h5ad_counts` and `_h5ad_places` for where from.

    Raises:
        InputError: not an .h5ad file, damaged, or without coordinates or raw counts.
    """
    with opened(path) as file:
        obs = table(file, "obs", path)
        spot_id = obs.index.astype(str).to_numpy(dtype=str)
        xy, z, notes = _h5ad_places.read(file, obs, path)
        counts, gene_id, symbol, count_notes = _h5ad_counts.read(file, path, spot_id)
        spatial = libraries(file, path)
    placed = np.isfinite(xy).all(axis=1)
    if not placed.any():
        raise InputError(f"{path}: no spot has coordinates, expected x and y of each: all are NaN")
    if not placed.all():
        lost = np.flatnonzero(~placed)
        notes += (counted(len(lost), f"spots without coordinates were left out (e.g. {spot_id[lost[0]]})"),)
        obs, xy, z, counts = obs.loc[placed], xy[placed], z[placed], counts[np.flatnonzero(placed)]
    return SpotTable(path, obs, xy, z, gene_id, symbol, counts, spatial, (*notes, *count_notes))


def under_tissue(obs: pd.DataFrame, kept: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """`kept` [S] bool without the spots that `obs["in_tissue"]` says are off tissue, and a note that counts them.

    Raises:
        InputError: a value that is neither yes nor no.
    """
    return (kept, ()) if "in_tissue" not in obs else flagged(as_text(obs["in_tissue"], path), kept, path)


def flagged(in_tissue: np.ndarray, kept: np.ndarray, path: Path | str) -> tuple[np.ndarray, tuple[str, ...]]:
    """`under_tissue`, of the texts [S] of `obs["in_tissue"]`."""
    values = pd.Series(in_tissue).str.lower()
    if unknown := sorted(set(values) - {*_INSIDE, *_OUTSIDE}):
        raise InputError(f"{path}: obs['in_tissue'] holds {unknown[0]!r}, expected 1 (under tissue) or 0; correct it")
    inside = values.isin(_INSIDE).to_numpy()
    off = int((kept & ~inside).sum())
    return kept & inside, (counted(off, "spots are not under tissue and were left out"),) if off else ()


def libraries(file: Any, path: Path) -> dict[str, dict[str, Any]]:
    """`uns["spatial"]` of an open file: library -> its scale factors, picture sizes and slide; no picture is read.

    Returns:
        library -> {"scalefactors": {name: number}, "images": {name: (height, width)}, "slide": path or ""}.
    """
    group: Any = file.get("uns/spatial")
    if not isinstance(group, h5py.Group):
        return {}
    if isinstance(group.get("scalefactors"), h5py.Group):  # without a library between
        return {"": _library(file, "uns/spatial", path)}
    return {str(name): _library(file, f"uns/spatial/{name}", path) for name in group
            if isinstance(group[name], h5py.Group)}  # fmt: skip


def _library(file: Any, place: str, path: Path) -> dict[str, Any]:
    factors = element(file, f"{place}/scalefactors", path) if f"{place}/scalefactors" in file else {}
    factors = factors if isinstance(factors, dict) else {}
    pictures: Any = file.get(f"{place}/images")
    images = dict(pictures.items()) if isinstance(pictures, h5py.Group) else {}
    slide = f"{place}/metadata/source_image_path"
    return {
        "scalefactors": {key: float(np.ravel(value)[0]) for key, value in factors.items() if _is_number(value)},
        "images": {name: image.shape[:2] for name, image in images.items() if isinstance(image, h5py.Dataset)},
        "slide": str(element(file, slide, path)) if slide in file else "",
    }


def _is_number(value: Any) -> bool:
    values = np.asarray(value)
    return values.size == 1 and values.dtype.kind in "iuf"
