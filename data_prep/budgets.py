"""How much memory reading a file may ask for: in proportion to the file, decided here and nowhere else.

A file of a few kilobytes can declare, or unpack to, any number of gigabytes. Every reader therefore asks the budget of
what it is about to hold *before* it allocates. A sound file stays far below; whoever has one that does not raises all
budgets at once with the environment variable that every message names: `STJAX_BUDGET=4` allows four times as much.
"""

import dataclasses
import os
from pathlib import Path

from data_prep.errors import InputError

VARIABLE = "STJAX_BUDGET"


@dataclasses.dataclass(frozen=True)
class Budget:
    """The most that one thing in a file may need.

    Attributes:
        what: as it is called in the message.
        least: allowed of a file of any size.
        per_byte: allowed in addition for every byte of the file.
        unit: what is counted.
    """

    what: str
    least: int
    per_byte: float = 0.0
    unit: str = "bytes"

    def limit(self, file_bytes: int) -> int:
        """The most for a file of this size, the environment variable considered."""
        return int((self.least + self.per_byte * file_bytes) * factor())

    def check(self, path: Path, needed: int, *, file_bytes: int | None = None) -> None:
        """Asks for `needed` units.

        Args:
            path: the file, for the message.
            needed: how many.
            file_bytes: its size; looked up by default.

        Raises:
            InputError: it is over the budget.
        """
        size = path.stat().st_size if file_bytes is None else file_bytes
        if needed > (limit := self.limit(size)):
            raise InputError(
                f"{path}: {self.what} would take {needed:,} {self.unit}, over the budget of {limit:,} for a file of "
                f"{size:,} bytes; it is damaged or hostile. If you trust it, raise all budgets with "
                f"{VARIABLE}={max(2, -(-needed * factor() // limit)):.0f}"
            )


_MB = 1 << 20

# Text: tables of counts are mostly zeros and shrink a hundredfold; deflate's limit is 1032.
UNPACKED = Budget("what it unpacks to", 256 * _MB, 120)
# Tables that are read whole become lists of fields, which take up to fifty times their text: a table of eleven million
# barcodes, one a line, 1.7 GB of a file of 30 MB or more.
TABLE_TEXT = Budget("what it unpacks to", 32 * _MB, 12)
TABLE = Budget("its table", 512 * _MB, 60)
JSON_TEXT = Budget("what it unpacks to", 32 * _MB)
# Tables of counts are read line by line: a line, and all that comes of it. Real ones take six times their packed file.
LINE = Budget("one of its lines", 64 * _MB)
COUNT_TABLE = Budget("its counts", 256 * _MB, 40)
# Matrix Market: text and entries; real ones take about fifty times their packed file.
MTX_ENTRIES = Budget("its entries", 256 * _MB, 120)
# HDF5: one dataset, as it declares itself; matrices of counts shrink up to fiftyfold.
HDF5_DATASET = Budget("a data set it declares", 256 * _MB, 120)
HDF5_ATTRIBUTE = Budget("an attribute it declares", 16 * _MB, 1)  # never packed
# HDF5: all texts and attributes as Python's objects; and the time to go through all but numbers.
HDF5_TEXTS = Budget("all texts in it", 256 * _MB, 120)
HDF5_SECONDS = Budget("going through it", 10, 3e-8, "seconds")
# Parquet: rows, of which sound files hold less than one a byte, and one group of them unpacked.
PARQUET_ROWS = Budget("its table", 4 * _MB, 8, "rows")
PARQUET_GROUP = Budget("a group of rows it declares", 256 * _MB, 120)
# Zarr: one chunk, which is decoded as a whole, and an array that is read whole, as its metadata declares it.
ZARR_CHUNK = Budget("a chunk it declares", 256 * _MB)
ZARR_ARRAY = Budget("an array it declares", 256 * _MB, 120)
# GeoJSON: as text, all of which is held, and as Python's objects in turn.
GEOJSON_TEXT = Budget("what it unpacks to", 64 * _MB, 30)
# Images of labels, decoded: mostly 0, and long runs of the same number.
LABELS = Budget("its pixels", 256 * _MB, 2000)
# Archives of arrays (.npz): one array, as its header declares it.
NPZ_ARRAY = Budget("an array it declares", 256 * _MB, 120)
# Records of a data set: the image, decoded.
RECORD_IMAGE = Budget("its image", 64 * _MB, 400)
# Weights: all tensors together as they are seen, storages shared between them counted as often as they are shared.
TENSORS = Budget("its tensors", 64 * _MB, 8)
# A pickle's operations: released models have up to a hundred thousand.
PICKLE_OPERATIONS = Budget("its pickle", 1_000_000, unit="operations")
# A safetensors header: released models have up to a megabyte.
TENSORS_HEADER = Budget("its header", 16 * _MB)
# A program (StableHLO, weights are not in it): reading and printing it.
PROGRAM = Budget("reading its program", 1024 * _MB, 200)
PROGRAM_SECONDS = Budget("reading its program", 20, 1e-5, "seconds")
# Slides decoded whole: all that decoder, decoded picture and RGB take together. Scanners' pictures shrink ten- to
# thirtyfold as JPEG, less as PNG; a small file may be blank.
SLIDE_DECODED = Budget("decoding it whole", 1024 * _MB, 120)
# One strip or tile of a TIFF, which is decoded as a whole, tiles above the cache again and again.
TIFF_STRIP = Budget("a strip it declares", 256 * _MB, 120)
TIFF_TILE = Budget("a tile it declares", 16 * _MB, 40)
# All pixels of a TIFF's page: pyramids may leave out most tiles, where there is no tissue.
TIFF_IMAGE = Budget("the image it declares", 1024 * _MB, 2000)
# Of these, what tiles or strips that are there unpack to: a white tile of 2048 px shrinks 1,028-fold as deflate, whose
# limit is 1,032; more only tiles that share their bytes, or a whole slide without tissue. A gigabyte takes some 5 s.
TIFF_STORED = Budget("unpacking its tiles", 1024 * _MB, 1032)
# What a TIFF's tags hold: each byte of a sound file belongs to one tag at most.
TIFF_TAGS = Budget("the values of its tags", 32 * _MB, 1)
TIFF_DESCRIPTION = Budget("its description", 16 * _MB)
TIFF_PAGES = Budget("its directory", 4096, unit="pages")
# A progressive JPEG's scans: encoders write about ten; each goes over the whole picture.
JPEG_SCANS = Budget("decoding its progressive JPEG", 100, unit="scans")
JPEG_SCANNED = Budget("decoding its progressive JPEG", 2_000_000_000, 2000, unit="pixels in all scans together")


def factor() -> float:
    """What all budgets are multiplied by. Raises InputError when the environment variable is no positive number."""
    text = os.environ.get(VARIABLE, "1")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(
            f"{VARIABLE} is {text!r}, expected a positive number: how many times the usual memory to allow"
        )
    return value
