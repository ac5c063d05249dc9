"""The likelihood of counts against sums in fifty digits, value and derivatives, in float32 and float64."""

import decimal
import math
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.negative_binomial import negative_binomial

COUNTS = [0, 1, 2, 17, 900, 12_000]
MEANS = [1e-3, 0.8, 17.0, 17.01, 850.0, 11_990.0, 40_000.0]
DISPERSIONS = [1e-3, 0.4, 3.99, 4.0, 60.0, 5e3, 1e6]


def exact(count, mean, dispersion):
    """The likelihood and its derivatives by mean and dispersion, from the products that gamma functions are."""
    with decimal.localcontext() as context:
        context.prec = 50
        m, d = Decimal(mean), Decimal(dispersion)
        steps = [d + i for i in range(count)]
        factorial = math.prod((Decimal(i) for i in range(1, count + 1)), start=Decimal(1))
        rising = math.prod(steps, start=Decimal(1))
        value = (factorial / rising).ln() + d * (1 + m / d).ln() + count * ((m + d) / m).ln()
        by_mean = d * (m - count) / (m * (d + m))
        harmonic = sum((1 / step for step in steps), Decimal(0))
        by_dispersion = (1 + m / d).ln() + (count - m) / (d + m) - harmonic
        return float(value), float(by_mean), float(by_dispersion)


@pytest.mark.parametrize(("dtype", "within"), [("float32", 3e-6), ("float64", 3e-8)])
def test_value_and_derivatives_are_exact(dtype, within):
    cases = np.array([(k, m, d) for k in COUNTS[:5] for m in MEANS for d in DISPERSIONS])
    cases = np.concatenate([cases, [(12_000, m, d) for m in MEANS[3:] for d in (0.4, 60.0, 1e6)]])
    if dtype == "float32":
        cases = cases.astype(np.float32).astype(np.float64)
    wanted = np.array([exact(int(k), m, d) for k, m, d in cases])
    with jax.enable_x64(dtype == "float64"):
        count, mean, dispersion = (jnp.asarray(column, dtype) for column in cases.T)
        value = negative_binomial(count, mean, dispersion)
        gradients = jax.grad(lambda m, d: jnp.sum(negative_binomial(count, m, d)), (0, 1))(mean, dispersion)
    assert value.dtype == dtype
    # Where thousands of counts meet a mean far from them two large terms are left in the value; none in derivatives.
    value, by_mean, by_dispersion = (np.asarray(array, np.float64) for array in (value, *gradients))
    assert np.max(np.abs(value - wanted[:, 0]) / np.maximum(np.abs(wanted[:, 0]), 1)) < 40 * within
    np.testing.assert_allclose(by_mean, wanted[:, 1], rtol=within, atol=1e-12)
    # Near 0 terms of 1 / dispersion cancel, and Stirling's series are cut off; in the Poisson limit digits stay right.
    small = cases[:, 2] < 8
    np.testing.assert_allclose(by_dispersion[small], wanted[small, 2], rtol=40 * within, atol=2e-8)
    np.testing.assert_allclose(by_dispersion[~small], wanted[~small, 2], rtol=10 * within)


def test_means_and_dispersions_of_nothing_are_finite():
    for count in (0.0, 3.0):
        value, gradients = jax.value_and_grad(lambda m, d, k=count: negative_binomial(k, m, d), (0, 1))(0.0, 0.0)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradients))
