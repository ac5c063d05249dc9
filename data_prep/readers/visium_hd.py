"""visium_hd: 10x Visium HD as Space Ranger writes it, one sample or a folder of samples; a section per bin size.

    <sample>/[outs/]binned_outputs/square_008um/filtered_feature_bc_matrix.h5        or the .mtx folder
    <sample>/[outs/]binned_outputs/square_008um/spatial/tissue_positions.parquet
    <sample>/[outs/]binned_outputs/square_008um/spatial/scalefactors_json.json       bin_size_um, microns_per_pixel
    <sample>/[outs/]<any name>.btf|.tif|...                                          the full-resolution image
    patients.csv                                                                     optional: section,patient

Section `S_008um` holds sample S's 8 um bins. Bins are squares, taken as upright on the image. `feature_slice.h5` and
Space Ranger 4's `segmented_outputs` are not read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import genes
from data_prep.errors import InputError
from data_prep.readers import _sections, _space_ranger
from data_prep.section import SQUARE, Section


def detect(path: Path) -> str | None:
    """Why `path` is in the Visium HD layout, or None."""
    found = _bins(Path(path))
    return f"it holds binned outputs {', '.join(sorted(found))}" if found else None


def find_sections(
    path: Path, *, image: Path | None = None, bin_um: Sequence[int] | None = None, **_: Any
) -> dict[str, str]:
    """Every sample and bin size -> what it lacks, "" when complete."""
    bins = _bins(Path(path))
    if not bins:
        raise InputError(f"{path}: no binned_outputs/square_*um found; give the folder that holds binned_outputs")
    sizes = sorted({size for _, _, size in bins.values()})
    absent = [size for size in bin_um or () if size not in sizes]
    if absent:
        raise InputError(f"{path}: no {absent[0]} um bins; --bin-um may name {','.join(map(str, sizes))}")
    found = {}
    for name, (sample, outs, size) in bins.items():
        if bin_um and size not in bin_um:
            continue
        folder = _folder(outs, size)
        lacks = [] if _space_ranger.matrices(folder) else ["matrix not found (expected filtered_feature_bc_matrix.h5)"]
        lacks.append(_space_ranger.missing_image(sample, outs, image))
        found[name] = ", ".join(filter(None, lacks))
    return found


def list_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> list[str]:
    """Names of the sections to read; see `data_prep.readers._sections.choose`."""
    names = _sections.choose(find_sections(path, **options), Path(path), sections, skip_incomplete)
    _sections.check_one_image(options.get("image"), [_bins(Path(path))[name][0] for name in names])
    return names


def read_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> Iterator[Section]:
    """The sections one by one; the first is read when asked for."""
    for name in list_sections(path, sections=sections, skip_incomplete=skip_incomplete, **options):
        yield read_section(path, name, **options)


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
    """One bin size of one sample: its bins under tissue, in matrix order.

    Raises:
        InputError: a missing, malformed or contradictory file, with its place and what to do.
    """
    path = Path(path)
    _sections.choose(find_sections(path, image=image), path, [name], False)
    bins = _bins(path)
    sample, outs, size = bins[name]
    folder = _folder(outs, size)
    spatial = folder / "spatial"
    factors = _space_ranger.read_scale_factors(spatial, "bin_size_um", "microns_per_pixel")
    if factors["bin_size_um"] != size:
        raise InputError(
            f"{spatial / 'scalefactors_json.json'}: bin_size_um is {factors['bin_size_um']}, but the folder is "
            f"{folder.name}; the file belongs to another bin size"
        )
    positions = _space_ranger.read_positions(spatial)
    matrix = _space_ranger.read_matrix(folder)
    rows, places, join_notes = _space_ranger.join(matrix, positions)

    pitch = _sections.pitch_px(positions.array_xy, positions.pixel_xy)
    value, source, scale_notes = _sections.scale(
        name,
        file_um=factors["microns_per_pixel"],
        pitch_um=size / pitch if pitch else None,
        user_um=um_per_px,
        remedy="",
    )
    image_path, px_scale, image_notes = _space_ranger.place_image(sample, outs, spatial, image, factors)
    named, counts, gene_notes = genes.name_columns(
        matrix.gene_id.tolist(),
        matrix.counts[rows],
        symbols=matrix.symbol.tolist(),
        gene_table_path=gene_table,
        resolve_aliases=resolve_aliases,
    )
    patient, patient_notes = _sections.patient_from_table(path, name, sample)
    turn_notes = _turn_notes(positions)
    return Section(
        name=name,
        patient=patient,
        image_path=image_path,
        genes=named,
        counts=counts,
        spot_id=matrix.barcode[rows],
        spot_xy=positions.pixel_xy[places] * px_scale,
        spot_kind=np.full(len(rows), SQUARE, np.uint8),
        spot_size_px=np.full(len(rows), size / value * px_scale, np.float32),
        um_per_px=value / px_scale,
        um_per_px_source=source,
        layout="visium_hd",
        synthetic=_sections.is_synthetic(folder),
        notes=(
            *patient_notes, *scale_notes, *image_notes, *turn_notes, *matrix.notes, *join_notes, *gene_notes
        ),
    )  # fmt: skip


def _turn_notes(positions: _space_ranger.Positions) -> tuple[str, ...]:
    """A note when the array does not lie along the image's axes."""
    affine = _sections.grid_affine(positions.array_xy, positions.pixel_xy)
    if affine is None:
        return ()
    degrees = float(np.degrees(np.arctan2(affine[0, 1], affine[0, 0])))
    off = abs((degrees + 45) % 90 - 45)
    return (f"bins are turned by {off:.1f} degrees against the image and taken as upright",) if off > 2 else ()


def _bins(path: Path) -> dict[str, tuple[str, Path, int]]:
    """Section -> (sample, outputs folder, bin size in um).

    `path` may also be `binned_outputs` or one of the folders in it.
    """
    path = path.resolve()
    only = None
    if match := _space_ranger.BIN_FOLDER.match(path.name):
        path, only = path.parent, int(match[1])
    if path.name == "binned_outputs":
        path = path.parent
    found = {}
    for sample, outs in _space_ranger.outputs(path, "binned_outputs").items():
        for folder in sorted((outs / "binned_outputs").iterdir()):
            match = _space_ranger.BIN_FOLDER.match(folder.name)
            if match and (folder / "spatial").is_dir() and only in (None, int(match[1])):
                found[f"{sample}_{int(match[1]):03d}um"] = (sample, outs, int(match[1]))
    return found


def _folder(outs: Path, size: int) -> Path:
    folders = (outs / "binned_outputs").iterdir()
    return next(
        folder for folder in folders
        if (match := _space_ranger.BIN_FOLDER.match(folder.name)) and int(match[1]) == size
    )  # fmt: skip
