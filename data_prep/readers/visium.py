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

from pathlib import Path

from data_prep import unpack
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _barcoded, _patients, _positions, _sections, _space_ranger
from data_prep.readers._arrays import HEXAGONAL
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import DISC

PITCH_UM, SPOT_RADIUS_UM = 100.0, 27.5


def detect(path: Path) -> str | None:
    """Why `path` is in the Visium layout, or None."""
    samples = _samples(path)
    found = {name: out for name, out in samples.items() if out.find(*_positions.FILES) or _space_ranger.matrices(out)}
    if not found:
        return None
    flat = sum(bool(out.prefix) for out in found.values())
    if flat == len(found):
        return f"it holds tissue positions and feature-barcode matrices, flat, for {counted(flat, 'samples')}"
    return f"it holds spatial/ with tissue positions and a feature-barcode matrix for {counted(len(found), 'samples')}"


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every sample -> what it lacks, "" when complete."""
    samples = _samples(path)
    if not samples:
        raise InputError(f"{path}: no Space Ranger outputs found; give the folder that holds spatial/ and the matrix")
    return {name: _space_ranger.lacking(out, out, reading.image) for name, out in samples.items()}


check = _sections.check_one_image


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One sample: its spots under tissue, in matrix order."""
    out = _samples(path)[name]
    factors = _space_ranger.read_scale_factors(out.need(_space_ranger.FACTORS))
    patient = _patients.find(path, name)
    array = _barcoded.Array(DISC, SPOT_RADIUS_UM, PITCH_UM, HEXAGONAL, every_spot=True)
    return _barcoded.read_section(name, out, out, factors, array, patient, reading, layout="visium")


def _samples(path: Path) -> dict[str, _space_ranger.Outputs]:
    """Sample -> files with positions or a matrix, or still packed; Visium HD's bins are left to `visium_hd`."""
    return {
        name: out
        for name, out in _space_ranger.samples(path).items()
        if not _space_ranger.BIN_FOLDER.match(out.folder.name)
        and (_space_ranger.matrices(out) or out.find(*_positions.FILES) or unpack.archives(out.folder))
        and _space_ranger.bin_um(out) is None
    }
