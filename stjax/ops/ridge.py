"""Ridge regression in closed form, its penalty chosen by cross-validation over groups of samples.

The features are read once, fold by fold, into sums of products; what a fold's model is trained on is the total less the
fold's own sums. One eigendecomposition a fold then serves every penalty, and what is held out is scored from its sums:
after the first pass no cost depends on the number of samples. With fewer samples than features the decomposition is of
the samples' products in place of the features' (the dual form). All in float64, whatever JAX's default is.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_prep.errors import InputError

PENALTIES = tuple(float(penalty) for penalty in np.logspace(-1, 7, 17))
FOLDS = 5  # at most; groups are dealt to them
_ROWS = 4096  # samples on the device at a time
_ROUNDING = 2.0**-20  # as `stjax.metrics.ROUNDING`: a feature that varies by less does not vary


@dataclasses.dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted regression, in the units of features and targets as they were given.

    Attributes:
        coef: [D, G] float64; 0 for a feature that does not vary.
        intercept: [G] float64.
        penalty: the one chosen, of the squared coefficients of standardised features, as scikit-learn's `alpha`.
        errors: {penalty: mean over folds of the mean squared error on what is held out}; empty of one penalty alone.
    """

    coef: np.ndarray
    intercept: np.ndarray
    penalty: float
    errors: dict[float, float]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[N, D] features to [N, G] float64 predictions."""
        return np.asarray(x, np.float64) @ self.coef + self.intercept

    @property
    def error(self) -> float:
        """Mean squared error on what was held out, of the penalty chosen; NaN of one penalty alone."""
        return self.errors.get(self.penalty, float("nan"))

    @property
    def remark(self) -> str:
        """What is to be said of the penalty where it is the least or largest of those tried; "" where it is not."""
        if len(self.errors) < 2 or self.penalty not in (min(self.errors), max(self.errors)):
            return ""
        end = "least" if self.penalty == min(self.errors) else "largest"
        return f"the best penalty, {self.penalty:g}, is the {end} of those tried"


class _Sums(NamedTuple):
    """Of some samples of centred features and targets: their number [], sums [D] and [G], and sums of products, [D, D],
    [D, G] and, over all targets, []; of samples with weights also their sum [], and x [D] and xx [D, D], weighted."""

    count: Any
    x: Any
    y: Any
    xx: Any
    xy: Any
    yy: Any
    weighted: Any = None


class _How(NamedTuple):
    """What `fit` was asked: penalties [P], `standardise`, `scale` [D] and `rank`."""

    penalties: jax.Array
    standardise: bool
    scale: jax.Array
    rank: int


class _Factors(NamedTuple):
    """Solutions for all penalties p, for x - x_mean and y - y_mean: basis @ (projected / (values + p)).

    Attributes:
        basis: [D, R]; values: [R]; projected: [R, G].
        spread: [R] sums of squares of the samples along each vector of the basis; of samples with weights, [R, R]
            their weighted sums of products.
    """

    basis: jax.Array
    values: jax.Array
    projected: jax.Array
    spread: jax.Array
    x_mean: jax.Array
    y_mean: jax.Array


def fit(
    x: Any,
    y: np.ndarray,
    groups: np.ndarray,
    *,
    penalties: Sequence[float] = PENALTIES,
    standardise: bool = True,
    scale: np.ndarray | None = None,
    rank: int = 0,
    weights: np.ndarray | None = None,
) -> Ridge:
    """Fits targets to features, with the penalty whose models predict held-out groups best.

    The intercept is not penalised. A fold's model has the means of its own training samples. Deviations are those of
    all samples, so that a penalty asks the same in every fold: a feature that hardly varies within a fold would else
    be blown up there, and what is held out be predicted from it.

    Args:
        x: [N, D] features of any floating type; may be memory-mapped.
        y: [N, G] targets, in units in which their errors count the same.
        groups: [N] labels; samples of a group are held out together. Groups are dealt to at most `FOLDS` folds.
        penalties: positive, of which one is chosen; a single one is taken as it is.
        standardise: penalise the coefficients of features of unit deviation over all samples, not of them as they are.
        scale: [D] positive, what features are multiplied with before they are penalised: of a larger one a larger
            coefficient costs the same.
        rank: of the predictions: reduced-rank regression (Izenman, 1975), which keeps as many principal components of
            the targets fitted to the training samples, so that targets lend each other strength; 0: all.
        weights: [N] positive, how much each sample counts in these components; None: the same. Errors count the same.

    Raises:
        InputError: features or targets that are not finite, or of other samples, or one group and several penalties.
    """
    y = np.asarray(y, np.float64)
    if not len(x) == len(y) == len(groups):
        raise InputError(f"features are of {len(x)} samples, targets of {len(y)}, groups of {len(groups)}")
    if not penalties or min(penalties) <= 0:
        raise InputError(f"penalties are {list(penalties)}, expected positive numbers")
    folds = folds_of(groups) if len(penalties) > 1 else np.zeros(len(y), np.int64)
    centre = np.asarray(np.mean(x, axis=0, dtype=np.float64)), y.mean(axis=0)
    if not all(np.isfinite(part).all() for part in centre):
        raise InputError("features or targets to fit are not finite; leave out the samples or columns that are not")
    with jax.enable_x64(True), jax.default_device(_device()):
        way = _dual if len(x) <= x.shape[1] else _primal
        scale = np.ones(x.shape[1]) if scale is None else scale
        how = _How(jnp.asarray(penalties, jnp.float64), standardise, jnp.asarray(scale, jnp.float64), rank)
        weights = None if weights is None or not rank else np.asarray(weights, np.float64) / np.mean(weights)
        factors, errors = way(x, y, folds, centre, weights, how)
        scores = {float(p): float(np.mean(of)) for p, of in zip(penalties, zip(*errors, strict=True), strict=False)}
        penalty = min(scores, key=scores.__getitem__) if scores else float(penalties[0])
        coef = np.asarray(factors.basis @ _solution(factors, penalty, rank))
        x_mean, y_mean = (np.asarray(part) for part in (factors.x_mean, factors.y_mean))
    intercept = centre[1] + y_mean - (centre[0] + x_mean) @ coef
    return Ridge(coef, intercept, penalty, scores)


def folds_of(groups: np.ndarray) -> np.ndarray:
    """[N] the fold of each sample: groups [N], largest first, go to the smallest fold so far.

    Raises:
        InputError: there is one group.
    """
    names, member, size = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise InputError("a penalty is chosen on groups that are held out, and there is one; give a single penalty")
    fold, total = np.zeros(len(names), np.int64), np.zeros(min(FOLDS, len(names)), np.int64)
    for group in np.argsort(-size, kind="stable"):
        fold[group] = np.argmin(total)
        total[fold[group]] += size[group]
    return fold[member]


def _device() -> Any:
    """One with float64: not a TPU's."""
    own = jax.local_devices()[0]
    return jax.local_devices(backend="cpu")[0] if own.platform == "tpu" else own


