"""Looks for leaks: ways in which scored tissue may have reached the training.

usage: python -m stjax.audit --workdir=DIR [--data-dir=DIR] [--sections=A,B]

examples:
  python -m stjax.audit --workdir=runs/enet_b0_aux
  python -m stjax.audit --workdir=runs/c5 --sections=C4,C5

Exit code 1 when there is a leak; 0 where you chose to separate sections of one patient (config.test_sections) or blocks
of one section (config.split), and where something is unknown, for example patients that no file states.
`stjax.evaluate` makes the same checks and writes them into metrics.json. A check without findings is no proof: one
patient under two unrelated names is not noticed.
"""

import dataclasses
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep import cli, patients
from data_prep.counted import counted
from data_prep.dataset import PatchDataset, Patients
from data_prep.errors import InputError
from data_prep.patients import not_stated, spelling_key
from stjax import checkpoint, log_file, progress, views, workdir
from stjax import config as configs
from stjax.config import Config
from stjax.data.blocks import overlapping
from stjax.data.fit import fit
from stjax.data.fold import Fold
from stjax.data.selection import Selection
from stjax.findings import CHOSEN, LEAK, OK, UNKNOWN, Finding, lines
from stjax.protocols import Protocol
from stjax.splits import Split

SAME_PICTURE = 0.98  # correlation of 32 x 32 px: copies, scaled and compressed anew, 0.9998; other sections below 0.85
SAME_SPOTS = 0.5  # of a section's spots with the very counts of a training spot
_SIDE_PX = 32
_TELLING_COUNTS = 200  # spots with fewer may well have the same counts by chance
_TOLERANCE = 1e-9

Verdict = tuple[str, str]  # of `stjax.findings`, and what was found


@dataclasses.dataclass(frozen=True)
class Audited:
    """A run, and what it is scored on.

    Attributes:
        step: of the checkpoint that is scored.
        trained_on: its data set; None where that is gone.
        scored_on: the data set of the sections scored.
        sections: their names.
    """

    folder: Path
    config: Config
    fold: Fold
    protocol: Protocol
    step: int
    trained_on: PatchDataset | None
    scored_on: PatchDataset
    sections: Sequence[str]

    @property
    def same_data(self) -> bool:
        """Whether the sections scored are of the data set trained on."""
        return self.scored_on.content_hash == self.fold.content_hash

    @property
    def trained_patients(self) -> Patients:
        """Of the training sections; of patients whose sections are not at hand, of themselves."""
        found = {} if self.trained_on is None else self.trained_on.patients(self.fold.split.train)
        known = {patient for patient, _ in found.values()}
        origins = self.fold.train_patient_origins
        rest = {name: (name, origins.get(name, patients.UNKNOWN)) for name in self.fold.train_patients}
        return found | {name: each for name, each in rest.items() if name not in known}

    @property
    def chosen(self) -> set[str]:
        """Sections that the user named to be held out, whoever's they are."""
        sections = (*self.fold.split.test, *self.fold.split.val)
        if self.fold.blocks is not None and self.same_data:
            return set(sections)
        named = [configs.names(self.config[key], sections) for key in ("test_sections", "val_sections")]
        return {name for names in named for name in names} if self.same_data else set()


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser("python -m stjax.audit", description=__doc__)
    parser.add_argument("--workdir", required=True, type=Path, help="a run of stjax.train")
    parser.add_argument("--data-dir", default="", help="another data set that is scored")
    parser.add_argument("--sections", default="", help="comma-separated; default the run's held-out sections")
    given = parser.parse_args(arguments)
    data, config = workdir.load_fold(given.workdir), configs.load(given.workdir / workdir.CONFIG)
    protocol = workdir.checked_protocol(data, given.workdir)
    meta = checkpoint.newest(given.workdir / workdir.CHECKPOINTS)
    if meta is None:
        raise InputError(f"{given.workdir} has no checkpoint yet; train it (again) with python -m stjax.train")
    trained_on = opened(data)
    scored_on = data.divided(PatchDataset.open(given.data_dir)) if given.data_dir else trained_on
    if scored_on is None:
        raise InputError(f"the data set {data.data_dir} is gone or has changed; name the one to use with --data-dir")
    every = tuple(section["name"] for section in scored_on.sections)
    sections = configs.names(given.sections) or (every if given.data_dir else data.split.test)
    if unknown := [name for name in sections if name not in every]:
        raise InputError(f"--sections names {', '.join(unknown)}; {scored_on.path} has {', '.join(every)}")
    progress.say(str(given.workdir), progress.Progress.of(meta, config.num_epochs, given.workdir))
    step = meta["best_step"] or meta["step"]
    findings = audit(Audited(given.workdir, config, data, protocol, step, trained_on, scored_on, sections))
    print("\n".join(lines(findings)))
    if any(finding.verdict == LEAK for finding in findings):
        sys.exit(1)


