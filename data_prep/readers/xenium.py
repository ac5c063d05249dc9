"""xenium: 10x Xenium as its analyser writes it, with the H&E image that was aligned to it; one run or a folder of runs.

    <run>/[outs/]experiment.xenium                      pixel_size
    <run>/[outs/]cell_feature_matrix.h5                 counts of cells
    <run>/[outs/]cell_boundaries.parquet                cell_id, vertex_x, vertex_y, in um; for cells
    <run>/[outs/]transcripts.parquet                    feature_name, x_location, y_location, qv; for squares, discs
    <run>/[outs/]<any name>_he_imagealignment.csv       3 x 3: pixels of the H&E image to pixels of Xenium's own images
    <run>/[outs/]<any name>_he_image.ome.tif            the H&E image
    patients.csv                                        optional: section,patient

The section has the run's name. Its spots are the cells, as polygons; or, with `--areas squares:100` or `discs:55:100`,
squares or discs that transcripts are pooled to, as HEST-1k does.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from data_prep import files, json_files
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import (
    _aligned,
    _areas,
    _matrix,
    _patients,
    _pool,
    _sections,
    _segmented,
    _space_ranger,
    _transcripts,
)
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import Spots, moved

AREAS = (_areas.CELLS, _areas.SQUARES, _areas.DISCS)
LEAST_QUALITY = 20  # of a transcript that counts, as in Xenium's own matrix

_EXPERIMENT, _MATRIX = "experiment.xenium", "cell_feature_matrix.h5"
_BOUNDARIES, _TRANSCRIPTS = "cell_boundaries.parquet", "transcripts.parquet"
_NOT_SLIDES = re.compile(r"^(morphology|nucle|cells)", re.IGNORECASE)  # images that Xenium writes itself
_ALIGN_AGAIN = "copy the file again, or align the image again in Xenium Explorer"


def detect(path: Path) -> str | None:
    """Why `path` is in the Xenium layout, or None."""
    found = _runs(path)
    return (
        f"it holds {_MATRIX} with the cells or transcripts of {counted(len(found), 'Xenium runs')}" if found else None
    )


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every run -> what it lacks, "" when complete."""
    runs = _runs(path)
    if not runs:
        raise InputError(f"{path}: no Xenium output found; give the folder that holds {_MATRIX} and {_EXPERIMENT}")
    kind = _areas.parse(reading.areas, AREAS).kind
    needed = (_EXPERIMENT, _MATRIX, _BOUNDARIES if kind == _areas.CELLS else _TRANSCRIPTS)
    found = {}
    for name, folder in runs.items():
        lacks = [f"{file} not found" for file in needed if not files.is_there(folder / file)]
        if not _aligned.find(_places(folder), _aligned.ALIGNMENT):
            lacks.append(f"alignment of the H&E image not found (expected {_aligned.NAME})")
        if not _aligned.images(_places(folder), name, reading, _NOT_SLIDES):
            lacks.append("H&E image not found (expected *_he_image.ome.tif, or --image FILE_OR_FOLDER)")
        found[name] = ", ".join(lacks)
    return found