# --------------------------------------------------------------------------------------- more samples than features


def _primal(
    x: Any, y: np.ndarray, folds: np.ndarray, centre: tuple[np.ndarray, ...], weights: np.ndarray | None, how: _How
) -> tuple[_Factors, list[np.ndarray]]:
    """The solutions on all samples, and the error of every penalty [P] on each fold; none of one fold."""
    parts = [_sums(x, y, np.flatnonzero(folds == fold), centre, weights) for fold in range(folds.max() + 1)]
    total = jax.tree.map(lambda *each: sum(each), *parts)
    inverse = _inverse_scale(jnp.diagonal(total.xx) / total.count, centre[0], how)
    errors = []
    for held in parts if len(parts) > 1 else ():
        factors = _factors(jax.tree.map(jnp.subtract, total, held), inverse)
        errors.append(np.asarray(_errors_of_sums(factors, held, how.penalties, rank=how.rank)))
    return _factors(total, inverse), errors


def _sums(x: Any, y: np.ndarray, rows: np.ndarray, centre: tuple[np.ndarray, ...], weights: np.ndarray | None) -> _Sums:
    """The sums of some samples, a block at a time; the last is filled with samples that do not count."""
    (D, G), size = (x.shape[1], y.shape[1]), min(_ROWS, len(rows))
    shapes = ((), (D,), (G,), (D, D), (D, G), ())
    sums = _Sums(*(jnp.zeros(shape, jnp.float64) for shape in shapes))
    if weights is not None:
        sums = sums._replace(weighted=tuple(jnp.zeros(shape, jnp.float64) for shape in ((), (D,), (D, D))))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        counts = np.arange(size) < len(block)
        block = np.pad(block, (0, size - len(block)), mode="edge")
        of_block = None if weights is None else weights[block]
        sums = _added(sums, np.asarray(x[block]), y[block], counts, of_block, *centre)
    return sums


