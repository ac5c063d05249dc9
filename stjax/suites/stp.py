"""STP-Bench (NEXGEM): seven data sets of patches, their folds, and cohorts of other institutions; each method as
published, with genes and checkpoint chosen with the test fold, and beside it with neither."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import metrics
from stjax.reporting import read
from stjax.suites import Command, Data, Embedding, Figure, Options, Run, Suite, train
from stjax.suites._footnotes import lacking, of_runs, on_rules
from stjax.suites._state import DONE, Place
from stjax.suites._stp_folds import Fold, folds_of
from stjax.suites._table import Part, Row, ahead

ENCODER, TINY_ENCODER = "uni2_h", "kaiko_s16"
_BUILD = ("--layout=bundle", "--min-counts=0", "--image-format=raw")
_DEMO = ("--layout=bundle", "--patients=3", "--sections-per-patient=1", "--spots=12")
_TINY_SEEDS = {"BRCA": "1", "TNBC": "2"}


class Cohort(NamedTuple):
    """A data set that methods are trained on.

    Attributes:
        raw: its bundle's folder under --root.
        slides, spots, folds: as published.
        external: the cohort of another institution that its models are scored on too, "" where there is none.
    """

    raw: str
    slides: int
    spots: int
    folds: int
    external: str = ""


COHORTS = {
    "PRAD": Cohort("hest/PRAD", 23, 62_710, 2),
    "BRCA": Cohort("wustl/BRCA", 47, 157_138, 5, "TNBC"),
    "LUAD_Xenium": Cohort("ncche/xenium", 16, 34_519, 5, "LUAD"),
    "LUAD_Visium": Cohort("ncche/visium", 43, 96_954, 5, "LUAD"),
    "CCRCC": Cohort("hest/CCRCC", 24, 74_220, 6, "RCC"),
    "GBM": Cohort("snu/GBM", 30, 117_036, 5, "GBM_HEST"),
    "PDAC": Cohort("wustl/PDAC", 19, 66_400, 5, "PAAD"),
}
EXTERNAL = {"TNBC": "massey/TNBC", "LUAD": "hest/LUAD", "RCC": "wustl/RCC", "GBM_HEST": "hest/GBM", "PAAD": "hest/PAAD"}
TINY = ("BRCA",)

_SPOT, _AROUND = "target", "neighbours"  # features of a patch, and of the windows around it
_OF_SPOTS = {  # as published: patches are what a batch is of
    "optimizer": "adamw", "learning_rate": 1e-4, "batch_size": 128, "num_epochs": 200, "schedule": "plateau",
    "early_stopping_patience": 20, "weight_decay": 1e-2,
}  # fmt: skip
_FEATURES = {"features": _SPOT}
METHODS: Mapping[str, tuple[str, str, Mapping[str, object]]] = {  # row: name, config and its settings
    "Ridge on features": ("ridge", "ridge_features", _FEATURES),
    "Linear probe": ("linear", "probe_linear", {**_OF_SPOTS, **_FEATURES}),
    "ST-Net": ("stnet", "stnet_densenet121", _OF_SPOTS),
    "BrST-Net": ("brstnet", "enet_b0_aux", _OF_SPOTS),
    "HisToGene": ("histogene", "histogene", {}),
    "EGN": ("egn", "egn", _FEATURES),
    "EGGN": ("eggn", "eggn", _FEATURES),
    "SGN": ("sgn", "sgn", _FEATURES),
    "BLEEP": ("bleep", "bleep", _FEATURES),
    "TRIPLEX": ("triplex", "triplex", {"features": _AROUND}),
    "PixNet": ("pixnet", "pixnet", {}),
}
_STARTS = {"ST-Net": "densenet121"}  # weights that a row starts from
TINY_METHODS = {"Ridge on features": {}, "Linear probe": {"num_epochs": 2, "batch_size": 16}}
NO_TILES = "PixNet sees tiles of many spots, and a bundle has patches of one each"
PUBLISHED, HONEST = "As published", "Genes of training, checkpoint of an inner fold"
PARTS = {PUBLISHED: ("published", "stp"), HONEST: ("honest", "stp_inner")}  # part: name of its runs, protocol
OTHERS = ": other institutions"
MEAN = "pcc_mean"
# Second-hand: as summaries of the paper give them; neither it nor a table of a method was to be had.
QUOTED = {"LUAD_Xenium": 0.586, "PRAD": 0.40, "BRCA": 0.345, "CCRCC": 0.31, "PDAC": 0.30, "GBM": 0.27, MEAN: 0.38}
SOURCE = "STP-Bench's linear probe on UNI2-h, second-hand, as summaries of the paper give it: the paper was not seen"

NOTES = (
    "a figure is the mean over genes in each slide, then over slides; ± is the deviation over folds; the mean is over "
    "data sets, once all are finished",
    "methods are as in configs/: the linear probe has no softplus, BrST-Net is its paper's network and not two heads "
    "on frozen features, and EGN, EGGN, SGN, BLEEP, HisToGene and TRIPLEX keep their own recipes",
)


def suite(options: Options) -> Suite:
    """Every method on every fold of every data set, twice; with --tiny two of them on a fold of synthetic bundles."""
    cohorts = {name: each for name, each in COHORTS.items() if not options.tiny or name in TINY}
    folds = {name: _folds(options, name) for name in cohorts}
    runs = [
        run
        for part in PARTS
        for row in (TINY_METHODS if options.tiny else METHODS)
        for name in cohorts
        for fold, of in list(folds[name].items())[: 1 if options.tiny else None]
        for run in _of_fold(options, part, row, name, fold, of)
    ]
    columns = (Figure(MEAN, "mean PCC"), *(Figure(name, name) for name in cohorts))
    outside = (
        columns[0],
        *(Figure(name, f"{name} on {each.external}") for name, each in cohorts.items() if each.external),
    )
    figures = {part + others: of for part in PARTS for others, of in (("", columns), (OTHERS, outside))}
    quoted = {} if options.tiny else {PUBLISHED: {"Linear probe": QUOTED}}
    title = "STP-Bench: methods on seven data sets, and on cohorts of other institutions"
    return Suite("stp", title, tuple(runs), figures, SOURCE, quoted, {"": NOTES}, parts=_parts)


def _data(name: str, *, external: bool = False) -> Data:
    raw, about = (EXTERNAL[name], "a cohort of another institution") if external else (COHORTS[name].raw, "a data set")
    spots, sections = 0, {}
    if not external:  # of nobody yet: as many slides in as many groups as published
        spots, slides, folds = COHORTS[name].spots, COHORTS[name].slides, COHORTS[name].folds
        sections = {f"fold_{k}": tuple(f"slide_{place}" for place in range(k, slides, folds)) for k in range(folds)}
    demo = (*_DEMO, f"--seed={_TINY_SEEDS.get(name, '0')}")
    about = f"{about} of STP-Bench (huggingface.co/datasets/nexgem/STP-Bench): patches/, st/ or adata/, and its ids.csv"
    return Data(name, raw, about, _BUILD, demo, _BUILD, sections, spots)


def _sections(options: Options, data: Data) -> tuple[str, ...]:
    """The sections of a data set that is there."""
    return tuple(section["name"] for section in PatchDataset.open(options.path(data)).sections)


def _folds(options: Options, name: str) -> dict[str, Fold]:
    """Those of the bundle, once its data set is there; else as many as published, of nobody yet.

    Raises:
        InputError: the bundle is not there, whose ids.csv says who is in which.
    """
    data, count = _data(name), 2 if options.tiny else COHORTS[name].folds
    if not options.is_built(data):
        return {f"fold_{place}": Fold((), ()) for place in range(count)}
    if not options.is_made(data) and options.root is None:
        raise InputError(
            "stp needs --root also once its data is prepared: each bundle's ids.csv says who is in which fold"
        )
    return folds_of(options.raw(data), _sections(options, data), count)


def _of_fold(options: Options, part: str, row: str, cohort: str, fold: str, of: Fold) -> list[Run]:
    """A run a seed: a training, and the scores of its checkpoint on the cohort of another institution."""
    (name, config, settings), (prefix, protocol) = METHODS[row], PARTS[part]
    features = str(settings.get("features", ""))
    made = (Embedding(_SPOT, TINY_ENCODER if options.tiny else ENCODER),) if features == _SPOT else ()
    outside = COHORTS[cohort].external
    data = [_data(cohort)] + ([_data(outside, external=True)] if outside else [])
    data = [dataclasses.replace(each, features=made) for each in data]
    lacks = _lacks(options, row, data)
    given = {**settings, **(TINY_METHODS[row] if options.tiny else {}), "protocol": protocol}
    if row in _STARTS and _STARTS[row] in options.weights:
        given["init_from"] = options.weights[_STARTS[row]]
    given["test_sections"] = ",".join(of.test)
    if part == HONEST and of.inner:
        given["val_sections"] = ",".join(of.inner)
    found = []
    for seed in options.seeds:
        run = f"{prefix}/{name}/{cohort}/{fold}" + f"/seed_{seed}" * (len(options.seeds) > 1)
        commands = [train(options, run, data[0], config, **given, seed=seed)]
        if outside:
            arguments = (f"--workdir={options.out / 'runs' / run}", f"--data-dir={options.path(data[1])}")
            commands.append(Command("stjax.evaluate", arguments, "evaluation/*/*/metrics.json"))
        found.append(Run(run, part, row, tuple(data), () if lacks else tuple(commands), lacks=lacks))
    return found


def _lacks(options: Options, row: str, data: Sequence[Data]) -> str:
    """Why a row cannot be run here."""
    if row == "PixNet":
        return NO_TILES
    if row == "TRIPLEX":
        folders = [options.path(each) / "features" / _AROUND / "features.json" for each in data]
        if not all(folder.is_file() for folder in folders):
            return (
                "TRIPLEX needs the windows around spots, which a bundle has no patches of: import STP-Bench's "
                f"emb/neighbor, stjax embed --import=FOLDER --name={_AROUND} --encoder={ENCODER}, into each data set"
            )
    start = _STARTS.get(row, "")
    needed = [start] * bool(start) + [ENCODER] * any(each.features for each in data)
    missing = [name for name in needed if name not in options.weights]
    if missing and not options.tiny:
        return f"weights are needed, --weights={','.join(f'{name}=FILE' for name in missing)}"
    return ""


# ---------------------------------------------------------------------------------------------------------- table


def mean_of_slides(slides: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The mean over slides of the mean PCC over the genes that vary there, of predictions and truths [S, G]."""
    means = [metrics.mean_of_known(metrics.pearson_per_gene(*of)) for of in slides]
    return float(metrics.mean_of_known(np.array(means)))