def opened(data: Fold) -> PatchDataset | None:
    """The data set a run was trained on, None where it is gone or has changed."""
    try:
        dataset = PatchDataset.open(data.data_dir)
    except InputError:
        return None
    return data.divided(dataset) if dataset.content_hash == data.content_hash else None


def audit(run: Audited) -> list[Finding]:
    """Every check, in the order of the report."""
    genes, statistics = panel_is_of_training(run)
    found = {
        "sections": sections_are_held_out(run),
        "patients": patients_are_apart(run),
        "validation": validation_is_apart(run),
        "duplicates": images_are_apart(run),
        "gene_panel": genes,
        "statistics": statistics,
        "stain_target": stain_target_is_of_training(run),
        "checkpoint": checkpoint_is_not_chosen_on_test(run),
        "starting_weights": starting_weights(run),
    }
    return [Finding(check, *verdict) for check, verdict in found.items()]


def sections_are_held_out(run: Audited) -> Verdict:
    """No section scored is trained on."""
    if not run.same_data:
        return OK, "another data set than the run's is scored"
    if both := sorted(set(run.sections) & set(run.fold.split.train)):
        return LEAK, f"{', '.join(both)}: scored, and trained on"
    return OK, f"none of {', '.join(run.sections)} is trained on"


def patients_are_apart(run: Audited) -> Verdict:
    """No patient scored is trained on."""
    return _apart(run, run.scored_on.patients(run.sections), run.trained_patients, "scored", "in training")


def validation_is_apart(run: Audited) -> Verdict:
    """No patient, image or counts that the checkpoint is chosen on are trained on."""
    split, dataset = run.fold.split, run.trained_on
    if not split.val:
        return OK, "there is none"
    if dataset is None:
        return UNKNOWN, "whose the validation sections are is gone with the data set"
    if found := _duplicates(run, dataset, split.val, split.train):
        return LEAK, "; ".join(found)
    return _apart(run, dataset.patients(split.val), run.trained_patients, "validated on", "in training")


def _apart(run: Audited, theirs: Patients, ours: Patients, used: str, where: str) -> Verdict:
    """Whether no patient is both among `theirs`, which are `used` for something, and `ours`, which are `where`."""
    names = sorted({patient for patient, _ in theirs.values()})
    shared, texts = [], []
    for section, (patient, _) in theirs.items():
        for other in sorted({other for other, _ in ours.values() if spelling_key(other) == spelling_key(patient)}):
            shared.append(section)
            same = other == patient
            texts.append(
                f"patient {patient} is {used}, and {where}"
                if same
                else f"patient {patient} is {used}, {other} {where}: one person under two names?"
            )
    origins = {name: origin for name, (_, origin) in ours.items()}
    origins |= {f"{name} ({used})" if name in ours else name: origin for name, (_, origin) in theirs.items()}
    unknown, detail = not_stated(origins), "; ".join(dict.fromkeys(texts))
    if not texts:
        return UNKNOWN if unknown else OK, unknown or f"{used} {', '.join(names)}, none of them {where}"
    if unknown and not run.same_data:  # the names may be the same by chance
        return UNKNOWN, f"{detail}, but {unknown}"
    return CHOSEN if set(shared) <= run.chosen else LEAK, detail


