"""A section as read and framed, kept from the planning of a build to its writing: its files are read once."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import csr, json_files, npz, on_disk, spots, stored
from data_prep.counts import Counts
from data_prep.errors import InputError
from data_prep.section import GeneTable, Section

_REMEDY = "remove the folder that holds it and build again"
_COLUMNS = {"spot_id": ("US", 1), "spot_xy": ("f", 2)}  # of spots, in memory or on disk
_FILES = {f"{name}_file": ("U", 0) for name in _COLUMNS}
_ARRAYS = {
    **{name: form for name, form in spots.ARRAYS.items() if name not in _COLUMNS},
    "ensembl_id": ("U", 1),
    "symbol": ("U", 1),
    "origin_xy": ("f", 2),
    "record_start": ("i", 1),
    "image_path": ("U", 0),
    "rest": ("U", 0),
}
_COUNTS = {**csr.ARRAYS, **stored.ARRAYS, "counts_folder": ("U", 0)}  # of counts in memory, or of those on disk
_OF_SECTION = (  # plain values
    "name", "patient", "patient_source", "um_per_px", "um_per_px_source", "layout", "synthetic", "patch_coords",
    "notes",
)  # fmt: skip
_OF_FRAMES = ("px_scale", "context_px", "removed")


@dataclasses.dataclass(frozen=True)
class Framed:
    """The kept spots of a section in record order, with their counts, and where its records lie.

    Attributes:
        section: its kept spots alone.
        origin_xy: [R, 2] float64, top-left corners, full-resolution pixels.
        record_start: [R + 1] int64, where each record's spots begin, and where the last one's end.
        px_scale: full-resolution pixels per record pixel.
        context_px: margin without spots of its own, record pixels.
        removed: spots removed, by reason; each is counted once, under the first reason that applies.
    """

    section: Section
    origin_xy: np.ndarray
    record_start: np.ndarray
    px_scale: float
    context_px: int
    removed: dict[str, int]

    def __len__(self) -> int:
        """R, how many records there are."""
        return len(self.origin_xy)

    def save(self, path: Path) -> None:
        """Write as .npz, not compressed: it is read once. What lies on disk stays where it is, next to `path`."""
        section = self.section
        rest = {name: getattr(section, name) for name in _OF_SECTION} | {
            name: getattr(self, name) for name in _OF_FRAMES
        }
        arrays: dict[str, Any] = section.spots.to_arrays(as_text=False)
        for name in _COLUMNS:
            if (file := on_disk.file_of(arrays[name])) is not None:
                arrays[f"{name}_file"] = str(file.absolute())
                del arrays[name]
        if isinstance(section.counts, stored.StoredCounts):
            arrays |= section.counts.to_arrays() | {"counts_folder": str(section.counts.folder.absolute())}
        else:
            arrays |= csr.to_arrays(section.counts)
        np.savez(
            path,
            **arrays,
            ensembl_id=section.genes.ensembl_id,
            symbol=section.genes.symbol,
            origin_xy=self.origin_xy,
            record_start=self.record_start,
            image_path=str(section.image_path.absolute()),
            rest=json.dumps(rest),
        )

    @classmethod
    def load(cls, path: Path) -> "Framed":
        """What `save` wrote.

        Raises:
            InputError: not there, or damaged.
        """
        optional = spots.OUTLINES | _COUNTS | _COLUMNS | _FILES
        arrays = npz.read(path, _ARRAYS, optional=optional, remedy=_REMEDY)
        for name in _COLUMNS.keys() - arrays.keys():
            if f"{name}_file" not in arrays:
                raise InputError(f"{path}: damaged table (it has no array {name}); {_REMEDY}")
            arrays[name] = on_disk.load(Path(str(arrays[f"{name}_file"])), remedy=_REMEDY)
        rest: dict[str, Any] = json_files.parse(str(arrays["rest"]), str(path), remedy=_REMEDY)
        of_section: dict[str, Any] = {name: rest[name] for name in _OF_SECTION} | {"notes": tuple(rest["notes"])}
        section = Section(
            image_path=Path(str(arrays["image_path"])),
            genes=GeneTable(arrays["ensembl_id"], arrays["symbol"]),
            counts=_counts(path, arrays),
            spots=spots.Spots.from_arrays(arrays, origin=f"{path}", remedy=_REMEDY),
            **of_section,
        )
        of_frames = {name: rest[name] for name in _OF_FRAMES}
        return cls(section, arrays["origin_xy"], arrays["record_start"], **of_frames)


def _counts(path: Path, arrays: dict[str, np.ndarray]) -> Counts:
    """The counts that `Framed.save` wrote, or left where they were."""
    if "counts_folder" in arrays and not stored.ARRAYS.keys() - arrays.keys():
        return stored.StoredCounts.from_arrays(Path(str(arrays["counts_folder"])), arrays)
    if csr.ARRAYS.keys() - arrays.keys():
        raise InputError(f"{path}: damaged table (it has no counts); {_REMEDY}")
    return csr.from_arrays(arrays, origin=f"{path}", remedy=_REMEDY)
