"""What readers share about sections: which to read, their image, their patient, and their scale."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".btf", ".svs", ".ndpi")
SYNTHETIC_MARK = "SYNTHETIC.txt"  # data_prep.demo writes it beside everything it generates


def choose(found: Mapping[str, str], path: Path, sections: Sequence[str] | None, skip_incomplete: bool) -> list[str]:
    """Names of the sections to read.

    Args:
        found: section name -> what it lacks, "" when complete.
        path: the source, for messages.
        sections: the names asked for; all by default.
        skip_incomplete: leave incomplete sections out instead of raising.

    Raises:
        InputError: a name that is not there, an incomplete section, or nothing left; every such section is named.
    """
    unknown = [name for name in sections or () if name not in found]
    if unknown:
        raise InputError(f"{path}: no section {', '.join(unknown)}; --sections may name {', '.join(sorted(found))}")
    asked = {name: lack for name, lack in found.items() if sections is None or name in sections}
    complete = [name for name, lack in asked.items() if not lack]
    lacking = "; ".join(f"section {name!r}: {lack}" for name, lack in asked.items() if lack)
    if lacking and not skip_incomplete:
        rest = f"name only the complete ones with --sections {','.join(complete)}" if complete else "none is complete"
        raise InputError(f"{path}: {lacking}. Add what is missing, drop these with --skip-incomplete, or {rest}")
    if not complete:
        raise InputError(f"{path}: no complete section to read{': ' + lacking if lacking else ''}")
    return complete


def images_in(folder: Path, stem: str | None = None) -> list[Path]:
    """Image files directly in `folder`, those named `stem` + extension when given, in name order."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != ".")
    return sorted(file for file in files if stem is None or file.stem.removesuffix(".ome") == stem)


def is_synthetic(root: Path) -> bool:
    """Whether `root` (a folder, or a file in one) was written by the demo generator."""
    return ((root if root.is_dir() else root.parent) / SYNTHETIC_MARK).is_file()


def patient_of(name: str) -> str:
    """The letters a section name starts with: `A1`, `A2` are sections of patient `A`."""
    match = re.match(r"[A-Za-z]+", name)
    return match.group() if match else name


def pitch_px(grid_xy: np.ndarray, spot_xy: np.ndarray) -> float | None:
    """Distance between neighbours on the spot grid, in pixels, by least squares; None if the spots do not span a plane.

    Args:
        grid_xy: [S, 2] positions on the array, in units of the pitch.
        spot_xy: [S, 2] pixels.
    """
    design = np.column_stack([grid_xy, np.ones(len(grid_xy))])
    if len(grid_xy) < 3 or np.linalg.matrix_rank(design - [*grid_xy.mean(axis=0), 0]) < 3:
        return None
    affine = np.linalg.lstsq(design, spot_xy, rcond=None)[0][:2]
    pitch = float(np.sqrt(abs(np.linalg.det(affine))))
    return pitch if np.isfinite(pitch) and pitch > 0 else None


def scale(
    name: str, *, file_um: float | None, pitch_um: float | None, user_um: float | None, remedy: str
) -> tuple[float, str, tuple[str, ...]]:
    """`um_per_px`, its source and notes: from the file, else from the spot pitch, else from the user.

    Args:
        file_um: what a file states, or None.
        pitch_um: known pitch over measured pitch, or None.
        user_um: what the user states, or None.
        remedy: what to do when nothing is known.
    """
    known = [(value, source) for value, source in ((file_um, "file"), (pitch_um, "spot pitch"), (user_um, "user"))
             if value is not None]  # fmt: skip
    if not known:
        raise InputError(f"Section {name!r}: um_per_px is not known; {remedy}")
    value, source = known[0]
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"Section {name!r}: um_per_px from the {source} is {value}, expected a positive number")
    notes = tuple(
        f"um_per_px is {value:.4g} from the {source}; the {other_source} says {other:.4g}"
        for other, other_source in known[1:]
        if abs(other / value - 1) > 0.02
    )
    return value, source, notes