def images_are_apart(run: Audited) -> Verdict:
    """No image or counts scored, nor a copy, are trained on or validate."""
    if run.trained_on is None:
        return UNKNOWN, "the training images are gone"
    ours = (*run.fold.split.train, *run.fold.split.val)
    theirs = [name for name in run.sections if not (run.same_data and name in ours)]
    if found := _duplicates(run, run.scored_on, theirs, ours):
        return LEAK, "; ".join(found)
    if run.fold.blocks is not None and run.same_data:
        return OK, f"no image or counts of {', '.join(theirs)} are shown for spots of {', '.join(ours)}"
    return OK, f"no image or counts of {counted(len(theirs), 'sections')} are among the {len(ours)} of training"


def _duplicates(run: Audited, dataset: PatchDataset, theirs: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Which sections of a data set have the image or the counts of others, of the run's; of parts of one slide, which
    are shown to the model with the same tissue."""
    training = run.trained_on
    assert training is not None
    parts = run.fold.blocks is not None and dataset.content_hash == run.fold.content_hash
    tables = {name: _telling_spots(training, name) for name in ours}
    pictures = {name: _picture(training, name) for name in ours}
    found = []
    for name in theirs:
        spots, picture = _telling_spots(dataset, name), _picture(dataset, name)
        for other in ours:
            same = dataset.section(name)["image"]["sha256"] == training.section(other)["image"]["sha256"]
            if same and parts:
                found += _shown_alike(run, dataset, name, other)
                continue
            if same:
                found.append(f"{name} has the image of {other}")
            elif _likeness(picture, pictures[other]) > SAME_PICTURE:
                found.append(f"{name} looks like a copy of {other}")
            if spots and len(spots & tables[other]) > SAME_SPOTS * len(spots):
                found.append(f"{name} has the counts of {other}")
    return found


def _shown_alike(run: Audited, dataset: PatchDataset, name: str, other: str) -> list[str]:
    """Whether the model is shown the same tissue for spots of two parts of a slide."""
    ours, theirs = (views.of(run.fold).field(dataset, each) for each in (name, other))
    count = overlapping(ours.middle_xy, theirs.middle_xy, max(ours.side_px, theirs.side_px))
    return [counted(count, f"spots of {name} are shown tissue that is shown for spots of {other}")] if count else []


def _telling_spots(dataset: PatchDataset, name: str) -> set[int]:
    """A number for the counts of each spot of a section that has enough of them to be known by them."""
    pairs = zip(dataset.genes.ensembl_id, dataset.genes.symbol, strict=True)
    weights = np.array([zlib.crc32((ensembl_id or symbol).encode()) for ensembl_id, symbol in pairs], np.uint64)
    found: set[int] = set()
    for table in dataset.tables(name, names=False):
        telling: Any = table.counts[table.total_counts >= _TELLING_COUNTS]
        found.update((telling.astype(np.uint64) @ weights).tolist())  # sums wrap around: any 64 bits do
    return found


def _picture(dataset: PatchDataset, name: str) -> np.ndarray:
    """[32, 32] grey values of a section's slide, of mean 0 and length 1."""
    with Image.open(dataset.path / dataset.section(name)["thumbnail"]) as picture:
        small = picture.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    values = np.asarray(small, np.float64)
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-9)


