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
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import files, json_files
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _areas, _matrix, _patients, _pool, _sections, _space_ranger, _text
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import Spots, moved

AREAS = (_areas.CELLS, _areas.SQUARES, _areas.DISCS)
LEAST_QUALITY = 20  # of a transcript that counts, as in Xenium's own matrix

_EXPERIMENT, _MATRIX = "experiment.xenium", "cell_feature_matrix.h5"
_BOUNDARIES, _TRANSCRIPTS = "cell_boundaries.parquet", "transcripts.parquet"
_ALIGNMENT = re.compile(r"^(?!\.).*imagealignment\.csv$")
_NOT_SLIDES = re.compile(r"^(morphology|nucle|cells)", re.IGNORECASE)  # images that Xenium writes itself
_HE = re.compile(r"he_image\.", re.IGNORECASE)
_OTHER_SCALE = 0.05  # between the two axes of the image: more is no turned and enlarged copy


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
        if not _alignments(folder):
            lacks.append("alignment of the H&E image not found (expected *_he_imagealignment.csv)")
        if not _images(folder, name, reading):
            lacks.append("H&E image not found (expected *_he_image.ome.tif, or --image FILE_OR_FOLDER)")
        found[name] = ", ".join(lacks)
    return found


check = _sections.check_one_image


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One run: its cells in the order of the matrix, or the squares or discs that hold a transcript."""
    folder, areas = _runs(path)[name], _areas.parse(reading.areas, AREAS)
    (alignment,) = _only(name, _alignments(folder), "alignments")
    to_image, um_per_px = _to_image(alignment, _pixel_size(folder / _EXPERIMENT))
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
        image_path=_sections.only_image(name, _images(folder, name, reading)),
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


def _alignments(folder: Path) -> list[Path]:
    return [file for place in _places(folder) for file in _sections.find(place, _ALIGNMENT, 1)]


def _images(folder: Path, name: str, reading: Reading) -> list[Path]:
    """The H&E image: as given, or next to the run's files; those so named before others."""
    if reading.image is not None:
        return _sections.given_image(reading.image, name)
    there = [file for place in _places(folder) for file in _sections.images_in(place)]
    there = [file for file in there if not _NOT_SLIDES.search(file.name)]
    return [file for file in there if _HE.search(file.name)] or there


def _only(name: str, found: list[Path], what: str) -> list[Path]:
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise InputError(f"Section {name!r}: {len(found)} {what} ({names}), expected one; keep that of the H&E image")
    return found


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


def _to_image(path: Path, pixel_um: float) -> tuple[np.ndarray, float]:
    """[2, 3] from um of Xenium to pixels of the H&E image, both counted from a corner; and the image's um per px.

    The file holds the opposite direction, in pixels (10x Genomics, "Xenium H&E image alignment").

    Raises:
        InputError: no 3 x 3 matrix of numbers, or one that no image could have been aligned with.
    """
    rows = _text.read_rows(path, ",")
    if len(rows) != 3 or any(len(row) != 3 for row in rows):
        raise InputError(f"{path}: {len(rows)} rows of {len(rows[0])} numbers, expected 3 of 3; copy the file again")
    values = [
        _text.numbers(path, f"{column + 1}", [row[column] for row in rows], lines=(1, 2, 3)) for column in range(3)
    ]
    matrix = np.column_stack(values)
    large, small = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if not np.allclose(matrix[2], [0, 0, 1]) or not large < (1 + _OTHER_SCALE) * small:
        raise InputError(
            f"{path}: no turned, moved and enlarged copy of an image (scales {large:.4g} and {small:.4g}, last row "
            f"{matrix[2].tolist()}); copy the file again, or align the image again in Xenium Explorer"
        )
    um = np.diag([pixel_um, pixel_um, 1.0]) @ matrix
    return np.linalg.inv(um)[:2], float(pixel_um * np.sqrt(large * small))


