"""Sections of the demo's instruments that see single molecules, compared with its cells and molecules."""

import numpy as np
import pytest
import scipy.sparse

from data_prep import demo, demo_cells, demo_tissue
from data_prep.demo_layouts import DemoSection
from data_prep.section import Section


def truth(layout: str) -> DemoSection:
    """Section A1 of the demo sources of this folder's tests."""
    return demo.make_section(demo.Recipe(layout, 2, 1, 4, 4.0, seed=1), demo_tissue.biology(), 0, 0)


def in_order(section: Section, made: DemoSection) -> scipy.sparse.csr_array:
    """Counts over the demo's genes."""
    column = {key: index for index, key in enumerate(section.genes.ensembl_id.tolist())}
    return section.counts[:, [column[key] for key in made.genes.ensembl_id.tolist()]]


def check_cells(section: Section, made: DemoSection) -> None:
    """Every cell is there once, with its own molecules and outline, at the slide's scale."""
    cells = made.tissue.cells
    inside = demo_cells.owner(cells, made.molecule_xy_um)
    expected = demo_cells.counts(inside, made.molecule_gene, (len(cells.type), len(made.genes)))
    cell = np.argmin(np.linalg.norm(section.spots.xy[:, None] * 4.0 - cells.xy_um, axis=2), axis=1)
    assert sorted(cell) == list(range(len(cells.type)))
    assert abs(in_order(section, made) - expected[cell]).sum() == 0
    assert section.counts.sum() == np.sum(inside >= 0) > 1000
    outlines = demo_cells.outlines_um(cells)
    for spot in (0, 1, len(cell) - 1):
        (ring,) = section.spots.rings(spot)
        np.testing.assert_allclose(ring * 4.0, outlines[cell[spot]], atol=1e-6)
    assert section.um_per_px == pytest.approx(4.0)
    assert section.um_per_px_source == "file"


def check_squares(section: Section, made: DemoSection) -> None:
    """Squares of 100 um hold the molecules in them."""
    column, row = np.floor(made.molecule_xy_um.astype(float) / 100).astype(int).T
    places = {spot: index for index, spot in enumerate(section.spots.id.tolist())}
    at = np.array([places[f"r{r}_c{c}"] for r, c in zip(row, column, strict=True)])
    expected = demo_cells.counts(at, made.molecule_gene, (len(places), len(made.genes)))
    assert abs(in_order(section, made) - expected).sum() == 0
    np.testing.assert_allclose(section.spots.across_um(4.0), 100)
