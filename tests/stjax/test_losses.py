import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import losses
from stjax.metrics import pearson_per_gene
from stjax.protocols import get_protocol

MASK = jnp.asarray([[1.0, 1, 1, 0], [1, 0, 1, 1]])
MEASURED = np.asarray(MASK) > 0


def test_masked_spots_change_neither_loss_nor_gradient():
    key = jax.random.key(0)
    prediction, target = jax.random.normal(key, (2, 3, 4, 5))
    mask = jnp.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]], jnp.float32)
    expected = np.mean(np.square(np.asarray(prediction - target))[np.asarray(mask) == 1])
    loss, gradient = jax.value_and_grad(losses.masked_mse)(prediction, target, mask)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert np.all(np.asarray(gradient)[np.asarray(mask) == 0] == 0)


def test_no_measured_spot_gives_zero_not_nan():
    zeros = jnp.zeros((2, 1, 3))
    assert losses.masked_mse(zeros + 1, zeros, jnp.zeros((2, 1))) == 0


def test_aux_weight_multiplies_the_aux_part_only():
    ones = {"main": jnp.ones((2, 1, 3)), "aux": jnp.ones((2, 1, 7))}
    zeros = jax.tree.map(jnp.zeros_like, ones)
    loss, parts = losses.main_aux_mse(ones, zeros, jnp.ones((2, 1)), aux_weight=40.0)
    assert loss == pytest.approx(41.0)
    assert parts["loss_main"] == 1
    loss, parts = losses.main_aux_mse({"main": ones["main"]}, zeros, jnp.ones((2, 1)), aux_weight=40.0)
    assert loss == 1
    assert "loss_aux" not in parts


def arrays(seed=0, genes=5):
    one, two = jax.random.normal(jax.random.key(seed), (2, 2, 4, genes))
    return one + 0.5 * two, two


def test_pearson_is_that_of_the_measured_spots_and_leaves_constant_genes_out():
    prediction, target = arrays()
    target = target.at[..., 2].set(0.25)
    found, varies = losses.masked_pearson(prediction, target, MASK)
    expected = pearson_per_gene(np.asarray(prediction)[MEASURED], np.asarray(target)[MEASURED])
    assert varies.tolist() == [1, 1, 0, 1, 1]
    np.testing.assert_allclose(found[varies > 0], expected[~np.isnan(expected)], atol=1e-5)
    assert found[2] == 0


def test_triplex_is_the_papers_and_its_gradients_go_through_both_ends():
    outputs = {name: arrays(seed)[0] for seed, name in enumerate(("main", "target", "neighbours", "section"))}
    target = arrays(9)[1]
    found, parts = losses.LOSSES["triplex"](outputs, {"main": target}, {"mask": MASK}, 1.0)
    f, y = (np.asarray(values)[MEASURED] for values in (outputs["main"], target))
    wanted = {"loss_main": np.mean((f - y) ** 2)}
    for name in ("target", "neighbours", "section"):
        p = np.asarray(outputs[name])[MEASURED]
        wanted[f"loss_{name}"] = 0.7 * np.mean((p - y) ** 2) + 0.3 * np.mean((f - p) ** 2)
    assert parts.keys() == {"loss", *wanted}
    for name, value in wanted.items():
        assert parts[name] == pytest.approx(value, rel=1e-5)
    assert found == pytest.approx(sum(wanted.values()), rel=1e-5)
    same = dict.fromkeys(outputs, target) | {"section": outputs["section"]}
    gradients = jax.grad(lambda outputs: losses.triplex(outputs, {"main": target}, MASK)[0])(same)
    assert np.abs(gradients["main"]).max() > 0  # drawn to the head that is off
    with pytest.raises(InputError, match="this model has one; choose 'mse'"):
        losses.triplex({"main": target}, {"main": target}, MASK)


def test_mse_pcc_is_the_papers_over_measured_spots():
    prediction, target = arrays()
    loss, parts = losses.mse_pcc({"main": prediction}, {"main": target}, MASK)
    p, t = np.asarray(prediction)[MEASURED], np.asarray(target)[MEASURED]
    mse, pcc = np.mean((p - t) ** 2), 1 - np.mean(pearson_per_gene(p, t))
    np.testing.assert_allclose([parts["loss_main"], parts["loss_pcc"], loss], [mse, pcc, mse + 0.5 * pcc], rtol=1e-4)
    spoilt = prediction.at[0, 3].set(1e3)
    assert losses.mse_pcc({"main": spoilt}, {"main": target}, MASK)[0] == loss


def test_mse_pcc_has_finite_gradients_where_nothing_varies():
    constant = jnp.ones((2, 4, 3))
    gradient = jax.grad(lambda p: losses.mse_pcc({"main": p}, {"main": constant}, MASK)[0])(constant)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    empty = losses.mse_pcc({"main": constant}, {"main": constant}, jnp.zeros((2, 4)))[0]
    assert np.isfinite(empty)


def additive(rates, counts, total, dispersion=1e4):
    outputs = {"rates": rates, "dispersion": jnp.full(rates.shape[-1] + 1, dispersion)}
    return losses.additive_nll(outputs, counts, total, MASK, total_weight=1.0)


def test_additive_likelihood_of_genes_does_not_know_the_depth_but_that_of_totals_does():
    counts = jnp.round(jax.random.uniform(jax.random.key(0), (2, 4, 3)) * 20)
    total = jnp.sum(counts, axis=-1, keepdims=True) + 30
    right = jnp.concatenate([counts, jnp.full((2, 4, 1), 30.0)], axis=-1)
    _, parts = additive(right, counts, total)
    _, doubled = additive(2 * right, counts, total)
    np.testing.assert_allclose(parts["loss_main"], doubled["loss_main"], rtol=1e-4)
    assert doubled["loss_total"] > parts["loss_total"] + 1
    _, mixed = additive(right[..., ::-1], counts, total)
    assert mixed["loss_main"] > parts["loss_main"] + 0.1


def test_additive_likelihood_is_finite_for_empty_bins_and_ignores_masked_ones():
    counts, total = jnp.zeros((2, 4, 3)), jnp.zeros((2, 4, 1))
    rates = jnp.full((2, 4, 4), 1e-3).at[0, 3].set(0.0)
    loss, gradient = jax.value_and_grad(lambda r: additive(r, counts, total)[0])(rates)
    assert np.isfinite(loss)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    np.testing.assert_array_equal(gradient[0, 3], 0)


def test_additive_expression_is_normalised_after_aggregation():
    rates = jnp.asarray([[[1.0, 3, 6], [10, 30, 60]]])
    found = losses.additive_expression(rates, lambda c, t: get_protocol("stjax").transform(c, t, 3))
    np.testing.assert_allclose(found, np.log1p(1e4 * np.array([[[0.1, 0.3], [0.1, 0.3]]])), rtol=1e-6)


def test_a_loss_that_does_not_suit_the_model_is_refused():
    assert losses.get_loss("additive_nll", additive=True) is losses.LOSSES["additive_nll"]
    for name, additive in (("mse", True), ("additive_nll", False), ("mae", False)):
        with pytest.raises(InputError, match=f"config.loss is '{name}'"):
            losses.get_loss(name, additive=additive)
