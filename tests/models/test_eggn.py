"""EGGN against loops in NumPy, its size, whom it asks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax.models import eggn
from tests.models import in_numpy
from tests.models import section_batches as sections
from tests.models.in_numpy import bent, linear, sage, sigmoid, standardised


def bridged(spots, examples, expressed, cited, p, name):
    """What is told to spots and exemplars, an edge at a time."""
    width = spots.shape[1]
    s, d = bent(linear(examples, p, f"{name}.example")), bent(linear(spots, p, f"{name}.spot"))
    y = linear(expressed, p, f"{name}.expressed")
    told = [[] for _ in spots], [[] for _ in examples]
    for spot, rows in enumerate(cited):
        for row in rows:
            compared = linear(s[row], p, f"{name}.compared") - linear(d[spot], p, f"{name}.compared")
            of_spot, of_example = np.split(sigmoid(linear(bent(compared), p, f"{name}.gate")), 2)
            for to, gates, parts in (
                (told[0][spot], of_spot, (s[row], y[row], d[spot])),
                (told[1][row], of_example, (d[spot], s[row], y[row])),
            ):
                gated = np.concatenate(parts) * np.repeat(gates, 12)
                to.append(gated.reshape(3, width).mean(axis=0))
    means = [np.array([np.mean(each, axis=0) if each else np.zeros(width) for each in side]) for side in told]
    biased = [mean + p[f"{name}.bias"] for mean in means]
    return linear(biased[0], p, f"{name}.to_spot"), linear(biased[1], p, f"{name}.to_example")


def reference(features, near, group, bank, p, *, nearest=6, as_released=False):
    """Features [N, D] of a section, the rows of each spot's neighbours, and its group, to genes [N, M]."""
    cites = []
    for own in features:
        apart = np.where(bank["group"] == group, np.inf, np.abs(bank["features"] - own).sum(axis=1))
        cites.append([row for row in np.argsort(apart)[:nearest] if np.isfinite(apart[row])])
    nodes = sorted({row for rows in cites for row in rows})
    cited = [[nodes.index(row) for row in rows] for rows in cites]
    described = np.concatenate([standardised(bank["features"], p), bank["targets"]], axis=1)[nodes]
    apart = np.linalg.norm(described[:, None] - described[None], axis=-1)
    close = [[row for row in np.argsort(of, stable=True) if row != node][:3] for node, of in enumerate(apart)]
    x = bent(linear(bent(linear(standardised(features, p), p, "window")), p, "shared"))
    e = bent(linear(bent(linear(described, p, "example")), p, "shared"))
    genes = bank["targets"].shape[1]
    y = linear((e if as_released else described)[:, -genes:], p, "expressed")
    for number in range(4):
        name = f"layers.{number}"
        to_x, to_e = bridged(x, e, y, cited, p, f"{name}.bridge")
        x = bent((sage(x, near, p, f"{name}.near") + to_x) / 2)
        e = bent((sage(e, close, p, f"{name}.close") + to_e) / 2)
        y = bent(y)
    d, found = linear(x, p, "pool"), []
    for spot, rows in enumerate(cited):
        pooled = np.zeros(d.shape[1])
        for channel in range(len(pooled)):
            scores = np.exp([0.1 * (e[row, channel] - d[spot, channel]) for row in rows])
            pooled[channel] = scores / scores.sum() @ e[rows, channel]
        found.append(linear(d[spot] + p["share"] * pooled, p, "main"))
    return np.array(found)


