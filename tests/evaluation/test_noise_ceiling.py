import numpy as np
import pytest

from data_prep import demo, demo_tissue
from stjax import metrics, targets
from stjax.evaluation.noise_ceiling import fraction, noise_ceiling


def transform_of(target, num_genes):
    return lambda counts, total: targets.TRANSFORMS[target](counts, total, num_genes)


@pytest.fixture(scope="module")
def tissue():
    """Expected shares [S, G] of the spots of two demo sections."""
    recipe, life = demo.Recipe(), demo_tissue.biology()
    shares = []
    for number in range(2):
        section = demo.make_section(recipe, life, 0, number)
        discs = demo_tissue.cells_in_discs(section.tissue.cells, section.spot_xy * recipe.um_per_px, 50.0)
        expected = demo_tissue.expected_expression(section.tissue.cells, life, discs)
        shares.append(expected / expected.sum(axis=1, keepdims=True))
    return shares


@pytest.mark.parametrize(("target", "dispersion"), [("log1p_library", 1e-9), ("log1p_library", 0.025),
                                                    ("log1p_counts", 1e-9), ("log_smoothed_share", 1e-9)])  # fmt: skip
def test_ceiling_of_demo_tissue_is_that_of_its_cells(tissue, target, dispersion):
    """Against the correlation of counts with what the cells are expected to express, as `demo_truth.without_noise` has
    it; 0.025 is the demo's own spread beyond counting, which thinning cannot see."""
    rng = np.random.default_rng(0)
    depth = [9000 * rng.lognormal(0, 0.2, (len(shares), 1)) for shares in tissue]
    expected = [share * reads for share, reads in zip(tissue, depth, strict=True)]
    counts = [demo_tissue.sample_counts(rng, mean, dispersion).astype(float) for mean in expected]
    top = np.argsort(-np.concatenate(counts).mean(axis=0))[:250]
    transform = transform_of(target, tissue[0].shape[1])
    totals = [each.sum(axis=1) for each in counts]
    known = metrics.pearson_per_gene(
        np.concatenate([transform(e[:, top], d) for e, d in zip(expected, depth, strict=True)]),
        np.concatenate([transform(c[:, top], t[:, None]) for c, t in zip(counts, totals, strict=True)]),
    )
    found, splits = noise_ceiling(
        [each[:, top] for each in counts], totals, ["a", "a"], transform=transform, pooling="pooled"
    )
    assert splits == 10
    print(f"{target}, spread {dispersion}: known {np.median(known):.3f}, found {np.median(found):.3f}")
    assert abs(np.median(found) - np.median(known)) < 0.05
    assert np.median(np.abs(found - known)) < 0.05


def test_ceiling_of_nothing_but_noise_is_low_and_has_no_fraction():
    counts = [np.random.default_rng(0).poisson(5.0, (4000, 3)).astype(float)]
    ceiling, _ = noise_ceiling(
        counts, [np.full(4000, 1e4)], ["a"], transform=transform_of("log1p_counts", 3), pooling="pooled"
    )
    assert np.all(ceiling < 0.25)
    np.testing.assert_array_equal(fraction(np.full(3, 0.1), np.array([0.05, np.nan, 0.5])), [np.nan, np.nan, 0.2])


def test_genes_that_the_data_lacks_or_that_are_constant_have_no_ceiling():
    counts = np.random.default_rng(0).poisson(50.0, (60, 3)).astype(float)
    counts[:, 1], counts[:, 2] = np.nan, 0
    ceiling, _ = noise_ceiling(
        [counts], [np.full(60, 1e4)], ["a"], transform=transform_of("log1p_counts", 3), pooling="pooled"
    )
    np.testing.assert_array_equal(np.isnan(ceiling), [False, True, True])


def test_halves_hold_every_read_once():
    from stjax.evaluation.noise_ceiling import thinned

    counts = np.random.default_rng(0).poisson(9.0, (50, 4)).astype(float)
    total = counts.sum(axis=1) + 1000
    (first, first_total), (second, second_total) = thinned(np.random.default_rng(1), counts, total)
    np.testing.assert_array_equal(first + second, counts)
    np.testing.assert_array_equal((first_total + second_total)[:, 0], total)
    assert abs(np.corrcoef(first.ravel() - 4.5, second.ravel())[0, 1]) < 0.2
