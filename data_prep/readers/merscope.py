"""merscope: Vizgen MERSCOPE as its software writes it, with an H&E image that was aligned to it.

    [<experiment>/]<region>/
        cell_by_gene.csv                               a row a cell, a column a gene or a Blank control
        cell_boundaries.parquet                        EntityID, ZIndex, Geometry, in um; for cells
        detected_transcripts.csv                       gene, global_x, global_y, in um; or .parquet; for squares, discs
        images/micron_to_mosaic_pixel_transform.csv    3 x 3: um to pixels of MERSCOPE's own images
        <any name>_he_imagealignment.csv               3 x 3: pixels of the H&E image to pixels of those
        <any name>_he_image.tif                        the H&E image
    patients.csv                                       optional: section,patient

In place of the alignment, <any name>_micron_to_he_pixel_transform.csv may lead from um to pixels of the H&E image. The
section has the region's name, behind its experiment's where the source holds experiments. Its spots are the cells, as
polygons; or, with `--areas squares:100` or `discs:55:100`, squares or discs that transcripts are pooled to.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from data_prep import files
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import (
    _aligned,
    _areas,
    _count_table,
    _matrix,
    _patients,
    _pool,
    _sections,
    _segmented,
    _space_ranger,
    _transcripts,
    _wkb,
)
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import Spots, moved

AREAS = (_areas.CELLS, _areas.SQUARES, _areas.DISCS)

_COUNTS, _METADATA = "cell_by_gene.csv", "cell_metadata.csv"
_BOUNDARIES, _OLDER_BOUNDARIES = "cell_boundaries.parquet", "cell_boundaries"
_TRANSCRIPTS = ("detected_transcripts.csv", "detected_transcripts.parquet")
_MARKS = ((_COUNTS,), (_METADATA,), (_BOUNDARIES, _OLDER_BOUNDARIES), _TRANSCRIPTS)
_MOSAIC = "micron_to_mosaic_pixel_transform.csv"
_FROM_UM = re.compile(r"^(?!\.).*micron_to_he_pixel_transform\.csv$")
_NOT_SLIDES = re.compile(r"^(mosaic_|summary\.)", re.IGNORECASE)  # images that MERSCOPE writes itself
_BLANK = "blank"  # how the names of controls begin, in any case
_MOST_CELLS = 10_000_000
_ROWS = 50_000  # outlines read at a time


def detect(path: Path) -> str | None:
    """Why `path` is in the MERSCOPE layout, or None."""
    found = _regions(path)
    return f"it holds the cells or transcripts of {counted(len(found), 'MERSCOPE regions')}" if found else None


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every region -> what it lacks, "" when complete."""
    regions = _regions(path)
    if not regions:
        raise InputError(
            f"{path}: no MERSCOPE output found; give the folder that holds {_COUNTS}, or one of such folders"
        )
    kind = _areas.parse(reading.areas, AREAS).kind
    found = {}
    for name, folder in regions.items():
        lacks = [] if _find(folder, _COUNTS) else [f"{_COUNTS} not found"]
        if kind != _areas.CELLS and not _find(folder, *_TRANSCRIPTS):
            lacks.append(f"{' or '.join(_TRANSCRIPTS)} not found")
        if kind == _areas.CELLS and not files.is_there(folder / _BOUNDARIES):
            older = f" (HDF5 files in {_OLDER_BOUNDARIES}/ are not read; --areas squares:100 needs no boundaries)"
            lacks.append(f"{_BOUNDARIES} not found" + older * (folder / _OLDER_BOUNDARIES).is_dir())
        found[name] = ", ".join([*lacks, *_lacks_of_image(folder, name, reading)])
    return found


