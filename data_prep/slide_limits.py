"""What decoding a whole picture takes, asked of the budgets before it is decoded."""

import re
from pathlib import Path

from PIL import Image, JpegImagePlugin

from data_prep import budgets

_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")  # none within a scan's data
_END = 0xD9


def check_decoding(path: Path, image: Image.Image, *, scans: int = 1) -> None:
    """Asks for what decoding an image takes at its highest, next to its file: the decoder's picture and RGB.

    Args:
        path: the file, for the message.
        image: opened by Pillow, not decoded.
        scans: a JPEG's.

    Raises:
        InputError: it is over the budget, which is in proportion to the file.
    """
    width, height = image.size
    per_px = 3
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.mode == "CMYK":
            per_px += 4
        if scans > 1 or "progressive" in image.info:
            per_px += 2 * len(image.getbands())  # all coefficients at once
        budgets.JPEG_SCANNED.check(path, scans * width * height)
    else:
        per_px += 1 if image.mode in ("1", "L", "P") else 4
    budgets.SLIDE_DECODED.check(path, per_px * width * height)


def check_scans(path: Path, data: bytes) -> int:
    """The number of a JPEG's scans, or more where its metadata holds a preview.

    Raises:
        InputError: so many that decoding them would take minutes.
    """
    scans = data.count(_SCAN)
    if scans > budgets.JPEG_SCANS.limit(len(data)):  # rarely: they may stand in metadata or behind the end
        scans = _count_scans(data)
        budgets.JPEG_SCANS.check(path, scans, file_bytes=len(data))
    return scans


def _count_scans(data: bytes) -> int:
    scans, place = 0, 2
    while (marker := _MARKER.search(data, place)) is not None:
        kind, place = marker[1][0], marker.end()
        if kind == _END:
            break
        scans += kind == _SCAN[1]
        place += int.from_bytes(data[place : place + 2], "big")
    return scans
