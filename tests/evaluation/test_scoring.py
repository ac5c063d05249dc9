import numpy as np
import pytest

from stjax import metrics
from stjax.evaluation import results, scoring
from stjax.evaluation.scoring import ScoredSection


def make_sections(seed=0, sections=2, genes=4, side=9):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    xy = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    result = []
    for section in range(sections):
        truth = rng.normal(size=(side * side, genes)) + 5
        noise = rng.normal(size=truth.shape)
        methods = {"model": truth + noise, "ridge_colour": truth + 2 * noise, "mean": 0 * truth + 5}
        result.append(ScoredSection("ab"[section % 2], xy, truth, methods))
    return result


def test_every_figure_is_that_of_its_metric():
    sections = make_sections()
    std = np.array([1.0, 2.0, 3.0, 4.0])
    scores = scoring.score(sections, std=std, pooling="section_median")
    predictions, truths = [each.predictions["model"] for each in sections], [each.truth for each in sections]
    expected = metrics.pooled_pcc(predictions, truths, ["a", "b"], pooling="section_median")
    np.testing.assert_allclose(scores.per_gene["model"]["pcc"], expected)
    mae = metrics.mae_per_gene(np.concatenate(predictions), np.concatenate(truths)) / std
    np.testing.assert_allclose(scores.per_gene["model"]["mae"], mae)
    assert scores.summaries["model"]["amae"] == pytest.approx(mae.mean())
    assert scores.summaries["model"]["pcc_section_median"] == pytest.approx(np.median(expected))
    assert scores.summaries["mean"]["pcc_median"] is None
    assert scores.summaries["mean"]["intervals"]["pcc_median"] is None
    assert scores.summaries["mean"]["intervals"]["amae"] is not None


def test_predictions_in_other_units_have_correlations_and_no_errors():
    scores = scoring.score(make_sections(), std=np.ones(4), pooling="pooled", correlation_only={"model"})
    summary = scores.summaries["model"]
    assert summary["pcc_median"] > 0.5
    assert summary["spearman_median"] > 0.5
    for figure in ("amae", "armse", "mse", "ssim_median"):
        assert summary[figure] is None
    assert summary["intervals"]["amae"] is None


def test_a_method_without_all_sections_is_left_out():
    sections = make_sections()
    one = ScoredSection(
        "a", sections[0].xy, sections[0].truth, sections[0].predictions | {"patch_model": sections[0].truth}
    )
    assert "patch_model" not in scoring.score([one, sections[1]], std=np.ones(4), pooling="pooled").summaries


def test_differences_are_paired_and_narrower_than_the_figures():
    scores = scoring.score(make_sections(), std=np.ones(4), pooling="pooled")
    found = scoring.differences(scores)["ridge_colour"]["pcc_median"]
    ours, theirs = (scores.summaries[name]["pcc_median"] for name in ("model", "ridge_colour"))
    assert found["difference"] == pytest.approx(ours - theirs)
    low, high = found["interval"]
    assert 0 < low < ours - theirs < high
    ends = scores.summaries["ridge_colour"]["intervals"]["pcc_median"]
    assert high - low < ends[1] - ends[0]
    assert "pcc_median" not in scoring.differences(scores)["mean"]


def test_genes_that_the_data_lacks_are_counted_and_harm_no_other():
    sections = make_sections()
    whole = scoring.score(sections, std=np.ones(4), pooling="pooled")
    for section in sections:
        section.truth[:, 2] = np.nan
    scores = scoring.score(sections, std=np.ones(4), pooling="pooled")
    assert scores.summaries["model"]["genes_without_pcc"] == 1
    kept = [0, 1, 3]
    for name in ("pcc", "mae", "pcc_low", "ssim", "spearman", "pcc_smoothed"):
        np.testing.assert_allclose(scores.per_gene["model"][name][kept], whole.per_gene["model"][name][kept])
        assert np.isnan(scores.per_gene["model"][name][2])


def test_one_spot_scores_without_figures():
    section = make_sections()[0][np.arange(81) == 3]
    summary = scoring.score([section], std=np.ones(4), pooling="pooled").summaries["model"]
    assert summary["pcc_median"] is None
    assert summary["amae"] > 0
    assert summary["intervals"]["amae"] is None


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_quantiles_over_genes_equal_numpys(share):
    values = np.random.default_rng(0).normal(size=(6, 9))
    values[1, 2], values[2, :7], values[3], values[4, :8] = np.nan, np.nan, np.nan, np.nan
    np.testing.assert_allclose(scoring._quantile(values, share), np.nanquantile(values, share, axis=1))


def test_genes_without_variation_are_counted_by_whose_it_is():
    rng = np.random.default_rng(0)
    truths = list(rng.normal(size=(2, 30, 5)))
    predictions = [truth + rng.normal(size=truth.shape) for truth in truths]
    for each in predictions:
        each[:, 0] = 0.4 + rng.normal(scale=1e-8, size=30)  # constant but for rounding
    for each in truths:
        each[:, 1] = 2.0
    predictions[0][:, 2] = 0.7  # constant in one section alone
    for section, each in enumerate(predictions):
        each[:, 3] = section  # in each of them, and not over both
    for each in truths:
        each[:, 4] = np.nan  # the data lacks it
    xy = [np.stack([np.arange(30) % 6, np.arange(30) // 6], axis=1).astype(float)] * 2
    sections = [ScoredSection("a", *of, {"model": p}) for *of, p in zip(xy, truths, predictions, strict=True)]
    for pooling, counts, known in (
        ("pooled", (1, 1, 2), [False, False, True, True, False]),
        ("section_median", (2, 1, 1), [False, False, True, False, False]),
    ):
        scores = scoring.score(sections, std=np.ones(5), pooling=pooling)
        names = ("genes_constant_prediction", "genes_constant_truth", "genes_constant_in_a_section")
        assert tuple(scores.summaries["model"][name] for name in names) == counts
        np.testing.assert_array_equal(np.isfinite(scores.per_gene["model"]["pcc"]), known)
        assert scores.summaries["model"]["genes_without_pcc"] == 5 - sum(known)
        table = scores.table(np.array(list("abcde")), np.array(list("ABCDE")))
        assert table["prediction_constant"].sum() == counts[0]
        assert table["truth_constant"].sum() == counts[1]
    lines = results.constant_lines(scores.summaries)
    assert any("model: 2 of 5 genes have the same prediction at every spot" in line for line in lines)
    assert any("measurement: 1 of 5 genes do not vary" in line for line in lines)
    assert results.constant_lines({"model": scores.summaries["model"] | dict.fromkeys(names, 0)}) == []
