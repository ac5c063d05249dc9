"""The training loop: one model on one fold, from its first step, or where it was left, to the scores."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_prep import cli
from stjax import checkpoint, distributed, evaluate, parallel, protocols
from stjax.config import Config
from stjax.data import input_pipeline
from stjax.data.fold import Fold
from stjax.state import State
from stjax.training import faults, profiling, run_log, steps
from stjax.training.job import prepare
from stjax.training.validation import Validation
from stjax.views import Items


def run(config: Config, folder: Path, stop: faults.StopOnSigterm) -> None:
    """`train.train`, in a folder that no other run trains in."""
    mesh = parallel.make_mesh()
    traced = profiling.parse_steps(config.profile_steps)
    job = prepare(config, folder, mesh)
    config, protocol, fold, schedule, checkpoints = job.config, job.protocol, job.fold, job.schedule, job.checkpoints
    steps_per_epoch, total_steps = schedule.steps_per_epoch, schedule.total_steps
    state, meta = job.state, job.meta
    del job.state  # the steps reuse its memory

    # ------------------------------------------------------------------------------------------------ training loop
    if not meta["finished"]:
        train_step = steps.make_train_step(job.graphdef, config, fold, protocol, mesh)
        eval_step = steps.make_eval_step(job.graphdef, config, fold, protocol, mesh)
        batches = input_pipeline.training_batches(
            job.train,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=meta["step"],
            num_workers=config.num_workers,
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(stop.held)
            log = stack.enter_context(contextlib.closing(run_log.Log(folder / "logs", meta["step"])))
            stack.enter_context(contextlib.closing(batches))
            bar = stack.enter_context(cli.progress(total=total_steps, description="training", unit="step"))
            trace = stack.enter_context(profiling.Trace(traced, folder / "logs" / "tensorboard"))
            dog = stack.enter_context(faults.Watchdog(config.step_timeout_s))
            bar.update(meta["step"])
            started, first_step = time.monotonic(), meta["step"]
            step, speed, timer = meta["step"], 0.0, profiling.StepTimer()
            while not meta["finished"]:
                epoch = step // steps_per_epoch + 1
                pending, epoch_losses = [], list(meta.pop("epoch_losses", []))
                while step < epoch * steps_per_epoch:
                    dog.beat(f"step {step}", compiles=step == first_step)
                    with timer.part("input"):
                        batch, index = next(batches)
                    if trace.due(step):
                        jax.block_until_ready(state)
                        trace.end()
                    rate = schedule.learning_rate(step)
                    with trace.step(step):
                        on_device = parallel.put_batch(batch, mesh)
                        state, parts = train_step(state, on_device, np.uint32(step), np.float32(rate))
                    step += 1
                    timer.step()
                    pending.append((step, rate, parts, index))
                    ends = step == epoch * steps_per_epoch
                    # Several processes ask one another whether to stop: only where they wait for the device anyway.
                    listens = step % config.log_every_steps == 0 or jax.process_count() == 1
                    stops = listens and not ends and distributed.any_process(stop.asked)
                    saves = not ends and config.save_every_steps > 0 and step % config.save_every_steps == 0
                    if step % config.log_every_steps == 0 or ends or stops or saves:
                        for values in flush(pending, job.train, timer, checkpoints):
                            dog.beat(f"step {values['step']}")
                            log.write("train", values | {"epoch": epoch})
                            epoch_losses.append(values["loss"])
                        speed = (step - first_step) * config.batch_size / (time.monotonic() - started)
                        bar.set_postfix_str(f"loss {epoch_losses[-1]:.3f}, {speed:.1f} images/s")
                    bar.update()
                    if step == first_step + 1:
                        timer.restart()  # that one compiled
                    if stops or saves:
                        dog.beat("saving")
                        checkpoint.save(checkpoints, step, state, meta | {"step": step, "epoch_losses": epoch_losses})
                    if stops:
                        raise faults.Stopped(
                            f"stopped by SIGTERM: saved at step {step} of {total_steps}; the same command resumes"
                        )

                train_loss = float(np.mean(epoch_losses))
                summary = {"epoch": epoch, "loss": train_loss}
                seconds = timer.seconds()
                if job.val is not None:
                    summary |= validate(eval_step, state, job.val, config, protocol, fold, mesh, dog)
                best = schedule.end_epoch(summary.get("val_loss", train_loss))
                last = step >= total_steps or schedule.finished
                meta = {
                    "step": step,
                    "best_step": step if best or job.val is None else meta["best_step"],
                    "finished": last,
                    "schedule": schedule.state(),
                }
                # Logged first: a resumed run takes back what is too new.
                times = {f"seconds_{name}": value for name, value in seconds.items()}
                log.write("epoch", summary | {"step": step, "best": best} | times)
                dog.beat("saving")
                checkpoint.save(checkpoints, step, state, meta)
                left = (time.monotonic() - started) / (step - first_step) * (total_steps - step)
                is_best = job.val is not None and best
                bar.write(run_log.epoch_line(summary, config.num_epochs, speed, 0 if last else left, best=is_best))
                if (complaint := profiling.starved(seconds)) and epoch == first_step // steps_per_epoch + 1:
                    bar.write(complaint)
                if distributed.any_process(stop.asked):
                    word = "training is finished" if last else f"saved at step {step} of {total_steps}"
                    raise faults.Stopped(f"stopped by SIGTERM: {word}; the same command goes on")
                timer.restart()

    # ------------------------------------------------------------------------------------------ held-out evaluation
    del state  # evaluation restores the best one
    if not fold.split.test:
        print("No section is held out: nothing to evaluate.")
        return
    evaluate.evaluate(folder)


def validate(
    eval_step: Any,
    state: State,
    items: Items,
    config: Config,
    protocol: protocols.Protocol,
    fold: Fold,
    mesh: jax.sharding.Mesh,
    dog: faults.Watchdog,
) -> dict[str, float | None]:
    """`Validation`'s figures. Each process reads its rows of every batch, and all gather the predictions: every spot
    counts exactly once.
    """
    found = Validation(fold, protocol)
    size = parallel.round_up(config.eval_batch_size, mesh)
    dog.beat("validation", compiles=True)
    for batch, _ in input_pipeline.evaluation_batches(items, batch_size=size):
        prediction, sums = eval_step(state, parallel.put_batch(batch, mesh))
        whole = distributed.gather({name: batch[name] for name in ("mask", "counts", "total")})
        found.update(np.asarray(prediction), float(sums["loss"]), whole)
        dog.beat("validation")
    return found.figures()


def flush(pending: list[Any], items: Items, timer: profiling.StepTimer, checkpoints: Path) -> Iterator[dict[str, Any]]:
    """Waits for the steps under way and hands over their figures; a loss that is no number ends the run."""
    for step, rate, parts, index in pending:
        with timer.part("device"):
            values = {name: float(value) for name, value in parts.items()}
        faults.require_finite(values["loss"], step, index, items, checkpoints)
        yield {"step": step, "learning_rate": rate, **values}
    pending.clear()