check = _sections.check_one_image


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One region: its cells in the order of `cell_by_gene.csv`, or the squares or discs that hold a transcript."""
    folder, areas = _regions(path)[name], _areas.parse(reading.areas, AREAS)
    to_image, um_per_px = _placed(folder, name)
    um_per_px, source, scale_notes = _sections.scale(
        name, user_um=reading.um_per_px, file_um=um_per_px, remedy="give --source-um-per-px"
    )
    table = _need(folder, _COUNTS)
    if areas.kind == _areas.CELLS:
        matrix = _counts(table)
        genes, (spots, counts, notes) = matrix.symbol.tolist(), _cells(folder / _BOUNDARIES, matrix, to_image)
    else:
        genes = [gene for gene in _count_table.genes(table) if not _is_blank(gene)]
        lattice = _pool.Lattice(areas, um_per_px, len(genes))
        spots, counts, notes = _pooled(_need(folder, *_TRANSCRIPTS), genes, to_image, lattice)
    named, counts, gene_notes = reading.name_genes(genes, counts)
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
        layout="merscope",
        synthetic=_sections.is_synthetic(folder),
        notes=(*patient.notes, *scale_notes, *notes, *gene_notes),
    )


# ------------------------------------------------------------------------------------------------------------- files


def _regions(path: Path) -> dict[str, Path]:
    """Region -> its folder: `path` itself, or in it, or in the folders in it."""
    path = path.resolve()
    if _is_region(path):
        return {path.name: path}
    found: dict[str, Path] = {}
    for folder in _space_ranger.folders(path):
        regions = _space_ranger.folders(folder)
        below = {f"{folder.name}_{region.name}": region for region in regions if _is_region(region)}
        for name, region in ({folder.name: folder} if _is_region(folder) else below).items():
            if name in found:
                raise InputError(f"{region} and {found[name]} would both be section {name}; rename one of the folders")
            found[name] = region
    return found


def _is_region(folder: Path) -> bool:
    """Whether two of MERSCOPE's tables are in a folder, as one of them may be missing."""
    return (
        sum(any((folder / name).exists() or _gzipped(folder, name).exists() for name in names) for names in _MARKS) > 1
    )


def _gzipped(folder: Path, name: str) -> Path:
    return folder / f"{name}.gz"


def _find(folder: Path, *names: str) -> Path | None:
    """The first of the files, gzipped or not."""
    paths = (path for name in names for path in (folder / name, _gzipped(folder, name)))
    return next(filter(files.is_there, paths), None)


def _need(folder: Path, *names: str) -> Path:
    path = _find(folder, *names)
    if path is None:
        raise InputError(f"{folder}: {' or '.join(names)} not found; copy or download it again")
    return path


# ------------------------------------------------------------------------------------------------------- H&E image


def _places(folder: Path) -> list[Path]:
    """Where what belongs to a region may lie next to its files."""
    return [folder, folder / "image", folder / "images"]


def _alignments(folder: Path) -> list[Path]:
    return [file for pattern in (_aligned.ALIGNMENT, _FROM_UM) for file in _aligned.find(_places(folder), pattern)]


def _mosaic(folder: Path) -> list[Path]:
    return [place / _MOSAIC for place in _places(folder) if files.is_there(place / _MOSAIC)]


def _lacks_of_image(folder: Path, name: str, reading: Reading) -> list[str]:
    """What a region lacks of the H&E image, which MERSCOPE does not take."""
    lacks, found = [], _alignments(folder)
    if not found:
        lacks.append(
            f"alignment of the H&E image not found (expected {_aligned.NAME}, 3 x 3 from its pixels to those of "
            "mosaic_*.tif, or *_micron_to_he_pixel_transform.csv, 3 x 3 from um to its pixels)"
        )
    if any(not _FROM_UM.match(file.name) for file in found) and not _mosaic(folder):
        lacks.append(f"images/{_MOSAIC} not found")
    if not _aligned.images(_places(folder), name, reading, _NOT_SLIDES):
        lacks.append("H&E image not found (MERSCOPE takes none; expected *_he_image.tif, or --image FILE_OR_FOLDER)")
    return lacks


def _placed(folder: Path, name: str) -> tuple[np.ndarray, float]:
    """[2, 3] from um to pixels of the H&E image, and the image's um per px."""
    path = _aligned.only(name, _alignments(folder))
    matrix = _aligned.read_matrix(path, "copy the file again, or align the image again")
    if _FROM_UM.match(path.name):
        return _aligned.placed(np.linalg.inv(matrix))
    (mosaic, *_) = _mosaic(folder)
    return _aligned.placed(np.linalg.inv(_aligned.read_matrix(mosaic, "copy the file again")) @ matrix)


# ---------------------------------------------------------------------------------------------------------- counts


def _is_blank(gene: str) -> bool:
    return gene.casefold().startswith(_BLANK)


