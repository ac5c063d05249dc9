"""An H&E image that was aligned to an instrument's own images: where it lies, and the 3 x 3 matrices that place it."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.errors import InputError
from data_prep.readers import _sections, _text
from data_prep.readers._sections import Reading

ALIGNMENT = re.compile(r"^(?!\.).*imagealignment\.csv$")  # pixels of the H&E image to pixels of the instrument's own
NAME = "*_he_imagealignment.csv"  # of these, the usual one, for messages
_HE = re.compile(r"he_image\.", re.IGNORECASE)
_OTHER_SCALE = 0.05  # between the two axes of the image: more is no turned and enlarged copy
_MARKS = ("\t", ",", ";")


def find(folders: Sequence[Path], pattern: re.Pattern[str]) -> list[Path]:
    """Files directly in the folders whose name matches."""
    return [file for folder in folders for file in _sections.find(folder, pattern, 1)]


def images(folders: Sequence[Path], name: str, reading: Reading, own: re.Pattern[str]) -> list[Path]:
    """The H&E image of a section: as the user gives it, or from the folders; those so named before others.

    Args:
        own: names of images that the instrument writes itself.
    """
    if reading.image is not None:
        return _sections.given_image(reading.image, name)
    there = [file for folder in folders for file in _sections.images_in(folder) if not own.search(file.name)]
    return [file for file in there if _HE.search(file.name)] or there


def only(name: str, found: Sequence[Path]) -> Path:
    """The one alignment of a section. Raises InputError where there are several."""
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise InputError(
            f"Section {name!r}: {len(found)} alignments ({names}), expected one; keep that of the H&E image"
        )
    return found[0]


def read_matrix(path: Path, remedy: str) -> np.ndarray:
    """[3, 3] between two images, or between one and um, of numbers separated by commas, tabs, semicolons or blanks.

    Raises:
        InputError: no 3 x 3 matrix of numbers, or one that no image could have been aligned with; it ends in `remedy`.
    """
    text = _text.read_text(path)
    spaced = not any(mark in text for mark in _MARKS)
    rows = [line.split() for line in text.splitlines() if line.strip()] if spaced else _text.read_rows(path, ",")
    if len(rows) != 3 or any(len(row) != 3 for row in rows):
        raise InputError(f"{path}: {len(rows)} rows of {len(rows[0])} numbers, expected 3 of 3; {remedy}")
    values = [_text.numbers(path, f"{place + 1}", [row[place] for row in rows], lines=(1, 2, 3)) for place in range(3)]
    matrix = np.column_stack(values)
    large, small = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if not np.allclose(matrix[2], [0, 0, 1]) or not large < (1 + _OTHER_SCALE) * small:
        raise InputError(
            f"{path}: no turned, moved and enlarged copy of an image (scales {large:.4g} and {small:.4g}, last row "
            f"{matrix[2].tolist()}); {remedy}"
        )
    return matrix


def placed(um: np.ndarray) -> tuple[np.ndarray, float]:
    """[2, 3] from um to pixels of an image, and the image's um per px.

    Args:
        um: [3, 3] from pixels of the image to um, both counted from a corner.
    """
    return np.linalg.inv(um)[:2], float(np.sqrt(np.abs(np.linalg.det(um[:2, :2]))))
