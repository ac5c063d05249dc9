"""HEST-Benchmark's folder (Jaume et al. 2024), read as downloaded.

    TASK/var_50genes.json            {"genes": [...]}, the columns of the targets
    TASK/splits/{train,test}_0.csv   sample_id, patches_path, expr_path, relative to TASK; a pair a fold
    TASK/patches/ID.h5               img [N, 224, 224, 3], coords [N, 2], barcode [N, 1]
    TASK/adata/ID.h5ad               raw counts of all spots, obsm["spatial"] = (x, y) of centres at full resolution

Counts are joined to patches by barcode: their order differs for Xenium, where joining by place is wrong without a word.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import csr, files, json_files, patch_file, repeats
from data_prep.errors import InputError
from data_prep.readers import _h5ad_file, _matrix, _text

GENES = "var_50genes.json"
ALIASES = {"LUAD": "LUNG"}  # what a task's folder is called in some copies
_REMEDY = "download the task again"
_COLUMNS = ["sample_id", "patches_path", "expr_path"]


class Fold(NamedTuple):
    """Samples, in the order of the split's files."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Attributes:
        genes: [G], the columns of the targets.
        patches, expression: {sample: file}, in the order in which the folds name them.
    """

    folder: Path
    genes: tuple[str, ...]
    folds: tuple[Fold, ...]
    patches: Mapping[str, Path]
    expression: Mapping[str, Path]

    @property
    def name(self) -> str:
        """As the benchmark calls it now."""
        return ALIASES.get(self.folder.name, self.folder.name)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """The patches of a sample with what was measured there.

    Attributes:
        barcodes: [N] str, in the order of the patches.
        centre_xy: [N, 2] float64, at full resolution.
        targets: [N, G] float64, log(1 + counts) of the task's genes.
        coords: what the file's coordinates are, see `data_prep.patch_file`.
        spots: how many the count table has.
    """

    name: str
    barcodes: np.ndarray
    centre_xy: np.ndarray
    targets: np.ndarray
    coords: str
    spots: int


# ---------------------------------------------------------------------------------------------------------- tasks


def tasks(root: Path) -> list[str]:
    """The tasks in a folder, by name.

    Raises:
        InputError: there is none.
    """
    folders = [path.parent.name for path in root.glob(f"*/{GENES}")] if root.is_dir() else []
    found = sorted({ALIASES.get(name, name) for name in folders})
    if not found:
        raise InputError(f"{root}: no task found (expected TASK/{GENES}, TASK/splits); give the benchmark's own folder")
    return found


def open_task(root: Path, name: str) -> Task:
    """The folds and genes of a task; no patch is read.

    Raises:
        InputError: not there, a split without its other half, a sample trained and tested on, or files that lack.
    """
    folder = _folder(root, files.check_name(name, "Task"))
    genes = _genes(folder / GENES)
    patches: dict[str, Path] = {}
    expression: dict[str, Path] = {}
    folds = []
    for place in range(max(1, count_folds(folder / "splits"))):
        halves = []
        for half in ("train", "test"):
            path = folder / "splits" / f"{half}_{place}.csv"
            rows = _split(path)
            for sample, *given in rows:
                for paths, text in zip((patches, expression), given, strict=True):
                    if paths.setdefault(sample, _inside(folder, text, path)) != folder / text:
                        raise InputError(f"{path}: {sample} is {text}, elsewhere {paths[sample].name}; {_REMEDY}")
            halves.append(tuple(row[0] for row in rows))
        if both := sorted(set(halves[0]) & set(halves[1])):
            raise InputError(
                f"{folder / 'splits'}: fold {place} trains and tests on {both[0]}; correct the split files"
            )
        folds.append(Fold(*halves))
    return Task(folder, genes, tuple(folds), patches, expression)


def _folder(root: Path, name: str) -> Path:
    """Of a task, by any of its names. Raises InputError where it is there under two."""
    called = ALIASES.get(name, name)
    every = [called, *(alias for alias, of in ALIASES.items() if of == called)]
    there = [each for each in every if (root / each / GENES).is_file()]
    if len(there) > 1:
        raise InputError(f"{root} has the folders {' and '.join(there)}, which are one task; keep one of them")
    return root / (there[0] if there else name)


def _genes(path: Path) -> tuple[str, ...]:
    values = json_files.read(path, remedy=_REMEDY).get("genes")
    if not isinstance(values, list) or not values or not all(isinstance(gene, str) and gene for gene in values):
        raise InputError(f'{path}: expected {{"genes": [...]}}, a list of names; {_REMEDY}')
    if len(set(values)) < len(values):
        raise InputError(f"{path}: a gene is listed twice; {_REMEDY}")
    return tuple(values)


def count_folds(folder: Path, halves: Sequence[str] = ("train", "test")) -> int:
    """How many folds' files train_0.csv, test_0.csv, train_1.csv, ... there are.

    Args:
        halves: which of the two a fold has.

    Raises:
        InputError: one without its other half, or a gap.
    """
    names = [path.name for path in folder.glob("*.csv")] if folder.is_dir() else []
    found = {match[0] for name in names if (match := re.fullmatch(rf"({'|'.join(halves)})_[0-9]+\.csv", name))}
    count = max((int(re.findall(r"[0-9]+", name)[0]) + 1 for name in found), default=0)
    expected = [f"{half}_{place}.csv" for place in range(min(count, len(found) + 1)) for half in halves]
    if lacking := [name for name in expected if name not in found]:
        raise InputError(f"{folder}: {lacking[0]} not found; folds are counted from 0 on, without a gap: {_REMEDY}")
    return count


def _split(path: Path) -> list[tuple[str, ...]]:
    """[samples] of name and two paths."""
    header, *rows = _text.read_rows(path, ",")
    found = list(zip(*_text.columns(path, header, rows, _COLUMNS), strict=True))
    names = [files.check_name(row[0], f"{path}: sample") for row in found]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path}: {'a sample is listed twice' if names else 'no sample in it'}; {_REMEDY}")
    return found


def _inside(folder: Path, text: str, origin: Path) -> Path:
    """A file of the task. Raises InputError where it is elsewhere, or not there."""
    if fault := files.fault_of_path(text):
        raise InputError(f"{origin}: path {files.shown(text)} {fault}; paths are relative to {folder}")
    if not files.is_there(folder / text):
        raise InputError(f"{folder / text}: not found, and {origin.name} names it; {_REMEDY}")
    return folder / text


# -------------------------------------------------------------------------------------------------------- samples


def read_sample(task: Task, name: str) -> Sample:
    """Barcodes, places and targets of a sample's patches, in the order of the patches.

    Raises:
        InputError: damaged; a patch without a spot of its barcode, or far from it; a gene that was not measured; counts
            that are not raw.
    """
    path, table = task.patches[name], task.expression[name]
    patches = patch_file.read(path)
    barcodes = patches.barcodes
    with _h5ad_file.opened(table) as file:
        spots = _h5ad_file.table(file, "obs", table).index.to_numpy(dtype=str)
        _matrix.check_unique(spots, table, "spot")
        spot_xy = np.asarray(_h5ad_file.element(file, "obsm/spatial", table))
        if spot_xy.shape != (len(spots), 2) or spot_xy.dtype.kind not in "iuf":
            raise InputError(
                f"{table}: obsm['spatial'] is {spot_xy.dtype} {spot_xy.shape}, expected (x, y) of each spot"
            )
        symbols = _h5ad_file.table(file, "var", table).index.to_numpy(dtype=str)
        columns = _columns(symbols, task, table)
        counts = _h5ad_file.element(file, "X", table)
    if np.shape(counts) != (len(spots), len(symbols)):
        raise InputError(f"{table}: X is {np.shape(counts)}, but obs and var are {len(spots)} and {len(symbols)} long")
    row_of = {spot: row for row, spot in enumerate(spots.tolist())}
    if lost := [barcode for barcode in barcodes.tolist() if barcode not in row_of]:
        raise InputError(
            f"{path}: {len(lost)} of {len(barcodes)} patches have no spot in {table.name} (e.g. barcode {lost[0]}); "
            "these files are not of one sample"
        )
    rows = np.array([row_of[barcode] for barcode in barcodes.tolist()], np.int64)
    chosen = _matrix.as_counts(counts, table, lambda row, column: f"spot {spots[row]}, gene {symbols[column]}")[rows]
    centre_xy = spot_xy[rows].astype(np.float64)
    targets = np.log1p(csr.take_columns(chosen, columns).toarray().astype(np.float64))
    return Sample(name, barcodes, centre_xy, targets, patches.convention(centre_xy)[0], len(spots))


def _columns(symbols: np.ndarray, task: Task, path: Path) -> np.ndarray:
    """[G] where the task's genes are among the symbols."""
    places = [np.flatnonzero(symbols == gene) for gene in task.genes]
    odd = [gene for gene, place in zip(task.genes, places, strict=True) if len(place) != 1]
    if odd:
        raise InputError(
            f"{path}: {len(odd)} of the {len(places)} genes of {task.name}/{GENES} are not measured exactly once (e.g. "
            f"{odd[0]}); another gene list, or another sample's file"
        )
    return np.concatenate(places)


# ---------------------------------------------------------------------------------------------------- same tissue


def check_apart(task: Task, fingerprints: Mapping[str, np.ndarray]) -> None:
    """Raises InputError where images of a fold's test samples are among those that it trains on.

    Args:
        fingerprints: {sample: [N] uint64} of its patches, see `repeats.fingerprints`.
    """
    for place, fold in enumerate(task.folds):
        for test in fold.test:
            for train in fold.train:
                if count := repeats.shared(fingerprints[test], fingerprints[train]):
                    raise InputError(
                        f"{task.folder / 'splits'}: fold {place} tests on {test} and trains on {train}, which share "
                        f"{count} images, mirrored or not: one tissue twice; take one of them out of the split files"
                    )
