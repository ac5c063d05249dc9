"""The training loop: one model on one fold, from its first step, or where it was left, to the scores."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_prep import cli
from stjax import checkpoint, distributed, parallel
from stjax.config import CLOSED_FORM, Config
from stjax.data import input_pipeline
from stjax.state import State
from stjax.training import closed_form, faults, profiling, run_log, steps
from stjax.training.job import Job, prepare
from stjax.training.validation import Validation
from stjax.views import Batch, Items


class Watch(NamedTuple):
    """What goes along with a run: what it says, how long it takes, and what may end it."""

    log: run_log.Log
    bar: Any
    pace: profiling.Pace
    timer: profiling.StepTimer
    trace: profiling.Trace
    dog: faults.Watchdog
    stop: faults.StopOnSigterm


def run(config: Config, folder: Path, stop: faults.StopOnSigterm) -> None:
    """`train.train`, in a folder that no other run trains in."""
    mesh = parallel.make_mesh()
    traced = profiling.parse_steps(config.profile_steps)
    job = prepare(config, folder, mesh)
    if not job.meta["finished"]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(stop.held())
            logs, step, steps_in_all = folder / "logs", job.meta["step"], job.schedule.total_steps
            log = stack.enter_context(contextlib.closing(run_log.Log(logs, step)))
            batches = stack.enter_context(contextlib.closing(job.batches()))
            bar = stack.enter_context(cli.progress(total=steps_in_all, description="training", unit="step"))
            trace = stack.enter_context(profiling.Trace(traced, logs / "tensorboard"))
            dog = stack.enter_context(faults.Watchdog(job.config.step_timeout_s))
            bar.update(step)
            watch = Watch(log, bar, profiling.Pace(step), profiling.StepTimer(), trace, dog, stop)
            if job.config.fit == CLOSED_FORM:
                solve(job, mesh, watch)
            else:
                train(job, batches, mesh, watch)
    job.state = {}  # evaluation restores the best one
    if not job.fold.split.test:
        print("No section is held out: nothing to evaluate.")
        return
    from stjax import evaluate  # with all that writes results, which the first step need not wait for

    evaluate.evaluate(folder)


def solve(job: Job, mesh: jax.sharding.Mesh, watch: Watch) -> None:
    """Trains a job in closed form: one step, with validation and a checkpoint."""
    watch.dog.beat("the closed form", compiles=True)
    watch.bar.set_postfix_str("compiling, then solving")
    state, found = closed_form.solve(job, job.state, mesh)
    summary: dict[str, Any] = {"epoch": 1, "loss": found.error, "penalty": found.penalty}
    if job.val is not None:
        eval_step = steps.make_eval_step(job.graphdef, job.config, job.fold, job.protocol, mesh)
        summary |= validate(eval_step, state, job, job.val, mesh, watch.dog)
    best = job.end_epoch(1, summary)
    watch.log.write("epoch", summary | {"step": 1, "best": best})
    watch.dog.beat("saving")
    checkpoint.save(job.checkpoints, 1, state, job.meta)
    watch.bar.update()
    watch.bar.write(run_log.epoch_figures(summary, 1))
    end_if_told(job, watch)


def train(job: Job, batches: Iterator[tuple[Batch, np.ndarray]], mesh: jax.sharding.Mesh, watch: Watch) -> None:
    """Trains a job to its end: epoch by epoch, each with validation and a checkpoint."""
    train_step = steps.make_train_step(job.graphdef, job.config, job.fold, job.protocol, mesh)
    eval_step = steps.make_eval_step(job.graphdef, job.config, job.fold, job.protocol, mesh)
    state, job.state = job.state, {}  # the steps reuse its memory
    step, per_epoch, total_steps = job.meta["step"], job.schedule.steps_per_epoch, job.schedule.total_steps
    while not job.meta["finished"]:
        epoch = step // per_epoch + 1
        end = epoch * per_epoch
        state, losses = train_until(end, job, train_step, state, batches, mesh, watch)
        step, seconds = end, watch.timer.seconds()
        summary: dict[str, Any] = {"epoch": epoch, "loss": float(np.mean(losses))}
        if job.val is not None:
            watch.bar.set_postfix_str("validating")
            summary |= validate(eval_step, state, job, job.val, mesh, watch.dog)
        best = job.end_epoch(step, summary)
        # Logged first: a resumed run takes back what is too new.
        times = {f"seconds_{name}": value for name, value in seconds.items()}
        watch.log.write("epoch", summary | {"step": step, "best": best} | times)
        watch.dog.beat("saving")
        checkpoint.save(job.checkpoints, step, state, job.meta)
        left = 0 if job.meta["finished"] else watch.pace.seconds_left(step, total_steps)
        speed, is_best = watch.pace.speed * job.spots_per_step, job.val is not None and best
        watch.bar.write(run_log.epoch_line(summary, job.config.num_epochs, speed, left, best=is_best))
        if (complaint := profiling.starved(seconds)) and epoch == watch.pace.first_step // per_epoch + 1:
            watch.bar.write(complaint)
        end_if_told(job, watch, f"saved at step {step} of {total_steps}")
        parallel.return_freed_memory(state, mesh)
        watch.timer.restart()


def end_if_told(job: Job, watch: Watch, saved: str = "") -> None:
    """Raises `Stopped` where SIGTERM came to any process; the job has been saved."""
    if distributed.any_process(watch.stop.asked):
        word = "training is finished" if job.meta["finished"] else saved
        raise faults.Stopped(f"stopped by SIGTERM: {word}; the same command goes on")


def train_until(
    end: int,
    job: Job,
    train_step: Callable[..., Any],
    state: State,
    batches: Iterator[tuple[Batch, np.ndarray]],
    mesh: jax.sharding.Mesh,
    watch: Watch,
) -> tuple[State, list[float]]:
    """Trains a job to the end of an epoch, saving and stopping within it where that is asked for.

    Returns:
        The state after the step `end`, and the losses of all steps of the epoch.
    """
    config, step = job.config, job.meta["step"]
    pending, losses = [], list(job.meta.pop("epoch_losses", []))
    while step < end:
        first = step == watch.pace.first_step
        watch.dog.beat(f"step {step}", compiles=first)
        with watch.timer.part("input"):
            batch, index = next(batches)
        rate = job.schedule.learning_rate(step)
        if first:
            watch.bar.set_postfix_str("compiling")
        with watch.trace.step(step, after=state):
            with watch.timer.part("device"):
                parallel.one_step_at_a_time(state, mesh)
            on_device = parallel.put_batch(batch, mesh)
            state, parts = train_step(state, on_device, np.uint32(step), np.float32(rate))
        step += 1
        watch.timer.step()
        if first:
            watch.bar.set_postfix_str("")
        pending.append((step, rate, parts, index))
        done = sum(figures["loss"].is_ready() for _, _, figures, _ in pending)
        watch.bar.update(step - len(pending) + done - watch.bar.n)  # steps under way on the device are not done
        logs, saves = step % config.log_every_steps == 0, False
        if config.save_every_steps and step < end:
            saves = step % config.save_every_steps == 0
        # Several processes ask one another whether to stop: only where they wait for the device anyway.
        listens = step < end and (logs or jax.process_count() == 1)
        stops = listens and distributed.any_process(watch.stop.asked)
        if logs or saves or stops or step == end:
            for values in flush(pending, job, watch.timer):
                watch.dog.beat(f"step {values['step']}")
                watch.log.write("train", values | {"epoch": end // job.schedule.steps_per_epoch})
                losses.append(values["loss"])
                watch.bar.update(values["step"] - watch.bar.n)
            speed = watch.pace.measured(step) * job.spots_per_step
            watch.bar.set_postfix_str(f"loss {losses[-1]:.3f}, {speed:.1f} spots/s")
        if first:
            watch.timer.restart()  # that one compiled
        if is_early_or_rare(step - watch.pace.first_step):
            parallel.return_freed_memory(state, mesh)
        if saves or stops:
            watch.dog.beat("saving")
            checkpoint.save(job.checkpoints, step, state, job.meta | {"step": step, "epoch_losses": losses})
        if stops:
            total = job.schedule.total_steps
            raise faults.Stopped(f"stopped by SIGTERM: saved at step {step} of {total}; the same command resumes")
    return state, losses


def is_early_or_rare(steps: int) -> bool:
    """Whether to return freed memory after so many steps of a process: 1 to 8, while what stays in memory finds its
    place, then 16, 32, 64, ..., in case that it moved."""
    return steps <= 8 or steps & (steps - 1) == 0


def validate(
    eval_step: Callable[..., Any], state: State, job: Job, items: Items, mesh: jax.sharding.Mesh, dog: faults.Watchdog
) -> dict[str, float | None]:
    """`Validation`'s metrics. Each process reads its rows of every batch, and all gather the predictions: every spot
    counts exactly once.
    """
    found = Validation(job.fold, job.protocol)
    size = parallel.round_up(job.config.eval_batch_size, mesh)
    dog.beat("validation", compiles=True)
    for batch, _ in input_pipeline.evaluation_batches(items, batch_size=size):
        prediction, sums = eval_step(state, parallel.put_batch(batch, mesh))
        whole = distributed.gather({name: batch[name] for name in ("mask", "counts", "total")})
        found.update(np.asarray(prediction), float(sums["loss"]), whole)
        dog.beat("validation")
    return found.figures()


def flush(pending: list[Any], job: Job, timer: profiling.StepTimer) -> Iterator[dict[str, Any]]:
    """Waits for the steps under way and hands over their metrics; a loss that is no number ends the run."""
    for step, rate, parts, index in pending:
        with timer.part("device"):
            values = {name: float(value) for name, value in parts.items()}
        faults.require_finite(values["loss"], step, index, job.train, job.checkpoints)
        yield {"step": step, "learning_rate": rate, **values}
    pending.clear()
