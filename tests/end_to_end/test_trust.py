"""Which genes to believe, from an evaluation to the files of a prediction."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from stjax import workdir
from stjax.evaluation import conformal, set_scores
from stjax.gene_sets import GeneSets
from stjax.inference import prepared
from stjax.intervals import Intervals
from stjax.reporting import read
from stjax.trust import FIGURES, FLOOR, MARK, RESTS_ON, Trust


@pytest.fixture(scope="module")
def run(trained):
    return workdir.Run.load(trained[0])


@pytest.fixture(scope="module")
def sets(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("sets") / "sets.gmt"
    genes = run.fold.panel.labels
    path.write_text("\n".join("\t".join([f"SET{n}", "-", *genes[n::9], "NOTAGENE"]) for n in range(3)))
    return path


def test_evaluation_leaves_what_it_found_of_each_gene(trained):
    known = Trust.load(trained[0])
    assert known is not None
    per_gene = pd.read_csv(trained[0] / "evaluation" / "stjax" / "per_gene.csv")
    table = known.table
    assert table["gene"].tolist() == per_gene["gene"].tolist()
    for ours, theirs in (("pcc_normalised", "pcc"), ("pcc_normalised_low", "pcc_low"), ("ceiling", "ceiling")):
        np.testing.assert_allclose(table[ours], per_gene[theirs])  # the protocol's target is the normalised one
    assert np.isfinite(table["pcc_raw"]).any()
    assert not np.allclose(table["pcc_raw"], table["pcc_normalised"], equal_nan=True)
    np.testing.assert_allclose(table["coverage"], per_gene["coverage"])
    assert set(map(tuple, table[["patients", "sections"]].to_numpy())) == {(1, 2)}
    assert set(table["resampled"]) == {"spatial_blocks"}


def test_predictions_of_the_evaluation_and_the_report_have_it(trained):
    path = next((trained[0] / "predictions").glob("*.h5ad"))
    adata, known = anndata.read_h5ad(path), Trust.load(trained[0])
    for name in (*FIGURES, *RESTS_ON):
        np.testing.assert_allclose(adata.var[name], known.table[name])
    assert adata.var[MARK].tolist() == known.below(FLOOR).tolist()
    assert adata.uns["stjax"]["floor"] == FLOOR
    genes = read.read_run(trained[0], "tiny").genes
    assert genes[MARK].tolist() == known.below(FLOOR).tolist()


def test_intervals_are_wider_by_what_the_section_is_unlike_the_training_sections(trained):
    found = json.loads((trained[0] / "evaluation" / "stjax" / "metrics.json").read_text())["conformal"]
    intervals = Intervals.load(trained[0])
    assert found["widening"] == vars(intervals.widening)
    assert found["widening"]["usual"] > 0
    assert 0 <= found["widening"]["depth_power"] <= 0.6  # 0.5 where errors are noise alone
    assert 1000 < found["widening"]["depth"] < 30_000
    assert found["guaranteed_level"] == pytest.approx(0.45)  # one patient
    for section, factor in found["widened"].items():
        adata = anndata.read_h5ad(trained[0] / "predictions" / f"{section}.h5ad")
        about = adata.uns["stjax"]
        assert about["interval_factor"] == pytest.approx(factor)
        assert about["interval_guaranteed"] == pytest.approx(0.45)
        width = (adata.layers["upper"] - adata.layers["lower"])[0] / 2
        np.testing.assert_allclose(width, factor * intervals.half_width, rtol=1e-3)
    assert found["coverage"] >= found["coverage_unwidened"]


def test_reliability_of_sets_is_measured_on_the_scored_sections(run, dataset, sets):  # noqa: ARG001 -- it is opened
    known = GeneSets.read(sets, run.fold)
    found = prepared.predict_sections(run, run.open_dataset(), ["C1"], sizes_um=(), max_spots=0, colours=False)
    table = set_scores.reliability(run, known, found, np.full(250, 0.1))
    adata_truth = known.scores(found[0].prediction.truth)
    pcc = [np.corrcoef(known.scores(found[0].prediction.expression)[:, k], adata_truth[:, k])[0, 1] for k in range(3)]
    np.testing.assert_allclose(table["pcc"], pcc, atol=1e-4)
    assert (table["pcc_low"] < table["pcc"]).all()
    assert (table["pcc"] < table["pcc_high"]).all()
    np.testing.assert_allclose(table["pcc_of_genes"], 0.1)
    assert table[["patients", "sections"]].to_numpy().tolist() == [[1, 1]] * 3


def test_folds_bring_the_patients_that_they_hold_out_but_for_the_scored_ones(run):
    """The run itself as a fold: its test patient is one that it has not seen."""
    for scored, patients in (((), ("A", "C")), (("C",), ("A",))):
        found, why = conformal.calibrate([run], sizes_um=(), max_spots=0, folds=[run], scored=scored)
        assert why == ""
        assert found.patients == patients
