"""The table of a section, or of some of its records: spots and counts, and statistics of its images.

Counts are most of it: `SectionSpots` is the table without them, for whoever needs none.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

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
_SPOTS = ARRAYS | _FIGURES


@dataclasses.dataclass(frozen=True)
class SectionSpots:
    """The spots of a section in record order, and statistics of its records.

    Attributes:
        spots: [S], in full-resolution pixels.
        total_counts: [S] int64, all genes, before any gene was removed.
        record_of_spot: [S] int32, the record that holds the spot, counted within the section; ascending.
        white_fraction: [R] float32.
        channel_mean, channel_mean_square: [R, 3] float64, of each record's stored pixels, 0 to 255.
    """

    spots: Spots
    total_counts: np.ndarray
    record_of_spot: np.ndarray
    white_fraction: np.ndarray
    channel_mean: np.ndarray
    channel_mean_square: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Self:
        """Of some of the spots, beside all records."""
        return dataclasses.replace(self, **self._of_spots(rows))

    def _of_spots(self, rows: np.ndarray) -> dict[str, Any]:
        return {name: getattr(self, name)[rows] for name in ("spots", "total_counts", "record_of_spot")}

    @classmethod
    def load(cls, path: Path, *, names: bool = True) -> Self:
        """Read what `SectionTable.save` wrote, but for what this class leaves out.

        Args:
            names: read those of the spots, which take longer than all else but counts; without them they are empty.

        Raises:
            InputError: damaged, or no table of a section.
        """
        expected = {name: kind for name, kind in cls._expected().items() if names or name != "spot_id"}
        arrays = npz.read(path, expected, optional=OUTLINES, remedy=_REMEDY)
        if not names:
            arrays["spot_id"] = np.zeros(len(arrays["spot_kind"]), "S1")
        table = cls(**cls._fields(arrays, f"{path}"))
        if fault := table.fault():
            raise InputError(f"{path}: {fault}; {_REMEDY}")
        return table

    @classmethod
    def _expected(cls) -> Mapping[str, tuple[str, int]]:
        return _SPOTS

    @classmethod
    def _fields(cls, arrays: Mapping[str, np.ndarray], origin: str) -> dict[str, Any]:
        spots = Spots.from_arrays(arrays, origin=origin, remedy=_REMEDY)
        return {"spots": spots} | {name: arrays[name] for name in _FIGURES}

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The table of all records, from those of consecutive ones."""
        return parts[0] if len(parts) == 1 else cls(**cls._joined(parts))

    @classmethod
    def _joined(cls, parts: Sequence[Any]) -> dict[str, Any]:
        first = np.cumsum([0, *(len(part.white_fraction) for part in parts)])
        numbered = [part.record_of_spot + start for part, start in zip(parts, first, strict=False)]
        figures = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIGURES}
        spots = Spots.concatenate([part.spots for part in parts])
        return {"spots": spots, **figures, "record_of_spot": np.concatenate(numbered).astype(np.int32)}

    def fault(self) -> str:
        """Why its parts are not those of one section, "" if they are."""
        count, records = len(self.spots), len(self.white_fraction)
        expected = {
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


@dataclasses.dataclass(frozen=True)
class SectionTable(SectionSpots):
    """The same with counts.

    Attributes:
        counts: [S, G] int32 raw counts, CSR over the data set's genes.
    """

    counts: scipy.sparse.csr_array

    def _of_spots(self, rows: np.ndarray) -> dict[str, Any]:
        return super()._of_spots(rows) | {"counts": self.counts[rows]}

    def save(self, path: Path) -> None:
        """Write as .npz, counts and gene indices in the smallest type that holds them."""
        figures = {name: getattr(self, name) for name in _FIGURES}
        arrays: dict[str, Any] = {**self.spots.to_arrays(), **figures, **csr.to_arrays(self.counts)}
        np.savez_compressed(path, **arrays)

    @classmethod
    def _expected(cls) -> Mapping[str, tuple[str, int]]:
        return _SPOTS | csr.ARRAYS

    @classmethod
    def _fields(cls, arrays: Mapping[str, np.ndarray], origin: str) -> dict[str, Any]:
        return super()._fields(arrays, origin) | {"counts": csr.from_arrays(arrays, origin=origin, remedy=_REMEDY)}

    @classmethod
    def _joined(cls, parts: Sequence[Any]) -> dict[str, Any]:
        return super()._joined(parts) | {"counts": csr.stack([part.counts for part in parts])}

    def fault(self) -> str:
        """As `SectionSpots` says."""
        if (found := shape_of(self.counts)[0]) != len(self.spots):
            return f"counts are of {found} spots, beside {len(self.spots)} spots"
        return super().fault()
