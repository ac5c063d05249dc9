"""One section of Visium or Visium HD: its matrix and positions joined, its scale, and its slide."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_prep import counts, on_disk
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _array_fit, _patients, _positions, _sections, _space_ranger
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import SQUARE, Spots


class Array(NamedTuple):
    """The spots of a layout: of kind DISC or SQUARE; their radius or side; their pitch, and the (column, row) steps of
    the array in units of that; and whether a filtered matrix lists those without any count, see `_positions.join`."""

    kind: int
    size_um: float
    pitch_um: float
    steps: np.ndarray
    every_spot: bool


def read_section(
    name: str,
    sample: _space_ranger.Outputs,
    out: _space_ranger.Outputs,
    factors: Mapping[str, float],
    array: Array,
    patient: _patients.Patient,
    reading: Reading,
    *,
    layout: str,
    notes: Sequence[str] = (),
) -> Section:
    """A section: its spots under tissue, in matrix order.

    Args:
        sample: the files the slide lies next to.
        out: the other files.
        factors: read from them.

    Raises:
        InputError: a missing, malformed or contradictory file, with its place and what to do.
    """
    positions = _positions.read_positions(out.need(*_positions.FILES), reading.scratch)
    matrix = _space_ranger.read_matrix(out, reading.scratch)
    rows, places, join_notes = _positions.join(matrix, positions, every_spot=array.every_spot)
    if array.kind == SQUARE and reading.bin_blocks is not None:
        inside = in_blocks(positions.array_xy[places], array.size_um, *reading.bin_blocks)
        join_notes += (
            counted(int((~inside).sum()), "bins between the blocks that --bin-blocks asks for were left out"),
        )
        rows, places = rows[inside], places[inside]
    grid_xy = positions.array_xy if np.all(array.steps == 1) else positions.array_xy * array.steps
    _array_fit.check(positions.path, positions.barcode, grid_xy, positions.pixel_xy)
    pitch = _array_fit.pitch_px(grid_xy, positions.pixel_xy)
    um_per_px, source, scale_notes = _sections.scale(
        name,
        file_um=factors.get("microns_per_pixel"),
        pitch_um=array.pitch_um / pitch if pitch else None,
        user_um=reading.um_per_px,
        remedy="too few spots to measure their pitch; give --source-um-per-px",
    )
    image_path, px_scale, image_notes = _space_ranger.place_image(sample, out, reading.image, factors)
    named, kept, gene_notes = reading.name_genes(
        matrix.gene_id.tolist(), counts.chosen(matrix.counts, rows), matrix.symbol.tolist()
    )
    turn_notes: tuple[str, ...] = ()
    affine = _array_fit.grid_affine(grid_xy, positions.pixel_xy)
    if affine is not None and array.kind == SQUARE:
        turn_notes = _array_fit.turn_notes(_array_fit.turned_degrees(affine))
    size_px = np.float32(array.size_um / um_per_px * px_scale)
    xy, ids = on_disk.take(positions.pixel_xy, places, times=px_scale), matrix.barcode
    ids = ids if len(rows) == len(ids) else on_disk.take(ids, rows)
    notes = (*notes, *matrix.notes, *join_notes, *gene_notes)
    del positions, grid_xy, matrix, rows, places  # gigabytes of a whole slide of 2 um bins
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=image_path,
        genes=named,
        counts=kept,
        spots=Spots.alike(array.kind, xy, size_px, ids),
        um_per_px=um_per_px / px_scale,
        um_per_px_source=source,
        layout=layout,
        synthetic=_sections.is_synthetic(out.folder),
        notes=(*patient.notes, *scale_notes, *image_notes, *turn_notes, *notes),
    )


def in_blocks(array_xy: np.ndarray, size_um: float, side: int, every_um: float) -> np.ndarray:
    """[S] bool: which bins lie in blocks of `side` x `side` of them, one every `every_um` along the array.

    Args:
        array_xy: [S, 2] whole numbers (column, row) on the array.

    Raises:
        InputError: blocks of no bins, or no distance between them.
    """
    if not (side >= 1 and every_um > 0):
        raise InputError(f"--bin-blocks is {side}/{every_um:g}, expected 1 bin or more, and a distance above 0")
    from_start = np.mod(np.round(array_xy) * size_um, every_um)  # um from where a block begins
    return np.all(from_start < side * size_um, axis=1)
