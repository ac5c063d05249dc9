"""hest: HEST-1k (Jaume et al. 2024), many public samples in one form.

    st/TENX95.h5ad                   counts; obsm["spatial"] = (x, y) of the spots' centres in full-resolution pixels
    wsis/TENX95.tif                  the slide
    metadata/TENX95.json             pixel_size_um_estimated, pixel_size_um_embedded, patient, st_technology, ...
    patches/TENX95.h5                not read: its `coords` are top-left corners of resampled patches

`pixel_size_um_estimated` (from the spots' alignment) is taken before `pixel_size_um_embedded` (what the image file
said, often a screen's resolution). A patient's name is only good within its study, so the study is part of it,
shortened where its title is long or holds a comma.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import scipy.spatial

from data_prep import files, json_files, slide
from data_prep.errors import InputError
from data_prep.readers import _arrays, _h5ad, _matrix, _patients, _sections, _text
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import DISC, SQUARE, Spots

# HEST pools these into squares as wide as their pitch; the others keep the spots they were measured with
_POOLED = ("visium hd", "xenium")
_SPOT_DIAMETER_UM = {"spatial transcriptomics": 100.0, "visium": 55.0}

_NOT_STATED = ("nan", "none", "null", "na", "n/a", "unknown", "not stated")
_LONGEST_NAME = 150

# github.com/mahmoodlab/HEST issues; a sample is not refused for them, but its section says so
KNOWN_ISSUES = {
    "TENX128": "the same section as TENX155 (HEST issue 126): keep one",
    "TENX155": "the same section as TENX128 (HEST issue 126): keep one",
    "NCBI784": "spots reported off the image and at another pitch than stated (HEST issues 59 and 122)",
    "TENX122": "spots reported at another pitch than stated (HEST issue 122)",
} | dict.fromkeys(
    ("TENX153", "TENX154", "TENX156"),
    "HEST names one patient for samples of several (HEST issue 126): correct it in patients.csv",
)


def detect(path: Path) -> str | None:
    """Why `path` is in the HEST layout, or None."""
    samples = _samples(path)
    if not samples or not any((path / folder).is_dir() for folder in ("wsis", "metadata")):
        return None
    return f"it holds st/ with {len(samples)} .h5ad file(s) next to wsis/ or metadata/"


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
    metadata = _metadata(metadata_path)
    um_per_px, source, scale_notes = _scale(name, metadata, metadata_path, reading)
    image_path = _sections.only_image(name, _images(path, name, reading.image))
    _check_size(name, image_path, metadata, metadata_path)
    technology = str(metadata.get("st_technology") or "").lower()
    kind, size_px, shape_notes = _spot_shape(table, technology, metadata, metadata_path, um_per_px)
    array_notes: tuple[str, ...] = ()
    if technology not in _POOLED:  # those are numbered anew, by a width that need not be the array's
        array_notes = _arrays.of_table(table.obs.loc[kept], table.spot_xy[kept], table.path)[1]
    patient = _patient(path, name, metadata)
    named, counts, gene_notes = reading.name_genes(
        table.gene_id.tolist(), table.counts[np.flatnonzero(kept)], table.symbol.tolist()
    )
    issues = (KNOWN_ISSUES[name],) if name in KNOWN_ISSUES else ()
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
    sizes = {key: _positive(metadata, key, path) for key in ("pixel_size_um_estimated", "pixel_size_um_embedded")}
    stated = [value for value in sizes.values() if value is not None]
    um_per_px, source, notes = _sections.scale(
        name,
        file_um=stated[0] if stated else None,
        user_um=reading.um_per_px,
        remedy=f"{path} states neither pixel_size_um_estimated nor _embedded; give --source-um-per-px",
    )
    if len(stated) == 2 and abs(stated[0] / stated[1] - 1) > 0.05:
        notes += (f"pixel_size_um_estimated {stated[0]:.4g} is used, pixel_size_um_embedded is {stated[1]:.4g}",)
    return um_per_px, "metadata" if source == "file" else source, notes


def _spot_shape(
    table: _h5ad.SpotTable, technology: str, metadata: dict[str, Any], path: Path, um_per_px: float
) -> tuple[int, float, tuple[str, ...]]:
    """Spot kind, its size in pixels (disc radius or square side), and a note where it is not stated."""
    if technology in _POOLED:
        tree = scipy.spatial.KDTree(table.spot_xy)
        side = float(np.median(tree.query(table.spot_xy, k=2)[0][:, 1])) if len(table.spot_xy) > 1 else 0.0
        if side > 0:
            return SQUARE, side, ()
    diameter = _positive(metadata, "spot_diameter", path) or _SPOT_DIAMETER_UM.get(technology)
    if diameter is not None:
        return DISC, diameter / 2 / um_per_px, ()
    diameter = _SPOT_DIAMETER_UM["visium"]
    note = f"spot diameter not stated (technology {technology or 'not stated'}): taken as {diameter:.0f} um"
    return DISC, diameter / 2 / um_per_px, (note,)


def _patient(path: Path, name: str, metadata: dict[str, Any]) -> _patients.Patient:
    """By patients.csv; else study and patient; else the study alone, so that no patient lands in two folds."""
    study, patient = (_words(metadata.get(key)) for key in ("dataset_title", "patient"))
    parts = [part for part in (study, patient) if part]
    made = ": ".join(map(_short, parts))
    why = "patient not stated: all such sections of the study are kept together; see patients.csv"
    found = _patients.find(path, name, stated=made if patient else "", guess=study and made, why=why if study else "")
    if made == ": ".join(parts) or found.name != made:
        return found
    return found._replace(notes=(*found.notes, f"patient {made} stands for {': '.join(parts)}"))


def _words(value: Any) -> str:
    """What the metadata state, "" where that is nothing or a word for it."""
    text = "" if value is None else " ".join(str(value).split())
    return "" if text.lower() in _NOT_STATED else text


def _short(text: str) -> str:
    """A name that can be typed in a list of names: the text itself, or its first words and a hash of it.

    Titles of studies are long, and hold the commas that separate names on a command line.
    """
    if len(text) <= _LONGEST_NAME and not set(text) & set(',"'):
        return text
    words = re.findall(r"[A-Za-z0-9]+", text)[:4]
    return f"{'_'.join(words)[:40] or 'name'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _check_size(name: str, image: Path, metadata: dict[str, Any], path: Path) -> None:
    declared = [_positive(metadata, f"fullres_px_{side}", path) for side in ("width", "height")]
    if None in declared:
        return
    with slide.open_slide(image) as opened:
        found = (opened.width, opened.height)
    _sections.check_size(name, image, found, [size for size in declared if size], path.name, 0.5)


def _metadata(path: Path) -> dict[str, Any]:
    if not files.is_there(path):
        return {}
    return json_files.parse(_text.read_text(path), str(path), remedy="download it again", nan=True)


def _positive(metadata: dict[str, Any], key: str, path: Path) -> float | None:
    """A number of the metadata; None where it is absent, null or not a number (NaN).

    Raises:
        InputError: something else than a positive number.
    """
    value = metadata.get(key)
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if np.isnan(number):
        return None
    if not (np.isfinite(number) and number > 0):
        raise InputError(f"{path}: {key} is {value!r}, expected a positive number; correct it or download it again")
    return number


def _samples(path: Path) -> list[str]:
    found = (path / "st").glob("*.h5ad") if (path / "st").is_dir() else ()
    return sorted((file.stem for file in found if file.name[0] != "."), key=_sections.natural)


def _images(path: Path, name: str, image: Path | None) -> list[Path]:
    return _sections.images_in(path / "wsis", name) if image is None else _sections.given_image(image, name)
