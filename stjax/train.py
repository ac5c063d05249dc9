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

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from flax import nnx
from tensorboardX import SummaryWriter

from data_prep import cli
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import checkpoint, demo_data, evaluate, input_pipeline, metrics, optim, parallel, protocols, steps, workdir
from stjax import config as configs
from stjax.config import Config
from stjax.ops.spot_pool import merge_layouts
from stjax.panel import Panel, fit_panel
from stjax.tile_records import TileRecords


def main(arguments: list[str]) -> None:
    """The command line."""
    config, folder = configs.parse(arguments, usage=__doc__ or "")
    train(config, folder)


def train(config: Config, folder: Path) -> None:
    """Trains, or resumes, or finds the run finished; then evaluates. Prints where the results are.

    Args:
        config: as `configs/default.py`, not yet resolved.
        folder: the work directory.

    Raises:
        InputError: data, config or work directory do not fit.
        FloatingPointError: the loss became NaN or infinite.
    """
    with workdir.locked(folder):
        run(config, folder)


def run(config: Config, folder: Path) -> None:
    """`train`, in a folder that no other process trains in."""
    # ------------------------------------------------------------------------------------------------- config, data
    protocol = protocols.get_protocol(config.protocol)
    is_demo = not config.data_dir
    config = configs.resolve(config, protocol, demo=is_demo)
    if (folder / workdir.CONFIG).exists():
        configs.check_same_run(configs.load(folder / workdir.CONFIG), config, folder)
    elif any(entry.suffix != ".tmp" and entry.name != workdir.LOCK for entry in folder.iterdir()):
        raise InputError(f"{folder} is in use by something else than a run of stjax; choose another --workdir")
    mesh = parallel.make_mesh()
    parallel.check_batch_size(config.batch_size, mesh)

    if is_demo:
        shape = ("layout", "patients", "spots", "patch_size_px", "tile_size_px")
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
    print_data(data, dataset, {"train": train_records, "val": val_records})

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
    meta: dict[str, Any] = {"step": 0, "best_step": 0, "finished": False}
    state_kwargs = {"image_size_px": data.image_size_px, "tiles": data.tiles, "mesh": mesh}
    graphdef, template = steps.init_state(config, data.panel, abstract=True, **state_kwargs)
    saved = checkpoint.newest(checkpoints) if known else None
    if saved is None:
        _, state = steps.init_state(config, data.panel, **state_kwargs)
        print(overview(state["params"], config))
    else:
        meta, state = saved, checkpoint.restore(checkpoints, saved["step"], template)
        schedule.restore(meta["schedule"])
        word = "is finished" if meta["finished"] else f"resumes at step {meta['step']} of {total_steps}"
        print(f"The run in {folder} {word}.")
    # Nothing is written before everything asked for is known to work: a mistyped setting must not mark the folder.
    if not (folder / workdir.CONFIG).exists():
        workdir.write_json(folder / workdir.CONFIG, config.to_dict())
    if not known:
        workdir.write_json(folder / workdir.DATA, data.to_json())

    # ------------------------------------------------------------------------------------------------ training loop
    if not meta["finished"]:
        log = Log(folder / "logs", meta["step"])
        train_step = steps.make_train_step(graphdef, config, data.panel, protocol, mesh)
        eval_step = steps.make_eval_step(graphdef, config, data.panel, protocol, mesh)
        batches = input_pipeline.training_batches(
            train_records,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=meta["step"],
            num_workers=config.num_workers,
        )
        bar = cli.progress(total=total_steps, description="training", unit="step")
        bar.update(meta["step"])
        started, first_step = time.monotonic(), meta["step"]
        step, speed = meta["step"], 0.0
        try:
            while not meta["finished"]:
                epoch = step // steps_per_epoch + 1
                pending, epoch_losses = [], []
                for _ in range(steps_per_epoch):
                    batch, index = next(batches)
                    rate = schedule.learning_rate(step)
                    state, parts = train_step(state, parallel.put_batch(batch, mesh), np.uint32(step), np.float32(rate))
                    step += 1
                    pending.append((step, rate, parts, index))
                    if step % config.log_every_steps == 0 or step % steps_per_epoch == 0:
                        for values in flush(pending, train_records):
                            log.write("train", values | {"epoch": epoch})
                            epoch_losses.append(values["loss"])
                        speed = (step - first_step) * config.batch_size / (time.monotonic() - started)
                        bar.set_postfix_str(f"loss {epoch_losses[-1]:.3f}, {speed:.1f} images/s")
                    bar.update()

                train_loss = float(np.mean(epoch_losses))
                summary = {"epoch": epoch, "loss": train_loss}
                if val_records:
                    summary |= validate(eval_step, state, val_records, config, protocol, data.panel, mesh)
                best = schedule.end_epoch(summary.get("val_loss", train_loss))
                last = step >= total_steps or schedule.finished
                meta = {
                    "step": step,
                    "best_step": step if best or not val_records else meta["best_step"],
                    "finished": last,
                    "schedule": schedule.state(),
                }
                log.write(
                    "epoch", summary | {"step": step, "best": best}
                )  # first: a resumed run takes back what is too new
                checkpoint.save(checkpoints, step, state, meta)
                left = (time.monotonic() - started) / (step - first_step) * (total_steps - step)
                bar.write(
                    epoch_line(summary, config.num_epochs, speed, 0 if last else left, best=bool(val_records) and best)
                )
        finally:
            bar.close()
            batches.close()
            log.close()

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
) -> dict[str, float | None]:
    """Loss over the validation spots, and the median over genes of the pooled PCC; bounded memory for any number."""
    moments, loss, weight = metrics.Moments(panel.num_main), 0.0, 0.0
    size = parallel.round_up(config.eval_batch_size, mesh)
    for batch, _ in input_pipeline.evaluation_batches(records, batch_size=size):
        prediction, sums = eval_step(state, parallel.put_batch(batch, mesh))
        measured = batch["mask"] > 0
        counts = batch["counts"][measured][:, : panel.num_main].astype(np.float64)
        truth = protocol.transform(counts, batch["total"][measured].astype(np.float64), panel.num_genes)
        moments.update(np.asarray(prediction)[measured], truth)
        loss, weight = loss + float(sums["loss"]), weight + float(batch["mask"].sum())
    pcc = moments.pearson()
    known = pcc[~np.isnan(pcc)]
    return {"val_loss": loss / weight, "val_pcc_median": float(np.median(known)) if len(known) else None}


