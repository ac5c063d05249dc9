"""The negative-binomial likelihood of counts, exact in float32 from a dispersion near 0 to the Poisson limit.

The textbook form subtracts log-gamma functions of the size of the counts, and loses in float32 whatever it should give
the dispersion. Here all that is large cancels on paper: ratios near 1 go through log1p, Stirling's series (shifted by
`_SHIFT` below `_SHIFT`) takes the place of log-gamma and digamma, and derivatives are written out.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

_SHIFT = 4  # from here on the series below are exact to 1e-8
_SERIES = 0.1  # below which log(1 + x) - x is summed term by term
_LEAST = 1e-8


@jax.custom_jvp
def negative_binomial(counts: jax.Array, mean: jax.Array, dispersion: jax.Array) -> jax.Array:
    """Negative log-likelihood of counts with variance mean + mean^2 / dispersion, elementwise.

    Args:
        counts: from 0 up, a constant to derivatives; mean, dispersion: from 0 up, at least 1e-8 being taken.
    """
    counts, mean, dispersion = _floats(counts, mean, dispersion)
    shifted = dispersion < _SHIFT
    shift = jnp.where(shifted, float(_SHIFT), 0.0)
    base = dispersion + shift
    series = _gamma_rest(counts + 5) - _gamma_rest(base + counts) + _gamma_rest(base)
    return (
        counts * _log_ratio(counts + 5, mean, counts + 5 - mean)
        + (counts + dispersion) * _log_ratio(mean + dispersion, base + counts, mean - counts - shift)
        + dispersion * jnp.log1p(shift / dispersion)
        + (0.5 - shift) * jnp.log1p(counts / base)
        + 4.5 * jnp.log(counts + 5)
        + (0.5 * math.log(2 * math.pi) - 5)
        + series
        - jnp.log((counts + 1) * (counts + 2))
        - jnp.log((counts + 3) * (counts + 4))
        + jnp.where(shifted, _log_rising(counts, dispersion), 0.0)
    )


@negative_binomial.defjvp
def _derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    counts, mean, dispersion = _floats(*primals)
    by_mean = dispersion * (mean - counts) / (mean * (dispersion + mean))
    shifted = dispersion < _SHIFT
    base = dispersion + jnp.where(shifted, float(_SHIFT), 0.0)
    excess = (mean - counts) / (dispersion + mean)
    ratio = jnp.where(shifted, jnp.log1p(mean / dispersion) - jnp.log1p(counts / base) - excess, _beyond_linear(excess))
    steps = sum(counts / ((dispersion + i) * (dispersion + counts + i)) for i in range(_SHIFT))
    digamma = counts / (2 * base * (base + counts)) + _digamma_rest(base) - _digamma_rest(base + counts)
    by_dispersion = ratio - digamma - jnp.where(shifted, steps, 0.0)
    _, d_mean, d_dispersion = tangents
    return negative_binomial(*primals), by_mean * d_mean + by_dispersion * d_dispersion


def _floats(counts: Any, mean: Any, dispersion: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    counts, mean, dispersion = jnp.asarray(counts), jnp.asarray(mean), jnp.asarray(dispersion)
    return counts, jnp.maximum(mean, _LEAST), jnp.maximum(dispersion, _LEAST)


def _log_ratio(a: jax.Array, b: jax.Array, difference: jax.Array) -> jax.Array:
    """log(a / b), given a - b, which may be known better than a and b."""
    near = jnp.abs(difference) < 0.5 * b
    return jnp.where(near, jnp.log1p(jnp.where(near, difference / b, 0.0)), jnp.log(a / b))


def _gamma_rest(x: jax.Array) -> jax.Array:
    """log-gamma of x less (x - 1/2) log x - x + log(2 pi) / 2 (DLMF 5.11.1)."""
    square = 1 / (x * x)
    return (1 / 12 - (1 / 360 - (1 / 1260 - square / 1680) * square) * square) / x


def _digamma_rest(x: jax.Array) -> jax.Array:
    """log x - 1 / (2 x) less the digamma function of x (DLMF 5.11.2)."""
    square = 1 / (x * x)
    return (1 / 12 - (1 / 120 - (1 / 252 - square / 240) * square) * square) * square


def _log_rising(counts: jax.Array, x: jax.Array) -> jax.Array:
    """The log of the product of 1 + counts / (x + i), i below `_SHIFT`; two factors at a time do not overflow."""
    one, two = ((1 + counts / (x + i)) * (1 + counts / (x + i + 1)) for i in range(0, _SHIFT, 2))
    return jnp.log(one) + jnp.log(two)


def _beyond_linear(x: jax.Array) -> jax.Array:
    """-log(1 - x) - x, for x below 1."""
    small = jnp.abs(x) < _SERIES
    y = jnp.where(small, x, 0.0)
    series = sum(y**power / power for power in range(2, 9))
    return jnp.where(small, series, -jnp.log1p(-jnp.where(small, 0.0, x)) - x)
