"""Scores a trained model on held-out sections, and compares it with baselines.

usage: python -m stjax.evaluate --workdir=DIR [--protocol=all] [--data-dir=DIR] [--sections=A,B] [--ensemble=RUN,RUN]

writes, under the work directory: evaluation/<protocol>/metrics.json, evaluation/<protocol>/per_gene.csv, trust.csv,
predictions/<section>.h5ad, predictions/<section>_<gene>.png and, with --protocol=all, evaluation/protocols.json, with
--gene-sets, trust_gene_sets.csv; docs/evaluation.md explains every metric, docs/trust.md which genes to believe

examples:
  python -m stjax.evaluate --workdir=runs/enet_b0_aux
  python -m stjax.evaluate --workdir=runs/c5 --sections=C4,C5
  python -m stjax.evaluate --workdir=runs/enet_b0_aux --protocol=all
  python -m stjax.evaluate --workdir=runs/folds/fold_0 --ensemble=runs/folds/fold_1,runs/folds/fold_2
  python -m stjax.evaluate --workdir=runs/pixnet --data-dir=data/hd_tiles --spot-size-um=2,8,16,100

A model of tiles is scored on spots of every size. Sizes that the data lacks are made from its finest bins; a size the
model was not trained at is compared with the prediction for the nearest spot of the training size,
and `--beside=RUN` adds a model of patches, applied to a patch around every spot. Other models are scored on the sizes
that another data set has (docs/comparators.md says how models of sections see them).
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import cli, files, json_files, system_errors
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import audit, distributed, findings, gene_sets, intervals, progress, workdir
from stjax.config import names, numbers, spot_sizes
from stjax.evaluation import (
    comparison,
    conformal,
    credibility,
    results,
    scoring,
    set_scores,
    statistics,
    under_protocols,
)
from stjax.evaluation import ensemble as members
from stjax.evaluation.methods import METHODS
from stjax.gene_sets import GeneSets
from stjax.inference import prepared
from stjax.inference.prediction import SectionPrediction, provenance
from stjax.inference.slide_prediction import trusted, within
from stjax.tables import write_csv
from stjax.trust import Trust

MAX_SPOTS = 20_000
GENE_SETS_HELP = "a GMT file: also scores of its gene sets, and how far these can be trusted (docs/trust.md)"
SYMMETRIES_HELP = "predict the mean over the eight symmetries of the square: eight times the work, steadier maps"


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser("python -m stjax.evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, type=Path, help="a run of stjax.train")
    parser.add_argument("--data-dir", default="", help="score on another data set than the run's own")
    parser.add_argument(
        "--protocol", default="", help="`all`: also score the same prediction under every protocol that fits"
    )
    parser.add_argument("--sections", type=names, default=(), help="comma-separated; default the run's held-out ones")
    sizes = functools.partial(numbers, name="--spot-size-um")
    help_of_sizes = "of tiles: sizes to score, default those of training"
    parser.add_argument("--spot-size-um", dest="sizes_um", type=sizes, default=(), help=help_of_sizes)
    parser.add_argument(
        "--max-spots", type=int, default=MAX_SPOTS, help=f"of tiles: of a section and size, at random ({MAX_SPOTS})"
    )
    parser.add_argument("--beside", type=Path, help="of tiles: a run of a model of patches, scored on the same spots")
    help_of_ensemble = "comma-separated runs: score the mean of this run and those"
    parser.add_argument("--ensemble", type=_folders, default=(), help=help_of_ensemble)
    parser.add_argument(
        "--features", default="", help="folder of the features for the ridge that the model is compared with"
    )
    parser.add_argument(
        "--demo-truth", type=Path, help="raw demo folder: score against its cells, without counting noise"
    )
    help_of_folds = "comma-separated folds of stjax.crossval: intervals rest on the patients that each holds out, too"
    parser.add_argument("--calibrate-with", type=_folders, default=(), help=help_of_folds)
    parser.add_argument("--gene-sets", type=Path, help=GENE_SETS_HELP)
    parser.add_argument("--symmetries", action="store_true", help=SYMMETRIES_HELP)
    given = vars(parser.parse_args(arguments))
    evaluate(given.pop("workdir"), Options(**given))


def _folders(text: str) -> list[Path]:
    return [Path(name) for name in names(text)]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is scored, and how; as they are, the run's own held-out sections under its own protocol.

    Attributes:
        data_dir: another data set, all of whose sections are scored unless `sections` names some.
        protocol: "all" scores the prediction under every protocol that fits besides the run's own.
        sizes_um: of tiles, the sizes of spots to score; default those asked for in training, or of the data.
        max_spots: of tiles, how many of a section and size, drawn at random; 0 scores all.
        beside: of tiles, the work directory of a model of patches to score on the same spots.
        ensemble: further runs, seeds or folds, whose predictions are averaged with this one's.
        symmetries: predict means over the eight symmetries, which protocols other than `stnet` do not.
        features: those that the ridge on features is fitted to; default the model's own, or the only ones there are.
        calibrate_with: runs of the same settings, folds of a cross-validation: intervals rest on the patients that each
            holds out, too, but for those that are scored.
        gene_sets: a GMT file, whose sets are scored too; it changes nothing else.
        demo_truth: the raw folder of a demo: its cells' expected expression takes the place of the counts'.
    """

    data_dir: str = ""
    protocol: str = ""
    sections: Sequence[str] = ()
    sizes_um: Sequence[float] = ()
    max_spots: int = MAX_SPOTS
    beside: Path | None = None
    ensemble: Sequence[Path] = ()
    symmetries: bool = False
    features: str = ""
    demo_truth: Path | None = None
    calibrate_with: Sequence[Path] = ()
    gene_sets: Path | None = None

    def check(self, run: workdir.Run) -> None:
        """Raises InputError for options that a run's model has no use for."""
        if self.protocol not in ("", "all", run.fold.protocol):
            raise InputError(
                f"{run.folder} was trained under protocol {run.fold.protocol}; give --protocol=all to score it under "
                f"every protocol that fits, or train under {self.protocol} with --config.protocol"
            )
        if (self.sizes_um or self.beside or self.max_spots != MAX_SPOTS) and not run.view.any_size:
            raise InputError(
                "--spot-size-um, --max-spots and --beside are for models of tiles; this one sees a patch around a spot"
            )
        if self.max_spots < 0:
            raise InputError(f"--max-spots is {self.max_spots}, expected a number of spots, or 0 for all")

    def changed(self) -> dict[str, str]:
        """Those that change how the sections are scored, and are not at their defaults."""
        found = {
            "--symmetries": self.symmetries or None,
            "--demo-truth": self.demo_truth,
            "--ensemble": ",".join(map(str, self.ensemble)) or None,
            "--max-spots": None if self.max_spots == MAX_SPOTS else self.max_spots,
            "--beside": self.beside,
            "--features": self.features or None,
        }
        return {name: str(value) for name, value in found.items() if value is not None}


