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


def test_zero_shot_is_of_the_genes_that_were_drawn_standardised_over_the_batch():
    prediction, _ = arrays(genes=3)
    _, aux = arrays(seed=1, genes=7)
    outputs = {"main": prediction, "aux": prediction, "aux_genes": jnp.asarray([6, 0, 2])}
    targets = {"main": jnp.full((2, 4, 3), jnp.nan), "aux": 5 + 3 * aux}  # main genes are not looked at
    loss, parts = losses.zero_shot(outputs, targets, MASK)
    p, every = np.asarray(prediction)[MEASURED], np.asarray(targets["aux"])[MEASURED]
    t = every[:, [6, 0, 2]]
    mse = np.mean((p - (t - t.mean(axis=0)) / t.std(axis=0)) ** 2)
    pcc = 1 - np.mean(pearson_per_gene(p, t))
    np.testing.assert_allclose([parts["loss_aux"], parts["loss_pcc"], loss], [mse, pcc, mse + 0.5 * pcc], rtol=1e-4)
    _, released = losses.zero_shot(outputs, targets, MASK, as_released=True)
    wrong = 1 - np.mean(pearson_per_gene(p, every[:, :3]))
    np.testing.assert_allclose([released["loss_aux"], released["loss_pcc"]], [mse, wrong], rtol=1e-4)
    spoilt = outputs | {"aux": prediction.at[0, 3].set(1e3)}
    np.testing.assert_allclose(losses.zero_shot(spoilt, targets, MASK)[0], loss, rtol=1e-6)


def test_zero_shot_says_what_a_model_of_the_panel_lacks():
    with pytest.raises(InputError, match=r"config\.loss is zero_shot, of genes that are not main"):
        losses.zero_shot({"main": jnp.zeros((2, 4, 3))}, {}, MASK)


def cross_entropy(scores, wanted):
    """Mean over rows, a row and a column at a time."""
    logs = [row - np.log(np.sum(np.exp(row))) for row in scores]
    return -np.mean([sum(w * each for w, each in zip(wanted[i], row, strict=True)) for i, row in enumerate(logs)])


def test_bleep_is_the_papers_over_measured_spots():
    v, s = jax.random.normal(jax.random.key(0), (2, 2, 4, 5))
    outputs = {"main": jnp.zeros((2, 4, 3)), "image_embedding": v, "expression_embedding": s}
    a, b = np.asarray(v, np.float64)[MEASURED], np.asarray(s, np.float64)[MEASURED]
    alike = np.exp((a @ a.T + b @ b.T) / 2)
    alike /= alike.sum(axis=1, keepdims=True)
    expected = (cross_entropy(b @ a.T, alike) + cross_entropy(a @ b.T, alike.T)) / 2
    assert losses.bleep(outputs, {}, MASK)[0] == pytest.approx(expected, rel=1e-5)
    spoilt = outputs | {"image_embedding": v.at[0, 3].set(50.0), "expression_embedding": s.at[1, 1].set(-50.0)}
    assert losses.bleep(spoilt, {}, MASK)[0] == pytest.approx(expected, rel=1e-5)


def test_bleep_detached_has_the_same_value_and_another_gradient():
    v, s = jax.random.normal(jax.random.key(0), (2, 2, 4, 5))

    def loss(v, detach):
        return losses.bleep({"main": v, "image_embedding": v, "expression_embedding": s}, {}, MASK, detach=detach)[0]

    (one, through), (other, cut) = (jax.value_and_grad(loss)(v, detach) for detach in (False, True))
    assert one == other
    assert np.abs(through - cut).max() > 1e-3
    for gradient in (through, cut):
        np.testing.assert_array_equal(np.asarray(gradient)[~MEASURED], 0)


def test_bleep_is_validated_by_what_it_retrieves():
    prediction, target = arrays()
    loss, parts = losses.bleep({"main": prediction}, {"main": target}, MASK)
    expected = 1 - np.mean(pearson_per_gene(np.asarray(prediction)[MEASURED], np.asarray(target)[MEASURED]))
    assert loss == pytest.approx(expected, rel=1e-4)
    assert parts == {"loss": loss}
