"""patients.csv, by which users state whose tissue a section is, and what holds where they do not."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data_prep import files
from data_prep.errors import InputError
from data_prep.patients import CONVENTION, FILE, GUESSED, USER
from data_prep.readers import _text

TABLE = "patients.csv"  # columns section,patient; next to the sections' files


class Patient(NamedTuple):
    """Whose a section is, how that is known (one of `data_prep.patients.ORIGINS`), and notes."""

    name: str
    source: str
    notes: tuple[str, ...]


def find(
    root: Path, name: str, *, sample: str = "", stated: str = "", convention: str = "", guess: str = "", why: str = ""
) -> Patient:
    """The patient of a section: the first of those given, in this order, that is known.

    Args:
        root: the source, where patients.csv may be; what a user states there wins.
        name: the section's.
        sample: what else patients.csv may call it.
        stated: by a file of the layout.
        convention: by the section's name, where the layout's publication says how sections are named.
        guess: what to take where nothing is known, the section itself unless given; `why`: a note of that.

    Raises:
        InputError: patients.csv is damaged or contradicts itself.
    """
    listed = _read(root)
    patient = listed.get(name) or listed.get(sample, "")
    if patient:
        other, by = (stated, "a file") if stated else (convention, "the section's name")
        note = f"patient {patient} as {TABLE} says; {by} says {other}"
        return Patient(patient, USER, (note,) if other and other != patient else ())
    unlisted = f"{TABLE} does not list it (it lists {_some(listed)}); " if listed else ""
    if stated:
        return Patient(stated, FILE, ())
    if convention:
        return Patient(convention, CONVENTION, ())
    alone = guess or sample or name
    text = why or f"patient not stated: taken as {alone}; list section,patient in {TABLE} if patients repeat"
    return Patient(alone, GUESSED, (unlisted + text,))


def unknown_sections(root: Path, sections: Iterable[str]) -> str:
    """What to say of sections that patients.csv lists and the source does not hold, else ""."""
    known = {each for name in sections for each in (name, re.sub(r"_\d{3,}um$", "", name))}  # Visium HD's bins
    if not (strangers := [name for name in _read(root) if name not in known]):
        return ""
    return f"{TABLE} lists sections that are not here: {_some(strangers)}; a misspelt one counts as not listed"


def _read(root: Path) -> dict[str, str]:
    """Section -> patient; empty without a table."""
    path = (root if root.is_dir() else root.parent) / TABLE
    if not files.is_there(path):
        return {}
    header, *rows = _text.read_rows(path, ",")
    header = [name.strip().casefold() for name in header]
    listed: dict[str, str] = {}
    for section, patient in zip(*_text.columns(path, header, rows, ["section", "patient"]), strict=True):
        if not section and not patient:
            continue
        if not section or not patient:
            raise InputError(
                f"{path}: a row has section {section!r} and patient {patient!r}, expected both; complete or remove it"
            )
        if section in listed:
            raise InputError(
                f"{path}: section {section} is listed twice, of patient {listed[section]} and {patient}; keep one row"
            )
        listed[section] = patient
    return listed


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
