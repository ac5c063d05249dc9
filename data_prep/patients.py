"""Whose tissue a section is, how that is known, and how patients are spelt."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

FILE, USER, CONVENTION, GUESSED = "file", "user", "convention", "guessed"
UNKNOWN = "unknown"  # of data sets built before it was recorded
# How the patient of a section is known, and in words; the first three are statements, the others are not.
ORIGINS = {
    FILE: "stated by the files",
    USER: "stated in patients.csv or slides.csv",
    CONVENTION: "by the layout's naming of sections",
    GUESSED: "guessed, as nothing states it",
    UNKNOWN: "not recorded, by a version of stjax that did not",
}


def summary(origin_of: Mapping[str, str]) -> str:
    """How the patients of sections are known, in words, e.g. "stated by the files (C1), guessed ... (C2, C3)".

    Args:
        origin_of: a key of `ORIGINS` for each section.
    """
    sections = defaultdict(list)
    for name, origin in origin_of.items():
        sections[origin].append(name)
    if len(sections) == 1:
        return ORIGINS[next(iter(sections))]
    return ", ".join(f"{ORIGINS[origin]} ({', '.join(sections[origin])})" for origin in ORIGINS if origin in sections)


def weakest(known: Iterable[tuple[str, str]]) -> dict[str, str]:
    """How patients are known where each may have several sections: as the least sure of them is.

    Args:
        known: patient and a key of `ORIGINS`, of each section.
    """
    order, found = list(ORIGINS), {}
    for patient, origin in known:
        found[patient] = max(found.get(patient, origin), origin, key=order.index)
    return found


def not_stated(origin_of: Mapping[str, str]) -> str:
    """What to say where the patients of some sections are not stated, else "".

    Args:
        origin_of: a key of `ORIGINS` for each section.
    """
    texts = []
    for origin, why in (
        (GUESSED, "nothing states whose tissue {} is: its patient is a guess; list section,patient in patients.csv"),
        (UNKNOWN, "how the patient of {} is known is not recorded; build the data set again"),
    ):
        if names := [name for name, each in origin_of.items() if each == origin]:
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            texts.append(why.format(shown))
    return "; ".join(texts)


def spelling_key(patient: str) -> tuple[str, ...]:
    """The same for names that differ in case, separators or leading zeros: `P01`, `p-1`, `P 1`; not `P11`, `P1-1`."""
    parts = re.findall(r"\d+|[^\W\d_]+", patient.casefold())
    return tuple(part.lstrip("0") or "0" if part.isdigit() else part for part in parts) or (patient,)


def spelt_alike(patients: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that may well be of one person; see `spelling_key`."""
    groups = defaultdict(set)
    for patient in patients:
        groups[spelling_key(patient)].add(patient)
    return [tuple(sorted(names)) for names in groups.values() if len(names) > 1]