def _parts(suite: Suite, places: Sequence[Place]) -> tuple[list[Part], bool]:
    """A table of the test folds and one of other institutions, of each part."""
    done = {place.run.name: place.state() == DONE for place in places}
    results = {place.run.name: read.read_run(place.scored, place.run.name) for place in places if done[place.run.name]}
    parts = []
    for name in dict.fromkeys(place.run.part for place in places):
        of_part = [place for place in places if place.run.part == name]
        for title in (name, name + OTHERS):
            rows = [
                _row(suite, title, row, [place for place in of_part if place.run.row == row], results)
                for row in dict.fromkeys(place.run.row for place in of_part)
            ]
            best, verdict = ahead(rows, suite.figures[title][0])
            found = [results[place.run.name] for place in of_part if done[place.run.name]]
            notes = lacking(rows)
            if found:
                notes += of_runs(found) if title == name else on_rules(found) + _genes_outside(of_part, done)
            notes += [f"published results are quoted, not ours: {suite.source}"] * any(row.quoted for row in rows)
            parts.append(Part(title, suite.figures[title], rows, best, "best", verdict, [*notes, *suite.notes[""]]))
    return parts, any(run.synthetic for run in results.values())


def _row(suite: Suite, title: str, name: str, places: Sequence[Place], results: Mapping[str, read.RunResults]) -> Row:
    """The figures of a method: of each data set once a fold is finished, their mean once all are."""
    missing = [place.run.name for place in places if place.run.name not in results]
    row = Row(title, name, len(places), missing, {}, quoted=dict(suite.quoted.get(title, {}).get(name, {})))
    for figure in suite.figures[title][1:]:
        of = [place for place in places if place.run.data[0].name == figure.key and place.run.name in results]
        scores = [_score(place, results[place.run.name], outside=title.endswith(OTHERS)) for place in of]
        if scores:
            row.figures[figure.key] = float(np.mean(scores)), float(np.std(scores, ddof=1)) if scores[1:] else math.nan
    if not missing and len(row.figures) == len(suite.figures[title]) - 1:
        row.figures[MEAN] = float(np.mean([mean for mean, _ in row.figures.values()])), math.nan
    return row


