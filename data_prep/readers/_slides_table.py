"""slides.csv, by which users state the scale and the patient of each slide of a folder, one row a slide."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from data_prep import files
from data_prep.errors import InputError
from data_prep.readers import _text
from data_prep.slide_base import OME_ZARR, SLIDE_SUFFIXES, check_stated_scale

TABLE = "slides.csv"  # columns slide, and um_per_px or patient or both; others are left alone
SAME_SCALE = 0.02  # two scales that differ by less are one


class Slide(NamedTuple):
    """What a row states: the scale, None where it does not, and the patient, "" where it does not."""

    um_per_px: float | None = None
    patient: str = ""


def folder_of(root: Path) -> Path:
    """Where tables of a source lie: in its folder, or next to a file or a Zarr store, which is one thing too."""
    return root if root.is_dir() and root.suffix.lower() != ".zarr" else root.parent


def read(root: Path) -> dict[str, Slide]:
    """Slide -> what is stated of it; empty without a table.

    Args:
        root: the source, see `folder_of`. A slide is called by the name of
            its section or sample, or of its file.

    Raises:
        InputError: the table is damaged, lists a slide twice, or states a scale that is none.
    """
    path = folder_of(root) / TABLE
    if not files.is_there(path):
        return {}
    header, *rows = _text.read_rows(path, ",")
    header = [name.strip().casefold() for name in header]
    stated = [name for name in ("um_per_px", "patient") if name in header]
    if not stated:
        raise InputError(f"{path}: header is {', '.join(header)[:200]}, expected slide and um_per_px or patient")
    columns = dict(zip(["slide", *stated], _text.columns(path, header, rows, ["slide", *stated]), strict=True))
    listed: dict[str, Slide] = {}
    for number, slide in enumerate(columns["slide"]):
        values = {name: columns[name][number].strip() for name in stated}
        if not slide.strip() and not any(values.values()):
            continue
        name = _bare(slide.strip())
        if not name:
            raise InputError(f"{path}: line {number + 2} names no slide; name it or remove the line")
        if name in listed:
            raise InputError(f"{path}: slide {files.shown(name)} is listed twice; keep one row")
        listed[name] = Slide(_scale(path, values.get("um_per_px", ""), number + 2), values.get("patient", ""))
    return listed


def sample_of(section: str) -> str:
    """The sample of a section of Visium HD's bins; of any other, the section itself."""
    return re.sub(r"_\d{3,}um$", "", section)


def of_section(listed: Mapping[str, Slide], section: str) -> Slide:
    """What is stated of a section, by its own name or by its sample's."""
    return listed.get(section) or listed.get(sample_of(section)) or Slide()


def one_scale(root: Path, name: str, stated: Slide, um_per_px: float | None) -> float | None:
    """The scale that the user states of a slide, in the table or for all slides by --source-um-per-px.

    Raises:
        InputError: the two contradict each other.
    """
    listed = stated.um_per_px
    if um_per_px is not None and listed is not None and abs(um_per_px / listed - 1) > SAME_SCALE:
        raise InputError(
            f"Section {name!r}: --source-um-per-px says {um_per_px:.4g} and {TABLE} in {root} {listed:.4g}; leave out "
            "the one that is wrong"
        )
    return um_per_px if listed is None else listed


def _bare(slide: str) -> str:
    """The name of a slide without the ending of its file."""
    for suffix in (*SLIDE_SUFFIXES, OME_ZARR):
        if slide.casefold().endswith(suffix):
            return slide[: -len(suffix)].removesuffix(".ome")
    return slide


def _scale(path: Path, text: str, line: int) -> float | None:
    if not text:
        return None
    (value,) = _text.numbers(path, "um_per_px", [text], lines=[line]).tolist()
    check_stated_scale(value, f"{path}: um_per_px in line {line}")
    return value
