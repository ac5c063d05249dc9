"""A TIFF's directories, looked through before any library reads them: what they declare is there, and is a slide's.

Libraries believe what a directory says: of a few hundred bytes that name a page as its own successor, a tile of
gigabytes, or OME-XML of a billion planes, some work without end or take all memory. Sound files pass unchanged.
"""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np

from data_prep import budgets
from data_prep.errors import InputError

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # whole numbers
_MOST_TAGS = 4096  # of one page; more is no directory
_SUB_DIRECTORIES, _DESCRIPTION, _SAMPLES, _BITS = 330, 270, 277, 258
# Of which a page has one number.
_SINGLE = {
    256: "ImageWidth",
    257: "ImageLength",
    259: "Compression",
    277: "SamplesPerPixel",
    278: "RowsPerStrip",
    284: "PlanarConfiguration",
    322: "TileWidth",
    323: "TileLength",
    32997: "ImageDepth",
    32998: "TileDepth",
}
_POSITIVE = (256, 257, 277, 278, 322, 323, 32997, 32998)
# Where each strip or tile is, and how long: OpenSlide ends the process where it cannot have as many bytes.
_OFFSETS = {273: "StripOffsets", 324: "TileOffsets"}
_LENGTHS = {279: "StripByteCounts", 325: "TileByteCounts"}
_MOST_PLANES = 1_000_000  # of all that OME-XML counts


@dataclasses.dataclass(frozen=True)
class _Tag:
    kind: int
    count: int
    place: int  # of its value in the file

    @property
    def size(self) -> int:
        return self.count * _SIZES[self.kind]


class _Directories:
    """The directories of an open file, in the order in which libraries come to them."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.size = path, file, path.stat().st_size
        head = file.read(16)
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = head[2:4] in (b"+\0", b"\0+")
        self.offset = "Q" if self.big else "I"
        self.first = self._unpack(self.offset, head[8:16] if self.big else head[4:8])[0]

    def _unpack(self, form: str, data: bytes) -> tuple[int, ...]:
        if len(data) < struct.calcsize(self.order + form):
            raise InputError(f"{self.path}: the image cannot be read (it ends too early); {_AGAIN}")
        return struct.unpack_from(self.order + form, data)

    def pages(self) -> Iterator[dict[int, _Tag]]:
        """{tag: what it says} of every page and page below a page."""
        seen: set[int] = set()
        waiting = [(self.first, False)]
        while waiting:
            place, is_below = waiting.pop()
            if not 8 <= place < self.size:
                if not seen:
                    raise InputError(f"{self.path}: the image cannot be read (it has no first page); {_AGAIN}")
                continue  # where libraries take the chain to end
            if place in seen:
                raise InputError(f"{self.path}: the image cannot be read (its pages lead back to themselves); {_AGAIN}")
            seen.add(place)
            budgets.TIFF_PAGES.check(self.path, len(seen), file_bytes=self.size)
            tags, following = self._page(place)
            yield tags
            below: tuple[int, ...] = ()
            if _SUB_DIRECTORIES in tags:
                budgets.TIFF_PAGES.check(self.path, tags[_SUB_DIRECTORIES].count, file_bytes=self.size)
                below = self.numbers(tags[_SUB_DIRECTORIES], tags[_SUB_DIRECTORIES].count)
            if following and not is_below:  # pages below a page are listed, their chain is not followed
                waiting.append((following, False))
            waiting += [(place, True) for place in below]

    def _page(self, place: int) -> tuple[dict[int, _Tag], int]:
        count_form, entry = ("Q", 20) if self.big else ("H", 12)
        self.file.seek(place)
        start = place + struct.calcsize(self.order + count_form)
        count = self._unpack(count_form, self.file.read(start - place))[0]
        if count > _MOST_TAGS:
            raise InputError(f"{self.path}: the image cannot be read (a page of {count} tags); {_AGAIN}")
        data = self.file.read(count * entry)
        self._unpack(f"{count * entry}s", data)
        inline = 8 if self.big else 4
        tags: dict[int, _Tag] = {}
        for index in range(count):
            code, kind, values = self._unpack("HH" + self.offset, data[index * entry : (index + 1) * entry])
            if kind not in _SIZES or code in tags:
                continue  # as libraries do
            value_place = start + (index + 1) * entry - inline
            if values * _SIZES[kind] > inline:
                value_place = self._unpack(self.offset, data[(index + 1) * entry - inline : (index + 1) * entry])[0]
            tags[code] = _Tag(kind, values, value_place)
        end = self.file.read(inline)
        return tags, self._unpack(self.offset, end)[0] if len(end) == inline else 0

    def within(self, tag: _Tag) -> bool:
        """Whether a tag's value lies in the file."""
        return tag.place + tag.size <= self.size

    def numbers(self, tag: _Tag, most: int) -> tuple[int, ...]:
        """The first of a tag's numbers, none of one that is no number or does not lie in the file."""
        if tag.kind not in _LETTERS or not self.within(tag):
            return ()
        self.file.seek(tag.place)
        count = min(tag.count, most)
        return self._unpack(f"{count}{_LETTERS[tag.kind]}", self.file.read(count * _SIZES[tag.kind]))

    def largest(self, tag: _Tag) -> int:
        """The largest of all numbers of a tag that lies in the file."""
        self.file.seek(tag.place)
        numbers = np.frombuffer(self.file.read(tag.size), f"{self.order}{_LETTERS[tag.kind]}")
        return int(numbers.max(initial=0))

    def text(self, tag: _Tag) -> str:
        """A tag's text, as tifffile decodes it."""
        self.file.seek(tag.place)
        data = self.file.read(tag.size).rstrip(b"\0")
        try:
            return data.decode().strip()
        except UnicodeDecodeError:
            return data.decode("cp1252", "replace").strip()