check = _sections.check_one_image


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One run: its cells in the order of the matrix, or the squares or discs that hold a transcript."""
    folder, areas = _runs(path)[name], _areas.parse(reading.areas, AREAS)
    alignment = _aligned.only(name, _aligned.find(_places(folder), _aligned.ALIGNMENT))
    pixel_um = _pixel_size(folder / _EXPERIMENT)
    to_image, um_per_px = _aligned.placed(  # the file leads to Xenium's pixels (10x, "Xenium H&E image alignment")
        np.diag([pixel_um, pixel_um, 1.0]) @ _aligned.read_matrix(alignment, _ALIGN_AGAIN)
    )
    um_per_px, source, scale_notes = _sections.scale(
        name, user_um=reading.um_per_px, file_um=um_per_px, remedy="give --source-um-per-px"
    )
    matrix = _matrix.read_h5(folder / _MATRIX)
    if areas.kind == _areas.CELLS:
        spots, counts, notes = _cells(folder / _BOUNDARIES, matrix, to_image)
    else:
        spots, counts, notes = _pooled(folder / _TRANSCRIPTS, matrix, to_image, _pool.Lattice(
            areas, um_per_px, len(matrix.symbol)))  # fmt: skip
    named, counts, gene_notes = reading.name_genes(matrix.gene_id.tolist(), counts, matrix.symbol.tolist())
    patient = _patients.find(path, name)
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=_sections.only_image(name, _aligned.images(_places(folder), name, reading, _NOT_SLIDES)),
        genes=named,
        counts=counts,
        spots=spots,
        um_per_px=um_per_px,
        um_per_px_source=source,
        layout="xenium",
        synthetic=_sections.is_synthetic(folder),
        notes=(*patient.notes, *scale_notes, *matrix.notes, *notes, *gene_notes),
    )


def _runs(path: Path) -> dict[str, Path]:
    """Run -> its folder."""
    found = _space_ranger.outputs(path, _MATRIX)
    marks = (_EXPERIMENT, _BOUNDARIES, _TRANSCRIPTS)
    return {name: folder for name, folder in found.items() if any((folder / mark).exists() for mark in marks)}


def _places(folder: Path) -> list[Path]:
    """Where what belongs to a run may lie next to its files."""
    return [folder, folder / "image", folder / "images", *([folder.parent] if folder.name == "outs" else [])]


def _pixel_size(path: Path) -> float:
    """um of a pixel of Xenium's own images.

    Raises:
        InputError: no such file, or it does not say.
    """
    remedy = "copy the run's file again"
    value = json_files.read(path, remedy=remedy).get("pixel_size")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 < value < 10:
        raise InputError(f"{path}: pixel_size is {files.shown(str(value))}, expected um, such as 0.2125; {remedy}")
    return float(value)


def _cells(
    path: Path, matrix: _matrix.CountMatrix, to_image: np.ndarray
) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    """The cells that have a boundary, in the order of the matrix, and their counts."""
    from data_prep.readers import _parquet  # the one module that cannot be without pyarrow

    labels = ["label_id"] if "label_id" in _parquet.column_names(path) else []  # where a cell has several outlines
    parts = list(_parquet.batches(path, texts=["cell_id"], numbers=["vertex_x", "vertex_y", *labels]))
    if not parts:
        raise InputError(f"{path}: holds no boundary of a cell; copy it again, or pool with --areas squares:100")
    rows = _segmented.named([part["cell_id"] for part in parts], matrix)
    x, y, *label = (np.concatenate([part[key] for part in parts]) for key in ("vertex_x", "vertex_y", *labels))
    changes = [np.diff(values, prepend=values[:1] - 1) != 0 for values in (rows.cell, *label)]
    start = np.flatnonzero(np.any(changes, axis=0))
    return _segmented.joined(path, matrix, rows, moved(np.column_stack([x, y]), to_image), start, rows.place[start])


def _pooled(
    path: Path, matrix: _matrix.CountMatrix, to_image: np.ndarray, lattice: _pool.Lattice
) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    """The squares or discs that hold a transcript of a gene, of Xenium's own least quality, and their counts."""
    import pyarrow

    from data_prep.readers import _parquet

    unsure = 0

    def parts() -> Iterator[tuple[Any, np.ndarray]]:
        nonlocal unsure
        for part in _parquet.batches(path, texts=["feature_name"], numbers=["x_location", "y_location", "qv"]):
            sure = part["qv"] >= LEAST_QUALITY
            unsure += int(np.sum(~sure))
            xy_um = np.column_stack([part["x_location"], part["y_location"]])
            yield part["feature_name"].filter(pyarrow.array(sure)), xy_um[sure]

    spots, counts, others = _transcripts.pooled(
        path, parts(), matrix.symbol.tolist(), to_image, lattice, panel=matrix.path.name
    )
    return spots, counts, (
        f"{unsure} transcripts of a quality under {LEAST_QUALITY} and {others} of no gene (controls) were left out",
    )  # fmt: skip
