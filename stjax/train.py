"""Trains one model on one fold, scores it on the held-out patients, and leaves predictions to open.

usage: python -m stjax.train --config=FILE [--workdir=DIR] [--config.KEY=VALUE ...]

  --config=FILE           a config, e.g. configs/enet_b0_aux.py; configs/default.py explains every key
  --workdir=DIR           where the run lives; default runs/<config's name>. A run found there is resumed
  --config.data_dir=DIR   a data set made by python -m data_prep.build; without it the synthetic demo data is used
  --config.protocol=NAME  stjax (default), brstnet_paper, brstnet_code, stnet or pixnet
  --config.KEY=VALUE      any other key of the config

examples:
  python -m stjax.train --config=configs/enet_b0_aux.py
  python -m stjax.train --config=configs/tiny.py --workdir=runs/try --config.num_epochs=3
  python -m stjax.train --config=configs/enet_b0_aux.py --workdir=runs/c5 --config.data_dir=data/her2st \\
      --config.test_sections=C5
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_prep import cli
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import (
    checkpoint,
    demo_data,
    distributed,
    evaluate,
    faults,
    input_pipeline,
    metrics,
    optim,
    parallel,
    profiling,
    protocols,
    run_log,
    steps,
    workdir,
)
from stjax import config as configs
from stjax.config import Config
from stjax.ops.spot_pool import merge_layouts
from stjax.panel import Panel, fit_panel
from stjax.tile_records import TileRecords


def main(arguments: list[str]) -> None:
    """The command line."""
    config, folder = configs.parse(arguments, usage=__doc__ or "")
    demo_data.keep_compiled_programs()
    with faults.exits_when_stopped():
        train(config, folder)


def train(config: Config, folder: Path) -> None:
    """Trains, or resumes, or finds the run finished; then evaluates. Prints where the results are.

    Args:
        config: as `configs/default.py`, not yet resolved.
        folder: the work directory.

    Raises:
        InputError: data, config or work directory do not fit.
        FloatingPointError: the loss became NaN or infinite.
        faults.Stopped: SIGTERM came, and the run is saved.
    """
    distributed.initialise()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(faults.StopOnSigterm())
        if distributed.is_writer():  # it holds the folder for all
            stack.enter_context(workdir.locked(folder))
        else:
            stack.enter_context(contextlib.redirect_stdout(None))
        distributed.barrier("the folder is this run's")
        run(config, folder, stop)


def run(config: Config, folder: Path, stop: faults.StopOnSigterm) -> None:
    """`train`, in a folder that no other run trains in."""
    # ------------------------------------------------------------------------------------------------- config, data
    protocol = protocols.get_protocol(config.protocol)
    is_demo = not config.data_dir
    config = configs.resolve(config, protocol, demo=is_demo)
    if (folder / workdir.CONFIG).exists():
        configs.check_same_run(configs.load(folder / workdir.CONFIG), config, folder)
    elif any(entry.suffix != ".tmp" and entry.name != workdir.LOCK for entry in folder.iterdir()):
        raise InputError(f"{folder} is in use by something else than a run of stjax; choose another --workdir")
    mesh = parallel.make_mesh()
    parallel.check_batch_size(config.batch_size, config.micro_batch, mesh)
    traced = profiling.parse_steps(config.profile_steps)

    if is_demo:
        shape = ("layout", "patients", "spots", "patch_size_px", "tile_size_px")
        with distributed.writer_first("demo data"):
            path = demo_data.demo_dataset(**{name: config.demo[name] for name in shape})
    else:
        path = Path(config.data_dir)
    dataset = PatchDataset.open(path)
    known = (folder / workdir.DATA).exists()
    if known:  # the panel a run began with, to the bit
        data = workdir.load_data_record(folder)
        workdir.checked_protocol(data, folder)
        if data.content_hash != dataset.content_hash:
            raise InputError(f"{folder} was trained on other data than {path}; choose another --workdir")
    else:
        data = describe_data(config, protocol, dataset)

    sizes = configs.numbers(config.spot_sizes_um, "config.spot_sizes_um")
    kwargs = {"panel": data.panel, "protocol": protocol, "sizes_um": sizes}
    train_records = input_pipeline.open_records(dataset, data.split.train, train=True, **kwargs)
    val_records = (
        input_pipeline.open_records(dataset, data.split.val, train=False, **kwargs) if data.split.val else None
    )
    if isinstance(train_records, TileRecords):
        data = with_tiles(data, protocol, train_records, val_records)
    run_log.print_data(data, dataset, {"train": train_records, "val": val_records})

    # ------------------------------------------------------------------------------------- model, optimiser, restore
    steps_per_epoch = max(1, len(train_records) // config.batch_size)
    total_steps = steps_per_epoch * config.num_epochs
    schedule = optim.Schedule(
        config.schedule,
        config.learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=config.warmup_steps,
        early_stopping_patience=config.early_stopping_patience,
    )
    checkpoints = folder / workdir.CHECKPOINTS
    meta: dict[str, Any] = {"step": 0, "best_step": 0, "finished": False, "schedule": schedule.state()}
    state_kwargs = {"image_size_px": data.image_size_px, "tiles": data.tiles, "mesh": mesh}
    graphdef, template = steps.init_state(config, data.panel, abstract=True, **state_kwargs)
    saved = checkpoint.newest(checkpoints) if known else None
    if saved is None:
        _, state = steps.init_state(config, data.panel, **state_kwargs)
        print(run_log.overview(state["params"], config))
    else:
        meta, state = saved, checkpoint.restore(checkpoints, saved["step"], template)
        schedule.restore(meta["schedule"])
        word = "is finished" if meta["finished"] else f"resumes at step {meta['step']} of {total_steps}"
        print(f"The run in {folder} {word}.")
    # Nothing is written before everything asked for is known to work: a mistyped setting must not mark the folder.
    distributed.barrier("every process has seen what is there")
    if distributed.is_writer():
        if not (folder / workdir.CONFIG).exists():
            workdir.write_json(folder / workdir.CONFIG, config.to_dict())
        if not known:
            workdir.write_json(folder / workdir.DATA, data.to_json())

    # ------------------------------------------------------------------------------------------------ training loop
    if not meta["finished"]:
        train_step = steps.make_train_step(graphdef, config, data.panel, protocol, mesh)
        eval_step = steps.make_eval_step(graphdef, config, data.panel, protocol, mesh)
        batches = input_pipeline.training_batches(
            train_records,
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
                        for values in flush(pending, train_records, timer, checkpoints):
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
                if val_records:
                    summary |= validate(eval_step, state, val_records, config, protocol, data.panel, mesh, dog)
                best = schedule.end_epoch(summary.get("val_loss", train_loss))
                last = step >= total_steps or schedule.finished
                meta = {
                    "step": step,
                    "best_step": step if best or not val_records else meta["best_step"],
                    "finished": last,
                    "schedule": schedule.state(),
                }
                # Logged first: a resumed run takes back what is too new.
                times = {f"seconds_{name}": value for name, value in seconds.items()}
                log.write("epoch", summary | {"step": step, "best": best} | times)
                dog.beat("saving")
                checkpoint.save(checkpoints, step, state, meta)
                left = (time.monotonic() - started) / (step - first_step) * (total_steps - step)
                is_best = bool(val_records) and best
                bar.write(run_log.epoch_line(summary, config.num_epochs, speed, 0 if last else left, best=is_best))
                if (complaint := profiling.starved(seconds)) and epoch == first_step // steps_per_epoch + 1:
                    bar.write(complaint)
                if distributed.any_process(stop.asked):
                    word = "training is finished" if last else f"saved at step {step} of {total_steps}"
                    raise faults.Stopped(f"stopped by SIGTERM: {word}; the same command goes on")
                timer.restart()

    # ------------------------------------------------------------------------------------------ held-out evaluation
    del state  # evaluation restores the best one
    if not data.split.test:
        print("No section is held out: nothing to evaluate.")
        return
    evaluate.evaluate(folder)


def describe_data(config: Config, protocol: protocols.Protocol, dataset: PatchDataset) -> workdir.DataRecord:
    """Split, panel and statistics of a run."""
    split = protocols.split_sections(
        protocol,
        {section["name"]: section["patient"] for section in dataset.sections},
        fold=config.fold,
        test_patients=configs.names(config.test_patients),
        test_sections=configs.names(config.test_sections),
        val_sections=configs.names(config.val_sections),
    )
    parameters = dataset.manifest["parameters"]
    scales = [section["um_per_px"] for section in dataset.sections if section["name"] in split.train]
    return workdir.DataRecord(
        data_dir=str(dataset.path.resolve()),
        content_hash=dataset.content_hash,
        parameters=parameters,
        stain_target=dataset.manifest["stain_target"],
        image_size_px=dataset.size_px,
        um_per_px=float(parameters.get("um_per_px") or np.median(scales)),
        synthetic=bool(dataset.manifest["synthetic"]),
        train_patients=tuple(sorted({s["patient"] for s in dataset.sections if s["name"] in split.train})),
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        split=split,
        panel=fit_panel(protocol, dataset, split),
    )


def with_tiles(
    data: workdir.DataRecord, protocol: protocols.Protocol, train: TileRecords, val: input_pipeline.Records | None
) -> workdir.DataRecord:
    """What a run of tiles knows besides: statistics of the spots it is trained on, and one layout for all tables, which
    the records take."""
    if data.tiles is None:
        facts, layouts = train.facts(), [train.tables.layout]
        if isinstance(val, TileRecords):
            layouts.append(val.tables.layout)
        facts = dataclasses.replace(facts, layout=merge_layouts(layouts))
        data = dataclasses.replace(data, tiles=facts, panel=train.refit(data.panel, protocol))
    for records in (train, val):
        if isinstance(records, TileRecords) and data.tiles is not None:
            records.tables.layout = data.tiles.layout
    return data


def validate(
    eval_step: Any,
    state: steps.State,
    records: input_pipeline.Records,
    config: Config,
    protocol: protocols.Protocol,
    panel: Panel,
    mesh: jax.sharding.Mesh,
    dog: faults.Watchdog,
) -> dict[str, float | None]:
    """Loss over the validation spots, and the median over genes of the pooled PCC; bounded memory for any number.

    Each process reads its rows of every batch, and all gather the predictions: every spot counts exactly once.
    """
    moments, loss, weight = metrics.Moments(panel.num_main), 0.0, 0.0
    size = parallel.round_up(config.eval_batch_size, mesh)
    dog.beat("validation", compiles=True)
    for batch, _ in input_pipeline.evaluation_batches(records, batch_size=size):
        prediction, sums = eval_step(state, parallel.put_batch(batch, mesh))
        whole = distributed.gather({name: batch[name] for name in ("mask", "counts", "total")})
        measured = whole["mask"] > 0
        counts = whole["counts"][measured][:, : panel.num_main].astype(np.float64)
        truth = protocol.transform(counts, whole["total"][measured].astype(np.float64), panel.num_genes)
        moments.update(np.asarray(prediction)[measured], truth)
        loss, weight = loss + float(sums["loss"]), weight + float(whole["mask"].sum())
        dog.beat("validation")
    pcc = moments.pearson()
    known = pcc[~np.isnan(pcc)]
    return {"val_loss": loss / weight, "val_pcc_median": float(np.median(known)) if len(known) else None}


def flush(
    pending: list[Any], records: input_pipeline.Records, timer: profiling.StepTimer, checkpoints: Path
) -> Iterator[dict[str, Any]]:
    """Waits for the steps under way and hands over their figures; a loss that is no number ends the run."""
    for step, rate, parts, index in pending:
        with timer.part("device"):
            values = {name: float(value) for name, value in parts.items()}
        if not math.isfinite(values["loss"]):
            spots = ", ".join(records.describe(int(i)) for i in index)
            saved = checkpoint.steps(checkpoints)
            good = f"the last good checkpoint is {checkpoints / str(saved[0])}" if saved else "none was saved before"
            raise FloatingPointError(f"the loss is {values['loss']} at step {step}; its batch holds {spots}; {good}")
        yield {"step": step, "learning_rate": rate, **values}
    pending.clear()


if __name__ == "__main__":
    cli.run(main)
