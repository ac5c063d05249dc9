"""Visium HD by cells, nuclei, squares or discs, where its own bins are not wanted.

Cells are those of Space Ranger 4, with its counts; nuclei are those of a segmentation of the slide; their counts, and
those of squares and discs, are the sums of the 2 um bins whose centre they hold.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import files
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _areas, _matrix, _outlines, _patients, _pool, _sections, _space_ranger
from data_prep.readers._sections import Reading
from data_prep.readers._space_ranger import Outputs
from data_prep.section import Section
from data_prep.spots import Spots

NUCLEI = "nuclei"
BIN_UM = 2  # of the bins that are pooled
_MATRIX, _CELLS = "filtered_feature_cell_matrix.h5", "cell_segmentations.geojson"
_BARCODE = re.compile(r"^cellid_0*(\d+)(-\d+)?$")
_ROWS = 200_000  # bins pooled at a time


def there(sample: Outputs) -> bool:
    """Whether Space Ranger 4 segmented a sample's cells."""
    return (sample.folder / _space_ranger.CELLS_FOLDER).is_dir()


def lacking(sample: Outputs, areas: _areas.Areas, *, bins: bool) -> list[str]:
    """What a sample lacks for these areas, but for its image.

    Args:
        bins: whether it has 2 um bins.
    """
    if areas.kind == _areas.CELLS:
        cells = _cells(sample)
        lacks = [
            f"{file} not found in {_space_ranger.CELLS_FOLDER}"
            for file in (_MATRIX, _CELLS)
            if not files.is_there(cells.folder / file)
        ]
        return lacks + ([] if cells.find(_space_ranger.FACTORS) else [cells.lacks((_space_ranger.FACTORS,))])
    lacks = [] if bins else [f"no bins of {BIN_UM} um, of which {areas.kind} are made, found"]
    if areas.kind == _areas.NUCLEI and not _segmentations(sample):
        lacks.append(f"nuclei not found (expected {sample.name}_{NUCLEI}.geojson|.tif|.png)")
    return lacks


def read_cells(path: Path, sample: Outputs, reading: Reading) -> Section:
    """The cells that Space Ranger segmented, in the order of its matrix."""
    out = _cells(sample)
    factors = _space_ranger.read_scale_factors(out.need(_space_ranger.FACTORS), "microns_per_pixel")
    um_per_px, source, scale_notes = _sections.scale(
        sample.name, user_um=reading.um_per_px, file_um=factors["microns_per_pixel"], remedy="give --source-um-per-px"
    )
    image_path, px_scale, image_notes = _space_ranger.place_image(sample, out, reading.image, factors)
    matrix = _matrix.read_h5(out.folder / _MATRIX)
    features, notes = _outlines.read_geojson(out.folder / _CELLS)
    number = {_number(out.folder / _CELLS, feature): place for place, feature in enumerate(features)}
    if len(number) < len(features):
        raise InputError(f"{out.folder / _CELLS}: a cell_id is that of several features; copy the file again")
    matches = [_BARCODE.match(barcode) for barcode in matrix.barcode.tolist()]
    place = np.array([number.get(int(match[1]), -1) if match else -1 for match in matches], np.int64)
    rows = np.flatnonzero(place >= 0)
    if not len(rows):
        raise InputError(
            f"{matrix.path}: none of its cells is in {_CELLS} (e.g. "
            f"{files.shown(str(next(iter(matrix.barcode), 'nothing')))} against cell_id {next(iter(number))}); the two "
            "belong to different samples"
        )
    if lost := len(place) - len(rows):
        notes += (counted(lost, f"cells of {_MATRIX} have no outline and were left out"),)
    if empty := len(features) - len(rows):
        notes += (counted(empty, f"cells of {_CELLS} have no counts and were left out"),)
    spots = Spots.polygons([features[at].rings for at in place[rows].tolist()], matrix.barcode[rows])
    named, counts, gene_notes = reading.name_genes(matrix.gene_id.tolist(), matrix.counts[rows], matrix.symbol.tolist())
    patient = _patients.find(path, sample.name)
    return Section(
        name=sample.name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=image_path,
        genes=named,
        counts=counts,
        spots=spots.within((0, 0), 1 / px_scale),
        um_per_px=um_per_px / px_scale,
        um_per_px_source=source,
        layout="visium_hd",
        synthetic=_sections.is_synthetic(out.folder),
        notes=(*patient.notes, *scale_notes, *image_notes, *matrix.notes, *notes, *gene_notes),
    )


