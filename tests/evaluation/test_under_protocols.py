import dataclasses
import json

import numpy as np
import pytest

from data_prep.spots import Spots
from stjax import evaluate, protocols
from stjax.evaluation import under_protocols
from stjax.inference.prediction import SectionPrediction
from stjax.inference.prepared import Found, narrowed


@pytest.fixture(scope="module")
def scored(trained):
    """What evaluation under all protocols returned, and its protocols.json."""
    folder, _ = trained
    result = evaluate.evaluate(folder, evaluate.Options(protocol="all"))
    return result, json.loads((folder / "evaluation" / "protocols.json").read_text())["protocols"]


def test_every_protocol_has_a_verdict_and_a_reason(scored):
    _, entries = scored
    assert list(entries) == protocols.names()
    for name, entry in entries.items():
        assert entry["protocol_sha256"] == protocols.get_protocol(name).hash
        assert bool(entry["methods"]) == entry["fits"]
        assert entry["why"]
    assert "of its 50 genes are among the model's 250" in entries["hest"]["why"]


def test_the_runs_own_protocol_gives_its_own_figures(scored):
    result, entries = scored
    for method, summary in entries["stjax"]["methods"].items():
        for figure in ("pcc_median", "amae", "spearman_median"):
            assert summary[figure] == pytest.approx(result["methods"][method][figure]), (method, figure)


def test_the_same_target_keeps_its_errors_and_others_have_correlations_alone(scored):
    _, entries = scored
    assert entries["pixnet"]["methods"]["model"]["amae"] > 0
    for name in ("brstnet_paper", "brstnet_code", "stnet"):
        assert entries[name]["methods"]["model"]["amae"] is None
        assert entries[name]["methods"]["model"]["pcc_median"] is not None
        assert entries[name]["methods"]["ridge_colour"]["amae"] > 0
        assert "correlations only" in entries[name]["why"]
    assert "as published" in entries["brstnet_code"]["why"]


def test_each_protocol_scores_its_own_spots(scored):
    _, entries = scored
    # Patches half white are left out of the test by brstnet_paper alone.
    assert entries["brstnet_paper"]["spots"] < entries["brstnet_code"]["spots"] == entries["stjax"]["spots"]


def make_found(spots=5, genes=3):
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(spots, genes))
    prediction = SectionPrediction(
        section="A1", patient="A", spots=Spots.discs(rng.random((spots, 2)), 50.0), slide="", um_per_px=1.0,
        expression=expression, truth=expression, total=np.array([10.0, 999, 1000, 5000, 20]), synthetic=True,
        data_sha256="", thumbnail=np.zeros((1, 1, 3), np.uint8), thumbnail_scale=1.0,
    )  # fmt: skip
    white = np.array([0.0, 0.2, 0.5, 0.4, 0.9])
    return Found(prediction, rng.random((spots, 2)), expression, prediction.total, white)


def test_spots_are_those_with_the_reads_and_the_tissue_asked_for():
    found = make_found()
    assert under_protocols.spots_of(protocols.stjax, found).tolist() == [False, False, True, True, False]
    assert under_protocols.spots_of(protocols.pixnet, found).all()
    assert under_protocols.spots_of(protocols.brstnet_paper, found).tolist() == [False, False, False, True, False]


def test_narrowing_keeps_spots_and_genes_together():
    found = make_found()
    rows, genes = np.array([True, False, True, False, True]), np.array([2, 0])
    less = narrowed(found, rows, genes)
    np.testing.assert_array_equal(less.prediction.expression, found.prediction.expression[rows][:, genes])
    np.testing.assert_array_equal(less.counts, found.counts[rows][:, genes])
    assert less.prediction.spots.id.tolist() == ["0", "2", "4"]
    assert len(less.colours) == len(less.depth) == len(less.white) == 3


def test_the_loosest_rules_predict_the_spots_of_all():
    @dataclasses.dataclass(frozen=True)
    class Run:
        protocol: protocols.Protocol

    rules = under_protocols.loosest(Run(protocols.brstnet_paper)).protocol  # pyright: ignore
    assert (rules.min_counts, rules.max_white_fraction, rules.target) == (0, 1.0, "log1p_counts")