@jax.jit
def _added(
    sums: _Sums, x: jax.Array, y: jax.Array, counts: jax.Array, weights: Any, x_centre: jax.Array, y_centre: jax.Array
) -> _Sums:
    """The sums with those of a block of samples, [R, D] and [R, G], of which some count [R], with their weights [R]."""
    x = jnp.where(counts[:, None], x.astype(jnp.float64) - x_centre[None], 0)
    y = jnp.where(counts[:, None], y - y_centre[None], 0)
    block = _Sums(jnp.sum(counts.astype(jnp.float64)), x.sum(0), y.sum(0), x.T @ x, x.T @ y, jnp.sum(jnp.square(y)))
    if weights is not None:
        weights = jnp.where(counts, weights, 0)
        block = block._replace(weighted=(weights.sum(), weights @ x, x.T @ (weights[:, None] * x)))
    return jax.tree.map(jnp.add, sums, block)


@jax.jit
def _factors(sums: _Sums, inverse: jax.Array) -> _Factors:
    """The solutions on the samples of some sums, for features multiplied with [D]."""
    x_mean, y_mean = sums.x / sums.count, sums.y / sums.count
    products, with_targets, _ = _about(sums, x_mean, y_mean)
    values, vectors = jnp.linalg.eigh(inverse[:, None] * products * inverse[None])
    values, projected = jnp.maximum(values, 0), vectors.T @ (inverse[:, None] * with_targets)
    basis, spread = inverse[:, None] * vectors, values
    if sums.weighted is not None:
        weight, x, xx = sums.weighted
        cross = x[:, None] * x_mean[None]
        spread = basis.T @ (xx - cross - cross.T + weight * x_mean[:, None] * x_mean[None]) @ basis
    return _Factors(basis, values, projected, spread, x_mean, y_mean)


