"""Cross-validation as one job: one run per fold of patients, scored on the held-out patients, and a table over them.
With --config.split=blocks folds are made of spatial blocks, and each is scored on its own.

usage: python -m stjax.crossval --config=FILE --workdir=DIR [OPTIONS] [--config.KEY=VALUE ...]

  --config=FILE          a config; every key may be set as for stjax.train
  --workdir=DIR          gets a work directory for each fold, fold_0, fold_1, ..., and crossval.json, crossval.csv
  --folds=0,2            some of the protocol's folds; default all
  --seeds=0,1,2          several runs a fold, an ensemble; default config.seed alone (fold_0_seed_1, ...)
  --mode=sequential      one run after another (default);
         processes       each in a process of its own, --processes=N at a time;
         together        all in one program: parameters with a leading axis over runs, one compilation
  --processes=N          default 2
  --gpus-per-process=K   process i sees GPUs i*K to i*K + K - 1; default all see all
  --choice=validation    each fold keeps the epoch of its lowest validation loss, and is scored with it (default);
           published     also, as BrST-Net's code: the epochs of the best validation loss, MAE, RMSE and PCC are
                         averaged over folds, and a last run trains for so many on all patients but the held-out ones
                         (the default of protocol brstnet_code);
           inner4        as ST-Net: the patients that are not held out are dealt to four folds; the epoch with the least
                         validation loss over all their spots is taken, and a last run trains for so many on all of them

examples:
  python -m stjax.crossval --config=configs/enet_b0_aux.py --workdir=runs/b0_folds
  python -m stjax.crossval --config=configs/tiny.py --workdir=runs/folds --mode=together --seeds=0,1

The same command resumes where it was stopped; finished folds are not repeated. An array of jobs that trained the
folds one by one (launch/slurm.sh --folds) is a work directory too.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import cli, json_files
from data_prep.counted import counted
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Lacking, Maybe
from stjax import cache, checkpoint, distributed, log_file, protocols, splits, train, workdir
from stjax import config as configs
from stjax.config import Config
from stjax.processes import Pool
from stjax.progress import Progress
from stjax.tables import write_csv
from stjax.training import faults, job, together

MODES = ("sequential", "processes", "together")
CHOICES = ("validation", "published", "inner4")
OPTIONS = ("folds", "seeds", "mode", "processes", "gpus_per_process", "choice")
PER_RUN = ("workdir", "config.fold", "config.seed")  # options of stjax.train that every run has its own of
COLUMNS = ("pcc_median", "pcc_mean", "genes_pcc_above_0", "genes_pcc_above_0.5", "amae", "armse")
BEST_OF = {"val_loss": min, "val_amae": min, "val_armse": min, "val_pcc_mean": max}
FEWEST_EPOCHS = 3  # of the published choice
INNER_FOLDS = 4


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the runs.

    Attributes:
        fold: None for the run on all patients but the held-out ones.
        settings: what of `config` is its own.
        config: not yet resolved, as `train.train` takes it.
    """

    fold: int | None
    seed: int
    folder: Path
    settings: Mapping[str, Any]
    config: Config


def main(arguments: list[str]) -> None:
    """The command line."""
    given = configs.options(arguments)
    own = {name: given.pop(name) or "" for name in OPTIONS if name in given}
    if given and not {"workdir", "help", "h"} & set(given):
        raise InputError("no work directory is given; add --workdir=DIR for the folds and their table")
    config, folder = configs.parse(configs.as_arguments(given), usage=__doc__ or "", others=OPTIONS)
    cache.keep_compiled_programs()
    mode, processes = own.get("mode", MODES[0]), _whole(own.get("processes", "2"), "--processes")
    if mode not in MODES:
        raise InputError(f"--mode is {mode!r}; choose one of {', '.join(MODES)}")
    published = config.protocol == "brstnet_code" and config.split != configs.BLOCKS
    choice = own.get("choice", "published" if published else "validation")
    if choice not in CHOICES:
        raise InputError(f"--choice is {choice!r}; choose one of {', '.join(CHOICES)}")
    distributed.initialise()
    quiet = contextlib.nullcontext() if distributed.is_writer() else contextlib.redirect_stdout(None)
    kept = "what is finished or saved is kept; the same command goes on"
    with faults.exits_when_stopped(), cli.when_interrupted(lambda: kept), quiet:
        crossval(
            config,
            folder,
            folds=[_whole(part, "--folds") for part in configs.names(own.get("folds", ""))],
            seeds=[_whole(part, "--seeds") for part in configs.names(own.get("seeds", ""))],
            mode=mode,
            choice=choice,
            processes=processes,
            gpus_per_process=_whole(own.get("gpus_per_process", "0"), "--gpus-per-process"),
            command=configs.as_arguments({name: value for name, value in given.items() if name not in PER_RUN}),
        )