_AGAIN = "it is damaged or truncated; copy or download it again, or convert it"


def check_directories(path: Path) -> None:
    """Looks through all pages of a TIFF.

    Raises:
        InputError: pages that lead back to themselves or are too many; tags whose values lie outside the file, or of
            which a page can have but one; tiles, strips or an image too large for the file; OME-XML that counts more
            planes than there can be, or places some in other files.
    """
    with path.open("rb") as file:
        directories = _Directories(path, file)
        held, pages, first = 0, 0, ""
        for tags in directories.pages():
            inside = [tag for tag in tags.values() if directories.within(tag)]
            held += sum(tag.size for tag in inside)
            budgets.TIFF_TAGS.check(path, held, file_bytes=directories.size)
            _check_page(directories, tags)
            description = tags.get(_DESCRIPTION)
            if description is not None and directories.within(description):
                budgets.TIFF_DESCRIPTION.check(path, description.size, file_bytes=directories.size)
                text = directories.text(description)
                if "<!DOCTYPE" in text or "<!ENTITY" in text:
                    raise InputError(f"{path}: found entities in the XML of its description, expected none; remove it")
                first = first if pages else text
            pages += 1
    if first.endswith("OME>"):
        _check_ome(path, first, pages)


def _check_page(directories: _Directories, tags: dict[int, _Tag]) -> None:
    path = directories.path
    for code, name in (_SINGLE | _OFFSETS | _LENGTHS).items():
        if code not in tags:
            continue
        if not directories.within(tags[code]):
            raise InputError(f"{path}: the image cannot be read ({name} lies beyond the end of the file); {_AGAIN}")
        if code not in _SINGLE and tags[code].kind not in ((3, 4, 16) if directories.big else (3, 4)):
            what = "no places in the file" if code in _OFFSETS else "no numbers of bytes"
            raise InputError(f"{path}: the image cannot be read ({name}: found {what}); {_AGAIN}")
        if code in _LENGTHS and (longest := directories.largest(tags[code])) > directories.size:
            found = f"{name}: found {longest:,} in a file of {directories.size:,} bytes"
            raise InputError(f"{path}: the image cannot be read ({found}); {_AGAIN}")
    said: dict[int, int] = {}
    for code, name in _SINGLE.items():
        if code not in tags:
            continue
        numbers = directories.numbers(tags[code], 1)
        if code == 278 and tags[code].count > 1:
            continue  # some write it once for each strip; libraries take one strip
        if tags[code].count != 1 or not numbers or (code in _POSITIVE and numbers[0] < 1):
            found = f"{tags[code].count} values" if tags[code].count != 1 else "no positive number"
            raise InputError(f"{path}: the image cannot be read ({name}: found {found}, expected one); {_AGAIN}")
        said[code] = numbers[0]
    if 256 not in said or 257 not in said:
        return  # no picture
    width, height = said[256], said[257]
    samples = said.get(_SAMPLES, 1)
    bits = max(directories.numbers(tags[_BITS], 16), default=1) if _BITS in tags else 1
    tiled = 322 in said and 323 in said
    across, down = (said[322], said[323]) if tiled else (width, min(said.get(278, height), height))
    in_segment = 1 if said.get(284, 1) == 2 else samples
    depth = said.get(32998, 1) if tiled else 1
    segment = across * down * depth * in_segment * bits // 8
    (budgets.TIFF_TILE if tiled else budgets.TIFF_STRIP).check(path, segment, file_bytes=directories.size)
    budgets.TIFF_IMAGE.check(path, width * height * samples * bits // 8, file_bytes=directories.size)
    count = -(-width // across) * -(-height // down) * (samples if in_segment != samples else 1)
    offsets = tags.get(324 if tiled else 273)
    if offsets is not None and offsets.count < count:
        kind = "tiles" if tiled else "strips"
        raise InputError(f"{path}: the image cannot be read ({offsets.count} {kind}, expected {count}); {_AGAIN}")


def _check_ome(path: Path, text: str, pages: int) -> None:
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return  # which tifffile takes for no OME-XML
    planes, uuids = 0, set()
    for element in root.iter():
        kind = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
        counts = element.attrib
        if kind == "Pixels":
            planes += _number(counts, "SizeC") * _number(counts, "SizeZ") * _number(counts, "SizeT")
        elif kind == "TiffData":
            planes += sum(_number(counts, name) for name in ("PlaneCount", "NumPlanes", "FirstC", "FirstZ", "FirstT"))
            planes += 1 if {"IFD", "PlaneCount", "NumPlanes"} & {*counts} else pages
        elif kind == "UUID":
            uuids.add((element.text or "").strip())
        elif kind.startswith("Along"):
            raise InputError(f"{path}: its OME-XML splits dimensions (modulo), expected one RGB or grey image")
    if planes > _MOST_PLANES:
        raise InputError(f"{path}: its OME-XML counts {planes:.3g} planes, expected one RGB or grey image; {_AGAIN}")
    if len(uuids) > 1:
        raise InputError(
            f"{path}: its OME-XML places the image in {len(uuids)} files, expected one RGB or grey image in this file; "
            "export it as a file of its own"
        )


def _number(attributes: dict[str, str], name: str) -> int:
    """A count, 0 where none is said or it is no number, which tifffile refuses."""
    try:
        return abs(int(attributes.get(name, "0")))
    except ValueError:
        return 0