def pool(bins: Section, sample: Outputs, areas: _areas.Areas, px_scale: float) -> Section:
    """The nuclei, squares or discs that hold counts of a section of 2 um bins.

    Args:
        px_scale: pixels of its image per full-resolution pixel, in which nuclei are.
    """
    spots, counts, notes = (
        _nuclei(bins, sample, px_scale) if areas.kind == _areas.NUCLEI else (*_lattice(bins, areas), ())
    )
    return dataclasses.replace(bins, name=sample.name, spots=spots, counts=counts, notes=(*bins.notes, *notes))


def _nuclei(bins: Section, sample: Outputs, px_scale: float) -> tuple[Spots, scipy.sparse.csr_array, tuple[str, ...]]:
    found = _segmentations(sample)
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise InputError(f"Section {sample.name!r}: several segmentations ({names}), expected one; keep one")
    (path,) = found
    spots, notes = _outlines.read(path)
    spots = spots.within((0, 0), 1 / px_scale)
    counts, several = _pool.sum_in_polygons(spots, bins.spots.xy, bins.counts)
    filled = np.flatnonzero(np.diff(counts.indptr))
    if not len(filled):
        raise InputError(
            f"{path}: no nucleus holds the centre of a bin with counts; give the segmentation of this slide"
        )
    if empty := len(spots) - len(filled):
        notes += (counted(empty, f"nuclei of {path.name} hold no counts and were left out"),)
    if several:
        notes += (f"{several} bins lie in several nuclei and count in each",)
    return spots[filled], counts[filled], notes


def _lattice(bins: Section, areas: _areas.Areas) -> tuple[Spots, scipy.sparse.csr_array]:
    lattice = _pool.Lattice(areas, bins.um_per_px, len(bins.genes))
    for start in range(0, len(bins.spots), _ROWS):
        part = bins.counts[start : start + _ROWS].tocoo()
        row, gene = part.coords
        lattice.add(bins.spots.xy[start : start + _ROWS][row], gene, part.data)
    return lattice.pooled()


def _cells(sample: Outputs) -> Outputs:
    """The files of the cells, as those of a sample."""
    return Outputs(sample.name, sample.folder / _space_ranger.CELLS_FOLDER)


def _number(path: Path, feature: _outlines.Feature) -> int:
    """The number by which the matrix calls a cell.

    Raises:
        InputError: none.
    """
    found = feature.properties.get("cell_id")
    match = _BARCODE.match(found) if isinstance(found, str) else None
    if match:
        return int(match[1])
    if not isinstance(found, int) or isinstance(found, bool):
        raise InputError(
            f"{path}: a feature has cell_id {files.shown(str(found))[:60]}, expected a whole number; copy the file "
            "again"
        )
    return found


def _segmentations(sample: Outputs) -> list[Path]:
    """Files of nuclei, <sample>_nuclei or nuclei by name, where the sample's slide may lie."""
    names = {f"{stem}{NUCLEI}{suffix}" for stem in (f"{sample.name}_", sample.prefix)
             for suffix in (*_outlines.GEOJSON, *_outlines.IMAGES)}  # fmt: skip
    return [file for place in _space_ranger.places(sample) if place.is_dir()
            for file in sorted(place.iterdir()) if file.name in names]  # fmt: skip
