"""What the cells of demo tissue are expected to express: the truth that counts are drawn from."""

import dataclasses
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import demo, demo_cells, demo_tissue
from data_prep.errors import InputError
from data_prep.spots import DISC, POLYGON
from stjax.inference.prediction import SectionPrediction
from stjax.inference.prepared import Found
from stjax.workdir import Run

_DEEP = 1e6  # counts


def without_noise(found: Found, run: Run, demo_folder: Path) -> Found:
    """A section of the demo with what its cells are expected to express as the truth, in place of counts; NaN where
    no cell is near.

    Raises:
        InputError: `demo_folder` holds no demo with this section.
    """
    prediction = found.prediction
    name = prediction.section.split("_")[0]
    try:
        cells, life = demo.load_truth(demo_folder, name)
    except OSError:
        raise InputError(f"--demo-truth {demo_folder} has no truth/{name}.npz; give the raw demo folder") from None
    panel = run.fold.panel
    expected = demo_tissue.expected_expression(cells, life, _members(prediction, cells))  # [S, genes of the demo]
    total = expected.sum(axis=1, keepdims=True)
    # Protocols transform counts: those of a spot so deep that they are shares.
    every = np.divide(expected, total, out=np.full_like(expected, np.nan), where=total > 0) * _DEEP
    columns = panel.columns(life.genes)[: panel.num_main]
    counts, depth = np.where(columns >= 0, every[:, columns], np.nan), np.full(len(total), _DEEP)
    truth = run.protocol.transform(counts, depth[:, None], panel.num_genes)
    return found._replace(prediction=dataclasses.replace(prediction, truth=truth), counts=counts, depth=depth)


def _members(prediction: SectionPrediction, cells: demo_tissue.Cells) -> scipy.sparse.csr_array:
    """[S, C] how much of each cell is in each spot: all of the cell that a polygon is the outline of."""
    spots, places = prediction.spots, prediction.spots.xy * prediction.um_per_px
    if (spots.kind == POLYGON).all():
        owner = demo_cells.owner(cells, places)
        row = np.flatnonzero(owner >= 0)
        return scipy.sparse.csr_array((np.ones(len(row)), (row, owner[row])), shape=(len(spots), len(cells.type)))
    size = float(np.median(prediction.size_um))
    if (spots.kind == DISC).all():
        return demo_tissue.cells_in_discs(cells, places, size / 2)
    return demo_tissue.cells_in_squares(cells, places, size)
