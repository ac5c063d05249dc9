"""A few steps of a training, timed in a process of its own: `python -m stjax.suites._timed_steps FILE ARGUMENTS`, those
of `stjax.train`; or images through an encoder: `... FILE --encoder=NAME POOLING`. What it finds is written to FILE."""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_prep import cli, json_files
from stjax import config as configs
from stjax import parallel
from stjax.config import CLOSED_FORM, Config
from stjax.features.embedder import Embedder
from stjax.training import closed_form, steps
from stjax.training.job import Job, prepare

MOST_STEPS, LONGEST_S = 10, 20.0
_ENCODER, _IMAGES = "--encoder=", 8


def main(arguments: list[str]) -> None:
    """The command line."""
    out, *rest = arguments
    if rest[0].startswith(_ENCODER):
        json_files.write(Path(out), of_encoder(rest[0].removeprefix(_ENCODER), pooling=rest[1]))
        return
    config, _ = configs.parse(rest, usage=__doc__ or "")
    with tempfile.TemporaryDirectory(dir=Path(out).parent) as folder:
        json_files.write(Path(out), of_training(config, Path(folder)))


def of_training(config: Config, folder: Path) -> dict[str, float]:
    """What a training takes.

    Returns:
        {"timed_s": seconds in which it was timed, "step_s": of a step, "steps": of the whole training, "spots": that it
        trains on, "state_bytes": of a checkpoint}.
    """
    mesh = parallel.make_mesh()
    job = prepare(config, folder, mesh)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(job.state))
    count, seconds = _solved(job, mesh) if job.config.fit == CLOSED_FORM else _stepped(job, mesh)
    found: dict[str, float] = {"timed_s": seconds, "step_s": seconds / count, "steps": job.schedule.total_steps}
    return found | {"spots": job.train.num_spots, "state_bytes": size}


def _solved(job: Job, mesh: jax.sharding.Mesh) -> tuple[int, float]:
    """One step, and its seconds."""
    began = time.monotonic()
    closed_form.solve(job, job.state, mesh)
    return 1, time.monotonic() - began


def _stepped(job: Job, mesh: jax.sharding.Mesh) -> tuple[int, float]:
    """How many steps after the first, which compiles, and their seconds."""
    train_step = steps.make_train_step(job.graphdef, job.config, job.fold, job.protocol, mesh)
    state, job.state = job.state, {}  # the steps reuse its memory
    step, began = 0, 0.0
    with contextlib.closing(job.batches()) as batches:
        while step < 2 or (step <= MOST_STEPS and time.monotonic() - began < LONGEST_S):
            batch, _ = next(batches)
            rate = np.float32(job.schedule.learning_rate(step))
            state, parts = train_step(state, parallel.put_batch(batch, mesh), np.uint32(step), rate)
            jax.block_until_ready(parts)
            step += 1
            if step == 1:
                began = time.monotonic()
    return step - 1, time.monotonic() - began


def of_encoder(name: str, *, pooling: str) -> dict[str, Any]:
    """What an encoder takes, with random weights: {"image_s": of an image, "width": numbers of a vector, "parts": how
    many of each kind}. `pooling`: "" for its own."""
    mesh = parallel.make_mesh()
    embedder = Embedder.open(name, None, seed=0, pooling=pooling, mesh=mesh)
    count = parallel.round_up(_IMAGES, mesh)
    images = np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3)).astype(np.uint8)
    run = embedder.compiled(tiles=False)
    jax.block_until_ready(run(images))
    began = time.monotonic()
    jax.block_until_ready(run(images))
    return {"image_s": (time.monotonic() - began) / count, "width": embedder.width, "parts": list(embedder.parts)}


if __name__ == "__main__":
    cli.program(main)
