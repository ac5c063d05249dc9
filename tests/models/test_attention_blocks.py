"""Blocks of transformers against NumPy, in float64; masks, dropout, and what is computed anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stjax.models import layers
from stjax.models.attention import Block, BlockSpec, seen
from tests.models import in_numpy

WIDTH, HEADS, N, M = 12, 3, 5, 7
PLAIN = BlockSpec(WIDTH, HEADS, 20, eps=1e-5)
RNG = np.random.default_rng(0)
X, CONTEXT, POSITIONS = (RNG.normal(size=(2, count, WIDTH)) for count in (N, M, N))
FORMS = {
    "plain": {},
    "no bias of queries": {"qkv_bias": False},
    "eps": {"eps": 1e-2},
    "gated": {"gated": True},
    "scaled": {"layer_scale": 0.1},
    "to others": {"cross": True},
    "to others, no bias": {"cross": True, "qkv_bias": False},
}


def build(**form):
    return in_numpy.shaken(Block(dataclasses.replace(PLAIN, **form), rngs=nnx.Rngs(0)), jnp.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("biased", [False, True])
def test_every_form_computes_what_numpy_does(form, biased):
    options = FORMS[form]
    cross = options.get("cross", False)
    bias = RNG.normal(size=(2, HEADS, N, M if cross else N)) if biased else None
    with jax.enable_x64(True):
        model = build(**options)
        given = [jnp.asarray(X), jnp.asarray(CONTEXT) if cross else None, None if bias is None else jnp.asarray(bias)]
        found = np.asarray(model(*given, train=False))
        p = {f"b.{name}": array for name, array in in_numpy.parameters(model).items()}
    for n in range(2):
        more = {"context": CONTEXT[n] if cross else None, "bias": None if bias is None else bias[n]}
        sizes = {"heads": HEADS, "eps": options.get("eps", 1e-5), "gated": options.get("gated", False)}
        np.testing.assert_allclose(found[n], in_numpy.block(X[n], p, "b", **sizes, **more), rtol=0, atol=1e-12)


def test_positions_are_for_the_attention_alone():
    with jax.enable_x64(True):
        model = build()
        found = model.attended(jnp.asarray(X), positions=jnp.asarray(POSITIONS), train=False)
        p = {f"b.{name}": array for name, array in in_numpy.parameters(model).items()}
    for n in range(2):
        wanted = in_numpy.attended(X[n], p, "b", heads=HEADS, positions=POSITIONS[n])
        np.testing.assert_allclose(found[n], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cross", [False, True])
def test_masked_keys_do_not_matter_and_the_rest_is_as_without_them(cross):
    model = in_numpy.shaken(Block(dataclasses.replace(PLAIN, cross=cross), rngs=nnx.Rngs(0)))
    x, context = jnp.asarray(X, jnp.float32), jnp.asarray(CONTEXT, jnp.float32)
    mask = jnp.arange(M if cross else N)[None] < jnp.array([[4], [2]])

    def run(count, fill):
        keys = jnp.where(mask[..., None], context if cross else x, fill)
        found = model(x, keys, seen(mask), train=False) if cross else model(keys, None, seen(mask), train=False)
        alone = model(x, context[:, :count], train=False) if cross else model(x[:, :count], train=False)
        return np.asarray(found), np.asarray(alone)

    for n, count in enumerate((4, 2)):
        found, alone = run(count, 0.0)
        other, _ = run(count, 1e3)
        rows = slice(None) if cross else slice(count)
        np.testing.assert_array_equal(found[n, rows], other[n, rows])
        np.testing.assert_allclose(found[n, rows], alone[n, rows], rtol=1e-5, atol=1e-5)
    nothing = model(x, context if cross else None, seen(jnp.zeros_like(mask)), train=False)
    assert np.isfinite(nothing).all()


def test_dropout_is_of_what_attention_gives_and_of_both_layers_of_the_perceptron(monkeypatch):
    model, x = Block(dataclasses.replace(PLAIN, dropout=0.25), rngs=nnx.Rngs(0)), jnp.asarray(X, jnp.float32)
    seen_by = []

    def counted(x, **options):
        seen_by.append((x.shape[-1], options["rate"]))
        return layers.dropout(x, **options)

    monkeypatch.setattr("stjax.models.attention.dropout", counted)
    still = model(x, train=False, key=jax.random.key(0))
    assert seen_by == [(WIDTH, 0.25), (20, 0.25), (WIDTH, 0.25)]
    np.testing.assert_array_equal(still, Block(PLAIN, rngs=nnx.Rngs(0))(x, train=False))
    one, other, again = (model(x, train=True, key=jax.random.key(i)) for i in (0, 1, 0))
    assert np.abs(one - other).max() > 0
    np.testing.assert_array_equal(one, again)


def test_dropout_leaves_out_a_share_and_keeps_the_mean():
    x = jnp.full((200, 200), 3.0, jnp.bfloat16)
    found = layers.dropout(x, rate=0.25, train=True, key=jax.random.key(0))
    assert found.dtype == x.dtype
    assert set(np.unique(found.astype(jnp.float32)).tolist()) == {0.0, 4.0}
    assert float(jnp.mean(found.astype(jnp.float32))) == pytest.approx(3, abs=0.05)
    assert layers.dropout(x, rate=0.25, train=False, key=jax.random.key(0)) is x


def test_rematerialised_blocks_with_masks_have_the_same_gradient():
    model = Block(dataclasses.replace(PLAIN, dropout=0.1), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    bias = seen(jnp.arange(N)[None] < jnp.array([[4], [2]]))

    def gradient(rematerialise):
        def loss(params):
            merged = nnx.merge(graphdef, params, copy=True)
            options = {"train": True, "key": jax.random.key(1), "rematerialise": rematerialise}
            return jnp.sum(layers.run(merged, jnp.asarray(X, jnp.float32), None, bias, **options) ** 2)

        return jax.jit(jax.grad(loss))(params)

    for one, other in zip(*(jax.tree.leaves(gradient(again)) for again in (False, True)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
