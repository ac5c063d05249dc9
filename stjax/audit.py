"""Looks for ways in which what a run is scored on may have reached its training.

usage: python -m stjax.audit --workdir=DIR [--data_dir=DIR] [--sections=A,B]

examples:
  python -m stjax.audit --workdir=runs/enet_b0_aux
  python -m stjax.audit --workdir=runs/c5 --sections=C4,C5

Exit code 1 when there is a leak; `stjax.evaluate` makes the same checks and writes them into metrics.json. A check that
finds nothing is no proof: two patients of one name, or one patient of two, are beyond it.
"""

import argparse
import dataclasses
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep import cli
from data_prep.dataset import PatchDataset, SectionTable
from data_prep.errors import InputError
from stjax import checkpoint, progress, workdir
from stjax import config as configs
from stjax.config import Config
from stjax.data.panel import Panel, fit_panel
from stjax.data.tile_records import TileRecords
from stjax.protocols import Protocol, Split
from stjax.workdir import DataRecord

OK, LEAK, UNKNOWN = "ok", "leak", "cannot tell"
SAME_PICTURE = 0.98  # correlation of 32 x 32 px: copies, scaled and compressed anew, 0.9998; other sections below 0.85
SAME_SPOTS = 0.5  # of a section's spots with the very counts of a training spot
_SIDE_PX = 32
_TELLING_READS = 200  # spots with fewer may well have the same counts by chance
_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found: verdict "ok", "leak" or "cannot tell"."""

    check: str
    verdict: str
    detail: str


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
    data: DataRecord
    protocol: Protocol
    step: int
    trained_on: PatchDataset | None
    scored_on: PatchDataset
    sections: Sequence[str]

    @classmethod
    def of(
        cls, run: workdir.Run, scored_on: PatchDataset, sections: Sequence[str], *, trained_on: PatchDataset | None
    ) -> "Audited":
        """A run that is loaded."""
        return cls(run.workdir, run.config, run.data, run.protocol, run.step, trained_on, scored_on, sections)

    @property
    def same_data(self) -> bool:
        """Whether the sections scored are of the data set trained on."""
        return self.scored_on.content_hash == self.data.content_hash

    def patients(self, sections: Sequence[str]) -> set[str]:
        """Of sections of the data set trained on."""
        return {self.trained_on.section(name)["patient"] for name in sections} if self.trained_on else set()

    @property
    def scored_patients(self) -> set[str]:
        """Whose sections are scored."""
        return {self.scored_on.section(name)["patient"] for name in self.sections}


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser(
        prog="python -m stjax.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path, help="a run of stjax.train")
    parser.add_argument("--data_dir", default="", help="another data set that is scored")
    parser.add_argument("--sections", default="", help="comma-separated; default the run's held-out sections")
    given = parser.parse_args(arguments)
    data, config = workdir.load_data_record(given.workdir), configs.load(given.workdir / workdir.CONFIG)
    protocol = workdir.checked_protocol(data, given.workdir)
    meta = checkpoint.newest(given.workdir / workdir.CHECKPOINTS)
    if meta is None:
        raise InputError(f"{given.workdir} has no checkpoint yet; train it (again) with python -m stjax.train")
    trained_on = opened(data)
    scored_on = PatchDataset.open(given.data_dir) if given.data_dir else trained_on
    if scored_on is None:
        raise InputError(f"the data set {data.data_dir} is gone or has changed; name the one to use with --data_dir")
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


def opened(data: DataRecord) -> PatchDataset | None:
    """The data set a run was trained on, None where it is gone or has changed."""
    try:
        dataset = PatchDataset.open(data.data_dir)
    except InputError:
        return None
    return dataset if dataset.content_hash == data.content_hash else None


def lines(findings: Sequence[Finding]) -> list[str]:
    """A line a finding, leaks in capitals, and the verdict."""
    result = [f"{'LEAK' if f.verdict == LEAK else f.verdict:12s}{f.check}: {f.detail}" for f in findings]
    leaks = sum(finding.verdict == LEAK for finding in findings)
    unknown = sum(finding.verdict == UNKNOWN for finding in findings)
    if leaks:
        return [*result, f"LEAKAGE FOUND: {leaks} of {len(findings)} checks found a leak"]
    return [*result, f"no leak found in {len(findings) - unknown} checks" + f", {unknown} cannot tell" * bool(unknown)]


def audit(run: Audited) -> list[Finding]:
    """Every check, in the order of the report."""
    return [
        sections_are_held_out(run),
        patients_are_apart(run),
        images_are_apart(run),
        *panel_is_of_training(run),
        stain_target_is_of_training(run),
        checkpoint_is_not_chosen_on_test(run),
        starting_weights(run),
    ]


def worst(audits: Sequence[list[Finding]], names: Sequence[str]) -> list[Finding]:
    """The findings of several runs as one: of each check the worst verdict, and whose it is."""
    order = (OK, UNKNOWN, LEAK)
    result = []
    for findings in zip(*audits, strict=True):
        place = max(range(len(findings)), key=lambda i: order.index(findings[i].verdict))
        found = findings[place]
        sound = found.verdict == OK or len(names) == 1
        detail = found.detail if sound else f"{names[place]}: {found.detail}"
        result.append(dataclasses.replace(found, detail=detail))
    return result


def sections_are_held_out(run: Audited) -> Finding:
    """No section scored is trained on."""
    check = "sections"
    if not run.same_data:
        return Finding(check, OK, "another data set than the run's is scored")
    if both := sorted(set(run.sections) & set(run.data.split.train)):
        return Finding(check, LEAK, f"{', '.join(both)}: scored, and trained on")
    return Finding(check, OK, f"none of {', '.join(run.sections)} is trained on")


def patients_are_apart(run: Audited) -> Finding:
    """No patient scored is trained on."""
    check = "patients"
    if both := sorted(run.scored_patients & set(run.data.train_patients)):
        return Finding(check, LEAK, f"patient {', '.join(both)} is scored, and in training")
    return Finding(check, OK, f"scored {', '.join(sorted(run.scored_patients))}, none of them in training")


def images_are_apart(run: Audited) -> Finding:
    """No image or counts scored, nor a copy, are trained on or validate."""
    check = "duplicates"
    if run.trained_on is None:
        return Finding(check, UNKNOWN, "the training images are gone")
    ours = (*run.data.split.train, *run.data.split.val)
    theirs = [name for name in run.sections if not (run.same_data and name in ours)]
    tables = {name: _telling_spots(run.trained_on.table(name), run.trained_on) for name in ours}
    pictures = {name: _picture(run.trained_on, name) for name in ours}
    found = []
    for name in theirs:
        spots, picture = _telling_spots(run.scored_on.table(name), run.scored_on), _picture(run.scored_on, name)
        for other in ours:
            if run.scored_on.section(name)["image"]["sha256"] == run.trained_on.section(other)["image"]["sha256"]:
                found.append(f"{name} has the image of {other}")
            elif _likeness(picture, pictures[other]) > SAME_PICTURE:
                found.append(f"{name} looks like a copy of {other}")
            if spots and len(spots & tables[other]) > SAME_SPOTS * len(spots):
                found.append(f"{name} has the counts of {other}")
    if found:
        return Finding(check, LEAK, "; ".join(found))
    return Finding(check, OK, f"no image or counts of {len(theirs)} sections are among the {len(ours)} of training")


def _telling_spots(table: SectionTable, dataset: PatchDataset) -> set[int]:
    """A number for the counts of each spot that has enough reads to be known by them."""
    pairs = zip(dataset.genes.ensembl_id, dataset.genes.symbol, strict=True)
    weights = np.array([zlib.crc32((ensembl_id or symbol).encode()) for ensembl_id, symbol in pairs], np.uint64)
    telling: Any = table.counts[table.total_counts >= _TELLING_READS]
    return set((telling.astype(np.uint64) @ weights).tolist())  # sums wrap around: any 64 bits do


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


def panel_is_of_training(run: Audited) -> list[Finding]:
    """Genes and statistics are those of the training sections alone."""
    genes, statistics = "gene panel", "statistics"
    if run.trained_on is None:
        return [Finding(check, UNKNOWN, "the training data is gone") for check in (genes, statistics)]
    data = run.data
    fitted = _panel(run, data.split)
    everything = dataclasses.replace(data.split, train=(*data.split.train, *data.split.val, *data.split.test))
    with_test = dataclasses.replace(data.split, train=(*data.split.train, *data.split.test))
    result = []
    for check, same in ((genes, _same_genes), (statistics, _same_statistics)):
        if same(fitted, data.panel):
            result.append(Finding(check, OK, f"that of {', '.join(data.split.train)} alone"))
        elif check == genes and run.protocol.panel_scope == "all":
            result.append(
                Finding(check, LEAK, f"protocol {run.protocol.name} ranks genes on test patients, as published")
            )
        elif any(same(_panel(run, split), data.panel) for split in (with_test, everything)):
            result.append(Finding(check, LEAK, "fitted on the held-out sections too"))
        else:
            result.append(Finding(check, UNKNOWN, "not what the training sections give"))
    return result


def _panel(run: Audited, split: Split) -> Panel:
    """The panel that the training sections of a split give."""
    assert run.trained_on is not None
    rules = dataclasses.replace(run.protocol, panel_scope="train")
    panel = fit_panel(rules, run.trained_on, split)
    if run.data.tiles is None:
        return panel
    sizes = configs.numbers(run.config.spot_sizes_um, "spot_sizes_um")
    return TileRecords(run.trained_on, split.train, panel, rules, sizes_um=sizes).refit(panel, rules)


def _main_genes(panel: Panel) -> list[tuple[str, str]]:
    main = slice(panel.num_main)
    return list(zip(panel.ensembl_id[main].tolist(), panel.symbol[main].tolist(), strict=True))


def _same_genes(fitted: Panel, saved: Panel) -> bool:
    """Whether the main genes are the same, in whatever order."""
    return sorted(_main_genes(fitted)) == sorted(_main_genes(saved))


def _same_statistics(fitted: Panel, saved: Panel) -> bool:
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
        )
    )


def stain_target_is_of_training(run: Audited) -> Finding:
    """The slide that stains are normalised to is not one of those scored."""
    check = "stain target"
    if run.data.stain_target is None:
        return Finding(check, OK, "stains are not normalised")
    image = run.data.stain_target["image_sha256"]
    if same := [name for name in run.sections if run.scored_on.section(name)["image"]["sha256"] == image]:
        return Finding(check, LEAK, f"stains are normalised to the slide of {', '.join(same)}, which is scored")
    return Finding(check, OK, f"{run.data.stain_target['image']} is not scored")


def checkpoint_is_not_chosen_on_test(run: Audited) -> Finding:
    """The checkpoint was chosen on patients that are not scored, or not chosen at all."""
    check, split = "checkpoint", run.data.split
    if not split.val:
        return Finding(check, OK, f"step {run.step} is the last: none was chosen")
    if run.same_data and (both := sorted(set(split.val) & set(run.sections))):
        return Finding(check, LEAK, f"{', '.join(both)}: scored, and the checkpoint was chosen on it")
    if run.trained_on is None:
        return Finding(check, UNKNOWN, "whose the validation sections are is gone with the data set")
    if both := sorted(run.patients(split.val) & run.scored_patients):
        return Finding(check, LEAK, f"patient {', '.join(both)} is scored, and the checkpoint was chosen on them")
    steps = _validation_losses(run.folder)
    if not steps:
        return Finding(check, UNKNOWN, "logs/train.jsonl does not say how it was chosen")
    if run.step != min(steps, key=lambda step: steps[step]):
        return Finding(check, UNKNOWN, f"step {run.step} is not the one of lowest validation loss in logs/train.jsonl")
    return Finding(check, OK, f"step {run.step} has the lowest loss on {', '.join(split.val)}")


def _validation_losses(folder: Path) -> dict[int, float]:
    """{step: validation loss} at the end of each epoch, as logged."""
    try:
        entries: list[dict[str, Any]] = [
            json.loads(line) for line in (folder / "logs" / "train.jsonl").read_text().splitlines()
        ]
    except (OSError, ValueError):
        return {}
    return {entry["step"]: entry["val_loss"] for entry in entries if entry.get("val_loss") is not None}


def starting_weights(run: Audited) -> Finding:
    """Where training began."""
    begun = run.config.get("init_from", "")
    if not begun:
        return Finding("starting weights", OK, "random")
    if Path(begun).suffix:
        return Finding("starting weights", UNKNOWN, f"{Path(begun).name}: what it was trained on is not known here")
    return Finding("starting weights", OK, f"{begun}, from ImageNet")


if __name__ == "__main__":
    cli.run(main)
