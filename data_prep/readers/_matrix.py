"""Count matrices as CSR of non-negative int32: Space Ranger's HDF5 and Matrix Market, and whatever AnnData holds.

What is read may be kept on disk where it is too much for memory, see `data_prep.stored`; each block of it is checked as
a whole matrix is.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse

from data_prep import csr, files, names, on_disk, stored
from data_prep.counted import counted
from data_prep.counts import Counts
from data_prep.errors import InputError
from data_prep.readers import _hdf5_columns, _hdf5_structure, _hdf5_trial, _species, _text

GENE_EXPRESSION = "Gene Expression"
IN_MEMORY = 1 << 25  # entries of a matrix; one with more is kept on disk, where a folder is given for it
_BLOCK = 1 << 22  # entries read together then
# What R and pandas write above the names of barcodes and features
_HEADERS = {
    "", "0", "barcode", "barcodes", "cell", "cells", "feature", "gene", "gene_id", "gene_ids", "genes", "id", "v1", "x"
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CountMatrix:
    """Counts and their names.

    Attributes:
        path: file or folder they come from.
        barcode: [S] str, or bytes beside counts on disk, see `data_prep.names`.
        gene_id: [G] str, as in the file: mostly Ensembl ids.
        symbol: [G] str.
        counts: [S, G] int32, CSR, in memory or on disk.
        notes: what was left out.
        kind: "filtered" (the spots under tissue), "raw" (all), or "" where it is not said.
    """

    path: Path
    barcode: np.ndarray
    gene_id: np.ndarray
    symbol: np.ndarray
    counts: Counts
    notes: tuple[str, ...] = ()
    kind: str = ""


@contextlib.contextmanager
def hdf5(path: Path, what: str) -> Iterator[Any]:
    """An open HDF5 file, gzipped as a whole or not; whatever h5py raises on damaged files becomes one `InputError`.

    Args:
        path: the file.
        what: what it should be, for the message.
    """
    try:
        _hdf5_trial.check(path)
        with h5py.File(_hdf5_trial.source(path)) as file:
            for _ in _hdf5_structure.walk(file, path):
                pass
            yield file
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: truncated, damaged or not {what} ({reason}); copy or download it again") from error


def as_counts(matrix: Any, path: Path, names: Callable[[int, int], str]) -> scipy.sparse.csr_array:
    """[S, G] CSR int32 with sorted indices, from any dense or sparse matrix.

    Args:
        matrix: [S, G] numbers.
        path: for messages.
        names: (row, column) -> what to call that entry in a message.

    Raises:
        InputError: an entry that is no non-negative whole number.
    """
    counts = _as_csr(matrix, path)
    data = counts.data
    wrong = ~(np.isfinite(data) & (data >= 0) & (data < 2**31) & (data == np.floor(data)))
    if wrong.any():
        entry = int(np.flatnonzero(wrong)[0])
        row = int(np.searchsorted(counts.indptr, entry, side="right")) - 1
        raise InputError(
            f"{path}: {names(row, int(counts.indices[entry]))}: count is {data[entry]}, expected a non-negative whole "
            "number; give the raw counts, not normalised ones"
        )
    whole = scipy.sparse.csr_array(counts, dtype=np.int32)
    whole.eliminate_zeros()
    return whole


def _as_csr(matrix: Any, path: Path) -> scipy.sparse.csr_array:
    """[S, G] CSR with sorted indices, one entry a place: entries that share one are added up, in a type that holds it.

    Raises:
        InputError: no matrix of numbers, or a damaged one.
    """
    if scipy.sparse.issparse(matrix):
        csr.check(matrix, origin=f"{path}")
    else:
        matrix = np.asarray(matrix)
        if matrix.ndim != 2 or matrix.dtype.kind not in "iufb":
            raise InputError(
                f"{path}: the matrix is {matrix.ndim}-dimensional, of type {matrix.dtype}, expected numbers, a row a "
                "spot and a column a gene; give the raw counts"
            )
    counts = scipy.sparse.csr_array(matrix)
    counts.sort_indices()
    if not counts.has_canonical_format:  # sorted, so a place has several entries
        wide = np.float64 if counts.dtype.kind == "f" else np.int64
        counts = scipy.sparse.csr_array(counts, dtype=wide)
        counts.sum_duplicates()
    return counts


def check_unique(listed: np.ndarray, path: Path, what: str) -> None:
    """Raise `InputError` naming the first of some names [N] that appears twice."""
    if found := names.twice(listed):
        raise InputError(f"{path}: {what} {found[0]} appears {found[1]} times; remove the duplicates")


def read_h5(path: Path, scratch: Path | None = None) -> CountMatrix:
    """Space Ranger's `*_feature_bc_matrix.h5`, or one of Cell Ranger 2, whose group is named after the genome.

    Args:
        scratch: a folder to keep counts in that are too many for memory.

    Raises:
        InputError: not such a file, damaged, or contradictory.
    """
    with hdf5(path, "a Space Ranger feature-barcode matrix") as file:
        group = _matrix_group(file, path)
        data = group["data"]
        large = scratch is not None and isinstance(data, h5py.Dataset) and (data.size or 0) > IN_MEMORY
        ids, symbols = ("features/id", "features/name") if "features" in group else ("genes", "gene_names")
        shape = tuple(int(size) for size in group["shape"][:])
        parts = tuple(
            group[key] if large and key != "indptr" else group[key][:] for key in ("data", "indices", "indptr")
        )
        barcode = _hdf5_columns.names(group, "barcodes", path, as_bytes=large)
        gene_id, symbol = (_hdf5_columns.names(group, key, path) for key in (ids, symbols))
        kind, genome = (
            _hdf5_columns.names(group, f"features/{key}", path) if f"features/{key}" in group else None
            for key in ("feature_type", "genome")
        )
        lengths = {len(column) for column in (gene_id, symbol, kind, genome) if column is not None}
        if shape != (len(gene_id), len(barcode)) or len(lengths) > 1:
            raise InputError(
                f"{path}: matrix is {shape} but there are {' or '.join(map(str, sorted(lengths)))} features and "
                f"{len(barcode)} barcodes; copy or download it again"
            )
        features = _Features(path, gene_id, symbol, kind, genome)
        if large:
            assert scratch is not None
            barcode = on_disk.keep(scratch, "barcode", barcode)
            return _to_disk(features, barcode, parts, scratch)
    data, indices, indptr = parts
    return _finish(features, barcode, csr.make(data, indices, indptr, shape[::-1], origin=f"{path}"))


def _to_disk(
    features: "_Features", barcode: np.ndarray, parts: tuple[Any, Any, np.ndarray], scratch: Path
) -> CountMatrix:
    """What `_finish` makes of a matrix [S, G], of which a block of rows is in memory at a time.

    Args:
        parts: its data and indices as data sets of the open file, and its row pointers.
        scratch: where the counts are to lie.
    """
    path, (data, indices, indptr) = features.path, parts
    check_unique(barcode, path, "barcode")
    columns = len(features.gene_id)
    if fault := csr.fault_of_rows(data, indices, indptr, (len(barcode), columns)):
        raise InputError(f"{path}: damaged sparse matrix ({fault}); copy or download it again")
    kept, notes = features.genes()
    writer = stored.Writer(scratch / "counts", len(kept))
    first = 0
    while first < len(barcode):
        stop = max(first + 1, int(np.searchsorted(indptr, indptr[first] + _BLOCK, side="right")) - 1)
        entries = slice(int(indptr[first]), int(indptr[stop]))
        pointers = indptr[first : stop + 1].astype(np.int64) - entries.start
        shape = (stop - first, columns)
        block = csr.make(data[entries], indices[entries], pointers, shape, origin=f"{path}")
        counts = as_counts(block, path, features.entry_of(barcode[first:stop]))
        writer.append(counts if len(kept) == columns else counts[:, kept])
        first = stop
    return features.named(barcode, writer.finish(), kept, notes)


def _matrix_group(file: Any, path: Path) -> Any:
    """The group that holds the matrix.

    Raises:
        InputError: none, or one for each of several genomes.
    """
    if isinstance(file.get("matrix"), h5py.Group):
        return file["matrix"]
    genomes = [name for name in file if isinstance(file[name], h5py.Group) and {"genes", "barcodes"} <= set(file[name])]
    if len(genomes) > 1:
        raise InputError(
            f"{path}: matrices of {len(genomes)} genomes ({', '.join(genomes)}); expected one species, as their counts "
            "must not be mixed: keep one group"
        )
    if not genomes:
        remedy = (
            "it is an AnnData file, name it .h5ad" if {"X", "obs", "var"} <= set(file)
            else "give the *_feature_bc_matrix.h5 file"
        )  # fmt: skip
        raise InputError(
            f"{path}: holds {', '.join(file) or 'nothing'}, expected the group 'matrix' of a Space Ranger "
            f"feature-barcode matrix; {remedy}"
        )
    return file[genomes[0]]


def mtx_files(folder: Path, prefix: str = "") -> tuple[Path, Path, Path]:
    """The three files of a Matrix Market matrix: matrix, barcodes and features (or genes), gzipped or not.

    Raises:
        InputError: one of them is missing.
    """
    names = (("matrix.mtx",), ("barcodes.tsv",), ("features.tsv", "genes.tsv"))
    matrix, barcodes, features = (_either(folder, *(f"{prefix}{name}" for name in kind)) for kind in names)
    return matrix, barcodes, features


def read_mtx(folder: Path, prefix: str = "") -> CountMatrix:
    """A Matrix Market matrix with genes as rows, as 10x writes it, or as columns where the lengths tell.

    Args:
        folder: where its three files lie.
        prefix: what their names begin with.

    Raises:
        InputError: a missing, damaged or contradictory file.
    """
    matrix_path, barcode_path, feature_path = mtx_files(folder, prefix)
    barcodes, features = _text.read_rows(barcode_path, "\t"), _text.read_rows(feature_path, "\t")
    from data_prep.readers import _mtx  # the one module that cannot be without pyarrow

    matrix = _mtx.read(matrix_path)
    if set(matrix.shape or ()) != {len(features), len(barcodes)}:
        barcodes, features = (rows[rows[0][0].strip().casefold() in _HEADERS :] for rows in (barcodes, features))
    files.check_lengths([row[0] for row in barcodes], f"{barcode_path}: barcode")
    files.check_lengths([name for row in features for name in row[:3]], f"{feature_path}:")
    barcode = np.array([row[0] for row in barcodes])
    gene_id = np.array([row[0] for row in features])
    symbol = np.array([row[1] if len(row) > 1 else row[0] for row in features])
    kind = np.array([row[2] for row in features]) if features and len(features[0]) > 2 else None
    notes: tuple[str, ...] = ()
    if matrix.shape == (len(barcode), len(gene_id)) != (len(gene_id), len(barcode)):
        matrix, notes = matrix.T, (f"{matrix_path.name} has barcodes as rows and genes as columns: turned",)
    if matrix.shape != (len(gene_id), len(barcode)):
        raise InputError(
            f"{matrix_path}: matrix is {matrix.shape} but {feature_path.name} has {len(gene_id)} features and "
            f"{barcode_path.name} {len(barcode)} barcodes; the three files belong to different runs"
        )
    path = matrix_path if prefix else folder
    return _finish(_Features(path, gene_id, symbol, kind, None), barcode, matrix.T, notes)


@dataclasses.dataclass(frozen=True)
class _Features:
    """The columns of a matrix as a file names them.

    Attributes:
        gene_id, symbol: [G] str.
        kind, genome: [G] str, the type and the genome of each feature, where the file states them.
    """

    path: Path
    gene_id: np.ndarray
    symbol: np.ndarray
    kind: np.ndarray | None
    genome: np.ndarray | None

    def entry_of(self, barcode: np.ndarray) -> Callable[[int, int], str]:
        """What messages call an entry of rows of these barcodes."""
        return lambda row, column: f"barcode {names.texts(barcode[row])}, feature {self.gene_id[column]}"

    def genes(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Which of them are genes, and a note on others.

        Raises:
            InputError: none is.
        """
        kind = self.kind
        if kind is None or not np.any(kind != GENE_EXPRESSION):
            return np.arange(len(self.gene_id)), ()
        kept = np.flatnonzero(kind == GENE_EXPRESSION)
        others = ", ".join(
            f"{number} {name or 'of no type'}"
            for name, number in zip(*np.unique(kind[kind != GENE_EXPRESSION], return_counts=True), strict=True)
        )
        if not len(kept):
            raise InputError(
                f"{self.path}: no feature is of type {GENE_EXPRESSION} ({others}); give the matrix that holds the genes"
            )
        left_out = f"features that are not gene expression were left out ({others})"
        return kept, (counted(len(kind) - len(kept), left_out),)

    def named(self, barcode: np.ndarray, counts: Counts, kept: np.ndarray, notes: tuple[str, ...]) -> CountMatrix:
        """The matrix of the features that were kept."""
        gene_id, symbol = self.gene_id[kept], self.symbol[kept]
        genome = None if self.genome is None else self.genome[kept]
        gene_id, symbol, species_notes = _species.one_species(self.path, gene_id, symbol, genome=genome)
        return CountMatrix(self.path, barcode, gene_id, symbol, counts, notes + species_notes)


def _finish(features: _Features, barcode: np.ndarray, matrix: Any, notes: tuple[str, ...] = ()) -> CountMatrix:
    """Checks what was read, a matrix [S, G] of any kind, and leaves out features that are no genes."""
    check_unique(barcode, features.path, "barcode")
    counts = as_counts(matrix, features.path, features.entry_of(barcode))
    kept, gene_notes = features.genes()
    if len(kept) < len(features.gene_id):
        counts = counts[:, kept]
    return features.named(barcode, counts, kept, notes + gene_notes)


def _either(folder: Path, *names: str) -> Path:
    """The first of `names` in `folder`, with or without .gz."""
    for name in names:
        for file in (folder / f"{name}.gz", folder / name):
            if files.is_there(file):
                return file
    raise InputError(f"{folder}: {names[0]}[.gz] not found; a Matrix Market folder needs matrix, barcodes and features")