def _score(place: Place, results: read.RunResults, *, outside: bool) -> float:
    """The score of a run on its test fold, or on the cohort of another institution."""
    sections = read.sections_in(_outside(place), place.scored) if outside else results.sections
    return mean_of_slides((each.prediction, each.truth) for each in sections if each.truth is not None)


def _outside(place: Place) -> Path:
    """The folder of a run's scores on another data set."""
    return next(iter(sorted(place.folder.glob("evaluation/*/*/metrics.json")))).parent


def _genes_outside(places: Sequence[Place], done: Mapping[str, bool]) -> list[str]:
    """How many genes of the panels were measured in the cohorts of other institutions."""
    found: dict[str, list[int]] = {}
    for place in places:
        if done[place.run.name] and len(place.run.data) > 1:
            scored = json_files.read(_outside(place) / "metrics.json", remedy="score the run again with stjax.evaluate")
            genes = scored["methods"]["model"]["genes"] - scored["genes_not_in_the_data"]
            found.setdefault(place.run.data[1].name, []).append(genes)
    texts = [
        f"{name} {min(genes)}" + (f" to {max(genes)}" if max(genes) > min(genes) else "")
        for name, genes in found.items()
    ]
    return [f"genes of the panel that were measured there: {', '.join(texts)}"] if texts else []
