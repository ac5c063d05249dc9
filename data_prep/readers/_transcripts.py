"""Transcripts pooled to squares or discs, a part of their table at a time, as HEST-1k does."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from data_prep.errors import InputError
from data_prep.readers._pool import Lattice
from data_prep.spots import Spots, moved


def pooled(
    path: Path,
    parts: Iterable[tuple[Any, np.ndarray]],
    genes: Sequence[str],
    to_image: np.ndarray,
    lattice: Lattice,
    *,
    panel: str,
) -> tuple[Spots, scipy.sparse.csr_array, int]:
    """The areas that hold a transcript of a gene, their counts [S, G], and how many transcripts are of no gene.

    Args:
        path: the table, and `panel`, the file that names the genes, for messages.
        parts: the genes of some transcripts, pyarrow's strings [N], and their places (x, y) in um [N, 2].
        genes: [G] names; `lattice`: the areas, for so many.
        to_image: [2, 3] from um to pixels of the image.

    Raises:
        InputError: a place that is none, or no transcript of any gene.
    """
    import pyarrow  # which an extra brings, as wherever it is imported late
    import pyarrow.compute

    known = pyarrow.compute.SetLookupOptions(value_set=pyarrow.array(list(genes), pyarrow.string()))
    others = kept = 0
    for names, xy_um in parts:
        found = pyarrow.compute.call_function("index_in", [names], known)
        gene = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        rows = np.flatnonzero(gene >= 0)
        others, kept = others + len(gene) - len(rows), kept + len(rows)
        try:
            lattice.add(moved(xy_um[rows], to_image), gene[rows])
        except InputError as error:
            raise InputError(f"{path}: {error}; copy or download it again") from None
    if not kept:
        raise InputError(f"{path}: no transcript of a gene of {panel}; the two belong to different runs")
    return *lattice.pooled(), others
