"""anndata: one .h5ad file, or a folder of them, as scanpy and squidpy keep spatial data.

    <section>.h5ad                   X, layers["counts"] or raw.X: raw counts; obsm["spatial"] = (x, y), full-resolution
                                     pixels, or a table whose columns say so
    <section>.tif|.jpg|...           the full-resolution image next to it, or --image FILE_OR_FOLDER
    patients.csv                     optional: section,patient

`var_names` are symbols, `var["gene_ids"]` Ensembl ids. A file of several samples, separated by a column of `obs` (such
as `library_id` or `sample`) or by what stands around the barcodes, holds a section for each.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_prep import slide, unpack
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _h5ad, _h5ad_geometry, _h5ad_samples, _sections
from data_prep.readers._sections import Reading
from data_prep.section import Section


def detect(path: Path) -> str | None:
    """Why `path` holds AnnData files, or None."""
    files = _files(path)
    if path.is_file():
        return f"{path.name} is an .h5ad file" if files else None
    return f"it holds {counted(len(files), '.h5ad files')}" if files else None


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every section -> what it lacks, "" when complete."""
    found, image = {}, reading.image
    for name, (file, samples) in _places(path, image).items():
        if _is_packed(file):
            found[name] = f"{file.name} is gzipped: unpack it: {unpack.remedy(file)}"
            continue
        several = "" if samples.by is None else f", which holds {len(samples.names)} samples by {samples.describe()}"
        where = f"as {image}" if image else f"next to {file.name}{several} (expected {name}.tif|.jpg|.png, or --image)"
        found[name] = "" if _images(name, file, samples, image) else f"full-resolution image not found {where}"
    return found


check = _sections.check_one_image


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One section, its spots in file order; spots flagged as off tissue are left out."""
    file, samples = _places(path, reading.image)[name]
    table = _h5ad.read(file)
    rows, row_notes = _rows(table, name, samples)
    obs, spot_xy = table.obs.iloc[rows], table.spot_xy[rows]
    _h5ad_samples.check_one(file, name, obs, spot_xy, table.spot_z[rows])
    entry = table.spatial[samples.entry[name]] if name in samples.entry else {}
    image_path = _sections.only_image(name, _images(name, file, samples, reading.image))
    with slide.open_slide(image_path) as opened:
        image = _h5ad_geometry.Image(str(image_path), (opened.width, opened.height), opened.um_per_px)
    found = _h5ad_geometry.read(name, file, obs, spot_xy, entry, image, user_um=reading.um_per_px)
    patient = _h5ad_samples.patient(path, file, name, obs)
    named, counts, gene_notes = reading.name_genes(table.gene_id.tolist(), table.counts[rows], table.symbol.tolist())
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=image_path,
        genes=named,
        counts=counts,
        spots=found.spots,
        um_per_px=found.um_per_px,
        um_per_px_source=found.um_per_px_source,
        layout="anndata",
        synthetic=_sections.is_synthetic(file),
        notes=(*patient.notes, *found.notes, *row_notes, *table.notes, *gene_notes),
    )


def _rows(table: _h5ad.SpotTable, name: str, samples: _h5ad_samples.Samples) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows of the section under tissue."""
    kept, notes = samples.rows(table.obs, name, table.path), ()
    if samples.by is not None:
        nobody = len(table.obs) - sum(int(samples.rows(table.obs, each, table.path).sum()) for each in samples.names)
        notes = (f"{table.path.name} holds {len(samples.names)} samples by {samples.describe()}: this is "
                 f"{samples.names[name]!r}",)  # fmt: skip
        if table.spatial and name not in samples.entry:
            notes += (f"uns['spatial'] ({', '.join(table.spatial)}) has no entry of that name and is not used",)
        notes += (counted(nobody, "spots are of no sample and were left out"),) if nobody else ()
    kept, tissue_notes = _h5ad.under_tissue(table.obs, kept, table.path)
    if not kept.any():
        raise InputError(f"{table.path}: section {name!r} has no spot under tissue; check obs['in_tissue']")
    return np.flatnonzero(kept), notes + tissue_notes


def _files(path: Path) -> list[Path]:
    """.h5ad files, and those gzipped (.h5ad.gz) that do not lie there unpacked too."""
    if path.is_file():
        return [path] if path.name.lower().endswith((".h5ad", ".h5ad.gz")) else []
    if not path.is_dir():
        return []
    files = [file for file in path.iterdir() if file.name[0] != "." and file.is_file()]
    plain = [file for file in files if file.suffix.lower() == ".h5ad"]
    packed = [file for file in files if file.name.lower().endswith(".h5ad.gz") and file.with_suffix("") not in plain]
    return sorted(plain + packed, key=lambda file: _sections.natural(file.name))


def _is_packed(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


def _places(path: Path, image: Path | None) -> dict[str, tuple[Path, _h5ad_samples.Samples]]:
    """Section -> its file, and how that is divided into samples."""
    files = _files(path)
    if not files:
        raise InputError(f"{path}: no .h5ad file found; give one, or the folder that holds them")
    found: dict[str, tuple[Path, _h5ad_samples.Samples]] = {}
    for file in files:
        if _is_packed(file):
            samples = _h5ad_samples.Samples(None, {Path(file.stem).stem: ""}, {}, {})
        else:
            samples = _h5ad_samples.find(file, lambda names, at=file: _have_images(names, at, image))
        for name in samples.names:
            if name in found:
                raise InputError(f"{path}: section {name!r} is both in {found[name][0].name} and in {file.name}")
            found[name] = (file, samples)
    return found


def _have_images(names: Iterable[str], file: Path, image: Path | None) -> bool:
    folder = file.parent if image is None else image
    return all(_sections.images_in(folder, name) for name in names)


def _images(name: str, file: Path, samples: _h5ad_samples.Samples, image: Path | None) -> list[Path]:
    """The slide: the one given, else <section>.<extension> next to the file, else the one its entry in `uns` names."""
    if image is not None:
        return _sections.given_image(image, name)
    named = file.parent / samples.slide.get(name, "")
    return _sections.images_in(file.parent, name) or ([named] if named in _sections.images_in(file.parent) else [])
