"""Scores encoders on HEST-Benchmark, from its downloaded folder.

usage: python -m stjax.hest_bench --root=DIR --out=DIR --encoder=NAME[,NAME...] --weights=NAME=FILE,... [options]
       python -m stjax.hest_bench --root=DIR --out=DIR --encoder=NAME[,NAME...] --features=DIR [options]

examples:
  python -m stjax.hest_bench --root=hest-bench --out=scores --encoder=uni2_h --weights=uni2_h=pytorch_model.bin
  python -m stjax.hest_bench --root=hest-bench --out=scores --encoder=resnet50_imagenet --random --tasks=IDC,READ
  python -m stjax.hest_bench --root=hest-bench --out=scores --encoder=uni_v1,mine --features=embeddings

Makes the features of every patch, or takes those in DIR/TASK/NAME/ID.h5 of --features; fits A1 (HEST's README), A2 (its
paper) and A3 (penalty chosen within training) on the benchmark's folds and genes; prints the mean PCC, pooled as HEST
does and within samples. Below --out: embeddings/, images/, scores/, hest/ (the same in HEST's own files), table.md and
table.csv. The same command resumes where it was stopped; finished parts are not repeated.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep import cli, files, system_errors
from data_prep.errors import InputError

if TYPE_CHECKING:
    from data_prep.hest_bench import Sample, Task
    from stjax.evaluation.hest_scores import Scores
    from stjax.inference.hest_features import Maker

_COMPUTE = ("float32", "bfloat16")
PROTOCOLS = ("A1", "A2", "A3")
METHODS = ("ridge", "random-forest", "xgboost")


def main(arguments: list[str]) -> None:
    """The command line."""
    given = _parser().parse_args(arguments)
    _check(given)
    from data_prep import hest_bench
    from data_prep.readers._sections import is_synthetic
    from stjax import workdir

    names = given.tasks or hest_bench.tasks(given.root)
    tasks = {task.name: task for task in (hest_bench.open_task(given.root, name) for name in names)}
    makers = {} if given.features else _makers(given)
    kept = f"what is done is kept in {given.out}; the same command goes on with it"
    with (
        files.lock(given.out / workdir.LOCK, busy=f"another process is at {given.out}; wait for it"),
        cli.when_interrupted(lambda: kept),
    ):
        found = [each for task in tasks.values() for each in score_task(task, given, makers)]
        print_tables(given.out, found, synthetic=is_synthetic(given.root))


def _parser() -> cli.Parser:
    parser = cli.Parser("python -m stjax.hest_bench", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the benchmark's folder: TASK/patches, adata, splits")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--encoder", type=cli.names, required=True, metavar="NAME,...", help="as stjax encoders lists")
    parser.add_argument("--weights", type=cli.named_files, default={}, metavar="NAME=FILE,...", help="of the encoders")
    parser.add_argument("--random", action="store_true", help="random weights for encoders without a file")
    parser.add_argument("--seed", type=int, default=0, help="of --random")
    parser.add_argument("--compute", default="float32", choices=_COMPUTE, help="what encoders compute in")
    parser.add_argument("--features", type=Path, metavar="DIR", help="features that are there: TASK/NAME/ID.h5")
    parser.add_argument("--tasks", type=cli.names, default=(), help="comma-separated (all)")
    parser.add_argument(
        "--protocols", type=cli.names, help=f"of {','.join(PROTOCOLS)} (all; A1 alone where --method is not ridge)"
    )
    parser.add_argument("--method", default="ridge", choices=METHODS, help="the regression (ridge)")
    return parser


def _check(given: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    if given.protocols is None:
        given.protocols = PROTOCOLS if given.method == "ridge" else ("A1",)
    if unknown := [name for name in given.protocols if name not in PROTOCOLS]:
        raise InputError(f"--protocols names {', '.join(unknown)}; choose from {', '.join(PROTOCOLS)}")
    for option in ("encoder", "tasks", "protocols"):
        if len(set(getattr(given, option))) < len(getattr(given, option)):
            raise InputError(f"--{option} names something twice")
    if not given.encoder or not given.protocols:
        raise InputError("--encoder and --protocols need a name at least")
    for name in given.encoder:
        files.check_name(name, "--encoder")
    if given.features and (given.weights or given.random):
        raise InputError("--weights and --random are for features that are made, not for those of --features")
    if unused := [name for name in given.weights if name not in given.encoder]:
        raise InputError(f"--weights names {unused[0]}, which --encoder does not")
    _check_method(given)
    system_errors.check_folder(given.out, "--out")


def _check_method(given: argparse.Namespace) -> None:
    """Names protocols with their method, which scores are kept under. Raises InputError for one that cannot be."""
    if given.method == "ridge":
        return
    from stjax.evaluation import trees

    trees.check(given.method)
    if "A3" in given.protocols:
        raise InputError(f"A3 chooses the penalty of a ridge: --method={given.method} goes with A1 and A2")
    given.protocols = tuple(f"{protocol}-{given.method}" for protocol in given.protocols)


def _makers(given: argparse.Namespace) -> "dict[str, Maker]":
    """Of each encoder. Raises InputError for one that is not known, or without weights."""
    from stjax import parallel
    from stjax.inference.hest_features import Maker, Options

    mesh, makers = parallel.make_mesh(), {}
    for name in given.encoder:
        weights = given.weights.get(name)
        options = Options(
            name, None if weights is None else Path(weights), given.seed if given.random else None, given.compute
        )
        options.facts  # noqa: B018 - says now what is missing
        makers[name] = Maker(options, given.out / "embeddings", mesh)
    return makers


def score_task(task: "Task", given: argparse.Namespace, makers: "Mapping[str, Maker]") -> "list[Scores]":
    """The scores of a task by every encoder under every protocol; those that are there are not made again.

    Args:
        makers: of the encoders' features; none: they are there.

    Raises:
        InputError: files that are damaged or do not fit.
    """
    from data_prep import hest_bench
    from stjax.evaluation import hest_scores
    from stjax.inference import hest_features

    prints = hest_features.fingerprints(task, given.out / "images")
    samples: dict[str, Sample] = {}
    found = []
    for encoder in given.encoder:
        made = makers[encoder].make(task, prints) if makers else 0
        folder = given.features or given.out / "embeddings"
        paths = {name: hest_features.path_of(folder, task, encoder, name) for name in task.patches}
        inputs = hest_scores.inputs_of(task, paths)
        places = {
            protocol: given.out / "scores" / task.name / encoder / f"{protocol}.json" for protocol in given.protocols
        }
        there = {protocol: hest_scores.read(path, inputs) for protocol, path in places.items()}
        missing = [protocol for protocol, scores in there.items() if scores is None]
        state = f"features of {made} samples made" if made else "features there"
        print(f"{task.name}, {encoder}: {state}; {', '.join(missing) or 'nothing'} to score", flush=True)
        if missing:
            samples = samples or {name: hest_bench.read_sample(task, name) for name in task.patches}
            there |= _score(task, samples, encoder, paths, missing, given.out, inputs)
        found += [scores for scores in there.values() if scores is not None]
    return found


def _score(
    task: "Task",
    samples: "Mapping[str, Sample]",
    encoder: str,
    paths: Mapping[str, Path],
    protocols: Sequence[str],
    out: Path,
    inputs: str,
) -> "dict[str, Scores]":
    """Fits, tests and keeps the scores of some protocols; HEST's files are written before what says that they are."""
    import numpy as np

    from stjax.evaluation import hest_form, hest_scores
    from stjax.evaluation.linear_probe import Probe
    from stjax.inference import hest_features

    read = {name: hest_features.read(path, samples[name].barcodes) for name, path in paths.items()}
    features = {name: vectors for name, (vectors, _) in read.items()}
    probe = Probe(features, {name: sample.targets for name, sample in samples.items()})
    made = next(iter(read.values()))[1]
    width = next(iter(features.values())).shape[1]
    found = {}
    for protocol in protocols:
        folds, predictions = hest_scores.score(task, samples, probe, protocol)
        scores = hest_scores.Scores(task.name, encoder, protocol, task.genes, tuple(folds), width, made)
        truths = [np.concatenate([samples[name].targets for name in fold.test]) for fold in task.folds]
        hest_form.write_task(out / "hest" / protocol, scores, predictions, truths)
        hest_scores.write(out / "scores" / task.name / encoder / f"{protocol}.json", scores, inputs)
        print(f"{task.name}, {encoder}, {protocol}: {scores.pooled[0]:.4f} pooled, {scores.within:.4f} in samples")
        found[protocol] = scores
    return found


def print_tables(out: Path, scores: "Sequence[Scores]", *, synthetic: bool) -> None:
    """Prints the tables, and writes them as files, ours and HEST's."""
    from stjax.evaluation import hest_form, hest_table

    lines, paths = hest_table.write(out, scores, synthetic=synthetic)
    for protocol in dict.fromkeys(each.protocol for each in scores):
        paths += hest_form.write_summaries(
            out / "hest" / protocol, [each for each in scores if each.protocol == protocol]
        )
    print("\n".join(["", *lines, "", "results:", *map(str, paths)]))


if __name__ == "__main__":
    cli.program(main)