def compared(model, batch, bank, *, neighbours=8, **how):
    """A model's predictions beside those of loops."""
    found, p = sections.runner(model, "eggn", "tiny")(batch), in_numpy.parameters(model)
    bank = {name: np.asarray(array, np.float64) for name, array in bank.items()}
    for item, count in enumerate(batch["spots_mask"].sum(axis=1)):
        near = [[row for row in rows[:neighbours] if row >= 0] for rows in batch["near"][item, :count]]
        own, group = batch["features"][item, :count].astype(np.float64), batch["group"][item, 0]
        wanted = reference(own, near, group, bank, p, **how)
        assert np.std(wanted, axis=0).min() > 0.01
        np.testing.assert_allclose(found[item, :count], wanted, rtol=2e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, {}),
        ({"nearest": 2}, {"nearest": 2}),
        ({"nearest": 20}, {"nearest": 20}),  # more than there are of other groups
        ({"near": "as_released"}, {"neighbours": 5}),
        ({"example_y": "as_released"}, {"as_released": True}),
    ],
)
def test_it_computes_what_loops_from_its_formulas_do(options, how):
    model = in_numpy.louder(sections.build("eggn", "tiny", **options))
    batch = sections.batch((7, 12), most=12)
    batch["group"][:] = [[1], [-1]]
    compared(model, batch, sections.facts()["bank"], **how)


def test_an_exemplar_hears_of_all_spots_that_cite_it():
    given = sections.facts()
    given["bank"] = {name: array[:3] for name, array in given["bank"].items()}  # each spot cites all three
    model = in_numpy.louder(sections.build("eggn", "tiny", given=given))
    batch = sections.batch() | {"group": np.full((2, 8), -1, np.int32)}
    compared(model, batch, given["bank"])


@pytest.mark.parametrize("seed", range(10))
def test_exemplars_are_each_one_node(seed):
    rng = np.random.default_rng(seed)
    rows, there = rng.integers(0, 12, (5, 6)).astype(np.int32), rng.random((5, 6)) < 0.8
    nodes, place = map(np.asarray, eggn.distinct(jnp.asarray(rows), jnp.asarray(there), 12))
    expected = sorted(set(rows[there].tolist()))
    assert nodes.tolist() == expected + [-1] * (12 - len(expected))
    np.testing.assert_array_equal(nodes[place[there]], rows[there])
    assert (place[~there] == -1).all()


def test_it_is_as_large_as_the_published_one():
    def parameters():
        bank = {"features": np.zeros((9, 512)), "targets": np.zeros((9, 250)), "group": np.arange(9, dtype=np.int32)}
        facts = {name: np.ones(512) for name in ("feature_mean", "feature_std")}
        return nnx.state(eggn.build("full", num_main=250, **facts, bank=bank, rngs=nnx.Rngs(0)), nnx.Param)

    assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(parameters))) == 11_275_003


@pytest.mark.parametrize("own", [0, 1, 2])
def test_a_training_spot_sees_nothing_of_its_own_group(own):
    model, batch = in_numpy.louder(sections.build("eggn", "tiny")), sections.batch()
    batch["group"][:] = own
    run = sections.runner(model, "eggn", "tiny")
    before = run(batch)
    of_group = sections.facts()["bank"]["group"] == own
    for rows, changes in ((of_group, False), (~of_group, True)):
        for stored in (model.bank.features, model.bank.targets):
            stored[...] = jnp.where(rows[:, None], stored[...] + 1, stored[...])
        after = sections.runner(model, "eggn", "tiny")(batch)[batch["spots_mask"]]
        assert (np.abs(after - before[batch["spots_mask"]]).max() > 1e-3) == changes


def test_it_matters_who_the_neighbours_are():
    run, batch = sections.runner(in_numpy.louder(sections.build("eggn", "tiny")), "eggn", "tiny"), sections.batch()
    others = batch | {"near": np.where(batch["near"] >= 0, (batch["near"] + 1) % 4, -1)}
    assert np.abs(run(others) - run(batch))[batch["spots_mask"]].max() > 0.01


@pytest.mark.parametrize(
    ("options", "genes", "says"),
    [
        ({"near": "five"}, 3, "near 'five' and example_y 'true'; expected grid8 or as_released, and true or as_re"),
        ({"nearest": 0}, 3, "nearest is 0; expected at least 1"),
        ({"example_y": "as_released"}, 30, "example_y=as_released there may be at most 24 genes, not 30"),
    ],
)
def test_what_cannot_be_built_is_refused(options, genes, says):
    with pytest.raises(InputError, match=says):
        sections.build("eggn", "tiny", genes=genes, **options)
    with pytest.raises(InputError, match="'wide'; eggn has full, tiny"):
        sections.build("eggn", "wide")