def _counts(path: Path) -> _matrix.CountMatrix:
    """The counts of cells, without those of Blank controls."""
    cells, genes, counts = _count_table.read(path, most_rows=_MOST_CELLS)
    names = np.array(cells, str)
    _matrix.check_unique(names, path, "cell")
    blank = np.array([_is_blank(gene) for gene in genes])
    symbol = np.array(genes, str)[~blank]
    text = f"Blank control columns of {path.name} were left out, with {counts[:, blank].sum()} counts"
    notes = (counted(int(blank.sum()), text),) if blank.any() else ()
    return _matrix.CountMatrix(path, names, symbol, symbol, counts[:, ~blank], notes)


def _cells(
    path: Path, matrix: _matrix.CountMatrix, to_image: np.ndarray
) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    """The cells that have a boundary, as they are outlined on the middle of their planes, and their counts."""
    from data_prep.readers import _parquet  # the one module that cannot be without pyarrow

    parts = list(_parquet.batches(path, texts=["EntityID"], numbers=["ZIndex"]))
    if not parts:
        raise InputError(f"{path}: holds no boundary of a cell; copy it again, or pool with --areas squares:100")
    rows = _segmented.named([part["EntityID"] for part in parts], matrix)
    chosen = (rows.place >= 0) & _on_middle_plane(rows.cell, np.concatenate([part["ZIndex"] for part in parts]))
    geometry = next((name for name in _parquet.column_names(path) if name.casefold() == "geometry"), "Geometry")
    rings: list[np.ndarray] = []
    row_of_ring: list[int] = []
    first = 0
    for part in _parquet.batches(path, blobs=[geometry], rows=_ROWS):
        blobs = part[geometry]
        wanted = np.flatnonzero(chosen[first : first + len(blobs)]).tolist()
        for row, outline in zip(wanted, _outlines(path, [blobs[row] for row in wanted]), strict=True):
            rings += outline
            row_of_ring += [first + row] * len(outline)
        first += len(blobs)
    start = np.cumsum([0, *map(len, rings)])[:-1]
    xy = moved(np.concatenate([*rings, np.zeros((0, 2))]), to_image)
    spots, counts, notes = _segmented.joined(path, matrix, rows, xy, start, rows.place[row_of_ring])
    return spots, counts, (*matrix.notes, *notes)


def _on_middle_plane(cell: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """[N] bool: rows on the middle one of the planes that their cell is on; of two in the middle, the lower.

    Args:
        cell: [N] int64, numbers from 0, at least one.
        plane: [N] float64.
    """
    order = np.lexsort((plane, cell))
    cells, planes = cell[order], plane[order]
    new = np.append(True, (np.diff(cells) != 0) | (np.diff(planes) != 0))
    of_cell, first, times = np.unique(cells[new], return_index=True, return_counts=True)
    middle = np.zeros(int(cell.max()) + 1)
    middle[of_cell] = planes[new][first + (times - 1) // 2]
    return plane == middle[cell]


def _outlines(path: Path, blobs: Sequence[bytes]) -> list[list[np.ndarray]]:
    """The rings of polygons in Well-Known Binary."""
    try:
        found: Any = _wkb.decode(blobs)
        if isinstance(found, np.ndarray):
            raise ValueError("points")
    except ValueError as error:
        raise InputError(
            f"{path}: boundaries are {error}, expected polygons as Well-Known Binary; write them again"
        ) from None
    return found


def _pooled(
    path: Path, genes: Sequence[str], to_image: np.ndarray, lattice: _pool.Lattice
) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    """The squares or discs that hold a transcript of a gene, and their counts."""
    import pyarrow.compute

    from data_prep.readers import _delimited, _parquet

    read = _parquet.batches if path.suffix == ".parquet" else _delimited.batches
    is_blank = pyarrow.compute.MatchSubstringOptions(_BLANK, ignore_case=True)
    blanks = 0

    def parts() -> Iterator[tuple[Any, np.ndarray]]:
        nonlocal blanks
        for part in read(path, texts=["gene"], numbers=["global_x", "global_y"]):
            blank = pyarrow.compute.call_function("starts_with", [part["gene"]], is_blank)
            blanks += int(np.sum(blank.to_numpy(zero_copy_only=False)))
            yield part["gene"], np.column_stack([part["global_x"], part["global_y"]])

    spots, counts, others = _transcripts.pooled(path, parts(), genes, to_image, lattice, panel=_COUNTS)
    texts = (
        (blanks, "transcripts of Blank controls were left out"),
        (others - blanks, f"transcripts of no gene of {_COUNTS} were left out"),
    )
    return spots, counts, tuple(counted(number, text) for number, text in texts if number)