def _about(sums: _Sums, x_mean: jax.Array, y_mean: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sums of products about other means than 0."""
    cross = sums.x[:, None] * x_mean[None]
    products = sums.xx - cross - cross.T + sums.count * x_mean[:, None] * x_mean[None]
    with_targets = sums.xy - sums.x[:, None] * y_mean[None] - x_mean[:, None] * (sums.y - sums.count * y_mean)[None]
    squares = sums.yy - 2 * y_mean @ sums.y + sums.count * y_mean @ y_mean
    return products, with_targets, squares


def _inverse_scale(variance: Any, mean: np.ndarray, how: _How) -> jax.Array:
    """[D] what features are multiplied with: 0 for one that does not vary."""
    varies = variance > _ROUNDING**2 * (jnp.square(mean) + variance)
    inverse = jax.lax.rsqrt(jnp.where(varies, variance, 1)) if how.standardise else 1.0
    return jnp.where(varies, inverse * how.scale, 0.0)


def _solution(factors: _Factors, penalty: Any, rank: int) -> jax.Array:
    """[R, G] the solution for one penalty, in the basis; of a rank, where that is not 0."""
    found = factors.projected / (factors.values + penalty)[:, None]
    if not 0 < rank < min(found.shape):
        return found
    spread = factors.spread
    fitted = found.T @ (spread[:, None] * found if spread.ndim == 1 else spread @ found)  # products of fitted targets
    axes = jnp.linalg.eigh(fitted)[1][:, -rank:]
    return found @ axes @ axes.T


@functools.partial(jax.jit, static_argnames="rank")
def _errors_of_sums(factors: _Factors, held: _Sums, penalties: jax.Array, *, rank: int) -> jax.Array:
    """[P] mean squared error on samples that are known by their sums."""
    products, with_targets, squares = _about(held, factors.x_mean, factors.y_mean)
    basis = factors.basis
    return _errors(factors, basis.T @ products @ basis, basis.T @ with_targets, squares, penalties, rank) / held.count


def _errors(
    factors: _Factors, products: jax.Array, targets: jax.Array, squares: Any, penalties: jax.Array, rank: int
) -> Any:
    """[P] squared errors, summed over samples and averaged over targets, of samples in the basis: sums of their
    products [R, R], of those with the targets [R, G], and of the targets' squares."""

    def error(penalty: jax.Array) -> jax.Array:
        solution = _solution(factors, penalty, rank)
        return squares + jnp.sum(solution * (products @ solution - 2 * targets))

    return jax.lax.map(error, penalties) / targets.shape[1]


# ------------------------------------------------------------------------------------- no more samples than features


def _dual(
    x: Any, y: np.ndarray, folds: np.ndarray, centre: tuple[np.ndarray, ...], weights: np.ndarray | None, how: _How
) -> tuple[_Factors, list[np.ndarray]]:
    """As `_primal`. Samples that do not count are zeros, so that one program does for all folds."""
    x, y = np.asarray(x, np.float64) - centre[0], y - centre[1]
    inverse = _inverse_scale(np.mean(np.square(x), axis=0), centre[0], how)
    errors = []
    for fold in range(folds.max() + 1) if folds.any() else ():
        factors = _dual_factors(x, y, folds != fold, weights, inverse)
        errors.append(np.asarray(_errors_of_samples(factors, x, y, folds == fold, how.penalties, rank=how.rank)))
    return _dual_factors(x, y, np.ones(len(y), bool), weights, inverse), errors


@jax.jit
def _dual_factors(x: jax.Array, y: jax.Array, used: jax.Array, weights: Any, inverse: jax.Array) -> _Factors:
    """The solutions on the samples [N, D] and [N, G] that are used [N], of weights [N], for features multiplied with
    [D]."""
    x_mean, y_mean = (jnp.mean(part, axis=0, where=used[:, None]) for part in (x, y))
    x, y = (jnp.where(used[:, None], part - mean[None], 0) for part, mean in ((x, x_mean), (y, y_mean)))
    scaled = x * inverse[None]
    values, vectors = jnp.linalg.eigh(scaled @ scaled.T)
    basis, values = inverse[:, None] * (scaled.T @ vectors), jnp.maximum(values, 0)
    along, spread = vectors * values[None], jnp.square(values)
    if weights is not None:
        spread = along.T @ (weights[:, None] * along)  # of samples that are not used all is 0
    return _Factors(basis, values, vectors.T @ y, spread, x_mean, y_mean)


@functools.partial(jax.jit, static_argnames="rank")
def _errors_of_samples(
    factors: _Factors, x: jax.Array, y: jax.Array, held: jax.Array, penalties: jax.Array, *, rank: int
) -> jax.Array:
    """[P] mean squared error on the samples that are held out [N]."""
    x = jnp.where(held[:, None], (x - factors.x_mean[None]) @ factors.basis, 0)
    y = jnp.where(held[:, None], y - factors.y_mean[None], 0)
    return _errors(factors, x.T @ x, x.T @ y, jnp.sum(jnp.square(y)), penalties, rank) / jnp.sum(held)
