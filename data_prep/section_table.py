"""The table of a section, or of some of its records: spots and counts, and statistics of its images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from data_prep import csr, npz
from data_prep.counts import shape_of
from data_prep.errors import InputError
from data_prep.spots import ARRAYS, OUTLINES, Spots

_REMEDY = "the data set is damaged, copy it again or build it again"
_FIGURES = {
    "total_counts": ("iu", 1),
    "record_of_spot": ("iu", 1),
    "white_fraction": ("f", 1),
    "channel_mean": ("f", 2),
    "channel_mean_square": ("f", 2),
}
_TABLE = ARRAYS | _FIGURES | csr.ARRAYS


@dataclasses.dataclass(frozen=True)
class SectionTable:
    """The spots of a section in record order, and statistics of its records.

    Attributes:
        counts: [S, G] int32 raw counts, CSR over the data set's genes.
        spots: [S], in full-resolution pixels.
        total_counts: [S] int64, all genes, before any gene was removed.
        record_of_spot: [S] int32, the record that holds the spot, counted within the section.
        white_fraction: [R] float32.
        channel_mean, channel_mean_square: [R, 3] float64, of each record's stored pixels, 0 to 255.
    """

    counts: scipy.sparse.csr_array
    spots: Spots
    total_counts: np.ndarray
    record_of_spot: np.ndarray
    white_fraction: np.ndarray
    channel_mean: np.ndarray
    channel_mean_square: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "SectionTable":
        """Of some of the spots, beside all records."""
        per_spot = {name: getattr(self, name)[rows] for name in ("counts", "spots", "total_counts", "record_of_spot")}
        return dataclasses.replace(self, **per_spot)

    def save(self, path: Path) -> None:
        """Write as .npz, counts and gene indices in the smallest type that holds them."""
        figures = {name: getattr(self, name) for name in _FIGURES}
        arrays: dict[str, Any] = {**self.spots.to_arrays(), **figures, **csr.to_arrays(self.counts)}
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> "SectionTable":
        """Read what `save` wrote.

        Raises:
            InputError: damaged, or no table of a section.
        """
        arrays = npz.read(path, _TABLE, optional=OUTLINES, remedy=_REMEDY)
        table = cls(
            counts=csr.from_arrays(arrays, origin=f"{path}", remedy=_REMEDY),
            spots=Spots.from_arrays(arrays, origin=f"{path}", remedy=_REMEDY),
            **{name: arrays[name] for name in _FIGURES},
        )
        if fault := table.fault():
            raise InputError(f"{path}: {fault}; {_REMEDY}")
        return table

    @classmethod
    def join(cls, parts: Sequence["SectionTable"]) -> "SectionTable":
        """The table of all records, from those of consecutive ones."""
        if len(parts) == 1:
            return parts[0]
        first = np.cumsum([0, *(len(part.white_fraction) for part in parts)])
        numbered = [part.record_of_spot + start for part, start in zip(parts, first, strict=False)]
        figures = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIGURES}
        return cls(
            counts=csr.stack([part.counts for part in parts]),
            spots=Spots.concatenate([part.spots for part in parts]),
            **(figures | {"record_of_spot": np.concatenate(numbered).astype(np.int32)}),
        )

    def fault(self) -> str:
        """Why its parts are not those of one section, "" if they are."""
        count, records = len(self.spots), len(self.white_fraction)
        expected = {
            "counts": (count, shape_of(self.counts)[1]),
            **dict.fromkeys(("total_counts", "record_of_spot"), (count,)),
            **dict.fromkeys(("channel_mean", "channel_mean_square"), (records, 3)),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                return f"{name} has the shape {getattr(self, name).shape}, expected {shape}"
        for name in ("white_fraction", "channel_mean", "channel_mean_square"):
            if not np.isfinite(getattr(self, name)).all():
                return f"{name} holds what is no number"
        if (self.total_counts < 0).any():
            return "a total of counts is negative"
        if count and not (self.record_of_spot.min() >= 0 and self.record_of_spot.max() < records):
            return f"a spot is in a record that is none of its {records}"
        return ""