def flush(pending: list[Any], records: input_pipeline.Records) -> Iterator[dict[str, Any]]:
    """Waits for the steps under way and hands over their figures; a loss that is no number ends the run."""
    for step, rate, parts, index in pending:
        values = {name: float(value) for name, value in parts.items()}
        if not math.isfinite(values["loss"]):
            spots = ", ".join(records.describe(int(i)) for i in index)
            raise FloatingPointError(f"the loss is {values['loss']} at step {step}; its batch holds {spots}")
        yield {"step": step, "learning_rate": rate, **values}
    pending.clear()


class Log:
    """`logs/train.jsonl` and TensorBoard events. What a killed run wrote after its last checkpoint is taken back."""

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "train.jsonl"
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the line that was being written
            if entry["step"] <= step:
                kept.append(line + "\n")
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Logs the figures of a step or an epoch; `values` names the step."""
        self._file.write(json.dumps({"kind": kind, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, values["step"])

    def close(self) -> None:
        """Ends both logs."""
        self._file.close()
        self._board.close()


def overview(params: nnx.State, config: Config) -> str:
    """Parameters by part of the model."""
    arrays = nnx.to_pure_dict(params)
    heads = {"main": "main head", "aux": "aux head"}
    parts = {f"backbone {name}": part for name, part in arrays["backbone"].items()}
    parts |= {heads.get(name, name): part for name, part in arrays.items() if name != "backbone"}
    # A part may be an array by itself, as ViT's position embedding is.
    count = parameter_overview.count_parameters  # of a scalar, it gives a float
    rows = [f"  {name:24s}{int(count({name: part})):>12,}" for name, part in parts.items()]
    total = int(count(arrays))
    return "\n".join([f"{config.model.module} {config.model.variant}: {total:,} parameters", *rows])


def print_data(
    data: workdir.DataRecord, dataset: PatchDataset, records: dict[str, input_pipeline.Records | None]
) -> None:
    """What the run learns from, and what a reader of its figures must know."""
    if data.synthetic:
        print("The data is SYNTHETIC (stjax's demo): its figures say nothing about real tissue.")
    for part in ("train", "val", "test"):
        sections = getattr(data.split, part)
        patients = sorted({s["patient"] for s in dataset.sections if s["name"] in sections})
        size = ""
        if (known := records.get(part)) is not None:
            size = f", {known.num_spots} spots"
            if isinstance(known, TileRecords):
                size += f" in {len(known)} tiles"
            if known.left_out:
                size += f" ({known.left_out} left out by the protocol: few reads or white)"
        print(f"{part:>5}: {len(sections)} sections of patient {', '.join(patients) or '-'}{size}")
    left_out = len(dataset.genes) - len(data.panel.symbol)
    print(
        f"protocol {data.protocol}: {data.panel.num_main} main genes, {data.panel.num_aux} aux genes, "
        f"{left_out} expressed in too few spots"
    )
    protocol = protocols.get_protocol(data.protocol)
    if protocol.stain != "none" and data.parameters["stain"] != protocol.stain:
        print(f"note: {protocol.name} prepares slides with --stain {protocol.stain}; this data set has another")
    for warning in data.split.warnings:
        print(f"note: {warning}")


def epoch_line(summary: dict[str, Any], num_epochs: int, speed: float, seconds_left: float, *, best: bool) -> str:
    """An epoch's figures, speed and the time left, for the terminal."""
    parts = [f"epoch {summary['epoch']}/{num_epochs}", f"loss {summary['loss']:.4f}"]
    if "val_loss" in summary:
        parts.append(f"val loss {summary['val_loss']:.4f}")
        if summary["val_pcc_median"] is not None:
            parts.append(f"val median PCC {summary['val_pcc_median']:.3f}")
    minutes, seconds = divmod(round(seconds_left), 60)
    parts += [f"{speed:.1f} images/s", f"{minutes}:{seconds:02d} left"]
    return "  ".join(parts) + ("  best so far" if best else "")


if __name__ == "__main__":
    cli.run(main)
