"""A section: one tissue slice, its slide image, its spots and their raw counts, as every reader returns it."""

import dataclasses
from pathlib import Path

import numpy as np

from data_prep import csr, files, names
from data_prep.counts import Counts, shape_of
from data_prep.errors import InputError
from data_prep.patients import GUESSED
from data_prep.spots import Spots
from data_prep.stored import StoredCounts


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
        image_path: the full-resolution image, or the file of the spots' patches where there is none.
        genes: [G] gene table.
        counts: [S, G] raw counts, non-negative int32, CSR; or, of a whole slide, on disk (`data_prep.stored`).
        spots: [S], in full-resolution pixels, their ids unique.
        um_per_px: physical size of a full-resolution pixel.
        um_per_px_source: where that number comes from: "user", "file", "metadata", "spot pitch", "image file" or "spot
            diameter" (the last is a guess, and said to be one in the notes).
        layout: the reader's name.
        synthetic: True for generated demo tissue.
        patch_coords: what the coordinates of a file of patches are, see `data_prep.patch_file`; "" of an image.
        patient_source: how the patient is known, a key of `data_prep.patients.ORIGINS`.
        notes: what the reader met and the user should know (spots without counts, unmapped genes, ...).
    """

    name: str
    patient: str
    image_path: Path
    genes: GeneTable
    counts: Counts
    spots: Spots
    um_per_px: float
    um_per_px_source: str
    layout: str
    synthetic: bool = False
    patch_coords: str = ""
    patient_source: str = GUESSED
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        files.check_name(self.name, "Section")
        if fault := files.fault_of_text(self.patient):
            raise InputError(f"Section {self.name!r}: patient {files.shown(self.patient)} {fault}; rename the patient")
        for what, listed in (("spot", self.spots.id), ("gene", self.genes.symbol), ("gene", self.genes.ensembl_id)):
            files.check_texts(listed, f"Section {self.name!r}: {what}")
        if not isinstance(self.counts, StoredCounts):  # which is written here, and checked before
            csr.check(self.counts, origin=f"Section {self.name!r}")
        found, expected = shape_of(self.counts), (len(self.spots), len(self.genes))
        if found != expected:
            raise InputError(f"Section {self.name!r}: counts have shape {found}, expected {expected}")
        if repeated := names.twice(self.spots.id):
            raise InputError(
                f"Section {self.name!r}: spot id {files.shown(repeated[0])} appears more than once; "
                "remove the duplicate rows"
            )
        if not (np.isfinite(self.um_per_px) and self.um_per_px > 0):
            raise InputError(f"Section {self.name!r}: um_per_px is {self.um_per_px}, expected a positive number")
