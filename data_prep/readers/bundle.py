"""bundle: patches with what was measured there, as HEST-Benchmark's tasks and STP-Bench hand them out; no slide.

    patches/ID.h5                    or ID_patches.h5: img uint8 [N, 224, 224, 3], coords [N, 2], barcode [N, 1] or [N]
    adata/ID.h5ad                    or st/ID.h5ad: raw counts; obsm["spatial"] = (x, y) of the spots' centres
    ids.csv                          optional, STP-Bench's: sample_id, case_id (the patient)
    metadata/ID.json                 optional, HEST's: study and patient, technology; or a row of HEST_v*.csv
    patients.csv                     optional: section,patient, before all these

Patches are taken as they are. Counts are joined to them by barcode; spots without a patch are left out. The scale is
that of the patches' attributes: `factor` (HEST-Benchmark: 0.5 um over it) or `pixel_size`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.spatial

from data_prep import files, names, patch_file
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _h5ad, _hest_metadata, _legacy, _matrix, _patients, _sections, _text
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import DISC, SQUARE, Spots

IDS = "ids.csv"
_COUNTS = ("adata", "st")
_SUFFIX = "_patches"
_HEST_TABLE = "HEST_v*.csv"
_FEW = 20  # spots do not show how they lie
_SAME_SCALE = 0.02  # share that two scales may differ by and be one
_BESIDE = 1.2  # times the pitch that spots beside one another are apart at most
_SQUARE_GRID = (0.1, 0.02)  # least share of spots with four others beside them, and largest with five


def detect(path: Path) -> str | None:
    """Why `path` holds patches with their counts and no slides, or None."""
    patches, counts = _files(path, ("patches",), ".h5"), _files(path, _COUNTS, ".h5ad")
    if not patches or not counts or (path / "wsis").is_dir():
        return None
    folders = "/ and ".join(dict.fromkeys(file.parent.name for found in counts.values() for file in found))
    return f"it holds patches/ with {counted(len(patches), '.h5 files')} next to {folders}/, and no wsis/"


def find_sections(path: Path, _: Reading) -> dict[str, str]:
    """Every sample with patches, or in ids.csv -> what it lacks, "" when complete."""
    patches, counts = _files(path, ("patches",), ".h5"), _files(path, _COUNTS, ".h5ad")
    if not patches:
        raise InputError(f"{path}: no patches/*.h5 found; give the folder that holds patches, and adata or st")
    found = {}
    for name in sorted({*patches, *cases(path)}, key=_sections.natural):
        lacks = [] if name in patches else [f"patches not found (expected patches/{name}.h5)"]
        lacks += [] if name in counts else [f"counts not found (expected adata/{name}.h5ad or st/{name}.h5ad)"]
        found[name] = ", ".join(lacks)
    return found


def check(path: Path, names: list[str], reading: Reading) -> None:
    """Raises InputError where a sample has two files, or a slide is given, of which nothing would be cut."""
    if reading.image is not None:
        raise InputError(
            f"{path}: patches are taken as they are, and none is cut from --image; leave it out, or cut them anew with "
            "--layout=hest"
        )
    for found in (_files(path, ("patches",), ".h5"), _files(path, _COUNTS, ".h5ad")):
        for name in names:
            if len(places := found.get(name, [])) > 1:
                both = " and ".join(str(place.relative_to(path)) for place in places)
                raise InputError(f"{path}: {both} are of one sample, {name}; keep one of them")


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One sample: the spots that have a patch, in the order of the patches."""
    patches = patch_file.read(_files(path, ("patches",), ".h5")[name][0])
    table = _h5ad.read(_files(path, _COUNTS, ".h5ad")[name][0])
    spot_id = table.obs.index.to_numpy(dtype=str)
    _matrix.check_unique(spot_id, table.path, "spot")
    rows = names.places_of(patches.barcodes, spot_id)
    if (lost := int(np.sum(rows < 0))) or not len(rows):
        example = f" (e.g. barcode {patches.barcodes[rows < 0][0]})" if lost else ""
        raise InputError(
            f"{patches.path}: {lost} of {len(rows)} patches have no spot in {table.path.name}{example}; these files "
            "are not of one sample"
        )
    spot_xy = table.spot_xy[rows]
    convention, off = patches.convention(spot_xy)
    metadata, metadata_path = _metadata(path, name)
    um_per_px, source, scale_notes = _scale(name, patches, metadata, metadata_path, reading)
    kind, size_px, shape_notes = _shape(spot_xy, metadata, metadata_path, um_per_px)
    patient = _patient(path, name, metadata)
    named, counts, gene_notes = reading.name_genes(table.gene_id.tolist(), table.counts[rows], table.symbol.tolist())
    notes = (f"patches are taken as they are stored; their coords are {convention}",)
    if left := len(spot_id) - len(rows):
        notes += (counted(left, "spots have no patch and were left out"),)
    if far := int(patch_file.is_far(off).sum()):
        notes += (f"{far} patches do not lie on their spots, but up to {off.max():.0f} px off",)
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=patches.path,
        patch_coords=convention,
        genes=named,
        counts=counts,
        spots=Spots.alike(kind, spot_xy, np.float32(size_px), patches.barcodes),
        um_per_px=um_per_px,
        um_per_px_source=source,
        layout="bundle",
        synthetic=_sections.is_synthetic(path),
        notes=(
            *_hest_metadata.issues(name), *patient.notes, *scale_notes, *shape_notes, *notes, *table.notes, *gene_notes
        ),
    )  # fmt: skip


