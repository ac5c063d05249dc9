"""EGN against NumPy, its size, whom it asks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax.models import egn
from tests.models import in_numpy
from tests.models import section_batches as sections
from tests.models.in_numpy import gelu, linear, norm, sigmoid, softmax, standardised

EPS, K = 1e-5, 3
TINY = egn.SPECS["tiny"]
RNG = np.random.default_rng(0)


def bridged(x, own, exemplars, expressed, p, name, spec):
    """Tokens [T, D], the spot's own [D], exemplars [k, D] and their targets [k, D], one exemplar after another."""
    told, after = own.copy(), []
    for exemplar, said in zip(exemplars, linear(expressed, p, f"{name}.said"), strict=True):
        hidden = linear(np.concatenate([own - exemplar, exemplar]), p, f"{name}.compare")
        a, b = np.split(linear(hidden * sigmoid(hidden), p, f"{name}.gates"), 2)
        told = told + sigmoid(a) * said / len(exemplars)
        after.append(norm(exemplar + sigmoid(b) * said, p, f"{name}.norm_exemplar", EPS))
    gate = sigmoid(linear(norm(told, p, f"{name}.norm_own", EPS), p, f"{name}.gate")).reshape(spec.bridge_heads, -1)
    value = linear(norm(x, p, f"{name}.norm", EPS), p, f"{name}.value")
    for t in range(len(x)):
        for h in range(spec.bridge_heads):
            value[t, h * spec.bridge_dim : (h + 1) * spec.bridge_dim] *= gate[h, t]
    own = own + linear(value.mean(0), p, f"{name}.out_own")
    return x + linear(value, p, f"{name}.out"), own, np.stack(after)


def reference(image, own, features, targets, p, spec):
    """[H, W, 3], own [D] features and those [k, D] of exemplars with targets [k, M], to genes."""
    px, own, exemplars = spec.patch_px, standardised(own, p), standardised(features, p)
    own, expressed = linear(own, p, "own"), linear(targets, p, "expressed")
    exemplars = linear(np.concatenate([exemplars, targets], axis=1), p, "exemplar")
    for name in ("projector.0", "projector.1"):
        own, exemplars = (
            x + linear(gelu(linear(norm(x, p, f"{name}.norm", EPS), p, f"{name}.first")), p, f"{name}.second")
            for x in (own, exemplars)
        )
    squares = [image[i : i + px, j : j + px].ravel() for i in range(0, 64, px) for j in range(0, 64, px)]
    x = linear(np.stack(squares), p, "embed") + p["positions"]
    for number in range(spec.layers):
        name = f"layers.{number}"
        x = in_numpy.attended(x, p, f"{name}.block", heads=spec.heads, positions=p["positions"])
        if number % 2:
            x, own, exemplars = bridged(x, own, exemplars, expressed, p, f"{name}.bridge", spec)
        x = in_numpy.perceived(x, p, f"{name}.block")
    z = linear(x, p, "pool")
    pooled = z.mean(0) + 0.5 * (softmax(0.1 * z, axis=0) * z).sum(0)
    return linear(norm(np.concatenate([pooled, own]), p, "norm", EPS), p, "main")


def test_a_bridge_computes_what_numpy_does():
    x, own, exemplars, expressed = (RNG.normal(size=(2, *count, 32)) for count in ((4,), (), (K,), (K,)))
    with jax.enable_x64(True):
        model = in_numpy.shaken(egn.Bridge(TINY, 4, rngs=nnx.Rngs(0)), jnp.float64)
        found = model(*map(jnp.asarray, (x, own, exemplars, expressed, np.full((2, K), 1 / K))))
        p = {f"b.{name}": array for name, array in in_numpy.parameters(model).items()}
    for n in range(2):
        wanted = bridged(x[n], own[n], exemplars[n], expressed[n], p, "b", TINY)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one[n], other, rtol=0, atol=1e-11)


def test_the_whole_computes_what_numpy_does_with_the_nearest_spots_of_others():
    model, batch = sections.build("egn", "tiny", nearest=K), sections.batch()
    for number, (path, leaf) in enumerate(in_numpy.flat(model)):
        if path[-1] in ("bias", "scale"):
            leaf[...] = leaf[...] + 0.3 * jax.random.normal(jax.random.key(number), leaf.shape)
    found, p = sections.runner(model, "egn", "tiny")(batch), in_numpy.parameters(model)
    bank = sections.facts()["bank"]
    for item, count in enumerate((7, 4)):
        for n in range(count):
            own, group = batch["features"][item, n], batch["group"][item, n]
            apart = np.where(bank["group"] == group, np.inf, ((bank["features"] - own) ** 2).sum(1))
            of = np.argsort(apart)[:K]
            image, own = (each[item, n].astype(np.float64) for each in (batch["images"], batch["features"]))
            exemplars = bank["features"][of].astype(np.float64), bank["targets"][of].astype(np.float64)
            wanted = reference(image, own, *exemplars, p, TINY)
            np.testing.assert_allclose(found[item, n], wanted, rtol=1e-4, atol=1e-4)


def test_it_is_as_large_as_the_published_one():
    def parameters():
        bank = {"features": np.zeros((9, 2048)), "targets": np.zeros((9, 250)), "group": np.arange(9, dtype=np.int32)}
        facts = {name: np.ones(2048) for name in ("feature_mean", "feature_std")}
        options = {"image_size_px": 256, "bank": bank, "rngs": nnx.Rngs(0)}
        return nnx.state(egn.build("full", num_main=250, **facts, **options), nnx.Param)

    unused = 4 * (512 * 1024 + 1024)  # a layer of each published bridge that nothing asks
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(parameters)))
    assert round((count + unused) / 1e6, 2) == 133.36


@pytest.mark.parametrize(
    ("options", "given", "says"),
    [
        ({}, {"image_size_px": 100}, "patches are 100 px; EGN cuts them into squares of 32 px: build .* such as 256"),
        ({"nearest": 0}, {}, "nearest is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options, given, says):
    with pytest.raises(InputError, match=says):
        sections.build("egn", "tiny", given=sections.facts() | given, **options)
    with pytest.raises(InputError, match="'wide'; egn has full, narrow, tiny"):
        sections.build("egn", "wide")
