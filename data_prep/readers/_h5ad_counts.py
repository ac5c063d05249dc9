"""The raw counts of an .h5ad file, wherever they are kept, and the genes they belong to."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from data_prep import files
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _matrix, _species
from data_prep.readers._h5ad_file import as_text, element, table

# Where tools keep raw counts, in the order they are tried: layers, the matrix itself, what scanpy and Seurat call raw
_PLACES = ("layers/counts", "X", "raw/X", "raw.X", "layers/raw_counts", "layers/raw", "layers/count", "layers/umi")
# What other tools call the Ensembl id in `var`, in the order they are tried
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensemblid", "ensembl")
_KIND_COLUMNS = ("feature_types", "feature_type")
# What 10x calls features that are no genes, where none of the file's is called "Gene Expression"
_NO_GENES = ("Antibody Capture", "Antigen Capture", "CRISPR Guide Capture", "Multiplexing Capture", "Custom", "Peaks")


def read(
    file: Any, path: Path, spot_id: np.ndarray
) -> tuple[scipy.sparse.csr_array, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Counts [S, G] int32, gene ids [G], symbols [G], and notes.

    Raises:
        InputError: no raw counts, a matrix of another size than its names, or genes of several species.
    """
    matrix, var, notes = _raw(file, path, spot_id)
    if (shape := np.shape(matrix)) != (len(spot_id), len(var)):
        raise InputError(f"{path}: the matrix is {shape}, but obs and var are {len(spot_id)} and {len(var)} long")
    symbol = var.index.astype(str).to_numpy(dtype=str)
    column = next((name for name in var.columns if str(name).lower() in _ID_COLUMNS), None)
    gene_id = symbol if column is None else as_text(var[column], path)
    files.check_lengths(gene_id.tolist(), f"{path}: var[{column!r}]:")
    gene_id = np.where(gene_id == "", symbol, gene_id)
    counts = _matrix.as_counts(matrix, path, lambda row, column: f"spot {spot_id[row]}, gene {symbol[column]}")
    genes, gene_notes = _genes(var, path)
    genome = as_text(var["genome"], path)[genes] if "genome" in var else None
    gene_id, symbol, species_notes = _species.one_species(path, gene_id[genes], symbol[genes], genome=genome)
    counts = counts if len(genes) == len(var) else counts[:, genes]
    return counts, gene_id, symbol, (*notes, *gene_notes, *species_notes)


def _raw(file: Any, path: Path, spot_id: np.ndarray) -> tuple[Any, pd.DataFrame, tuple[str, ...]]:
    """The first matrix of whole numbers, the genes it belongs to, and where it comes from.

    Raises:
        InputError: none is whole.
    """
    places = [place for place in _PLACES if place in file]
    if not places:
        raise InputError(f"{path}: X not found (it holds {', '.join(file)}); expected an AnnData file with raw counts")
    for tried, place in enumerate(places):
        matrix = element(file, place, path)
        if _is_whole(matrix):
            return matrix, _var(file, place, path), _choice(place, places[:tried], places[tried + 1 :])
    raise InputError(_no_counts(file, path, places, spot_id))


def _var(file: Any, place: str, path: Path) -> pd.DataFrame:
    return table(file, place[:-1] + "var" if place.startswith("raw") else "var", path)


def _no_counts(file: Any, path: Path, places: list[str], spot_id: np.ndarray) -> str:
    """What is said where nothing is whole: the first entry that is no count, and where it was looked for."""
    matrix, symbol = element(file, places[0], path), _var(file, places[0], path).index
    looked = f"; {' and '.join(map(_name, places))} hold no whole numbers" if len(places) > 1 else ""
    logged = "; uns['log1p'] says that X is log-transformed" if "uns/log1p" in file else ""
    if np.asarray(matrix.data if scipy.sparse.issparse(matrix) else matrix).dtype.kind not in "iubf":
        return f"{path}: {_name(places[0])} holds no numbers; give the raw counts{looked}"
    try:
        _matrix.as_counts(matrix, path, lambda row, column: f"spot {spot_id[row]}, gene {symbol[column]}")
    except InputError as error:
        return f"{error}{looked}{logged}"
    return f"{path}: {_name(places[0])} holds no raw counts{looked}{logged}"


def _choice(chosen: str, before: list[str], after: list[str]) -> tuple[str, ...]:
    """What is said of the choice: nothing where there was none."""
    if before:
        names = " and ".join(_name(place) for place in before)
        return (f"counts are {_name(chosen)}: {names} {'is' if len(before) == 1 else 'are'} not whole",)
    if chosen != "X":
        return (f"counts are {_name(chosen)}",)
    return (f"counts are X; {' and '.join(map(_name, after))} not used",) if after else ()


def _name(place: str) -> str:
    group, _, key = place.partition("/")
    return f"layers[{key!r}]" if group == "layers" else place.replace("/", ".")


def _is_whole(matrix: Any) -> bool:
    data = matrix.data if scipy.sparse.issparse(matrix) else np.asarray(matrix)
    if data.dtype.kind not in "iubf":
        return False
    return data.dtype.kind in "ub" or bool(np.all((data >= 0) & (data == np.floor(data)) & (data < np.inf)))


def _genes(var: pd.DataFrame, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns of the matrix that are genes, by 10x's feature types, and a note that counts the others."""
    column = next((name for name in var.columns if str(name).lower() in _KIND_COLUMNS), None)
    kind = np.zeros(len(var), dtype=str) if column is None else as_text(var[column], path)
    if np.any(kind == _matrix.GENE_EXPRESSION):
        kept = kind == _matrix.GENE_EXPRESSION
    else:
        kept = ~np.isin(kind, _NO_GENES)  # other tools keep biotypes in a column of that name
    if not kept.any():
        raise InputError(
            f"{path}: no feature is {_matrix.GENE_EXPRESSION!r} (var[{column!r}] says {', '.join(sorted(set(kind)))}); "
            "give the matrix of genes"
        )
    if kept.all():
        return np.arange(len(var)), ()
    others = ", ".join(sorted(set(kind[~kept])))
    note = counted(int((~kept).sum()), f"features that are not gene expression were left out ({others})")
    return np.flatnonzero(kept), (note,)