def _cells(
    path: Path, matrix: _matrix.CountMatrix, to_image: np.ndarray
) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    """The cells that have a boundary, in the order of the matrix, and their counts."""
    import pyarrow  # which an extra brings, as `_parquet`'s

    from data_prep.readers import _parquet

    rings = ["label_id"] if "label_id" in _parquet.column_names(path) else []  # where a cell has several
    parts = list(_parquet.batches(path, texts=["cell_id"], numbers=["vertex_x", "vertex_y", *rings]))
    if not parts:
        raise InputError(f"{path}: holds no boundary of a cell; copy it again, or pool with --areas squares:100")
    cell = pyarrow.chunked_array([part["cell_id"] for part in parts]).dictionary_encode().combine_chunks()
    x, y, *label = (np.concatenate([part[key] for part in parts]) for key in ("vertex_x", "vertex_y", *rings))
    number = np.asarray(cell.indices)
    place = _matrix.places_of(np.asarray(cell.dictionary.to_numpy(zero_copy_only=False), str), matrix.barcode)[number]
    changes = [np.diff(values, prepend=values[:1] - 1) != 0 for values in (number, *label)]
    start = np.flatnonzero(np.any(changes, axis=0))
    lost = len(np.unique(number[place < 0]))
    spots, short = _outlined(moved(np.column_stack([x, y]), to_image), start, place[start], matrix.barcode)
    row = _matrix.places_of(spots.id, matrix.barcode)
    without = len(matrix.barcode) - len(row)
    if not len(row):
        raise InputError(
            f"{path}: none of its cells is in {matrix.path.name} (e.g. {files.shown(str(cell.dictionary[0]))} against "
            f"{files.shown(str(next(iter(matrix.barcode), 'nothing')))}); the two belong to different runs"
        )
    texts = (
        (lost, f"cells of {path.name} are not in {matrix.path.name} and were left out"),
        (short, "outlines of fewer than 3 points were left out"),
        (without, f"cells of {matrix.path.name} have no boundary and were left out"),
    )
    return spots, matrix.counts[row], tuple(counted(number, text) for number, text in texts if number)


def _outlined(xy: np.ndarray, start: np.ndarray, place: np.ndarray, names: np.ndarray) -> tuple[Spots, int]:
    """Polygons in the order of `names`, and how many rings are too short for one.

    Args:
        xy: [V, 2] vertices, ring after ring, each of which may end as it begins.
        start: [R] where rings begin.
        place: [R] whose each is, a position in `names`; -1 for nobody's.
    """
    stop = np.append(start[1:], len(xy))
    stop = stop - np.all(xy[start] == xy[stop - 1], axis=1)  # closed
    whole = stop - start > 2
    kept = np.flatnonzero(whole & (place >= 0))
    order = kept[np.argsort(place[kept], kind="stable")]
    of_cell: dict[int, list[np.ndarray]] = {}
    for ring in order.tolist():
        of_cell.setdefault(int(place[ring]), []).append(xy[start[ring] : stop[ring]])
    return Spots.polygons(list(of_cell.values()), names[list(of_cell)]), int(np.sum(~whole))


def _pooled(
    path: Path, matrix: _matrix.CountMatrix, to_image: np.ndarray, lattice: _pool.Lattice
) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    """The squares or discs that hold a transcript of a gene, of Xenium's own least quality, and their counts."""
    import pyarrow
    import pyarrow.compute

    from data_prep.readers import _parquet

    genes = pyarrow.compute.SetLookupOptions(value_set=pyarrow.array(matrix.symbol.tolist(), pyarrow.string()))
    unsure = others = kept = 0
    for part in _parquet.batches(path, texts=["feature_name"], numbers=["x_location", "y_location", "qv"]):
        found = pyarrow.compute.call_function("index_in", [part["feature_name"]], genes)
        gene = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        sure = part["qv"] >= LEAST_QUALITY
        unsure, others = unsure + int(np.sum(~sure)), others + int(np.sum(sure & (gene < 0)))
        rows = np.flatnonzero(sure & (gene >= 0))
        kept += len(rows)
        try:
            xy_um = np.column_stack([part["x_location"][rows], part["y_location"][rows]])
            lattice.add(moved(xy_um, to_image), gene[rows])
        except InputError as error:
            raise InputError(f"{path}: {error}; copy or download it again") from None
    if not kept:
        raise InputError(f"{path}: no transcript of a gene of {matrix.path.name}; the two belong to different runs")
    spots, counts = lattice.pooled()
    return spots, counts, (
        f"{unsure} transcripts of a quality under {LEAST_QUALITY} and {others} of no gene (controls) were left out",
    )  # fmt: skip
