"""Training without steps: the main head solved as a ridge regression on what the backbone makes of the training spots.

The backbone stays as it is.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from data_prep.dataset import PatchDataset
from stjax import distributed, models, parallel, views
from stjax.data import input_pipeline
from stjax.evaluation import statistics
from stjax.ops import ridge
from stjax.ops.cpu.elementwise import compiler_options
from stjax.state import State, moving, weights_of
from stjax.training.job import Job
from stjax.views import Batch

_LEAST_DEVIATION = 1e-3  # that of one section of a hundred is above it


def solve(job: Job, state: State, mesh: Mesh) -> tuple[State, ridge.Ridge]:
    """The state with the main head solved, and the solution, whose penalty is chosen on what `statistics.held_out`
    says."""
    items, main = job.train, job.fold.main
    targets = (items.main_expression(job.protocol) - main.target_mean) / main.target_std  # [N, M]
    whose = job.fold.divided(PatchDataset.open(Path(job.fold.data_dir))).patients(job.fold.split.train)
    patient = np.array([whose[name][0] for name in items.slide_section])
    groups = statistics.groups_to_hold_out(patient, items.section, items.spots.xy)
    held_out = statistics.held_out(patient, items.section).replace("_", " ")
    scale, rank = views.of(job.fold).penalty_scale(job.fold), job.config.rank
    # A spot's expression is as uncertain as its counts are few: genes' common directions are those of deep spots.
    x = features(job, state, mesh)
    if job.config.features:  # which the model standardises
        forget_rounding(x)
    found = ridge.fit(x, targets, groups, scale=scale, rank=rank, weights=items.total)
    print(
        f"closed form: {len(groups)} spots, {len(found.coef)} features, {f'rank {rank}, ' if rank else ''}penalty "
        f"{found.penalty:g}, chosen on {held_out} held out"
    )
    if found.remark:
        print(f"note: {found.remark}")
    model = nnx.merge(job.graphdef, state["params"], state["statistics"], copy=True)
    model.main.kernel = nnx.Param(jnp.asarray(found.coef, jnp.float32))
    model.main.bias = nnx.Param(jnp.asarray(found.intercept, jnp.float32))
    _, params, statistics_ = models.split(model)
    solved = {"params": params, "statistics": statistics_}
    if "average" in state:
        solved["average"] = jax.tree.map(jnp.copy, moving(solved))
    return state | parallel.put_replicated(solved, mesh), found


def forget_rounding(x: np.ndarray) -> None:
    """Sets to 0 those of standardised features [N, D] that are the same everywhere up to rounding; all others have a
    deviation of about 1. A ridge would blow rounding up to that, and on a slide where such a feature does vary,
    predictions with it."""
    x[:, np.std(x, axis=0, dtype=np.float64) < _LEAST_DEVIATION] = 0


def features(job: Job, state: State, mesh: Mesh) -> np.ndarray:
    """[N, D] float32 of the training spots, as the heads see them; the whole of it on every host."""
    view, whole = views.of(job.fold), parallel.replicated(mesh)

    def of_batch(state: State, batch: Batch) -> jax.Array:
        (inputs,) = view.inputs(batch, job.fold, None).values()
        model = nnx.merge(job.graphdef, state["params"], state["statistics"], copy=True)
        return model.backbone(inputs, train=False)["features"].astype(jnp.float32)

    sharding = {"in_shardings": (whole, parallel.split_batch(mesh)), "out_shardings": whole}
    step = jax.jit(of_batch, **sharding, compiler_options=compiler_options())
    size, weights = parallel.round_up(job.config.eval_batch_size, mesh), weights_of(state)
    parts = []
    for batch, _ in input_pipeline.evaluation_batches(job.train, batch_size=size):
        seen = distributed.gather({"mask": batch["mask"]})["mask"].any(axis=1)
        parts.append(np.asarray(step(weights, parallel.put_batch(batch, mesh)))[seen])
    return np.concatenate(parts)
