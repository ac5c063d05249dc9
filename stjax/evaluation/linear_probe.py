"""The regressions of HEST-Benchmark on features, solved exactly, from sums that all folds of a task share.

A1  features standardised, 256 principal components, ridge without intercept, penalty 100 / (256 x genes)   (its README)
A2  ridge without intercept on features as they are, penalty 100 / (D x genes)                (its paper, Table A13)
A3  as A1 with an intercept, and the penalty of `ridge.PENALTIES` that predicts five blocks of training patches best,
    each held out in turn: contiguous in the order of files, so that a block is of few samples

The penalty of A1 and A2 is so small that they are all but ordinary least squares. The benchmark's own code solves them
by LSQR and randomised PCA, which leaves 1e-3 a gene.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from data_prep.errors import InputError
from stjax import metrics
from stjax.ops import ridge

PROTOCOLS = ("A1", "A2", "A3")
COMPONENTS = 256
_BLOCKS = 5  # of A3


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """Predictions are x @ coef + intercept, [D, G] and [G] float64; `alpha` is the penalty, `components` how many
    principal ones, 0 without."""

    coef: np.ndarray
    intercept: np.ndarray
    alpha: float
    components: int

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[N, G] float64 of features [N, D]."""
        return np.asarray(x, np.float64) @ self.coef + self.intercept


class Components(NamedTuple):
    """(x - mean) @ basis, [D] and [D, K], has sums of squares `values` [K]."""

    basis: np.ndarray
    values: np.ndarray
    mean: np.ndarray


class Probe:
    """The features and targets of a task's samples, of which any may be trained on.

    Args:
        features: {sample: [N, D]} of any floating type.
        targets: {sample: [N, G]}.

    Raises:
        InputError: features that are not finite, or of several widths.
    """

    def __init__(self, features: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]):
        self.features, self.targets = features, targets
        widths = {x.shape[1] for x in features.values()}
        if len(widths) != 1:
            raise InputError(f"features have {sorted(widths)} numbers a patch, expected the same of all samples")
        count = sum(map(len, features.values()))
        totals = (x.sum(axis=0, dtype=np.float64) for x in features.values())
        self._centre: np.ndarray = functools.reduce(np.add, totals) / count  # or sums would cancel
        if not np.isfinite(self._centre).all():
            raise InputError("features are not finite; make them again")
        self._sums = {name: self._of_sample(name) for name in features}
        self._last: tuple[tuple[str, ...], Components] | None = None

    def _of_sample(self, name: str) -> tuple[np.ndarray, ...]:
        """Number, sums [D] and products [D, D], [D, G], and sums of targets [G]."""
        x, y = np.asarray(self.features[name], np.float64) - self._centre, np.asarray(self.targets[name], np.float64)
        return np.asarray(len(x)), x.sum(axis=0), x.T @ x, x.T @ y, y.sum(axis=0)

    def fit(self, protocol: str, samples: Sequence[str]) -> Fitted:
        """The regression of a protocol, fitted on some samples.

        Raises:
            InputError: fewer than two patches of them.
        """
        parts = zip(*(self._sums[name] for name in samples), strict=True)
        count, x, xx, xy, y = (functools.reduce(np.add, each) for each in parts)
        if count < 2:
            raise InputError(f"{count} patches to train on (samples {', '.join(samples)}); expected more")
        D, G = xy.shape
        if protocol == "A2":
            c = self._centre
            cross = x[:, None] * c[None]
            alpha = 100 / (D * G)
            products = xx + cross + cross.T + count * c[:, None] * c[None]
            products[np.diag_indices(D)] += alpha
            coef = scipy.linalg.solve(products, xy + c[:, None] * y[None], assume_a="pos", overwrite_a=True)
            return Fitted(coef, np.zeros(G), alpha, 0)
        basis, values, x_mean = self._components(tuple(samples), count, x, xx)
        if protocol == "A3":
            return self._nested(samples, basis, x_mean)
        alpha = 100 / (len(values) * G)
        projected = basis.T @ (xy - (x / count)[:, None] * y[None])
        coef = basis @ (projected / (values + alpha)[:, None])
        return Fitted(coef, -x_mean @ coef, alpha, len(values))

    def components(self, samples: Sequence[str]) -> Components:
        """The principal components of some samples, those of A1."""
        parts = zip(*(self._sums[name][:3] for name in samples), strict=True)
        return self._components(tuple(samples), *(functools.reduce(np.add, each) for each in parts))

    def _components(self, samples: tuple[str, ...], count: np.ndarray, x: np.ndarray, xx: np.ndarray) -> Components:
        """The principal components of some samples: those of A1 are those of A3."""
        if self._last is None or self._last[0] != samples:
            mean = x / count
            products = xx - count * mean[:, None] * mean[None]
            variance = np.diagonal(products) / count
            varies = metrics.varies(variance, np.square(mean + self._centre) + variance)
            inverse = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0.0)
            D, most = len(mean), min(COMPONENTS, len(mean), int(count))
            values, vectors = scipy.linalg.eigh(
                inverse[:, None] * products * inverse[None], subset_by_index=[D - most, D - 1], overwrite_a=True
            )  # fmt: skip
            found = Components(inverse[:, None] * vectors, np.maximum(values, 0), mean + self._centre)
            self._last = samples, found
        return self._last[1]

    def _nested(self, samples: Sequence[str], basis: np.ndarray, x_mean: np.ndarray) -> Fitted:
        z = np.concatenate([(np.asarray(self.features[name], np.float64) - x_mean) @ basis for name in samples])
        y = np.concatenate([self.targets[name] for name in samples])
        found = ridge.fit(z, y, blocks(len(z)), standardise=False)
        coef = basis @ found.coef
        return Fitted(coef, found.intercept - x_mean @ coef, found.penalty, basis.shape[1])


def blocks(count: int) -> np.ndarray:
    """[count] the block of each patch, as scikit-learn's KFold(5) deals them."""
    parts = np.array_split(np.arange(count), _BLOCKS)
    return np.repeat(np.arange(_BLOCKS), [len(part) for part in parts])