def evaluate(folder: Path, options: Options = Options()) -> dict[str, Any]:
    """Predicts the sections, scores model and baselines, writes and prints the results.

    Args:
        folder: the work directory.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: no trained model, another protocol than the run's, an unknown section.
    """
    run = workdir.Run.load(folder)
    run = run.over_symmetries() if options.symmetries else run
    options.check(run)
    asked = Request.of(run, options)
    system_errors.check_folder(asked.target, "--workdir")
    if not distributed.is_writer():
        return score(run, asked, options)
    busy = f"another process is scoring into {asked.target}; wait for it"
    with files.lock(asked.target / workdir.LOCK, busy=busy):
        return score(run, asked, options)


def score(run: workdir.Run, asked: "Request", options: Options) -> dict[str, Any]:
    """`evaluate`, of a run that is loaded, into a folder that no other process writes meanwhile."""
    runs = [each.over_symmetries() if options.symmetries else each for each in members.load(options.ensemble, run)]
    for each in runs:
        progress.say(str(each.folder), each.progress)
    everywhere, training = predicted(run, runs, asked, options), prepared.training(run, asked.features.trained)
    found = under_protocols.own_spots(run, everywhere) if options.protocol == "all" else everywhere
    if not found:
        raise InputError(
            f"no spot of {', '.join(asked.sections)} has the {run.protocol.min_counts} counts the protocol asks for"
        )
    result, per_gene, calibration, trust = figures(run, runs, asked, options, found, training)
    if not distributed.is_writer():
        return result

    of_model, predictions = told(run, asked, trust, calibration, found)
    written = results.write(asked.target, asked.pictures, result, per_gene, predictions, run) + of_model
    if (sets := asked.gene_sets) is not None:
        written.append((run.folder if asked.own else asked.target) / gene_sets.FILE)
        write_csv(written[-1], set_scores.reliability(run, sets, found, per_gene["pcc"].to_numpy()))
    results.print_table(result)
    if not asked.own:
        print(f"Not the run's own evaluation ({', '.join(asked.differs)}): kept apart, in {asked.target}")
    if options.protocol == "all":
        entries = under_protocols.score(run, audit.opened(run.fold), everywhere, training)
        json_files.write(asked.protocols, {**run.progress.facts(), "protocols": entries})
        under_protocols.print_table(entries)
        written.append(asked.protocols)
    print("results:")
    for path in written:
        print(path)
    return result


