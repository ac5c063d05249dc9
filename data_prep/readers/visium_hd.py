"""visium_hd: 10x Visium HD as Space Ranger writes it, one sample or a folder of samples; a section per bin size.

    <sample>/[outs/]binned_outputs/square_008um/filtered_feature_bc_matrix.h5        or the .mtx folder
    <sample>/[outs/]binned_outputs/square_008um/spatial/tissue_positions.parquet
    <sample>/[outs/]binned_outputs/square_008um/spatial/scalefactors_json.json       bin_size_um, microns_per_pixel
    <sample>/[outs/]<any name>.btf|.tif|...                                          the full-resolution image
    patients.csv                                                                     optional: section,patient

The folders `square_008um` may lie in the sample's folder itself, or be given alone; and files may lie flat under a
prefix, as for `visium`, where `bin_size_um` tells that they are bins.

Section `S_008um` holds sample S's 8 um bins. Bins are squares, taken as upright on the image. `feature_slice.h5` is not
read. With `--areas`, section `S` holds something else of the sample, see `_hd_cells`:

    cells                  <sample>/[outs/]segmented_outputs/cell_segmentations.geojson, as Space Ranger 4 writes it
                           <sample>/[outs/]segmented_outputs/filtered_feature_cell_matrix.h5
    nuclei                 <sample>/[outs/]<sample>_nuclei.geojson|.tif|.png, pooled from 2 um bins
    squares:100, discs:55:100                                                 pooled from 2 um bins
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import unpack
from data_prep.errors import InputError
from data_prep.readers import _areas, _barcoded, _hd_cells, _patients, _sections, _space_ranger
from data_prep.readers._sections import Reading
from data_prep.readers._space_ranger import Outputs
from data_prep.section import Section
from data_prep.spots import SQUARE

AREAS = (_areas.BINS, _areas.CELLS, _areas.NUCLEI, _areas.SQUARES, _areas.DISCS)


class _Bins(NamedTuple):
    """A section: the sample's files, which the slide lies beside; those of its bins; and their side in um.

    A sample whose `binned_outputs` are still packed, or not there beside its cells, is a section of bins of 0 um.
    """

    sample: Outputs
    bins: Outputs
    size: int


def detect(path: Path) -> str | None:
    """Why `path` is in the Visium HD layout, or None."""
    sections = _bins(path)
    found = sorted(name for name, section in sections.items() if section.size)
    cells = sorted(section.sample.name for section in sections.values() if _hd_cells.there(section.sample))
    if not found:
        return f"it holds segmented outputs of {', '.join(cells)}" if cells else None
    return f"it holds binned outputs {', '.join(found)}"


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every sample and bin size -> what it lacks, "" when complete."""
    sections = _bins(path)
    if not sections:
        raise InputError(f"{path}: no binned_outputs/square_*um found; give the folder that holds binned_outputs")
    areas = _areas.parse(reading.areas, AREAS)
    if areas.kind != _areas.BINS:
        for option, value in (("--bin-um", reading.bin_um), ("--bin-blocks", reading.bin_blocks)):
            if value is not None:
                asked = f"{option} is for bins, and --areas asks for {reading.areas}"
                raise InputError(f"{asked}; leave one of the two out")
        return {name: _lacking(sections, sample, areas, reading) for name, sample in _samples(sections).items()}
    sizes = sorted({section.size for section in sections.values() if section.size})
    absent = [size for size in reading.bin_um or () if size not in sizes]
    if absent:
        raise InputError(f"{path}: no {absent[0]} um bins; --bin-um may name {','.join(map(str, sizes))}")
    return {
        name: _space_ranger.lacking(section.sample, section.bins, reading.image)
        if section.size or unpack.archives(section.sample.folder)
        else "no bins found; --areas cells reads its cells"
        for name, section in sections.items()
        if not reading.bin_um or section.size in (0, *reading.bin_um)
    }


