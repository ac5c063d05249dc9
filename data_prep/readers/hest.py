"""hest: HEST-1k (Jaume et al. 2024), many public samples in one form.

    st/TENX95.h5ad                   counts; obsm["spatial"] = (x, y) of the spots' centres in full-resolution pixels
    wsis/TENX95.tif                  the slide
    metadata/TENX95.json             pixel_size_um_estimated, pixel_size_um_embedded, patient, st_technology, ...
    patches/TENX95.h5                not read: its `coords` are top-left corners of resampled patches (see `bundle`)

`pixel_size_um_estimated` (from the spots' alignment) is taken before `pixel_size_um_embedded` (what the image file
said, often a screen's resolution). A patient's name is only good within its study, so the study is part of it,
shortened where its title is long or holds a comma.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep import slide
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _arrays, _h5ad, _hest_metadata, _matrix, _sections
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import Spots


def detect(path: Path) -> str | None:
    """Why `path` is in the HEST layout, or None."""
    samples = _samples(path)
    has_slides = (path / "wsis").is_dir() or ((path / "metadata").is_dir() and not (path / "patches").is_dir())
    if not samples or not has_slides:  # patches without slides are a layout of their own, see `bundle`
        return None
    return f"it holds st/ with {counted(len(samples), '.h5ad files')} next to wsis/ or metadata/"


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every sample in `st` -> what it lacks, "" when complete."""
    samples = _samples(path)
    if not samples:
        raise InputError(f"{path}: no st/*.h5ad found; give the folder that holds st, wsis and metadata")
    found = {}
    for name in samples:
        lacks = [] if _images(path, name, reading.image) else [f"image not found (expected wsis/{name}.tif)"]
        if reading.um_per_px is None and not (path / "metadata" / f"{name}.json").is_file():
            lacks.append(f"metadata not found (expected metadata/{name}.json, which states the scale)")
        found[name] = ", ".join(lacks)
    return found


check = _sections.check_one_image


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One sample, its spots in file order."""
    table = _h5ad.read(path / "st" / f"{name}.h5ad")
    spot_id = table.obs.index.to_numpy(dtype=str)
    _matrix.check_unique(spot_id, table.path, "spot")
    kept, tissue_notes = _h5ad.under_tissue(table.obs, np.ones(len(table.obs), bool), table.path)
    if not kept.any():
        raise InputError(f"{table.path}: no spot under tissue; check obs['in_tissue']")
    metadata_path = path / "metadata" / f"{name}.json"
    metadata = _hest_metadata.read(metadata_path)
    um_per_px, source, scale_notes = _scale(name, metadata, metadata_path, reading)
    image_path = _sections.only_image(name, _images(path, name, reading.image))
    _check_size(name, image_path, metadata, metadata_path)
    kind, size_px, shape_notes = _hest_metadata.spot_shape(table.spot_xy, metadata, metadata_path, um_per_px)
    array_notes: tuple[str, ...] = ()
    # Those that are pooled are numbered anew, by a width that need not be the array's.
    if _hest_metadata.technology_of(metadata) not in _hest_metadata.POOLED:
        array_notes = _arrays.of_table(table.obs.loc[kept], table.spot_xy[kept], table.path)[1]
    patient = _hest_metadata.patient(path, name, metadata)
    named, counts, gene_notes = reading.name_genes(
        table.gene_id.tolist(), table.counts[np.flatnonzero(kept)], table.symbol.tolist()
    )
    issues = _hest_metadata.issues(name)
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=image_path,
        genes=named,
        counts=counts,
        spots=Spots.alike(kind, table.spot_xy[kept], np.float32(size_px), spot_id[kept]),
        um_per_px=um_per_px,
        um_per_px_source=source,
        layout="hest",
        synthetic=_sections.is_synthetic(path),
        notes=(
            *issues, *patient.notes, *scale_notes, *array_notes, *shape_notes, *tissue_notes, *table.notes, *gene_notes
        ),
    )  # fmt: skip


def _scale(name: str, metadata: dict[str, Any], path: Path, reading: Reading) -> tuple[float, str, tuple[str, ...]]:
    """See `_sections.scale`; what the metadata state is called so."""
    sizes = [_hest_metadata.positive(metadata, key, path) for key in _hest_metadata.SCALES]
    stated = [value for value in sizes if value is not None]
    um_per_px, source, notes = _sections.scale(
        name,
        file_um=stated[0] if stated else None,
        user_um=reading.um_per_px,
        remedy=f"{path} states neither pixel_size_um_estimated nor _embedded; give --source-um-per-px",
    )
    if len(stated) == 2 and abs(stated[0] / stated[1] - 1) > 0.05:
        notes += (f"pixel_size_um_estimated {stated[0]:.4g} is used, pixel_size_um_embedded is {stated[1]:.4g}",)
    return um_per_px, "metadata" if source == "file" else source, notes


def _check_size(name: str, image: Path, metadata: dict[str, Any], path: Path) -> None:
    declared = [_hest_metadata.positive(metadata, f"fullres_px_{side}", path) for side in ("width", "height")]
    if None in declared:
        return
    with slide.open_slide(image) as opened:
        found = (opened.width, opened.height)
    _sections.check_size(name, image, found, [size for size in declared if size], path.name, 0.5)


def _samples(path: Path) -> list[str]:
    found = (path / "st").glob("*.h5ad") if (path / "st").is_dir() else ()
    return sorted((file.stem for file in found if file.name[0] != "."), key=_sections.natural)


def _images(path: Path, name: str, image: Path | None) -> list[Path]:
    return _sections.images_in(path / "wsis", name) if image is None else _sections.given_image(image, name)
