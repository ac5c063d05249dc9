"""HEST-Benchmark's regressions by trees, on the features of A1 or A2, with the parameters of its own code.

random-forest  a forest a gene: 70 trees, seed 42 (HEST's trainer.py), at most 16 deep and all features tried at every
               split, as are the defaults of cuML, which HEST takes it from; here scikit-learn's, whose splits are exact
               where cuML's are between 128 bins
xgboost        100 rounds at a rate of 0.1, 3 deep, four fifths of patches and features each, lambda 1 (HEST's
               trainer.py); seed 1
"""

import dataclasses
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from data_prep.errors import InputError
from stjax.evaluation.linear_probe import Components, Probe

PACKAGES = {"random-forest": ("sklearn", "scikit-learn"), "xgboost": ("xgboost", "xgboost")}  # module, and its package
RULES = ("A1", "A2")  # whose features they may see
PROTOCOLS = tuple(f"{rule}-{method}" for rule in RULES for method in PACKAGES)


@dataclasses.dataclass(frozen=True, eq=False)
class Trees:
    """Fitted trees: `predict_seen` of the features as they see them; `alpha` and `components` as of `Fitted`."""

    predict_seen: Callable[[np.ndarray], np.ndarray]
    seen: Components | None
    alpha: float = 0.0

    @property
    def components(self) -> int:
        """How many principal ones, 0 without."""
        return 0 if self.seen is None else len(self.seen.values)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[N, G] float64 of features [N, D]."""
        return self.predict_seen(_seen(x, self.seen)).astype(np.float64)


def check(method: str) -> None:
    """Raises InputError where the package of a method is not installed."""
    module, package = PACKAGES[method]
    if find_spec(module) is None:
        raise InputError(
            f"--method={method} needs the package {package}, which is not installed: pip install {package}"
        )


def fit(protocol: str, probe: Probe, samples: Sequence[str]) -> Trees:
    """The trees of a protocol, of `PROTOCOLS`, fitted on some samples of a probe."""
    rule, _, method = protocol.partition("-")
    seen = probe.components(samples) if rule == "A1" else None
    x = np.concatenate([_seen(probe.features[name], seen) for name in samples])
    y = np.concatenate([probe.targets[name] for name in samples])
    return Trees((_forest if method == "random-forest" else _boosted)(x, y), seen)


def _seen(x: np.ndarray, seen: Components | None) -> np.ndarray:
    """[N, D] float32 as they are, or their components [N, K]."""
    return np.asarray(x if seen is None else (np.asarray(x, np.float64) - seen.mean) @ seen.basis, np.float32)


def _forest(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.ensemble import RandomForestRegressor

    given: dict[str, Any] = {"n_estimators": 70, "max_depth": 16, "max_features": 1.0, "random_state": 42, "n_jobs": -1}
    forests = [RandomForestRegressor(**given).fit(x, of_gene) for of_gene in y.T]
    return lambda test: np.stack([forest.predict(test) for forest in forests], axis=1)


def _boosted(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from xgboost import XGBRegressor

    model = XGBRegressor(
        n_estimators=100, learning_rate=0.1, max_depth=3, min_child_weight=1, subsample=0.8, colsample_bytree=0.8,
        gamma=0, reg_alpha=0, reg_lambda=1, random_state=1,
    )  # fmt: skip
    model.fit(x, y)
    return lambda test: model.predict(test).reshape(len(test), y.shape[1])
