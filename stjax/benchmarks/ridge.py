"""The ridge with its nested cross-validation compared with scikit-learn's: `python -m stjax.bench --what=ridge`.

20,000 samples of eight patients, 1,536 features, 250 targets, 17 penalties, five folds of patients. The reference is
the plain route there: features standardised, `GridSearchCV` of `Ridge` over the same folds and penalties, refitted with
the best. Both once, for the reference takes minutes; ours with its compilation, and again without.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from stjax.benchmarks import Row, row_of
from stjax.ops import ridge

SAMPLES, FEATURES, TARGETS, PATIENTS = 20_000, 1536, 250, 8


def rows() -> Iterator[Row]:
    """A row each of scikit-learn, where it is installed, and of ours: what it takes and how far its solution is off."""
    x, y, patients = samples()
    case = f"{SAMPLES} x {FEATURES} to {TARGETS}, {len(ridge.PENALTIES)} penalties"
    reference, coef, penalty = None, None, None
    try:
        started = time.perf_counter()
        coef, penalty = by_scikit_learn(x, y, patients)
        reference = time.perf_counter() - started
        yield row_of(case, "scikit-learn", reference, note=f"penalty {penalty:g}")
    except ImportError:
        pass
    for method in ("stjax, first", "stjax"):
        started = time.perf_counter()
        found = ridge.fit(x, y, patients)
        seconds = time.perf_counter() - started
        note = f"penalty {found.penalty:g}"
        if coef is not None and found.penalty == penalty:
            note += f", coefficients within {np.abs(found.coef - coef).max() / np.abs(coef).max():.1e} of the largest"
        yield row_of(case, method, seconds, reference, note=note)


def samples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [N, D] float32 of which some are alike and scales differ, targets [N, G] and patients [N]."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(SAMPLES, 64))
    x = shared @ rng.normal(size=(64, FEATURES)) / 8 + rng.normal(size=(SAMPLES, FEATURES))
    x = (x * rng.uniform(0.1, 5, FEATURES) + rng.normal(size=FEATURES)).astype(np.float32)
    y = shared @ rng.normal(size=(64, TARGETS)) / 16 + rng.normal(size=(SAMPLES, TARGETS))
    return x, y, np.arange(SAMPLES) * PATIENTS // SAMPLES


def by_scikit_learn(x: np.ndarray, y: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients [D, G], in the units of the features, and the penalty chosen. Raises ImportError without it."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    search = GridSearchCV(
        Ridge(),
        {"alpha": list(ridge.PENALTIES)},
        scoring="neg_mean_squared_error",
        cv=PredefinedSplit(ridge.folds_of(patients)),
    )
    search.fit(scaler.fit_transform(x.astype(np.float64)), y)
    fitted: Any = search.best_estimator_
    return fitted.coef_.T / np.asarray(scaler.scale_)[:, None], float(fitted.alpha)
