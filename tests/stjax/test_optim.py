import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import optim


def descend(name, steps=3, **kwargs):
    """Steps on f(p) = sum(p^2) / 2, whose gradient is p."""
    optimizer = optim.make_optimizer(name, **kwargs)
    params = {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([3.0])}
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(params, state, params)
        params = optim.apply_updates(params, updates, jnp.float32(0.1))
    return params


def test_sgd_is_torch_sgd_with_momentum_and_weight_decay():
    value, buffer = 3.0, 0.0
    for _ in range(3):  # torch.optim.SGD: buffer = momentum * buffer + (gradient + decay * p); p -= lr * buffer
        buffer = 0.9 * buffer + (value + 0.01 * value)
        value -= 0.1 * buffer
    assert descend("sgd", momentum=0.9, weight_decay=0.01)["b"][0] == pytest.approx(value, rel=1e-6)


def test_adamw_is_torch_adamw_and_spares_biases_from_decay():
    def reference(value, decay):
        first = second = 0.0
        for step in range(1, 4):  # torch.optim.AdamW, betas .9 .999, eps 1e-8
            gradient = value
            value *= 1 - 0.1 * decay
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            value -= 0.1 * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
        return value

    params = descend("adamw", momentum=0.9, weight_decay=0.1)
    np.testing.assert_allclose(params["w"][0], [reference(1.0, 0.1), reference(-2.0, 0.1)], rtol=1e-5)
    assert params["b"][0] == pytest.approx(reference(3.0, 0.0), rel=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"config.optimizer is 'rmsprop'"):
        optim.make_optimizer("rmsprop", momentum=0.9, weight_decay=0.0)
    with pytest.raises(InputError, match=r"config.schedule"):
        optim.Schedule("linear", 1.0, total_steps=10, steps_per_epoch=5)


def test_cosine_falls_from_full_to_zero_after_warmup():
    schedule = optim.Schedule("cosine", 2.0, total_steps=110, steps_per_epoch=11, warmup_steps=10)
    assert schedule.learning_rate(0) == pytest.approx(0.2)
    assert schedule.learning_rate(10) == pytest.approx(2.0)
    assert schedule.learning_rate(60) == pytest.approx(1.0)
    assert schedule.learning_rate(110) == pytest.approx(0.0)


def test_published_cosine_is_zero_in_epoch_five_and_full_again_in_epoch_ten():
    schedule = optim.Schedule("cosine_5_epochs", 1e-3, total_steps=0, steps_per_epoch=7)
    assert schedule.learning_rate(0) == schedule.learning_rate(6) == pytest.approx(1e-3)
    assert schedule.learning_rate(5 * 7) == pytest.approx(0.0)
    assert schedule.learning_rate(10 * 7) == pytest.approx(1e-3)


def test_plateau_cuts_the_rate_only_after_patience_and_stops_when_told():
    schedule = optim.Schedule("plateau", 1.0, total_steps=0, steps_per_epoch=1, patience=2, early_stopping_patience=5)
    rates, finished = [], []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.95):
        schedule.end_epoch(loss)
        rates.append(schedule.learning_rate(0))
        finished.append(schedule.finished)
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1])
    assert finished == [False] * 6 + [True]


def test_state_survives_json_exactly():
    schedule = optim.Schedule("plateau", 1.0, total_steps=0, steps_per_epoch=1, patience=0)
    restored = optim.Schedule("plateau", 1.0, total_steps=0, steps_per_epoch=1, patience=0)
    restored.restore(json.loads(json.dumps(schedule.state(), allow_nan=False)))
    assert restored == schedule
    for loss in (0.1 + 0.2, 0.5, 0.6):
        schedule.end_epoch(loss)
    restored.restore(json.loads(json.dumps(schedule.state())))
    assert restored == schedule


def test_adam_adds_the_decay_to_the_gradient():
    """As torch.optim.Adam(weight_decay=0.1): biases too."""
    params = descend("adam", momentum=0.9, weight_decay=0.1)
    first = second = 0.0
    value = 3.0
    for step in range(1, 4):
        gradient = value + 0.1 * value
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        value -= 0.1 * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
    assert params["b"][0] == pytest.approx(value, rel=1e-5)


def test_warmup_takes_a_quarter_of_a_short_run_at_most():
    schedule = optim.Schedule("cosine", 2.0, total_steps=40, steps_per_epoch=10, warmup_steps=100)
    assert schedule.learning_rate(9) == pytest.approx(2.0)
    assert schedule.learning_rate(4) == pytest.approx(1.0)
    assert schedule.learning_rate(25) == pytest.approx(1.0)


def test_the_average_follows_the_weights_and_forgets_the_first_ones():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 3)).astype(np.float32)
    average, expected = {"w": jnp.full(3, 100.0)}, np.full(3, 100.0)
    for step, value in enumerate(values):
        average = optim.averaged(average, {"w": jnp.asarray(value)}, jnp.uint32(step), decay=0.95)
        weight = min(0.95, (2 + step) / (11 + step))
        expected = weight * expected + (1 - weight) * value
    np.testing.assert_allclose(average["w"], expected, rtol=1e-4, atol=1e-5)
    assert abs(expected).max() < 1  # nothing is left of the start


def test_a_long_gradient_is_scaled_to_the_norm_allowed_and_a_short_one_left_alone():
    optimizer = optim.make_optimizer("sgd", momentum=0.0, weight_decay=0.0, max_gradient_norm=1.0)
    params = {"w": jnp.zeros(2), "b": jnp.zeros(1)}
    state = optimizer.init(params)
    long, _ = optimizer.update({"w": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}, state, params)
    short, _ = optimizer.update({"w": jnp.array([0.3, 0.0]), "b": jnp.array([0.4])}, state, params)
    np.testing.assert_allclose(long["w"], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(long["b"], [0.8], rtol=1e-6)
    np.testing.assert_allclose(short["w"], [0.3, 0.0], rtol=1e-6)
