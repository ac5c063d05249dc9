import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import config as configs
from stjax import forward, parallel, protocols, symmetries, views
from stjax import state as states
from stjax.config import built_in
from stjax.data.panel import Panel
from stjax.training import steps
from tests.inference.fake_predictor import made_fold

GENES, SIZE, BATCH = 9, 32, 16


@pytest.fixture(scope="module")
def config():
    return configs.resolve(built_in("tiny"), protocols.stjax, demo=True)


@pytest.fixture(scope="module")
def fold():
    rng = np.random.default_rng(0)
    names = np.array([f"G{g}" for g in range(GENES)])
    return made_fold(
        panel=Panel(names, names, num_main=4, num_genes=GENES),
        target_mean=rng.normal(size=GENES),
        target_std=rng.uniform(0.5, 2, GENES),
        train_mean=np.arange(4.0),
        image_mean=np.full(3, 180.0),
        image_std=np.full(3, 40.0),
        image_size_px=SIZE,
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    counts = rng.poisson(3.0, (BATCH, 1, GENES)).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8),
        "counts": counts,
        "total": counts.sum(axis=-1, keepdims=True) + 100,
        "mask": np.ones((BATCH, 1), np.float32),
    }


@pytest.fixture(scope="module")
def run(config, fold, batch):
    """Trains some steps on so many devices; each number of devices is compiled once."""
    compiled = {}

    def run_steps(devices, num_steps=3):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        graphdef, state = states.init_state(config, fold, mesh=mesh)
        if devices not in compiled:
            compiled[devices] = steps.make_train_step(graphdef, config, fold, protocols.stjax, mesh)
        return follow(compiled[devices], state, batch, mesh, num_steps)

    return run_steps


def follow(train_step, state, batch, mesh, num_steps):
    losses = []
    for step in range(num_steps):
        state, parts = train_step(state, parallel.put_batch(batch, mesh), np.uint32(step), np.float32(1e-3))
        losses.append(float(parts["loss"]))
    return losses, state


def test_one_device_and_eight_give_the_same_losses_and_statistics(run):
    np.testing.assert_allclose(run(8)[0], run(1)[0], rtol=1e-5)
    # BatchNorm's statistics are those of the global batch on any number of devices. After one step: later ones differ
    # by what AdamW makes of rounding in tiny gradients.
    (_, state_one), (_, state_eight) = (run(devices, num_steps=1) for devices in (1, 8))
    for a, b in zip(jax.tree.leaves(state_one["statistics"]), jax.tree.leaves(state_eight["statistics"]), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_training_repeats_bit_for_bit_and_lowers_the_loss(run):
    first, state = run(1, num_steps=12)
    second, again = run(1, num_steps=12)
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, state, again)
    assert first[-1] < first[0]


def test_gradients_of_every_parameter_are_finite_and_not_all_zero(run, config, fold):
    mesh = parallel.make_mesh(jax.devices()[:1])
    _, before = states.init_state(config, fold, mesh=mesh)
    before = jax.tree.map(np.asarray, before["params"])
    _, after = run(1, num_steps=1)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)) and bool(np.all(np.isfinite(b))), before, after["params"])
    assert all(jax.tree.leaves(moved))


def test_what_is_validated_is_the_average_of_weights_and_statistics(run, config, fold, batch):
    _, state = run(1, num_steps=3)
    mesh = parallel.make_mesh(jax.devices()[:1])
    graphdef, fresh = states.init_state(config, fold, mesh=mesh)
    start = jax.tree.map(np.asarray, states.weights_of(fresh))
    # By hand: each step's weights, of runs that end there, averaged as Polyak does with the ramp of `optim.averaged`.
    expected = start
    for step in range(3):
        weight = min(config.ema_decay, (2 + step) / (11 + step))
        _, reached = run(1, num_steps=step + 1)
        now = {name: reached[name] for name in ("params", "statistics")}
        expected = jax.tree.map(lambda old, new, w=weight: w * old + (1 - w) * np.asarray(new), expected, now)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state["average"], expected)

    eval_step = steps.make_eval_step(graphdef, config, fold, protocols.stjax, mesh)
    on_device = parallel.put_batch(batch, mesh)
    averaged, _ = eval_step(state, on_device)
    without = {name: value for name, value in state.items() if name != "average"}
    last, _ = eval_step(without, on_device)
    alone, _ = eval_step({**without, **states.weights_of(state)}, on_device)
    np.testing.assert_array_equal(averaged, alone)
    assert float(jnp.abs(averaged - last).max()) > 1e-3


