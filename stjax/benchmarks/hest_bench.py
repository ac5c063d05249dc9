"""The regressions of HEST-Benchmark compared with scikit-learn's: `python -m stjax.bench --what=hest_bench`.

The benchmark's ten tasks with as many spots a sample and the folds that it has, random features of 1,536 and 50
targets: A1 and A3 of every fold, fitted and scored, one task in memory after the other. The reference is HEST's way:
features float32, standardised, randomised PCA, LSQR; and, for A3, `GridSearchCV` on the components. Both once, ours
first: the reference takes minutes.
"""

import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from stjax import metrics
from stjax.benchmarks import Row, row_of
from stjax.evaluation import linear_probe
from stjax.ops import ridge

WIDTH, GENES = 1536, 50
PROTOCOLS = ("A1", "A3")
# fmt: off
SPOTS = {  # of each sample
    "CCRCC": (1084, 1983, 1439, 1451, 4359, 4562, 4940, 3206, 3585, 4915, 4948, 2580, 4860, 4975, 3829, 4755, 4510,
              2007, 1349, 1186, 1678, 2374, 1949, 1696),
    "COAD": (6138, 3997, 4379, 4009),
    "HCC": (1987, 2261),
    "IDC": (3869, 4180, 11845, 25080),
    "LUNG": (3115, 4390),
    "LYMPH_IDC": (4992, 4988, 4992, 4992),
    "PAAD": (3090, 2190, 4513),
    "PRAD": (3749, 1935, 1794, 2997, 3816, 4074, 1418, 1964, 2335, 1633, 1851, 1751, 2600, 3082, 1820, 2736, 3554,
             3190, 3092, 3856, 4079, 2775, 2609),
    "READ": (1691, 2128, 2385, 2203),
    "SKCM": (3886, 1830),
}
# fmt: on
FIRST_FOLD = {"COAD": 1, "PRAD": 8, "READ": 2}  # samples that the first of two folds tests, the second all others ...
TESTED = {"CCRCC": 4}  # ... else every fold tests so many, or one

Samples = dict[str, np.ndarray]
Fold = tuple[tuple[str, ...], tuple[str, ...]]


def rows() -> Iterator[Row]:
    """A row each of scikit-learn, where it is installed, and of ours: what it takes, and how far PCCs are apart."""
    seconds, pcc = {"stjax": 0.0, "scikit-learn": 0.0}, {"stjax": [], "scikit-learn": []}
    peak, processor = {}, {"stjax": 0.0, "scikit-learn": 0.0}
    ways = {"stjax": _ours}
    try:
        import sklearn  # noqa: F401  # pyright: ignore[reportUnusedImport]

        ways["scikit-learn"] = _by_scikit_learn
    except ImportError:
        pass
    for name, way in ways.items():
        for place, task in enumerate(SPOTS):
            x, y = samples(task, place)
            started, used = time.perf_counter(), time.process_time()
            pcc[name] += way(x, y, folds(task, list(x)))
            seconds[name] += time.perf_counter() - started
            processor[name] += time.process_time() - used
        peak[name] = _peak_gb()
    case = (
        f"{sum(map(sum, SPOTS.values()))} x {WIDTH} to {GENES}, {len(pcc['stjax']) // len(PROTOCOLS)} folds, A1 and A3"
    )
    reference = seconds["scikit-learn"] if "scikit-learn" in ways else None
    for name in reversed(ways):
        note = f"{processor[name]:.0f} processor s, peak {peak[name]:.1f} GB"
        if name == "stjax" and reference is not None:
            apart = np.abs(np.array(pcc["stjax"]) - np.array(pcc["scikit-learn"]))
            note += f", PCCs of genes within {apart.max():.1e}"
        yield row_of(case, name, seconds[name], reference if name == "stjax" else None, note=note)


def samples(task: str, seed: int) -> tuple[Samples, Samples]:
    """{sample: features [N, D] float32}, of which some are alike and scales differ, and {sample: targets [N, G]}."""
    rng = np.random.default_rng(seed)
    mix, scale = rng.standard_normal((64, WIDTH), np.float32) / 8, rng.uniform(0.1, 5, WIDTH).astype(np.float32)
    loadings = rng.standard_normal((64, GENES)) / 16
    x, y = {}, {}
    for place, count in enumerate(SPOTS[task]):
        shared = rng.standard_normal((count, 64), np.float32)
        x[f"{place}"] = (shared @ mix + rng.standard_normal((count, WIDTH), np.float32)) * scale
        y[f"{place}"] = shared @ loadings + rng.normal(size=(count, GENES))
    return x, y


def folds(task: str, names: Sequence[str]) -> list[Fold]:
    """Samples to train and to test on."""
    if task in FIRST_FOLD:
        count = FIRST_FOLD[task]
        return [(tuple(names[count:]), tuple(names[:count])), (tuple(names[:count]), tuple(names[count:]))]
    count = TESTED.get(task, 1)
    tested = [tuple(names[start : start + count]) for start in range(0, len(names), count)]
    return [(tuple(name for name in names if name not in test), test) for test in tested]


def _ours(x: Samples, y: Samples, of: Sequence[Fold]) -> list[np.ndarray]:
    probe = linear_probe.Probe(x, y)
    fits = (probe.fit(protocol, train).predict for train, _ in of for protocol in PROTOCOLS)
    return _scored(x, y, [test for _, test in of for _ in PROTOCOLS], fits)


def _by_scikit_learn(x: Samples, y: Samples, of: Sequence[Fold]) -> list[np.ndarray]:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fits() -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        for train, _ in of:
            features, targets = (np.concatenate([part[name] for name in train]) for part in (x, y))
            reduce = make_pipeline(StandardScaler(), PCA(min(linear_probe.COMPONENTS, WIDTH), random_state=1))
            z = reduce.fit_transform(features)
            plain = Ridge(100 / (z.shape[1] * GENES), fit_intercept=False, solver="lsqr").fit(z, targets)
            search = GridSearchCV(Ridge(), {"alpha": ridge.PENALTIES}, cv=KFold(5), scoring="neg_mean_squared_error")
            search.fit(z, targets)
            for model in (plain, search):
                yield functools.partial(lambda model, reduce, new: model.predict(reduce.transform(new)), model, reduce)

    return _scored(x, y, [test for _, test in of for _ in PROTOCOLS], fits())


def _scored(
    x: Samples, y: Samples, tests: Sequence[tuple[str, ...]], fits: Iterator[Callable[[np.ndarray], np.ndarray]]
) -> list[np.ndarray]:
    """[G] PCC of each fit on its test samples."""
    found = []
    for test, predict in zip(tests, fits, strict=True):
        predicted = np.concatenate([predict(x[name]) for name in test])
        found.append(metrics.pearson_per_gene(predicted, np.concatenate([y[name] for name in test])))
    return found


def _peak_gb() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
