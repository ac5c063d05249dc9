"""PixNet trained on spots of 100 um, asked about cells: the documented way, on the demo, whose cells are known."""

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy.spatial import KDTree

from data_prep import build, demo, demo_cells, demo_tissue, readers
from data_prep.dataset import PatchDataset
from stjax import evaluate, metrics
from stjax.workdir import Run
from tests.conftest import command
from tests.end_to_end.test_tiles import SMALL

TILES = {"tile_size_px": 128, "context_px": 40, "image_format": "raw"}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Xenium runs of two patients, raw; their squares of 100 um; and the cells of the one held out."""
    folder = tmp_path_factory.mktemp("cells")
    demo.make_demo(folder / "raw", layout="xenium", patients=2, sections_per_patient=1, spots=4)
    build.build(folder / "raw", folder / "pooled", areas="squares:100", min_counts=100, **TILES)
    build.build(folder / "raw", folder / "cells", sections=["B1"], min_counts=5, **TILES)
    return folder


@pytest.fixture(scope="module")
def run(slides: Path, cache: Path) -> Path:
    folder = slides / "run"
    command("stjax.train", *SMALL, f"--config.data_dir={slides / 'pooled'}", f"--workdir={folder}", cache=cache)
    return folder


@pytest.fixture(scope="module")
def scored(run: Path, slides: Path) -> dict[str, Any]:
    options = evaluate.Options(data_dir=str(slides / "cells"), demo_truth=slides / "raw")
    return evaluate.evaluate(run, options)


def test_a_model_of_spots_is_scored_on_the_cells_of_the_held_out_patient(scored, run: Path, slides: Path) -> None:
    cells = PatchDataset.open(slides / "cells").table("B1")
    assert json.loads((run / "data.json").read_text())["facts"]["sizes_um"] == [100.0]
    assert (scored["sections"], scored["part"], scored["truth"]) == (["B1"], "other", "demo_cells")
    assert scored["patients_also_in_training"] == []
    (size,) = scored["sizes_um"]  # all cells together, at the median of what they measure across
    assert float(size) == pytest.approx(np.median(cells.spots.across_um(1.4)), rel=0.01)
    figures = scored["sizes_um"][size]
    assert (figures["spots"], figures["trained_on"]) == (len(cells.spots), False)
    assert {"model", "nearest_spot", "ridge_colour", "mean"} <= set(figures["methods"])


def test_it_is_compared_with_its_prediction_for_the_nearest_square_of_the_size_it_was_trained_at(
    scored, run: Path
) -> None:
    squares = anndata.read_h5ad(run / "predictions" / "B1.h5ad")  # the run's own evaluation
    (path,) = (run / "evaluation").rglob("*/predictions/B1.h5ad")
    cells = anndata.read_h5ad(path)
    nearest = KDTree(squares.obsm["spatial"]).query(cells.obsm["spatial"])[1]
    truth = np.asarray(cells.layers["truth"], np.float64)
    known = np.isfinite(truth).all(axis=1)
    pcc = metrics.pearson_per_gene(np.asarray(squares.X, np.float64)[nearest][known], truth[known])
    found = scored["methods"]["nearest_spot"]["pcc_mean"]
    assert found == pytest.approx(np.nanmean(pcc), abs=1e-5)
    assert found != pytest.approx(scored["methods"]["model"]["pcc_mean"], abs=1e-3)


@pytest.mark.usefixtures("scored")
def test_the_truth_of_a_cell_is_what_it_is_expected_to_express(run: Path, slides: Path) -> None:
    """Computed here from the demo's cells, one by one."""
    made = Run.load(run)
    (path,) = (run / "evaluation").rglob("*/predictions/B1.h5ad")
    predicted = anndata.read_h5ad(path)
    cells, life = demo.load_truth(slides / "raw", "B1")
    read = readers.reader("xenium").read_section(slides / "raw", "B1")
    place = dict(zip(read.spots.id.tolist(), read.spots.xy * 1.4, strict=True))
    table = demo_tissue.expression_table(cells, life)
    columns = made.fold.panel.columns(life.genes)[: made.fold.panel.num_main]
    for spot in (0, 7, predicted.n_obs - 1):
        name = predicted.obs_names[spot]
        cell = int(np.argmin(np.linalg.norm(cells.xy_um - place[name], axis=1)))
        shares = table[cells.type[cell] * demo_tissue.STATE_LEVELS + cells.level[cell]]
        counts = 1e6 * (shares / shares.sum())[columns]
        expected = made.protocol.transform(counts[None], np.full((1, 1), 1e6), made.fold.panel.num_genes)[0]
        np.testing.assert_allclose(predicted.layers["truth"][spot], expected, rtol=1e-4)


def test_cells_are_those_whose_counts_were_pooled(slides: Path) -> None:
    """Squares hold the molecules between cells too: all cells of a patient have fewer."""
    read = readers.reader("xenium")
    cells, pooled = (read.read_section(slides / "raw", "B1", areas=areas) for areas in ("cells", "squares:100"))
    assert 0.3 < cells.counts.sum() / pooled.counts.sum() < 1
    owner = demo_cells.owner(demo.load_truth(slides / "raw", "B1")[0], cells.spots.xy * cells.um_per_px)
    assert sorted(owner) == list(range(len(cells.spots)))
