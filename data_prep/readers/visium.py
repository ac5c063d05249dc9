"""visium: 10x Visium as Space Ranger writes it, one sample or a folder of samples.

    <sample>/[outs/][<id>_]filtered_feature_bc_matrix.h5      or the .mtx folder; raw_ where there is no filtered one
    <sample>/[outs/]spatial/tissue_positions[_list].csv       with or without a header
    <sample>/[outs/]spatial/scalefactors_json.json
    <sample>/[outs/]<any name>.tif|.jpg|...                   the full-resolution image, given separately
    patients.csv                                              optional: section,patient

or flat, as GEO keeps them, gzipped or not, the files of each sample under a prefix that names it:

    GSM1_A1_filtered_feature_bc_matrix.h5                     or the three .mtx files: GSM1_A1_matrix.mtx.gz, ...
    GSM1_A1_tissue_positions_list.csv.gz
    GSM1_A1_scalefactors_json.json.gz
    GSM1_A1_<any name>.tif|.jpg|...

Spots are discs 55 um wide on a hexagonal grid 100 um apart, which gives the scale (`spot_diameter_fullres` is a
theoretical 65 um and is not used).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import genes
from data_prep.errors import InputError
from data_prep.readers import _array_fit, _packed, _patients, _positions, _sections, _space_ranger
from data_prep.readers._arrays import HEXAGONAL
from data_prep.section import Section
from data_prep.spots import Spots

PITCH_UM, SPOT_RADIUS_UM = 100.0, 27.5


def detect(path: Path) -> str | None:
    """Why `path` is in the Visium layout, or None."""
    samples = _samples(Path(path))
    found = {name: out for name, out in samples.items() if out.find(*_positions.FILES) or _space_ranger.matrices(out)}
    if not found:
        return None
    flat = sum(bool(out.prefix) for out in found.values())
    if flat == len(found):
        return f"it holds tissue positions and feature-barcode matrices, flat, for {flat} sample(s)"
    return f"it holds spatial/ with tissue positions and a feature-barcode matrix for {len(found)} sample(s)"


def find_sections(path: Path, *, image: Path | None = None, **_: Any) -> dict[str, str]:
    """Every sample -> what it lacks, "" when complete."""
    samples = _samples(Path(path))
    if not samples:
        raise InputError(f"{path}: no Space Ranger outputs found; give the folder that holds spatial/ and the matrix")
    return {
        name: ", ".join(filter(None, [*_space_ranger.missing_files(out), _space_ranger.missing_image(out, image)]))
        for name, out in samples.items()
    }


def list_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> list[str]:
    """Names of the sections to read; see `data_prep.readers._sections.choose`."""
    names = _sections.choose(find_sections(path, **options), Path(path), sections, skip_incomplete)
    _sections.check_one_image(options.get("image"), names)
    return names


def read_section(
    path: Path,
    name: str,
    *,
    um_per_px: float | None = None,
    image: Path | None = None,
    gene_table: Path | None = None,
    resolve_aliases: bool = False,
    **_: Any,
) -> Section:
    """One sample: its spots under tissue, in matrix order.

    Raises:
        InputError: a missing, malformed or contradictory file, with its place and what to do.
    """
    path = Path(path)
    _sections.choose(find_sections(path, image=image), path, [name], False)
    out = _samples(path)[name]
    factors = _space_ranger.read_scale_factors(out.need(_space_ranger.FACTORS))
    positions = _positions.read_positions(out.need(*_positions.FILES))
    matrix = _space_ranger.read_matrix(out)
    rows, places, join_notes = _positions.join(matrix, positions, every_spot=True)
    grid_xy = positions.array_xy * HEXAGONAL
    _array_fit.check(positions.path, positions.barcode, grid_xy, positions.pixel_xy)
    pitch = _array_fit.pitch_px(grid_xy, positions.pixel_xy)
    value, source, scale_notes = _sections.scale(
        name,
        file_um=factors.get("microns_per_pixel"),
        pitch_um=PITCH_UM / pitch if pitch else None,
        user_um=um_per_px,
        remedy="too few spots to measure their pitch; give --source-um-per-px",
    )
    image_path, px_scale, image_notes = _space_ranger.place_image(out, out, image, factors)
    named, counts, gene_notes = genes.name_columns(
        matrix.gene_id.tolist(),
        matrix.counts[rows],
        symbols=matrix.symbol.tolist(),
        gene_table_path=gene_table,
        resolve_aliases=resolve_aliases,
    )
    patient, patient_source, patient_notes = _patients.find(path, name)
    return Section(
        name=name,
        patient=patient,
        patient_source=patient_source,
        image_path=image_path,
        genes=named,
        counts=counts,
        spots=Spots.discs(
            positions.pixel_xy[places] * px_scale, np.float32(SPOT_RADIUS_UM / value * px_scale), matrix.barcode[rows]
        ),
        um_per_px=value / px_scale,
        um_per_px_source=source,
        layout="visium",
        synthetic=_sections.is_synthetic(out.folder),
        notes=(*patient_notes, *scale_notes, *image_notes, *matrix.notes, *join_notes, *gene_notes),
    )


read_sections = _sections.one_by_one(list_sections, read_section)


def _samples(path: Path) -> dict[str, _space_ranger.Outputs]:
    """Sample -> files with positions or a matrix, or still packed; Visium HD's bins are left to `visium_hd`."""
    return {
        name: out
        for name, out in _space_ranger.samples(path).items()
        if not _space_ranger.BIN_FOLDER.match(out.folder.name)
        and (_space_ranger.matrices(out) or out.find(*_positions.FILES) or _packed.archives(out.folder))
        and _space_ranger.bin_um(out) is None
    }
