"""patients.csv, by which users state whose tissue a section is, and what holds where they do not."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data_prep import files
from data_prep.errors import InputError
from data_prep.patients import CONVENTION, FILE, GUESSED, USER
from data_prep.readers import _slides_table, _text

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
        root: the source, where patients.csv and slides.csv may be; what a user states there wins.
        name: the section's.
        sample: what else these may call it.
        stated: by a file of the layout.
        convention: by the section's name, where the layout's publication says how sections are named.
        guess: what to take where nothing is known, the section itself unless given; `why`: a note of that.

    Raises:
        InputError: one of them is damaged, or they contradict themselves or each other.
    """
    listed, slide = _read(root), _slides_table.of_section(_slides_table.read(root), name)
    patient, table = listed.get(name) or listed.get(sample, ""), TABLE
    if patient and slide.patient and patient != slide.patient:
        raise InputError(
            f"Section {name!r}: patient {patient} in {TABLE} and {slide.patient} in {_slides_table.TABLE}; correct the "
            "one that is wrong"
        )
    if slide.patient:
        patient, table = slide.patient, _slides_table.TABLE
    if patient:
        other, by = (stated, "a file") if stated else (convention, "the section's name")
        note = f"patient {patient} as {table} says; {by} says {other}"
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
    """What to say of sections that patients.csv or slides.csv lists and the source does not hold, else ""."""
    known = {each for name in sections for each in (name, _slides_table.sample_of(name))}
    tables = {TABLE: _read(root), _slides_table.TABLE: _slides_table.read(root)}
    found = {table: [name for name in listed if name not in known] for table, listed in tables.items()}
    return "; ".join(
        f"{table} lists sections that are not here: {_some(strangers)}; a misspelt one counts as not listed"
        for table, strangers in found.items()
        if strangers
    )


def _read(root: Path) -> dict[str, str]:
    """Section -> patient; empty without a table."""
    path = _slides_table.folder_of(root) / TABLE
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
