"""What HEST says of a sample beside its counts: its study and patient, its technology, its scale, and known faults."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import scipy.spatial

from data_prep import files, json_files
from data_prep.errors import InputError
from data_prep.readers import _patients, _text
from data_prep.spots import DISC, SQUARE

# HEST pools these into squares as wide as their pitch; the others keep the spots they were measured with
POOLED = ("visium hd", "xenium")
SCALES = ("pixel_size_um_estimated", "pixel_size_um_embedded")  # the first from the spots' alignment, which is better
_SPOT_DIAMETER_UM = {"spatial transcriptomics": 100.0, "visium": 55.0}

# github.com/mahmoodlab/HEST issues; a sample is not refused for them, but its section says so
_KNOWN_ISSUES = {
    "TENX128": "the same section as TENX155 (HEST issue 126): keep one",
    "TENX155": "the same section as TENX128 (HEST issue 126): keep one",
    "NCBI784": "spots reported off the image and at another pitch than stated (HEST issues 59 and 122)",
    "TENX122": "spots reported at another pitch than stated (HEST issue 122)",
} | dict.fromkeys(
    ("TENX153", "TENX154", "TENX156"),
    "HEST names one patient for samples of several (HEST issue 126): correct it in patients.csv",
)

_NOT_STATED = ("nan", "none", "null", "na", "n/a", "unknown", "not stated")
_LONGEST_NAME = 150


def read(path: Path) -> dict[str, Any]:
    """The metadata of a sample; none where the file is not there."""
    if not files.is_there(path):
        return {}
    return json_files.parse(_text.read_text(path), str(path), remedy="download it again", nan=True)


def issues(name: str) -> tuple[str, ...]:
    """What is reported of a sample."""
    return (_KNOWN_ISSUES[name],) if name in _KNOWN_ISSUES else ()


def positive(metadata: dict[str, Any], key: str, path: Path) -> float | None:
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


def technology_of(metadata: dict[str, Any]) -> str:
    """By which a sample was measured, in lower case; "" where it is not stated."""
    return _words(metadata.get("st_technology")).lower()


def spot_shape(
    spot_xy: np.ndarray, metadata: dict[str, Any], path: Path, um_per_px: float
) -> tuple[int, float, tuple[str, ...]]:
    """Spot kind, its size in pixels (disc radius or square side), and a note where it is not stated."""
    technology = technology_of(metadata)
    if technology in POOLED:
        tree = scipy.spatial.KDTree(spot_xy)
        side = float(np.median(tree.query(spot_xy, k=2)[0][:, 1])) if len(spot_xy) > 1 else 0.0
        if side > 0:
            return SQUARE, side, ()
    diameter = positive(metadata, "spot_diameter", path) or _SPOT_DIAMETER_UM.get(technology)
    if diameter is not None:
        return DISC, diameter / 2 / um_per_px, ()
    diameter = _SPOT_DIAMETER_UM["visium"]
    note = f"spot diameter not stated (technology {technology or 'not stated'}): taken as {diameter:.0f} um"
    return DISC, diameter / 2 / um_per_px, (note,)


def patient(path: Path, name: str, metadata: dict[str, Any]) -> _patients.Patient:
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
