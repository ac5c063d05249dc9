"""What a run is made of before its first step: settings, data, panel, schedule, and a fresh or restored state."""

import dataclasses
import functools
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_prep import files, json_files
from data_prep.dataset import PatchDataset, read_manifest
from data_prep.errors import InputError
from data_prep.gene_reference import several_species
from stjax import checkpoint, distributed, models, optim, parallel, protocols, splits, views, workdir
from stjax import config as configs
from stjax.config import Config
from stjax.data import input_pipeline
from stjax.data.blocks import Rule, divide
from stjax.data.fit import fit
from stjax.data.fold import Fold
from stjax.data.selection import Selection
from stjax.models import weights
from stjax.state import State, init_state
from stjax.training import features_first, run_log, steps


@dataclasses.dataclass
class Job:
    """A run, ready to train.

    Attributes:
        config: resolved.
        state, template: the state to begin with, and its shapes.
        meta: the plain state saved with the checkpoint it goes on from.
    """

    config: Config
    folder: Path
    protocol: protocols.Protocol
    fold: Fold
    train: views.Items
    val: views.Items | None
    schedule: optim.Schedule
    graphdef: Any
    state: State
    template: State
    meta: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / workdir.CHECKPOINTS

    @property
    def spots_per_step(self) -> float:
        """How many spots a batch is of, on average."""
        return self.config.batch_size * self.train.num_spots / len(self.train)

    def batches(self) -> Generator[tuple[views.Batch, np.ndarray]]:
        """Those of training, from the next step on; see `input_pipeline.training_batches`."""
        return input_pipeline.training_batches(
            self.train,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start_step=self.meta["step"],
            num_workers=self.config.num_workers,
        )

    def end_epoch(self, step: int, summary: dict[str, Any]) -> bool:
        """Tells the schedule of an epoch's losses, and `meta` where the run then is; returns whether the epoch is the
        best so far.

        Args:
            step: the epoch's last.
            summary: its "loss" and, where there is validation, "val_loss".
        """
        best = self.schedule.end_epoch(summary.get("val_loss", summary["loss"]))
        self.meta = {
            "step": step,
            "best_step": step if best or self.val is None else self.meta["best_step"],
            "finished": step >= self.schedule.total_steps or self.schedule.finished,
            "schedule": self.schedule.state(),
        }
        return best


