"""What a run is made of before its first step: settings, data, panel, schedule, and a fresh or restored state."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from data_prep import files, json_files
from data_prep.dataset import PatchDataset, read_manifest
from data_prep.errors import InputError
from data_prep.gene_reference import several_species
from stjax import checkpoint, distributed, models, optim, parallel, protocols, views, workdir
from stjax import config as configs
from stjax.config import Config
from stjax.data.fit import fit
from stjax.data.fold import Fold
from stjax.state import State, init_state
from stjax.training import run_log, steps


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


def prepare(config: Config, folder: Path, mesh: jax.sharding.Mesh) -> Job:
    """Reads, makes or restores everything a run needs, says what it is, and marks the folder as its own.

    Args:
        config: as `configs/default.py`, not yet resolved.
        folder: the work directory; no other run trains in it.

    Raises:
        InputError: data, config or work directory do not fit.
    """
    protocol = protocols.get_protocol(config.protocol)
    config = configs.resolve(config, protocol, demo=not config.data_dir)
    if (folder / workdir.CONFIG).exists():
        before = configs.load(folder / workdir.CONFIG)
        configs.check_same_run(before, config, folder, data=other_data(before, config, folder))
    elif any(entry.name != workdir.LOCK and not files.is_unfinished(entry) for entry in folder.iterdir()):
        raise InputError(f"{folder} is in use by something else than a run of stjax; choose another --workdir")
    parallel.check_batch_size(config.batch_size, config.micro_batch, mesh)

    path = dataset_path(config)
    dataset = PatchDataset.open(path)
    view = views.get(models.view_of(config.model.module))
    view.check_dataset(dataset, config.model.module)
    known = (folder / workdir.DATA).exists()
    if known:  # the panel a run began with, to the bit
        fold = workdir.load_fold(folder)
        workdir.checked_protocol(fold, folder)
        if fold.content_hash != dataset.content_hash:
            raise InputError(f"{folder} was trained on other data than {path}; choose another --workdir")
    else:
        fold = make_fold(config, view, protocol, dataset)
    view.check_spots(dataset, protocol, fold.split)
    sizes = configs.numbers(config.spot_sizes_um, "config.spot_sizes_um")
    train = view.open(dataset, fold.split.train, fold.panel, protocol, train=True, sizes_um=sizes)
    val = None
    if fold.split.val:
        val = view.open(dataset, fold.split.val, fold.panel, protocol, train=False, sizes_um=sizes)
    if not known:
        fold = view.fit(fold, protocol, train, val)
    for items in (train, val):
        if items is not None:
            view.prepare(fold, items)
    run_log.print_data(fold, dataset, {"train": train, "val": val})

    steps_per_epoch = max(1, len(train) // config.batch_size)
    schedule = optim.Schedule(
        config.schedule,
        config.learning_rate,
        total_steps=steps_per_epoch * config.num_epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=config.warmup_steps,
        early_stopping_patience=config.early_stopping_patience,
    )
    meta: dict[str, Any] = {"step": 0, "best_step": 0, "finished": False, "schedule": schedule.state()}
    graphdef, template = init_state(config, fold, mesh=mesh, abstract=True)
    steps.loss_of_config(config)  # refuses one that does not suit the model, before anything is written
    checkpoints = folder / workdir.CHECKPOINTS
    saved = checkpoint.newest(checkpoints) if known else None
    if saved is None:
        _, state = init_state(config, fold, mesh=mesh)
        print(run_log.overview(state["params"], config))
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
        if not (folder / workdir.CONFIG).exists():
            json_files.write(folder / workdir.CONFIG, json_files.sealed(config.to_dict()))
        if not known:
            json_files.write(folder / workdir.DATA, json_files.sealed(fold.to_json()))
    return Job(config, folder, protocol, fold, train, val, schedule, graphdef, state, template, meta)


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
    """Deals the sections and measures the training ones, as the config says."""
    whose = dataset.patients([section["name"] for section in dataset.sections])
    patient_of = {name: patient for name, (patient, _) in whose.items()}
    split = protocols.split_sections(
        protocol,
        patient_of,
        origin_of={name: origin for name, (_, origin) in whose.items()},
        fold=config.fold,
        test_patients=configs.names(config.test_patients, patient_of.values()),
        test_sections=configs.names(config.test_sections, patient_of),
        val_sections=configs.names(config.val_sections, patient_of),
    )
    if species := several_species(dataset.genes.ensembl_id.tolist()):
        raise InputError(
            f"the data set {dataset.path} has genes of {' and '.join(species)}, which share none; build one of each "
            "species, naming its --sections, and train on one"
        )
    sizes = configs.numbers(config.spot_sizes_um, "config.spot_sizes_um")
    return fit(view, protocol, dataset, split, sizes_um=sizes)
