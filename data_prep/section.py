"""A section: one tissue slice, its slide image, its spots and their raw counts, as every reader returns it."""

import dataclasses
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import csr, files
from data_prep.errors import InputError
from data_prep.patients import GUESSED

DISC, SQUARE, POLYGON = 0, 1, 2  # codes of `spot_kind`


@dataclasses.dataclass(frozen=True)
class GeneTable:
    """Genes in column order. An unknown Ensembl id or symbol is the empty string; never both.

    Attributes:
        ensembl_id: [G] str, without version suffix.
        symbol: [G] str.
    """

    ensembl_id: np.ndarray
    symbol: np.ndarray

    def __len__(self) -> int:
        return len(self.symbol)

    @property
    def names(self) -> np.ndarray:
        """[G] str: the symbol, or the Ensembl id where there is none."""
        return np.where(self.symbol == "", self.ensembl_id, self.symbol)

    @property
    def keys(self) -> np.ndarray:
        """[G] str: what identifies a gene across sections: the Ensembl id, or the symbol where there is none."""
        return np.where(self.ensembl_id == "", self.symbol, self.ensembl_id)


@dataclasses.dataclass(frozen=True)
class Section:
    """One tissue section as read, before any filter.

    Attributes:
        name: unique within a source.
        patient: whose tissue it is; folds are made of patients.
        image_path: the full-resolution image.
        genes: [G] gene table.
        counts: [S, G] raw counts, non-negative int32, CSR.
        spot_id: [S] str, unique.
        spot_xy: [S, 2] float64, spot centres (x, y) in full-resolution pixels.
        spot_kind: [S] uint8, DISC, SQUARE or POLYGON.
        spot_size_px: [S] float32, full-resolution pixels: disc radius, square side, or index into `polygons`.
        um_per_px: physical size of a full-resolution pixel.
        um_per_px_source: where that figure comes from: "user", "file", "metadata", "spot pitch", "image file" or "spot
            diameter" (the last is a guess, and said to be one in the notes).
        layout: the reader's name.
        polygons: one [N, 2] float64 ring (x, y) per polygon spot.
        synthetic: True for generated demo tissue.
        patient_source: how the patient is known, a key of `data_prep.patients.ORIGINS`.
        notes: what the reader met and the user should know (spots without counts, unmapped genes, ...).
    """

    name: str
    patient: str
    image_path: Path
    genes: GeneTable
    counts: scipy.sparse.csr_array
    spot_id: np.ndarray
    spot_xy: np.ndarray
    spot_kind: np.ndarray
    spot_size_px: np.ndarray
    um_per_px: float
    um_per_px_source: str
    layout: str
    polygons: tuple[np.ndarray, ...] = ()
    synthetic: bool = False
    patient_source: str = GUESSED
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        files.check_name(self.name, "Section")
        if fault := files.fault_of_text(self.patient):
            raise InputError(f"Section {self.name!r}: patient {files.shown(self.patient)} {fault}; rename the patient")
        for what, names in (("spot", self.spot_id), ("gene", self.genes.symbol), ("gene", self.genes.ensembl_id)):
            files.check_texts(names, f"Section {self.name!r}: {what}")
        spots = len(self.spot_id)
        csr.check(self.counts, origin=f"Section {self.name!r}")
        expected = {
            "counts": (spots, len(self.genes)),
            "spot_xy": (spots, 2),
            "spot_kind": (spots,),
            "spot_size_px": (spots,),
        }
        for field, shape in expected.items():
            if getattr(self, field).shape != shape:
                raise InputError(
                    f"Section {self.name!r}: {field} has shape {getattr(self, field).shape}, expected {shape}"
                )
        if len(np.unique(self.spot_id)) != spots:
            values, times = np.unique(self.spot_id, return_counts=True)
            raise InputError(
                f"Section {self.name!r}: spot id {values[times > 1][0]!r} appears more than once; "
                "remove the duplicate rows"
            )
        if not np.all(np.isfinite(self.spot_xy)):
            raise InputError(f"Section {self.name!r}: spot coordinates are not all finite numbers")
        if not (np.isfinite(self.um_per_px) and self.um_per_px > 0):
            raise InputError(f"Section {self.name!r}: um_per_px is {self.um_per_px}, expected a positive number")