def cases(path: Path) -> dict[str, str]:
    """{sample: case} of ids.csv, the case "" where it does not say; empty without one.

    Raises:
        InputError: damaged, or a sample twice.
    """
    file = path / IDS
    if not files.is_there(file):
        return {}
    header, *rows = _text.read_rows(file, ",")
    named = "case_id" in [name.strip() for name in header]
    found = _text.columns(file, header, rows, ["sample_id", "case_id"] if named else ["sample_id"])
    samples = [files.check_name(sample, f"{file}: sample") for sample in found[0]]
    if len(set(samples)) < len(samples):
        twice = next(sample for sample in samples if samples.count(sample) > 1)
        raise InputError(f"{file}: sample {twice} is listed twice; keep one row")
    return dict(zip(samples, found[1] if named else [""] * len(samples), strict=True))


def _files(path: Path, folders: tuple[str, ...], suffix: str) -> dict[str, list[Path]]:
    """{sample: its files} of these folders; one, unless it is there twice."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for file in sorted((path / folder).glob(f"*{suffix}")) if (path / folder).is_dir() else ():
            if file.name[0] != ".":
                name = file.stem.removesuffix(_SUFFIX) if folder == "patches" else file.stem
                found.setdefault(name, []).append(file)
    return found


def _metadata(path: Path, name: str) -> tuple[dict[str, Any], Path]:
    """What HEST states of a sample, and where: its own file, or its row of the table of all samples."""
    own = path / "metadata" / f"{name}.json"
    if files.is_there(own):
        return _hest_metadata.read(own), own
    for table in sorted(path.glob(_HEST_TABLE), reverse=True):
        header, *rows = _text.read_rows(table, ",")
        (ids,) = _text.columns(table, header, rows, ["id"])
        if name in ids:
            return dict(zip(header, rows[ids.index(name)], strict=False)), table
    return {}, own


def _scale(
    name: str, patches: patch_file.PatchFile, metadata: dict[str, Any], path: Path, reading: Reading
) -> tuple[float, str, tuple[str, ...]]:
    """See `_sections.scale`: by the patches' attributes, else by HEST's metadata, and a note where these differ."""
    by_hest = next(
        (value for key in _hest_metadata.SCALES if (value := _hest_metadata.positive(metadata, key, path))), None
    )
    value, source, notes = _sections.scale(
        name,
        user_um=reading.um_per_px,
        file_um=patches.um_per_px or by_hest,
        remedy=f"{patches.path} has no attribute factor or pixel_size; give --source-um-per-px",
    )
    if patches.um_per_px and by_hest and abs(by_hest / patches.um_per_px - 1) > _SAME_SCALE:
        notes += (f"the patches say {patches.um_per_px:.4g} um per px, {path.name} says {by_hest:.4g}",)
    return value, "metadata" if source == "file" and not patches.um_per_px else source, notes


def _shape(
    spot_xy: np.ndarray, metadata: dict[str, Any], path: Path, um_per_px: float
) -> tuple[int, float, tuple[str, ...]]:
    """Spot kind, its size in pixels, and a note where it is a guess from how the spots lie."""
    stated = _hest_metadata.technology_of(metadata) or metadata.get("spot_diameter")
    if not stated and len(spot_xy) >= _FEW:
        near = scipy.spatial.KDTree(spot_xy).query(spot_xy, k=6)[0][:, 1:]  # [N, 5]
        pitch = float(np.median(near[:, 0]))
        beside = np.mean(near < _BESIDE * pitch, axis=0)  # [5] share of spots that have so many
        if beside[3] > _SQUARE_GRID[0] and beside[4] < _SQUARE_GRID[1]:
            lie = f"spot shape not stated: they lie in a square grid of {pitch * um_per_px:.4g} um, and are taken as"
            if abs(pitch * um_per_px / _legacy.PITCH_UM - 1) < 0.1:
                return DISC, _legacy.SPOT_RADIUS_UM / um_per_px, (f"{lie} legacy ST's discs, 100 um wide",)
            return SQUARE, pitch, (f"{lie} squares as wide",)
    return _hest_metadata.spot_shape(spot_xy, metadata, path, um_per_px)


def _patient(path: Path, name: str, metadata: dict[str, Any]) -> _patients.Patient:
    """By patients.csv, else the case of ids.csv, else HEST's metadata, else a guess."""
    case = cases(path).get(name, "")
    return _patients.find(path, name, stated=case) if case else _hest_metadata.patient(path, name, metadata)