def _likeness(picture: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two pictures in the best of the eight symmetries."""
    turned = [np.rot90(side, times) for side in (picture, picture.T) for times in range(4)]
    return max(float(np.sum(each * other)) for each in turned)


def panel_is_of_training(run: Audited) -> list[Verdict]:
    """Genes, and statistics, are those of the training sections alone."""
    if run.trained_on is None:
        return [(UNKNOWN, "the training data is gone")] * 2
    fold = run.fold
    fitted = _fitted(run, fold.split)
    everything = dataclasses.replace(fold.split, train=(*fold.split.train, *fold.split.val, *fold.split.test))
    with_test = dataclasses.replace(fold.split, train=(*fold.split.train, *fold.split.test))
    result = []
    for same in (_same_genes, _same_statistics):
        if same(fitted, fold):
            result.append((OK, f"that of {', '.join(fold.split.train)} alone"))
        elif same is _same_genes and run.protocol.panel_scope == "all":
            result.append((LEAK, f"protocol {run.protocol.name} ranks genes on test patients, as published"))
        elif any(same(_fitted(run, split), fold) for split in (with_test, everything)):
            result.append((LEAK, "fitted on the held-out sections too"))
        else:
            result.append((UNKNOWN, "not what the training sections give"))
    return result


def _fitted(run: Audited, split: Split) -> Fold:
    """The fold that the training sections of a split give."""
    assert run.trained_on is not None
    rules = dataclasses.replace(run.protocol, panel_scope="train")
    sizes, view = configs.spot_sizes(run.config), views.of(run.fold)
    fold = fit(view, rules, run.trained_on, split, sizes_um=sizes)
    return view.refit(fold, Selection(run.trained_on, split.train, rules, train=True, sizes_um=sizes))


def _main_genes(fold: Fold) -> list[tuple[str, str]]:
    main = fold.panel.main
    return list(zip(main.ensembl_id.tolist(), main.symbol.tolist(), strict=True))


def _same_genes(fitted: Fold, saved: Fold) -> bool:
    """Whether the main genes are the same, in whatever order."""
    return sorted(_main_genes(fitted)) == sorted(_main_genes(saved))


def _same_statistics(fitted: Fold, saved: Fold) -> bool:
    """Whether the statistics of images, and of the main genes of both, are the same."""
    place = {gene: row for row, gene in enumerate(_main_genes(fitted))}
    pairs = np.array([(place[gene], row) for row, gene in enumerate(_main_genes(saved)) if gene in place], np.int64)
    ours, theirs = pairs.reshape(-1, 2).T
    return all(
        np.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE)
        for a, b in (
            (fitted.image_mean, saved.image_mean),
            (fitted.image_std, saved.image_std),
            *(
                (getattr(fitted, name)[ours], getattr(saved, name)[theirs])
                for name in ("target_mean", "target_std", "train_mean")
            ),
            *zip(*(views.of(each).statistics(each) for each in (fitted, saved)), strict=True),
        )
    )


def stain_target_is_of_training(run: Audited) -> Verdict:
    """The slide that stains are normalised to is not one of those scored."""
    if run.fold.stain_target is None:
        return OK, "stains are not normalised"
    image = run.fold.stain_target["image_sha256"]
    if same := [name for name in run.sections if run.scored_on.section(name)["image"]["sha256"] == image]:
        return LEAK, f"stains are normalised to the slide of {', '.join(same)}, which is scored"
    return OK, f"{run.fold.stain_target['image']} is not scored"


def checkpoint_is_not_chosen_on_test(run: Audited) -> Verdict:
    """The checkpoint was chosen on patients that are not scored, or not chosen at all."""
    split = run.fold.split
    if not split.val:
        return OK, f"step {run.step} is the last: none was chosen"
    if run.same_data and (both := sorted(set(split.val) & set(run.sections))):
        return LEAK, f"{', '.join(both)}: scored, and the checkpoint was chosen on it"
    if run.trained_on is None:
        return UNKNOWN, "whose the validation sections are is gone with the data set"
    theirs, ours = run.scored_on.patients(run.sections), run.trained_on.patients(split.val)
    found = _apart(run, theirs, ours, "scored", "the checkpoint was chosen on them")
    if found[0] != OK:
        return found
    steps = _validation_losses(run.folder)
    if not steps:
        return UNKNOWN, "logs/train.jsonl does not say how it was chosen"
    if run.step != min(steps, key=lambda step: steps[step]):
        return UNKNOWN, f"step {run.step} is not the one of lowest validation loss in logs/train.jsonl"
    return OK, f"step {run.step} has the lowest loss on {', '.join(split.val)}"


def _validation_losses(folder: Path) -> dict[int, float]:
    """{step: validation loss} at the end of each epoch, as logged."""
    entries = log_file.read(folder / "logs" / log_file.FILE)
    return {entry["step"]: entry["val_loss"] for entry in entries if entry.get("val_loss") is not None}


def starting_weights(run: Audited) -> Verdict:
    """Where training began."""
    begun = run.config.get("init_from", "")
    if not begun:
        return OK, "random"
    if Path(begun).suffix:
        return UNKNOWN, f"{Path(begun).name}: what it was trained on is not known here"
    return OK, f"{begun}, from ImageNet"


if __name__ == "__main__":
    cli.program(main)