def told(
    run: workdir.Run,
    asked: "Request",
    trust: Trust,
    calibration: conformal.Calibration | None,
    found: Sequence[prepared.Found],
) -> tuple[list[Path], list[SectionPrediction]]:
    """What goes with the model, written if this is its own evaluation; and the predictions that have it."""
    intervals = calibration and conformal.travelling(calibration, run)
    if intervals and asked.own:
        intervals.save(run.folder)
    written = [trust.save(run.folder)] if asked.own else []
    ends = [each.prediction if intervals is None else within(each.prediction, intervals, run) for each in found]
    return written, [trusted(each, run) for each in ends]


def predicted(
    run: workdir.Run, runs: Sequence[workdir.Run], asked: "Request", options: Options
) -> list[prepared.Found]:
    """The sections, as the runs predict them together: the spots of every protocol, where every one is asked for."""
    patch_model = None if options.beside is None else prepared.comparable(workdir.Run.load(options.beside), run)
    if patch_model is not None and options.symmetries:
        patch_model = patch_model.over_symmetries()
    predicting = [under_protocols.loosest(each) for each in runs] if options.protocol == "all" else runs
    how = {"sizes_um": asked.sizes_um, "max_spots": options.max_spots, "features": asked.features.scored}
    found = members.predict_sections(predicting, asked.dataset, asked.sections, **how, beside=patch_model)
    found = members.with_trained_size(predicting, found, lambda: audit.opened(run.fold))
    if options.demo_truth is None:
        return found
    from stjax.evaluation.demo_truth import without_noise  # the generator is for the demo alone

    return [without_noise(each, run, options.demo_truth) for each in found]


def figures(
    run: workdir.Run,
    runs: Sequence[workdir.Run],
    asked: "Request",
    options: Options,
    found: Sequence[prepared.Found],
    training: prepared.Training | None,
) -> tuple[dict[str, Any], pd.DataFrame, conformal.Calibration | None, Trust]:
    """What metrics.json holds; a row a gene; what intervals of single values are made by, if there is any; and what of
    each gene goes with the model."""
    task = comparison.Task.own(run, training)
    scores = comparison.score(run, task, found, pooling=run.protocol.pooling)
    targets, calibration, why = {}, None, credibility.NOISELESS
    if options.demo_truth is None:  # what cells express has no depth and no noise: these would say nothing of it
        targets = comparison.targets(run, found, training, scores)
        scored = {each.prediction.patient for each in found}
        how = {"sizes_um": asked.sizes_um, "max_spots": options.max_spots, "scored": scored}
        folds = members.load(options.calibrate_with, run, option="--calibrate-with")[1:]
        calibration, why = conformal.calibrate(runs, **how, folds=folds)
    tested, columns = credibility.figures(task, found, scores, calibration, why)
    audits = []
    for each in runs:
        about = (each.folder, each.config, each.fold, each.protocol, each.step, audit.opened(each.fold))
        audits.append(audit.audit(audit.Audited(*about, asked.dataset, asked.sections)))
    result = {
        **head(run, asked, found),
        "truth": "counts" if options.demo_truth is None else "demo_cells",
        "ensemble": [members.describe(each) for each in runs] if options.ensemble else None,
        "level": intervals.LEVEL,
        "resampled": None if scores.units is None else scores.units.kind,
        "bootstraps": statistics.BOOTSTRAPS,
        "uses_test_expression": [name for name in scores.summaries if METHODS[name].uses_test_expression],
        "methods": scores.summaries,
        "model_minus": scoring.differences(scores),
        "ridge_features": task.about_features(asked.features.scored),
        "targets": {name: {"methods": of.summaries} for name, of in targets.items()},
        **tested,
        "trained_sizes_um": list(run.view.trained_sizes_um(run.fold)),
        "sizes_um": comparison.sizes_of(run, task, found),
        "audit": [
            dataclasses.asdict(each) for each in findings.worst(audits, [each.folder.resolve().name for each in runs])
        ],
    }  # fmt: skip
    panel, main = run.fold.panel, slice(run.fold.panel.num_main)
    per_gene = scores.table(panel.names[main], panel.ensembl_id[main]).assign(**columns)
    return result, per_gene, calibration, credibility.trust(run, scores, targets, columns)


