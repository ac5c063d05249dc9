import json

import anndata
import numpy as np
import pytest
from scipy import stats

from stjax.reporting import compare, read
from tests.report.made_run import make_run

GENES = tuple(f"G{place}" for place in range(30))


def pair(tmp_path, first, second, **both):
    runs = [make_run(tmp_path / name, genes=GENES, **both | options) for name, options in (("a", first), ("b", second))]
    results = read.read_runs(runs)
    return compare.compare(results)[0], results


def test_levels_agree_with_their_definitions(tmp_path):
    found, (a, b) = pair(tmp_path, {"noise": 0.5}, {"noise": 1.0, "seed": 5}, spots=100)
    difference = (a.genes["pcc"] - b.genes["pcc"]).dropna()
    assert (found.levels["genes"].n, found.levels["genes"].wins) == (
        29,
        int((difference > 0).sum()),
    )  # one gene is constant
    assert found.levels["genes"].p == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert found.levels["spots"].difference == pytest.approx(
        a.genes["pcc"].median() - b.genes["pcc"].median(), abs=1e-6
    )
    assert found.levels["spots"].low < found.levels["spots"].difference < found.levels["spots"].high
    assert found.levels["spots"].low > 0
    assert found.levels["spots"].p < 0.01
    assert found.levels["patients"].p is None
    assert "at least 6 are needed" in found.levels["patients"].why


def test_equal_models_are_not_told_apart(tmp_path):
    p = []
    for seed in range(6):
        found, _ = pair(tmp_path / str(seed), {"seed": 10 + seed}, {"seed": 20 + seed}, spots=49, truth_seed=seed)
        p.append(found.levels["spots"].p)
    assert np.median(p) > 0.1


def test_patients_are_compared_where_there_are_enough(tmp_path):
    many = {"sections": tuple("ABCDEFG"), "patients": tuple("abcdefg"), "spots": 30}
    found, _ = pair(tmp_path, {"noise": 0.3}, {"noise": 1.5, "seed": 3}, **many)
    assert (found.levels["patients"].n, found.levels["patients"].wins) == (7, 7)
    assert found.levels["patients"].p == pytest.approx(2 / 2**7)


def test_median_over_sections_is_resampled_as_it_is_pooled(tmp_path):
    runs = [make_run(tmp_path / name, genes=GENES, noise=noise, spots=64) for name, noise in (("a", 0.4), ("b", 0.8))]
    for run in runs:
        path = run / "evaluation" / "stjax" / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pcc_pooling": "section_median"}))
    results = read.read_runs(runs)
    found = compare.compare(results)[0].levels["spots"]
    medians = []
    for run in results:
        each = [
            [stats.pearsonr(s.prediction[:, g], s.truth[:, g])[0] for g in range(len(GENES) - 1)] for s in run.sections
        ]
        medians.append(np.median(np.median(each, axis=0)))
    assert found.difference == pytest.approx(medians[0] - medians[1], abs=1e-5)


def test_spots_in_another_order_are_paired(tmp_path):
    first, second = (make_run(tmp_path / name, genes=GENES, noise=n, spots=50) for name, n in (("a", 0.5), ("b", 0.9)))
    before = compare.compare(read.read_runs([first, second]))[0]
    for name in ("A1", "A2"):
        path = second / "predictions" / f"{name}.h5ad"
        adata = anndata.read_h5ad(path)
        adata[np.random.default_rng(0).permutation(adata.n_obs)].copy().write_h5ad(path)
    after = compare.compare(read.read_runs([first, second]))[0]
    assert after.levels["spots"].difference == pytest.approx(before.levels["spots"].difference, abs=1e-9)
    assert after.levels["spots"].p == before.levels["spots"].p


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sections": ["A1"]}, "scored on other sections"),
        ({"target": "other"}, "scored on another target"),
        ({"pcc_pooling": "patient_median"}, "pooled differently"),
    ],
)
def test_what_is_not_comparable_is_not_tested(tmp_path, change, why):
    runs = [make_run(tmp_path / name, genes=GENES) for name in "ab"]
    path = runs[1] / "evaluation" / "stjax" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = compare.compare(read.read_runs(runs))[0]
    for level in found.levels.values():
        assert level.p is None
        assert why in level.why


def test_other_measurements_are_not_paired(tmp_path):
    found, _ = pair(tmp_path, {}, {"truth_seed": 9})
    assert found.levels["genes"].p is not None
    assert "measured expression of the spots differs" in found.levels["spots"].why


def test_p_values_are_corrected_over_the_pairs(tmp_path):
    runs = [
        make_run(tmp_path / name, genes=GENES, noise=n, seed=s)
        for name, n, s in (("a", 0.5, 1), ("b", 0.6, 2), ("c", 0.9, 3))
    ]
    results = read.read_runs(runs)
    raw = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        raw.append(stats.wilcoxon((results[i].genes["pcc"] - results[j].genes["pcc"]).dropna()).pvalue)
    order = np.argsort(raw)
    expected = np.empty(3)
    expected[order] = np.minimum(1, np.maximum.accumulate(np.array(raw)[order] * [3, 2, 1]))
    assert [pair.levels["genes"].p for pair in compare.compare(results)] == pytest.approx(expected.tolist())