def check(path: Path, names: Sequence[str], reading: Reading) -> None:
    """Refuse one image file for several samples; the bins of one, of all sizes, lie on one."""
    sections = _bins(path)
    samples = [sections[name].sample.name if name in sections else name for name in names]
    _sections.check_one_image(path, samples, reading)


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One sample: its bins of one size under tissue, in matrix order, or the areas that were asked for."""
    areas = _areas.parse(reading.areas, AREAS)
    if areas.kind == _areas.BINS:
        return _read_bins(path, name, reading)
    sections = _bins(path)
    sample = _samples(sections)[name]
    if areas.kind == _areas.CELLS:
        return _hd_cells.read_cells(path, sample, reading)
    section = _pooled(sections, sample)
    assert section is not None
    bins = sections[section].bins
    factors = _space_ranger.read_scale_factors(bins.need(_space_ranger.FACTORS))
    px_scale = _space_ranger.place_image(sample, bins, reading.image, factors)[1]
    return _hd_cells.pool(_read_bins(path, section, reading), sample, areas, px_scale)


def _lacking(sections: Mapping[str, _Bins], sample: Outputs, areas: _areas.Areas, reading: Reading) -> str:
    """What a sample lacks for areas other than bins, "" when complete."""
    section = _pooled(sections, sample)
    lacks = _hd_cells.lacking(sample, areas, bins=section is not None)
    if section is None or areas.kind == _areas.CELLS:
        return ", ".join(filter(None, [*lacks, _space_ranger.missing_image(sample, reading.image)]))
    return ", ".join(filter(None, [*lacks, _space_ranger.lacking(sample, sections[section].bins, reading.image)]))


def _samples(sections: Mapping[str, _Bins]) -> dict[str, Outputs]:
    """Sample -> the files its slide lies beside."""
    return {section.sample.name: section.sample for section in sections.values()}


def _pooled(sections: Mapping[str, _Bins], sample: Outputs) -> str | None:
    """The section of the bins of a sample that other areas are made of; None where it has none."""
    found = (name for name, each in sections.items() if each.size == _hd_cells.BIN_UM and each.sample == sample)
    return next(found, None)


def _read_bins(path: Path, name: str, reading: Reading) -> Section:
    sample, bins, size = _bins(path)[name]
    factors_path = bins.need(_space_ranger.FACTORS)
    factors = _space_ranger.read_scale_factors(factors_path, "bin_size_um", "microns_per_pixel")
    if factors["bin_size_um"] != size:
        raise InputError(
            f"{factors_path}: bin_size_um is {factors['bin_size_um']}, but the folder is {bins.folder.name}; the file "
            "belongs to another bin size"
        )
    patient = _patients.find(path, name, sample=sample.name)
    notes = () if reading.areas else _cell_notes(sample)
    array = _barcoded.Array(SQUARE, size, size, np.ones(2), every_spot=False)
    return _barcoded.read_section(name, sample, bins, factors, array, patient, reading, layout="visium_hd", notes=notes)


def _cell_notes(sample: Outputs) -> tuple[str, ...]:
    """A note when Space Ranger 4 segmented cells too."""
    return ("only bins are read; --areas cells reads the cells",) if _hd_cells.there(sample) else ()


def _bins(path: Path) -> dict[str, _Bins]:
    """Section -> its files.

    `path` may also be `binned_outputs` or one of the folders in it, with or without `binned_outputs` above.
    """
    path = path.resolve()
    only = None
    if match := _space_ranger.BIN_FOLDER.match(path.name):
        path, only = path.parent, int(match[1])
    if path.name in ("binned_outputs", _space_ranger.CELLS_FOLDER):
        path = path.parent
    single = [found for folder in (path, path / "outs") if (found := _squares(folder))]
    found = single[:1] or [
        squares for folder in _space_ranger.folders(path) for out in (folder, folder / "outs")
        if folder.name not in ("binned_outputs", _space_ranger.CELLS_FOLDER) and (squares := _squares(out))
    ]  # fmt: skip
    squares = [section for sections in found for section in sections if only in (None, section.size)]
    if only is not None:  # given alone, the slide may lie in it
        squares = [s._replace(sample=s.bins) if _sections.images_in(s.bins.folder) else s for s in squares]
    flat = [
        _Bins(out, out, round(size))
        for out in _space_ranger.samples(path).values()
        if only is None and not _space_ranger.BIN_FOLDER.match(out.folder.name) and (size := _space_ranger.bin_um(out))
    ]
    named = {f"{section.sample.name}_{section.size:03d}um": section for section in squares + flat}
    return {section.sample.name if not section.size else name: section for name, section in named.items()}


def _squares(folder: Path) -> list[_Bins]:
    """The bins of a sample in its output folder, in `binned_outputs` or (taken out of it) next to the rest."""
    sample = Outputs(_space_ranger.sample_name(folder), folder)
    holder = folder / "binned_outputs" if (folder / "binned_outputs").is_dir() else folder
    matches = ((_space_ranger.BIN_FOLDER.match(below.name), below) for below in _space_ranger.folders(holder))
    bins = [_Bins(sample, Outputs(sample.name, below), int(match[1])) for match, below in matches if match]
    packed = (
        any(file.name.startswith("binned_outputs.") for file in unpack.archives(folder)) if folder.is_dir() else False
    )
    return bins or [_Bins(sample, sample, 0)] * (packed or _hd_cells.there(sample))