def _whole(text: str, name: str) -> int:
    if not text.isdigit():
        raise InputError(f"{name} is {text!r}, expected whole numbers from 0 up")
    return int(text)


def crossval(
    config: Config,
    folder: Path,
    *,
    folds: Sequence[int] = (),
    seeds: Sequence[int] = (),
    mode: str = "sequential",
    choice: str = "validation",
    processes: int = 2,
    gpus_per_process: int = 0,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains and scores what is not finished, and writes the table.

    Args:
        config: as `configs/default.py`, not yet resolved.
        folder: the work directory of all.
        folds, seeds: which; default all folds, and the config's seed.
        command: of mode "processes": the arguments of `stjax.train` that made `config`, without --workdir.

    Returns:
        What crossval.json holds.

    Raises:
        InputError: the data has no folds, a run failed, or another process cross-validates there.
    """
    split, own = folds_of(config, choice)
    count = len(own)
    if unknown := [fold for fold in folds if fold >= count]:
        raise InputError(f"--folds names {unknown[0]}; the data has folds 0 to {count - 1} under {config.protocol}")
    seeds = seeds or [config.seed]
    members = [
        member(config, folder, fold, seed, seeds, own[fold]) for fold in (folds or range(count)) for seed in seeds
    ]
    with contextlib.ExitStack() as stack:
        if distributed.is_writer():  # it holds the folder for all
            stack.enter_context(workdir.locked(folder, doing="cross-validating"))
        train_all(members, mode, processes, gpus_per_process, command)
        result = {"protocol": config.protocol, "choice": choice, "mode": mode, "runs": [row(each) for each in members]}
        if choice != "validation":
            epochs = published_epochs(members) if choice == "published" else best_epoch(members)
            on_all = {"num_epochs": epochs, "test_sections": ",".join(split.test)}
            retrained = [member(config, folder, None, seed, seeds, on_all) for seed in seeds]
            train_all(retrained, "sequential", 1, 0, command)
            result |= {f"{choice}_epochs": epochs, "retrained": [row(each) for each in retrained]}
        result["summary"] = summary(result["runs"])
        if caveat := workdir.load_fold(members[0].folder).caveat:
            result["caveat"] = caveat
        if distributed.is_writer():
            write_results(result, folder)
    return result


def write_results(result: dict[str, Any], folder: Path) -> None:
    """Writes crossval.json and crossval.csv, and prints the table."""
    json_files.write(folder / "crossval.json", result)
    write_csv(folder / "crossval.csv", pd.DataFrame(result["runs"] + result.get("retrained", [])))
    print_table(result)
    print(f"results:\n{folder / 'crossval.json'}\n{folder / 'crossval.csv'}")


def folds_of(config: Config, choice: str) -> tuple[splits.Split, list[dict[str, Any]]]:
    """The split of fold 0, and what is set in each fold."""
    if config.test_sections or config.val_sections:
        raise InputError("folds are of patients; leave out config.test_sections and config.val_sections")
    protocol = protocols.get_protocol(config.protocol)
    if config.split == configs.BLOCKS:
        if choice != CHOICES[0]:
            raise InputError(f"--choice={choice} trains on all patients but the held-out ones, and folds are of blocks")
        job.rule_of(config, protocol).check()
        return splits.Split((), (), ()), [{"fold": fold} for fold in range(config.blocks.folds)]
    dataset = PatchDataset.open(job.dataset_path(config))
    patients = {section["name"]: section["patient"] for section in dataset.sections}
    split = splits.split_sections(
        protocol, patients, test_patients=configs.names(config.test_patients, patients.values())
    )
    rest = {patient for name, patient in patients.items() if name not in split.test}
    count = min(INNER_FOLDS if choice == "inner4" else protocol.num_folds, len(rest))
    if count < 2:
        few = counted(len(rest), "patients besides the held-out ones are too few for folds under")
        raise InputError(
            f"{few} protocol {protocol.name}, which deals patients to {protocol.num_folds}; add patients, or choose "
            "another protocol or --choice"
        )
    if choice != "inner4":
        return split, [{"fold": fold} for fold in range(count)]
    dealt = [sorted(rest)[fold::count] for fold in range(count)]
    validating = [",".join(name for name in patients if patients[name] in fold) for fold in dealt]
    return split, [{"test_sections": ",".join(split.test), "val_sections": names} for names in validating]


def member(
    config: Config, folder: Path, fold: int | None, seed: int, seeds: Sequence[int], settings: Mapping[str, Any]
) -> Member:
    """The run of one of some seeds, with settings of its own: of one fold, or of all patients but the held-out ones."""
    own, settings = config.copy_and_resolve_references(), {**settings, "seed": seed}
    own.update(settings)
    name = "all_patients" if fold is None else f"fold_{fold}"
    name += f"_seed_{seed}" if len(seeds) > 1 else ""
    return Member(fold, seed, folder / name, settings, own)


def train_all(
    members: Sequence[Member], mode: str, processes: int, gpus_per_process: int, command: Sequence[str]
) -> None:
    """Trains and scores the runs that are not finished."""
    left = [each for each in members if not is_finished(each.folder)]
    distributed.barrier("every process has seen what is finished")
    if done := len(members) - len(left):
        print(f"{done} of {counted(len(members), 'runs are finished')}")
    if mode == "processes" and left:
        in_processes(left, processes, gpus_per_process, command)
        return
    if mode == "together" and left:
        together.train([(each.config, each.folder) for each in left])
    for each in left:
        print(f"\n=== {each.folder}")
        train.train(each.config, each.folder)  # after `together`, it finds the run trained, and scores it
    distributed.barrier("all is scored")


def is_finished(folder: Path) -> bool:
    """Whether a run is trained to its end, and scored."""
    meta = checkpoint.newest(folder / workdir.CHECKPOINTS) if (folder / workdir.DATA).exists() else None
    return bool(meta and meta.get("finished") and list(folder.glob("evaluation/*/metrics.json")))


def in_processes(members: Sequence[Member], processes: int, gpus_per_process: int, command: Sequence[str]) -> None:
    """Runs `stjax.train` for each, `processes` at a time. SIGTERM and Ctrl-C end all of them.

    Raises:
        InputError: some failed; the others are trained to their end all the same.
    """
    with Pool(processes, gpus_per_process) as pool:

        def run(each: Member) -> int:
            own = [f"--workdir={each.folder}", *(f"--config.{key}={value}" for key, value in each.settings.items())]
            return pool.run(each.folder.name, ["stjax.train", *command, *own]).code

        codes = pool.map(run, members)
    if bad := [each.folder.name for each, code in zip(members, codes, strict=True) if code]:
        raise InputError(f"{', '.join(bad)} failed, see above; the same command tries again what is not finished")


def row(each: Member) -> dict[str, Any]:
    """Metrics of a finished run: its best epoch, and its scores on the held-out patients."""
    paths = sorted(each.folder.glob("evaluation/*/metrics.json"))
    scores = figures_of(paths[0]) if paths else {}
    meta = checkpoint.newest(each.folder / workdir.CHECKPOINTS)
    epochs = epochs_of(each.folder)
    best = next((epoch for epoch in epochs if meta and epoch["step"] == meta["best_step"]), None)
    best = best or [{"epoch": None}, *epochs][-1]  # a run may be stopped within its first epoch
    validation = {name: best.get(name) for name in ("val_loss", "val_pcc_median")}
    planned = configs.load(each.folder / workdir.CONFIG).num_epochs
    progress = Progress.of(meta, planned, each.folder) if meta else Progress(planned=planned)
    label = {"run": each.folder.name, "fold": each.fold, "seed": each.seed, "epoch": best["epoch"], **progress.facts()}
    return label | validation | {name: scores.get(name) for name in COLUMNS}


def figures_of(path: Path) -> dict[str, Any]:
    """The model's metrics in a metrics.json. Raises InputError when there are none."""
    figure, remedy = Lacking(Maybe(json_files.number())), "score the run again with stjax.evaluate"
    expected = {"methods": {"model": dict.fromkeys(COLUMNS, figure)}}
    found = json_files.require(json_files.read(path, remedy=remedy), expected, str(path), remedy=remedy)
    return found["methods"]["model"]


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    """What a run logged at the end of each epoch; nothing of one that was stopped within its first."""
    path = folder / "logs" / log_file.FILE
    return [entry for entry in log_file.read(path) if entry.get("kind") == "epoch" and "epoch" in entry]


def published_epochs(members: Sequence[Member]) -> int:
    """BrST-Net's code: the mean over folds of the epochs with the best validation loss, MAE, RMSE and PCC, rounded up,
    and at least 3."""
    best = []
    for each in members:
        epochs = epochs_of(each.folder)
        if not epochs:
            raise InputError(f"{each.folder} has no epoch in its log; restore it, or train the run again")
        for name, choose in BEST_OF.items():
            known = [epoch for epoch in epochs if epoch.get(name) is not None]
            if known:
                best.append(choose(known, key=lambda epoch, name=name: epoch[name])["epoch"])
    return max(FEWEST_EPOCHS, math.ceil(np.mean(best)))


def best_epoch(members: Sequence[Member]) -> int:
    """ST-Net's code: the epoch with the least squared error, summed over the validation spots of all folds."""
    errors: dict[int, list[float]] = {}
    for each in members:
        for epoch in epochs_of(each.folder):
            if epoch.get("val_loss") is None or "val_spots" not in epoch:
                raise InputError(f"{each.folder} has no validation loss in its log; restore it, or train the run again")
            errors.setdefault(epoch["epoch"], []).append(epoch["val_loss"] * epoch["val_spots"])
    known = {epoch: sum(of) for epoch, of in errors.items() if len(of) == len(members)}
    if not known:
        raise InputError(f"{members[0].folder.parent}: its folds have no epoch in common; train them again")
    return min(known, key=lambda epoch: (known[epoch], epoch))


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and sample standard deviation over runs of every metric; None where there is none."""
    result = {}
    for name in ("val_loss", "val_pcc_median", *COLUMNS):
        values = [row[name] for row in rows if row[name] is not None]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        result[name] = {"mean": float(np.mean(values)) if values else None, "spread": spread}
    return result


def print_table(result: dict[str, Any]) -> None:
    """A row a run, then mean and spread."""
    names = ("epoch", "val_loss", "val_pcc_median", *COLUMNS)
    titles = [name.replace("genes_pcc_above_", "> ").replace("_", " ") for name in names]

    def row_of(label: str, values: Sequence[Any]) -> list[str]:
        return [label, *("-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in values)]

    rows = [["", *titles]]
    rows += [row_of(f"fold {each['fold']} seed {each['seed']}", [each[n] for n in names]) for each in result["runs"]]
    for what in ("mean", "spread"):
        rows.append(row_of(what, [None, *(result["summary"][name][what] for name in names[1:])]))
    rows += [row_of("all patients", [each[name] for name in names]) for each in result.get("retrained", [])]
    lines = cli.table(rows, align="<" + ">" * len(names), least=(16, *[13] * len(names)))
    print("\n".join(["", *lines]))
    for each in [*result["runs"], *result.get("retrained", [])]:
        if each.get("training_finished") is not True:
            print(f"NOT FINISHED: {each['run']} is trained for {each['trained']}; its results are of that state")
    shared = "folds share the held-out patients: their spread is that of the training, not of new patients"
    caveat = result.get("caveat")
    print(f"each fold is scored on its own blocks; {caveat}\n" if caveat else f"{shared}\n")


if __name__ == "__main__":
    cli.program(main)
