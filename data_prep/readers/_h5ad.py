"""The parts of an .h5ad file the HEST and AnnData readers need, read one by one: nothing else is loaded or trusted."""

import dataclasses
from pathlib import Path
from typing import Any

import anndata.io
import h5py
import numpy as np
import pandas as pd
import scipy.sparse

from data_prep.errors import InputError
from data_prep.readers import _matrix

# What other tools call the Ensembl id in `var`, in the order they are tried
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensemblid", "ensembl")


@dataclasses.dataclass(frozen=True)
class SpotTable:
    """Spots as an .h5ad file has them.

    Attributes:
        path: the file.
        obs: [S rows] annotation, indexed by spot id.
        spot_xy: [S, 2] float64, `obsm["spatial"]`: (x, y) of the centres in full-resolution pixels.
        gene_id: [G] str: Ensembl ids where the file has them, else the names.
        symbol: [G] str: `var_names`.
        counts: [S, G] int32, CSR.
        spatial: `uns["spatial"]` without the pictures: library -> {"scalefactors": {...}, "images": {name: (h, w)}}.
        notes: what was chosen.
    """

    path: Path
    obs: pd.DataFrame
    spot_xy: np.ndarray
    gene_id: np.ndarray
    symbol: np.ndarray
    counts: scipy.sparse.csr_array
    spatial: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def read(path: Path) -> SpotTable:
    """Read spots, counts, gene names and scale factors.

    Counts are `layers["counts"]` where it exists, else `X`, else (where `X` is not whole numbers) `raw.X`.

    Raises:
        InputError: not an .h5ad file, damaged, without coordinates or raw counts, or with duplicate names.
    """
    with _matrix.hdf5(path, "an .h5ad file") as file:
        obs = _element(file, "obs", path)
        spot_id = obs.index.astype(str).to_numpy(dtype=str)
        _matrix.check_unique(spot_id, path, "spot")
        xy = np.asarray(_coordinates(file, path), dtype=np.float64)
        if xy.shape != (len(obs), 2):
            raise InputError(f"{path}: obsm['spatial'] is {xy.shape}, expected ({len(obs)}, 2): x and y of each spot")
        if not np.all(np.isfinite(xy)):
            row = int(np.flatnonzero(~np.isfinite(xy).all(axis=1))[0])
            raise InputError(f"{path}: obsm['spatial'] of spot {spot_id[row]} is {xy[row]}, expected two numbers")
        matrix, var, notes = _raw_counts(file, path)
        spatial = _spatial(file, path)
    if matrix.shape != (len(obs), len(var)):
        raise InputError(f"{path}: the matrix is {matrix.shape}, but obs and var are {len(obs)} and {len(var)} long")
    symbol = var.index.astype(str).to_numpy(dtype=str)
    column = next((name for name in var.columns if name.lower() in _ID_COLUMNS), None)
    gene_id = symbol if column is None else var[column].astype(str).to_numpy(dtype=str)
    gene_id = np.where(np.isin(gene_id, ["", "nan", "None", "<NA>"]), symbol, gene_id)
    counts = _matrix.as_counts(matrix, path, lambda row, column: f"spot {spot_id[row]}, gene {symbol[column]}")
    return SpotTable(path, obs, xy, gene_id, symbol, counts, spatial, notes)


def libraries(path: Path) -> list[str]:
    """Keys of `uns["spatial"]`, without reading anything else."""
    with _matrix.hdf5(path, "an .h5ad file") as file:
        group = file.get("uns/spatial")
        return (
            [str(key) for key in group if isinstance(group[key], h5py.Group)] if isinstance(group, h5py.Group) else []
        )


def under_tissue(obs: pd.DataFrame, kept: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """`kept` [S] bool without the spots that `obs["in_tissue"]` says are off tissue, and a note that counts them."""
    if "in_tissue" not in obs:
        return kept, ()
    inside = obs["in_tissue"].astype(str).isin(["1", "1.0", "True"]).to_numpy()
    off = int((kept & ~inside).sum())
    return kept & inside, (f"{off} spots are not under tissue and were left out",) if off else ()


def text_column(path: Path, name: str) -> np.ndarray | None:
    """[S] str: a column of `obs`, or None."""
    with _matrix.hdf5(path, "an .h5ad file") as file:
        if not isinstance(file.get("obs"), h5py.Group) or name not in file["obs"]:
            return None
        values = _element(file, f"obs/{name}", path)
        return np.asarray(pd.Series(values).astype(str), dtype=str)


def _element(file: Any, key: str, path: Path) -> Any:
    if key not in file:
        raise InputError(f"{path}: {key} not found (it holds {', '.join(file)}); expected an AnnData file")
    try:
        return anndata.io.read_elem(file[key])
    except Exception as error:  # anndata wraps whatever h5py or numpy raise on damaged parts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: {key} cannot be read ({reason}); copy or download it again") from error


def _coordinates(file: Any, path: Path) -> Any:
    for key in ("obsm/spatial", "obsm/X_spatial"):
        if key in file:
            return _element(file, key, path)
    raise InputError(
        f"{path}: obsm['spatial'] not found (obsm holds {', '.join(file.get('obsm', {})) or 'nothing'}); "
        "put (x, y) in full-resolution pixels there"
    )


def _raw_counts(file: Any, path: Path) -> tuple[Any, pd.DataFrame, tuple[str, ...]]:
    """The raw counts, the genes they belong to, and where they come from."""
    if "layers/counts" in file:
        return _element(file, "layers/counts", path), _element(file, "var", path), ("counts are layers['counts']",)
    matrix = _element(file, "X", path)
    data = matrix.data if scipy.sparse.issparse(matrix) else np.asarray(matrix)
    whole = data.dtype.kind in "iub" or bool(np.all(data == np.floor(data)))
    if not whole and "raw/X" in file:
        return _element(file, "raw/X", path), _element(file, "raw/var", path), ("counts are raw.X: X is not whole",)
    return matrix, _element(file, "var", path), ()


def _spatial(file: Any, path: Path) -> dict[str, dict[str, Any]]:
    """Scale factors and picture sizes of every library; pictures themselves are not read."""
    group: Any = file.get("uns/spatial")
    found: dict[str, dict[str, Any]] = {}
    for library in group if isinstance(group, h5py.Group) else ():
        if not isinstance(group[library], h5py.Group):
            continue
        place = f"uns/spatial/{library}/scalefactors"
        factors = _element(file, place, path) if place in file else {}
        images = file.get(f"uns/spatial/{library}/images", {})
        found[str(library)] = {
            "scalefactors": {key: float(np.ravel(value)[0]) for key, value in factors.items() if _is_number(value)},
            "images": {name: images[name].shape[:2] for name in images},
        }
    return found


def _is_number(value: Any) -> bool:
    values = np.asarray(value)
    return values.size == 1 and values.dtype.kind in "iuf"