def prepare(config: Config, folder: Path, mesh: jax.sharding.Mesh) -> Job:
    """Reads, makes or restores everything a run needs, says what it is, and marks the folder as its own.

    Args:
        config: as `configs/default.py`, not yet resolved.
        folder: the work directory; no other run trains in it.

    Raises:
        InputError: data, config or work directory do not fit.
    """
    protocol = protocols.get_protocol(config.protocol)
    config = checked(config, protocol, folder, mesh)
    dataset = PatchDataset.open(dataset_path(config))
    features_first.make(config, dataset, mesh)
    view = views.get(models.view_of(config.model.module)).of_config(config)
    view.check_dataset(dataset, config.model.module)
    view.check_augmentation(config.augmentation)
    in_one_step = config.fit == configs.CLOSED_FORM
    if in_one_step and not view.one_spot:
        raise InputError(
            f"models of {view.items} have no feature vector a spot to solve a head on: leave config.fit alone"
        )
    known = (folder / workdir.DATA).exists()
    fold = known_fold(folder, dataset) if known else make_fold(config, view, protocol, dataset)
    dataset, view = fold.divided(dataset), views.of(fold) if known else view  # which knows what it was trained on
    view.check_spots(dataset, protocol, fold.split)
    chosen = Selection(dataset, fold.split.train, protocol, train=True, sizes_um=configs.spot_sizes(config))
    train, val = view.open(chosen, fold.panel), None
    if fold.split.val:
        val = view.open(dataclasses.replace(chosen, sections=fold.split.val, train=False), fold.panel)
    if not known:
        fold = view.fit(fold, protocol, train, val)
    for items in (train, val):
        if items is not None:
            view.prepare(fold, items)
    run_log.print_data(fold, dataset, {"train": train, "val": val})

    schedule = optim.Schedule.of(config, steps_per_epoch=1 if in_one_step else max(1, len(train) // config.batch_size))
    meta: dict[str, Any] = {"step": 0, "best_step": 0, "finished": False, "schedule": schedule.state()}
    graphdef, template = init_state(config, fold, mesh=mesh, abstract=True)
    steps.loss_of_config(config)  # refuses one that does not suit the model, before anything is written
    checkpoints = folder / workdir.CHECKPOINTS
    saved = checkpoint.newest(checkpoints) if known else None
    if saved is None:
        _, state = init_state(config, fold, mesh=mesh, start=view.start(config, fold, protocol, train))
        print(run_log.overview(state, config))
    else:
        checkpoint.check_of(checkpoints, saved["step"])
        meta, state = saved, checkpoint.restore(checkpoints, saved["step"], template)
        if distributed.is_writer():
            checkpoint.prune(checkpoints)
        schedule.restore(meta["schedule"])
        word = "is finished" if meta["finished"] else f"resumes at step {meta['step']} of {schedule.total_steps}"
        print(f"The run in {folder} {word}.")
    # Nothing is written before everything asked for is known to work: a mistyped setting must not mark the folder.
    distributed.barrier("every process has seen what is there")
    if distributed.is_writer():
        for name, values in ((workdir.CONFIG, config.to_dict()), (workdir.DATA, fold.to_json())):
            if not (folder / name).exists():
                json_files.write(folder / name, json_files.sealed(values))
    return Job(config, folder, protocol, fold, train, val, schedule, graphdef, state, template, meta)


def checked(config: Config, protocol: protocols.Protocol, folder: Path, mesh: jax.sharding.Mesh) -> Config:
    """The config, resolved. Raises InputError where the folder is of another run, or devices do not share a batch."""
    config = configs.resolve(config, protocol, demo=not config.data_dir)
    if (folder / workdir.CONFIG).exists():
        before = configs.load(folder / workdir.CONFIG)
        configs.check_same_run(before, config, folder, data=other_data(before, config, folder))
    elif any(entry.name != workdir.LOCK and not files.is_unfinished(entry) for entry in folder.iterdir()):
        raise InputError(f"{folder} is in use by something else than a run of stjax; choose another --workdir")
    parallel.check_batch_size(config.batch_size, config.micro_batch, mesh)
    return config


def known_fold(folder: Path, dataset: PatchDataset) -> Fold:
    """The fold that a run began with, to the bit. Raises InputError where it is of other rules or data than now."""
    fold = workdir.load_fold(folder)
    workdir.checked_protocol(fold, folder)
    if fold.content_hash != dataset.content_hash:
        raise InputError(f"{folder} was trained on other data than {dataset.path}; choose another --workdir")
    return fold


def other_data(before: Config, asked: Config, folder: Path) -> str:
    """How the data set that a run was trained on differs from the one asked for now, "" if it does not."""
    if not (folder / workdir.DATA).exists():
        return ""
    known = workdir.load_fold(folder)
    if not asked.data_dir:
        same = not before.data_dir  # which demo data, the config says too
    else:
        same = read_manifest(Path(asked.data_dir))[1] == known.content_hash
    if same:
        return ""
    if asked.data_dir and Path(asked.data_dir).resolve() == Path(known.data_dir):
        return f"the data set {asked.data_dir} has changed since"
    was, now = (each.data_dir or "the built-in demo data" for each in (before, asked))
    return f"its data set was {was}, is {now}"


def dataset_path(config: Config) -> Path:
    """The data set a config names; the demo's is made where it is not there yet."""
    if config.data_dir:
        return Path(config.data_dir)
    from stjax.data import demo_data  # the generator, which a run on data of one's own does not need

    shape = ("layout", "patients", "spots", "patch_size_px", "tile_size_px")
    with distributed.writer_first("demo data"):
        return demo_data.demo_dataset(**{name: config.demo[name] for name in shape})


def make_fold(config: Config, view: views.View, protocol: protocols.Protocol, dataset: PatchDataset) -> Fold:
    """Deals the sections, or blocks of them, measures the training ones, hashes the weights it begins with, as the
    config says. Raises InputError where these do not fit."""
    if species := several_species(dataset.genes.ensembl_id.tolist()):
        raise InputError(
            f"the data set {dataset.path} has genes of {' and '.join(species)}, which share none; build one of each "
            "species, naming its --sections, and train on one"
        )
    if config.split == configs.BLOCKS:
        blocks = divide(dataset, functools.partial(view.field, dataset), rule_of(config, protocol))
        dataset = blocks.open(dataset)
        split = blocks.split(dataset)
    else:
        blocks, split = None, deal_sections(config, protocol, dataset)
    fold = fit(view, protocol, dataset, split, sizes_um=configs.spot_sizes(config))
    own = models.normalisation(config.model.module, config.model.variant, config.model.options.to_dict())
    normalisation = own and dict(zip(("mean", "std"), map(list, own), strict=True))
    begun = weights.sha256(weights.locate(config.init_from)) if config.init_from else ""
    return dataclasses.replace(fold, normalisation=normalisation, init_sha256=begun, blocks=blocks)


def rule_of(config: Config, protocol: protocols.Protocol) -> Rule:
    """How spatial blocks are made and dealt. Where the protocol's folds validate, blocks do."""
    asked = config.blocks
    return Rule(asked.folds, asked.per_fold, config.fold, protocol.num_folds > 0, asked.buffer_um)


def deal_sections(config: Config, protocol: protocols.Protocol, dataset: PatchDataset) -> splits.Split:
    """Whole sections, by patient unless the config names them. Raises InputError where none is left to train on."""
    whose = dataset.patients([section["name"] for section in dataset.sections])
    patient_of = {name: patient for name, (patient, _) in whose.items()}
    return splits.split_sections(
        protocol,
        patient_of,
        origin_of={name: origin for name, (_, origin) in whose.items()},
        fold=config.fold,
        test_patients=configs.names(config.test_patients, patient_of.values()),
        test_sections=configs.names(config.test_sections, patient_of),
        val_sections=configs.names(config.val_sections, patient_of),
    )