@dataclasses.dataclass(frozen=True)
class Request:
    """What to score, and where the results go.

    Attributes:
        sizes_um: of spots of tiles.
        target: folder of metrics.json; pictures: of predictions; protocols: the file of --protocol=all.
        features: of the ridge on features.
        differs: the options that make them another than the run's own result.
        gene_sets: that are scored too.
    """

    dataset: PatchDataset
    sections: tuple[str, ...]
    sizes_um: tuple[float, ...]
    target: Path
    pictures: Path
    protocols: Path
    features: prepared.FeaturesBeside
    differs: tuple[str, ...]
    gene_sets: GeneSets | None = None

    @property
    def own(self) -> bool:
        """Whether they are the run's own result."""
        return not self.differs

    @classmethod
    def of(cls, run: workdir.Run, options: Options) -> "Request":
        """Checked. Only the sections held out by default, with every option at its default, go where the run's own
        result lives.

        Raises:
            InputError: no such section, none held out, or a data set prepared otherwise.
        """
        dataset = run.open_dataset(options.data_dir)
        known = [section["name"] for section in dataset.sections]
        chosen = tuple(options.sections) or (tuple(known) if options.data_dir else run.fold.split.test)
        if unknown := [name for name in chosen if name not in known]:
            raise InputError(f"--sections names {', '.join(unknown)}; {dataset.path} has {', '.join(known)}")
        if not chosen:
            raise InputError(f"{run.folder} holds out no section; name the ones to score with --sections")
        prepared.check_preparation(run, dataset)
        trained_sizes = spot_sizes(run.config)
        sizes = tuple(options.sizes_um) or trained_sizes
        everything = run.folder / "evaluation"
        target = everything / run.fold.protocol
        changed = {
            "--data-dir": bool(options.data_dir),
            "--sections": set(chosen) != set(run.fold.split.test),
            "--spot-size-um": sizes != trained_sizes,
        }
        settings, features = options.changed(), prepared.features_beside(run, dataset, options.features)
        differs = (*(name for name, other in changed.items() if other), *settings)
        places = run.folder, everything
        if differs:
            text = f"{dataset.content_hash}{sorted(chosen)}{sorted(sizes)}{sorted(settings.items())}"
            target = target / hashlib.sha256(text.encode()).hexdigest()[:12]
            places = target, target
        pictures, scores = places[0] / "predictions", places[1] / "protocols.json"
        sets = None if options.gene_sets is None else GeneSets.read(options.gene_sets, run.fold)
        return cls(dataset, chosen, sizes, target, pictures, scores, features, differs, sets)


def head(run: workdir.Run, asked: Request, found: Sequence[prepared.Found]) -> dict[str, Any]:
    """What a result says of where it comes from."""
    predictions = [each.prediction for each in found]
    synthetic = any(prediction.synthetic for prediction in predictions)
    counts = np.concatenate([each.counts for each in found])
    return {
        **provenance(run, data_sha256=asked.dataset.content_hash, synthetic=synthetic),
        "part": part_of(run, asked.dataset, asked.sections),
        "sections": [prediction.section for prediction in predictions],
        "spots": len(counts),
        "pcc_pooling": run.protocol.pooling,
        "error_unit": "standard deviations of the training targets" if run.protocol.standardise_main else "expression",
        "patients_also_in_training": sorted({each.patient for each in predictions} & set(run.fold.train_patients)),
        "genes_not_in_the_data": int(np.isnan(counts).all(axis=0).sum()),
        "hardware": workdir.hardware(),
        "versions": workdir.versions(),
    }


def part_of(run: workdir.Run, dataset: PatchDataset, sections: Sequence[str]) -> str:
    """What sections are to the run: "held-out", "TRAINING", "validation", "mixed", or "other" data's."""
    if dataset.content_hash != run.fold.content_hash:
        return "other"
    split = run.fold.split
    parts = {"held-out": split.test, "TRAINING": split.train, "validation": split.val}
    found = {part for part, of_part in parts.items() for name in sections if name in of_part}
    return found.pop() if len(found) == 1 else "mixed"


if __name__ == "__main__":
    cli.program(main)
