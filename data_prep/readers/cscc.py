"""cscc: legacy Spatial Transcriptomics of cutaneous squamous cell carcinoma (Ji et al. 2020, GEO GSE144239, GSE144240).

    GSM4284316_P2_ST_rep1_stdata.tsv.gz                   rows `10x13`, one column per gene symbol; the whole array
    GSM4284316_spot_data-selection-P2_ST_rep1.tsv.gz      x, y, new_x, new_y, pixel_x, pixel_y[, selected]: under tissue
    GSM4284316_P2_ST_rep1.jpg                             the slide, unpacked

GEO's numbers may be left out. The arrays have 1,934 spots, discs 110 um wide on a 150 um grid, which gives the scale. A
section's name begins with its patient, as published, unless patients.csv (section,patient) says otherwise.
"""

import re
from pathlib import Path

from data_prep.errors import InputError
from data_prep.readers import _legacy, _patients, _sections
from data_prep.readers._sections import Reading
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
    if not _legacy.is_geo(path, _DEPTH):
        return None
    return f"it holds {len(_files(path)['spot file'])} spot_data-selection-*.tsv[.gz] tables"


def find_sections(path: Path, _: Reading) -> dict[str, str]:
    """Every section with a count table or a spot file -> what it lacks, "" when complete."""
    files = _files(path)
    names = files["count table"].keys() | files["spot file"].keys()
    if not names:
        raise InputError(f"{path}: no spot_data-selection-*.tsv[.gz] found; give the folder that holds them")
    return {
        name: _legacy.lacking(name, files, _EXPECTED, "GSM..._ before it or not")
        for name in sorted(names, key=_sections.natural)
    }


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One section: the spots under tissue that were counted, in count-file order."""
    files = _legacy.Files(*(found[name] for found in _files(path).values()))
    published = _PUBLISHED.match(name)
    patient = _patients.find(path, name, convention=published[1] if published else "", guess=name.split("_")[0])
    return _legacy.read_section(
        name,
        files,
        _legacy.read_selection(files.spots),
        patient,
        reading,
        layout="cscc",
        root=path,
        pitch_um=PITCH_UM,
        spot_radius_um=SPOT_RADIUS_UM,
        notes=(
            "spots are taken as 110 um wide and 150 um apart, as the layout's publication has them: no file says so",
        ),
    )


def _files(path: Path) -> dict[str, dict[str, Path]]:
    return _legacy.find_files(path, _PATTERNS, _DEPTH)
