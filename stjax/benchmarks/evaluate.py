"""The cost of honest metrics: `python -m stjax.bench --what=evaluate`.

Scoring: 30,000 spots in three sections, 250 genes, a model and four baselines, 1,000 bootstraps each. The reference of
the bootstrap draws the same blocks and gathers their spots, for each draw anew; it is timed over a few draws and
multiplied. Streaming: PCCs of batches, on the host in float64 as validation has them, and as jitted float32 sums on the
device whose results the host merges; the reference fetches the predictions, as the host's way must too.
"""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from stjax import metrics
from stjax.benchmarks import Interleave, Row, row_of
from stjax.evaluation import scoring, statistics
from stjax.evaluation.statistics import Bootstrap, Units

SECTIONS, SPOTS, GENES = 3, 10_000, 250
METHODS = ("model", "ridge_colour", "total_counts", "mean", "nearest_measured")
BATCHES = (64, 4096)
_FEW = 5  # draws of the reference


def sections() -> list[scoring.ScoredSection]:
    """Spots on a square lattice, predictions that are related to the truth."""
    rng = np.random.default_rng(0)
    side = int(np.sqrt(SPOTS))
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(np.float64)
    result = []
    for _ in range(SECTIONS):
        truth = rng.normal(size=(len(xy), GENES))
        predictions = {method: truth + rng.normal(size=truth.shape) for method in METHODS}
        result.append(scoring.ScoredSection("patient", xy, truth, predictions))
    return result


def rows(rounds: int, interleave: Interleave) -> Iterator[Row]:
    """A row each of scoring, of the bootstrap and its reference, and of two ways of streaming PCCs."""
    every = sections()
    case = f"{SECTIONS * SPOTS} spots x {GENES} genes"
    std = np.ones(GENES)
    started = time.perf_counter()
    scoring.score(every, std=std, pooling="pooled")
    scored = time.perf_counter() - started
    yield row_of(f"{case}, {len(METHODS)} methods", "all figures", scored)

    units = Units.of([each.xy for each in every], [each.patient for each in every])
    prediction, truth = (
        np.concatenate([each.predictions["model"] for each in every]),
        np.concatenate([each.truth for each in every]),
    )
    started = time.perf_counter()
    Bootstrap(units, np.zeros(len(truth), np.int64)).draw(prediction, truth)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    rng = np.random.default_rng(0)
    of_unit = [np.flatnonzero(units.of_spot == unit) for unit in range(len(units.stratum))]
    for _ in range(_FEW):
        drawn = np.concatenate([of_unit[unit] for unit in rng.integers(len(of_unit), size=len(of_unit))])
        metrics.pearson_per_gene(prediction[drawn], truth[drawn])
        metrics.mae_per_gene(prediction[drawn], truth[drawn])
        metrics.rmse_per_gene(prediction[drawn], truth[drawn])
    theirs = (time.perf_counter() - started) / _FEW * 2 * statistics.BOOTSTRAPS  # of blocks and of finer ones
    yield row_of(f"{case}, bootstrap", "spots gathered", theirs)
    yield row_of(f"{case}, bootstrap", "block sums", ours, theirs)

    for batch in BATCHES:
        p, t = (jnp.asarray(each[:batch], jnp.float32) for each in (prediction, truth))
        host_truth, on_host, merged = np.asarray(t), metrics.Moments(GENES), metrics.Moments(GENES)

        def host(p: jax.Array = p, truth: np.ndarray = host_truth, moments: metrics.Moments = on_host) -> None:
            moments.update(np.asarray(p), truth)

        def device(p: jax.Array = p, t: jax.Array = t, moments: metrics.Moments = merged) -> None:
            moments.merge(*(np.asarray(part, np.float64) for part in _batch_sums(p, t)), count=len(p))

        seconds = interleave({"numpy": host, "device": device}, rounds=rounds, description=f"batches of {batch}")
        apart = float(np.nanmax(np.abs(on_host.pearson() - merged.pearson())))
        yield row_of(f"PCC of batches of {batch}", "numpy", seconds["numpy"])
        yield row_of(
            f"PCC of batches of {batch}", "device", seconds["device"], seconds["numpy"], note=f"apart {apart:.1e}"
        )


@jax.jit
def _batch_sums(prediction: jax.Array, truth: jax.Array) -> tuple[jax.Array, ...]:
    """Of both, [2, G] each: means and centred squares; and [G] centred products."""
    both = jnp.stack([prediction, truth])
    mean = both.mean(axis=1)
    centred = both - mean[:, None]
    squares, products = jnp.square(centred).sum(axis=1), (centred[0] * centred[1]).sum(axis=0)
    return mean, squares, products
