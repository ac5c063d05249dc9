"""cscc: legacy Spatial Transcriptomics of cutaneous squamous cell carcinoma (Ji et al. 2020, GEO GSE144239, GSE144240).

    GSM4284316_P2_ST_rep1_stdata.tsv.gz                   rows `10x13`, one column per gene symbol; the whole array
    GSM4284316_spot_data-selection-P2_ST_rep1.tsv.gz      x, y, new_x, new_y, pixel_x, pixel_y[, selected]: under tissue
    GSM4284316_P2_ST_rep1.jpg                             the slide, unpacked

GEO's numbers may be left out. The arrays have 1,934 spots, discs 110 um wide on a 150 um grid, which gives the scale. A
section's name begins with its patient, as published, unless patients.csv (section,patient) says otherwise.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import InputError
from data_prep.readers import _legacy, _packed, _patients, _sections
from data_prep.section import Section
from data_prep.slide_base import SLIDE_SUFFIXES

PITCH_UM, SPOT_RADIUS_UM = 150.0, 55.0

_PATTERNS = {
    "count table": re.compile(r"^(?:GSM\d+_)?(.+)_stdata\.tsv(?:\.gz)?$"),
    "spot file": re.compile(r"^(?:GSM\d+_)?spot_data-selection-(.+)\.tsv(?:\.gz)?$"),
    "image": re.compile(rf"^(?:GSM\d+_)?(.+?)(?:{'|'.join(map(re.escape, SLIDE_SUFFIXES))})(\.gz)?$", re.IGNORECASE),
}
_EXPECTED = {"count table": "{}_stdata.tsv.gz", "spot file": "spot_data-selection-{}.tsv.gz", "image": "{}.jpg"}
_PUBLISHED = re.compile(r"^(P\d+)_")  # P2_ST_rep1 is of patient P2; other names tell no patient
_DEPTH = 2  # the archive has no folders; some sort it by kind or by patient


def detect(path: Path) -> str | None:
    """Why `path` is in the cSCC layout, or None."""
    path = Path(path)
    if not _legacy.is_geo(path, _DEPTH):
        return None
    return f"it holds {len(_files(path)['spot file'])} spot_data-selection-*.tsv[.gz] tables"


def find_sections(path: Path, **_: Any) -> dict[str, str]:
    """Every section with a count table or a spot file -> what it lacks, "" when complete."""
    files = _files(Path(path))
    names = files["count table"].keys() | files["spot file"].keys()
    if not names:
        raise InputError(f"{path}: no spot_data-selection-*.tsv[.gz] found; give the folder that holds them")
    found = {}
    for name in sorted(names, key=_sections.natural):
        lacks = [f"{kind} not found (expected {_EXPECTED[kind].format(name)}, GSM..._ before it or not)"
                 for kind in _PATTERNS if name not in files[kind]]  # fmt: skip
        image = files["image"].get(name)
        if image and image.suffix == ".gz":
            lacks.append(f"image {image.name} is still packed, unpack it: {_packed.remedy(image)}")
        found[name] = ", ".join(lacks)
    return found


def list_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> list[str]:
    """Names of the sections to read; see `data_prep.readers._sections.choose`."""
    return _sections.choose(find_sections(path, **options), Path(path), sections, skip_incomplete)


def read_section(
    path: Path,
    name: str,
    *,
    um_per_px: float | None = None,
    gene_table: Path | None = None,
    resolve_aliases: bool = False,
    **_: Any,
) -> Section:
    """One section: the spots under tissue that were counted, in count-file order.

    Raises:
        InputError: a missing, malformed or contradictory file, with its place and what to do.
    """
    path = Path(path)
    _sections.choose(find_sections(path), path, [name], False)
    files = {kind: found[name] for kind, found in _files(path).items()}
    published = _PUBLISHED.match(name)
    patient, patient_source, notes = _patients.find(
        path, name, convention=published[1] if published else "", guess=name.split("_")[0]
    )
    return _legacy.read_section(
        name,
        patient=patient,
        patient_source=patient_source,
        layout="cscc",
        image_path=files["image"],
        count_path=files["count table"],
        spot_path=files["spot file"],
        spots=_legacy.read_selection(files["spot file"]),
        pitch_um=PITCH_UM,
        spot_radius_um=SPOT_RADIUS_UM,
        um_per_px=um_per_px,
        gene_table=gene_table,
        resolve_aliases=resolve_aliases,
        synthetic=_sections.is_synthetic(path),
        notes=(
            *notes,
            "spots are taken as 110 um wide and 150 um apart, as the layout's publication has them: no file says so",
        ),
    )


read_sections = _sections.one_by_one(list_sections, read_section)


def _files(path: Path) -> dict[str, dict[str, Path]]:
    """Kind of file -> section -> file; an image still packed only where there is none unpacked.

    Raises:
        InputError: two files for the same thing.
    """
    found: dict[str, dict[str, Path]] = {kind: {} for kind in _PATTERNS}
    for kind, pattern in _PATTERNS.items():
        for file in _sections.find(path, pattern, _DEPTH):
            match = pattern.match(file.name)
            name = match[1] if match else ""
            other = found[kind].get(name)
            if other and kind == "image" and (file.suffix == ".gz") != (other.suffix == ".gz"):
                file = min(file, other, key=lambda image: image.suffix == ".gz")
            elif other:
                raise InputError(f"Section {name!r}: both {other} and {file}; keep one of the two")
            found[kind][name] = file
    return found