def test_a_published_recipe_averages_nothing(config, fold):
    mesh = parallel.make_mesh(jax.devices()[:1])
    published = config.copy_and_resolve_references()
    with published.unlocked():
        published.ema_decay = 0.0
    _, state = states.init_state(published, fold, mesh=mesh)
    assert sorted(state) == ["opt_state", "params", "statistics"]
    for name in ("brstnet_paper", "brstnet_code", "stnet", "pixnet"):
        assert dict(protocols.WITHOUT).items() <= dict(protocols.get_protocol(name).recipe).items()


def test_a_template_has_the_shapes_of_a_fresh_state(config, fold):
    mesh = parallel.make_mesh()
    graphdef, state = states.init_state(config, fold, mesh=mesh)
    same_graphdef, template = states.init_state(config, fold, mesh=mesh, abstract=True)
    assert graphdef == same_graphdef
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda leaf: leaf.shape, template)


def test_padding_changes_neither_predictions_nor_losses(config, fold, batch):
    mesh = parallel.make_mesh(jax.devices()[:1])
    graphdef, state = states.init_state(config, fold, mesh=mesh)
    eval_step = steps.make_eval_step(graphdef, config, fold, protocols.stjax, mesh)
    half = {name: array[: BATCH // 2] for name, array in batch.items()}
    padded = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in half.items()}
    short, short_sums = eval_step(state, parallel.put_batch(half, mesh))
    long, long_sums = eval_step(state, parallel.put_batch(padded, mesh))
    np.testing.assert_allclose(long[: BATCH // 2], short, rtol=1e-4, atol=1e-5)
    assert float(long_sums["loss"]) == pytest.approx(float(short_sums["loss"]), rel=1e-5)


def test_test_time_symmetries_make_the_prediction_invariant(config, fold, batch):
    protocol = dataclasses.replace(protocols.stjax, test_symmetries=True)
    mesh = parallel.make_mesh(jax.devices()[:1])
    graphdef, state = states.init_state(config, fold, mesh=mesh)
    step = forward.make_predict_step(views.get("patches"), graphdef, fold, protocol, mesh)
    images = jnp.asarray(batch["image"][:2])
    one, other = (
        step(state, {"image": each})["expression"] for each in (images, symmetries.turn(images, symmetries.symmetry(6)))
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_batch_size_must_fit_the_devices():
    with pytest.raises(InputError, match="multiple of the 8 devices; use for example 16"):
        parallel.check_batch_size(15, 0, parallel.make_mesh())


def variant(config, **values):
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.update(values)
    return changed


def test_a_frozen_backbone_keeps_every_bit_while_the_heads_learn(config, fold, batch):
    mesh = parallel.make_mesh(jax.devices()[:1])
    frozen = variant(config, backbone_learning_rate_scale=0.0)
    graphdef, state = states.init_state(frozen, fold, mesh=mesh)
    before = jax.tree.map(np.array, {"params": state["params"], "statistics": state["statistics"]})
    train_step = steps.make_train_step(graphdef, frozen, fold, protocols.stjax, mesh)
    _, after = follow(train_step, state, batch, mesh, 2)
    jax.tree.map(np.testing.assert_array_equal, before["params"]["backbone"], after["params"]["backbone"])
    jax.tree.map(np.testing.assert_array_equal, before["statistics"], after["statistics"])
    for head in ("main", "aux"):
        assert np.any(np.asarray(after["params"][head]["kernel"][...]) != before["params"][head]["kernel"][...])


def test_the_head_of_stnet_starts_at_the_mean(config, fold, batch):
    mesh = parallel.make_mesh(jax.devices()[:1])
    stnet = variant(config, protocol="stnet")
    graphdef, state = states.init_state(stnet, fold, mesh=mesh)
    predict = forward.make_predict_step(views.get("patches"), graphdef, fold, protocols.stjax, mesh)
    prediction = np.asarray(predict(state, {"image": jnp.asarray(batch["image"])})["expression"])
    np.testing.assert_allclose(prediction, np.broadcast_to(fold.train_mean, prediction.shape), rtol=1e-5, atol=1e-6)
