"""stnet: legacy Spatial Transcriptomics of 68 breast tumour sections (He et al. 2020, Mendeley 29ntw7sh4r v5).

    metadata.csv                     at least type,patient; also replicate and the names of each section's files
    HE_BT23287_C1.jpg                the slide
    BC23287_C1_stdata.tsv.gz         rows `11x17`, one column per Ensembl id; every array position, tissue or not
    spots_BT23287_C1.csv.gz          `,X,Y`: the positions under tissue, in pixels
    BC23287_C1_Coords.tsv            tumour labels; not read, may be absent

Prefixes BT and BC are used for the same patient, one file BT, the next BC: BC is taken for both. Files may lie in the
folder itself or in folders below it.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import InputError
from data_prep.patients import CONVENTION
from data_prep.readers import _legacy, _patients, _sections, _text
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.slide_base import SLIDE_SUFFIXES

_PATTERNS = {
    "count table": re.compile(r"^(.+)_stdata\.tsv(\.gz)?$"),
    "spot file": re.compile(r"^spots_(.+)\.csv(\.gz)?$"),
    "image": re.compile(rf"^HE_(.+)(?:{'|'.join(map(re.escape, SLIDE_SUFFIXES))})$", re.IGNORECASE),
}
_PUBLISHED = re.compile(r"^BC\d{5}_\w+$")  # patient and section, as published; other names tell no patient
_EXPECTED = {"count table": "{}_stdata.tsv.gz", "spot file": "spots_{}.csv.gz", "image": "HE_{}.jpg"}
_DEPTH = 3  # the archive unpacks to a folder of its own; some sort it by kind or by patient


def detect(path: Path) -> str | None:
    """Why `path` is in the STNet layout, or None."""
    if _legacy.is_geo(path, _DEPTH):
        return None
    files = _files(path)["count table"]
    return f"it holds {len(files)} *_stdata.tsv[.gz] count tables" if files else None


def find_sections(path: Path, _: Reading) -> dict[str, str]:
    """Every section of metadata.csv, or with a count table or spot file -> what it lacks, "" when complete."""
    files = _files(path)
    names = _metadata(path)[1] | files["count table"].keys() | files["spot file"].keys()
    if not names:
        raise InputError(f"{path}: no *_stdata.tsv.gz count table found; give the folder that holds them")
    return {name: _legacy.lacking(name, files, _EXPECTED, "BC or BT") for name in sorted(names, key=_sections.natural)}


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One section: the spots under tissue that were counted, in count-file order."""
    files = _legacy.Files(*(found[name] for found in _files(path).values()))
    patients, _ = _metadata(path)
    of_name = _patient(name)
    why = f"metadata.csv does not list the patient: taken as {of_name} from the name"
    patient = _patients.find(
        path,
        name,
        stated=patients.get(name) or patients.get(of_name, ""),
        convention=of_name if _PUBLISHED.match(name) else "",
        guess=of_name,
        why=why,
    )
    if patient.source == CONVENTION:
        patient = patient._replace(notes=(why,))
    spots = read_spots(files.spots)
    return _legacy.read_section(name, files, spots, patient, reading, layout="stnet", root=path)


def read_spots(path: Path) -> dict[str, Any]:
    """A `,X,Y` file: `id` [N] str, `grid_xy`, `pixel_xy` [N, 2] float64, `selected` [N] bool, all True; and notes."""
    header, *rows = _text.read_rows(path, ",", row_names=True)
    x, y = _text.columns(path, header, rows, ["X", "Y"])
    ids, notes = _legacy.spot_ids([row[0].strip() for row in rows], path)
    return {
        "id": ids,
        "grid_xy": np.array([spot.split("x") for spot in ids], dtype=np.float64).reshape(-1, 2),
        "pixel_xy": np.column_stack([_text.numbers(path, "X", x), _text.numbers(path, "Y", y)]),
        "selected": np.ones(len(ids), bool),
        "notes": notes,
    }


def _metadata(path: Path) -> tuple[dict[str, str], set[str]]:
    """Patient of each section and of each patient id, as metadata.csv has them, and the sections it lists."""
    file = next(iter(_sections.find(path, re.compile(r"^metadata\.csv(\.gz)?$"), _DEPTH, strict=True)), None)
    if file is None:
        return {}, set()
    header, *rows = _text.read_rows(file, ",")
    (patients,) = _text.columns(file, header, rows, ["patient"])
    known = {_plain(patient): _plain(patient) for patient in patients}
    if "replicate" not in [name.strip() for name in header]:
        return known, set()
    (replicates,) = _text.columns(file, header, rows, ["replicate"])
    listed = {f"{_plain(p)}_{replicate}": _plain(p) for p, replicate in zip(patients, replicates, strict=True)}
    return known | listed, set(listed)


def _files(path: Path) -> dict[str, dict[str, Path]]:
    return _legacy.find_files(path, _PATTERNS, _DEPTH, plain=_plain)


def _plain(name: str) -> str:
    """`BT23287_C1` -> `BC23287_C1`."""
    return re.sub(r"^BT(?=\d)", "BC", name.strip())


def _patient(name: str) -> str:
    return name.rpartition("_")[0] or name
