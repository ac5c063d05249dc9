"""Scores of HEST-Benchmark: a regression on features, fitted and tested fold by fold, kept in files."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import files, json_files
from data_prep.hest_bench import GENES, Fold, Sample, Task
from stjax import metrics
from stjax.evaluation import trees
from stjax.evaluation.linear_probe import Probe
from stjax.inference import hest_features

_AGAIN = "remove it, and it is scored again"


@dataclasses.dataclass(frozen=True, eq=False)
class FoldScores:
    """Of a fold's test samples.

    Attributes:
        patches: {"train", "test"}: how many.
        alpha, components: of the regression.
        mse, r2, pcc: [G] over all test patches together; NaN for a gene that does not vary.
        pcc_of_samples: {sample: [G]} within each.
    """

    fold: Fold
    patches: Mapping[str, int]
    alpha: float
    components: int
    mse: np.ndarray
    r2: np.ndarray
    pcc: np.ndarray
    pcc_of_samples: Mapping[str, np.ndarray]

    @property
    def pooled(self) -> float:
        """Mean PCC of the genes that have one."""
        return float(metrics.mean_of_known(self.pcc))

    @property
    def within(self) -> float:
        """Mean over samples of the mean PCC within them."""
        of_samples = np.array(list(self.pcc_of_samples.values()))
        return float(metrics.mean_of_known(metrics.mean_of_known(of_samples)))


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Of a task by an encoder under a protocol.

    Attributes:
        width: D of the features.
        made: what their files say of how they were made.
    """

    task: str
    encoder: str
    protocol: str
    genes: tuple[str, ...]
    folds: tuple[FoldScores, ...]
    width: int
    made: Mapping[str, str]

    @property
    def pooled(self) -> tuple[float, float]:
        """Mean over folds of the mean PCC, pooled over their test patches, and its deviation over folds (ddof 0)."""
        values = np.array([fold.pooled for fold in self.folds])
        return float(values.mean()), float(values.std())

    @property
    def within(self) -> float:
        """Mean over folds of the mean PCC within samples."""
        return float(np.mean([fold.within for fold in self.folds]))

    @property
    def undefined(self) -> int:
        """How many genes of folds have no pooled PCC, for want of variation."""
        return sum(int(np.isnan(fold.pcc).sum()) for fold in self.folds)

    @property
    def samples(self) -> set[str]:
        """That are tested."""
        return {sample for fold in self.folds for sample in fold.fold.test}


# -------------------------------------------------------------------------------------------------------- scoring


def score(
    task: Task, samples: Mapping[str, Sample], probe: Probe, protocol: str
) -> tuple[list[FoldScores], list[np.ndarray]]:
    """Fits and tests a protocol on every fold.

    Args:
        samples: of the task.
        probe: over their features.

    Returns:
        The scores of each fold, and its predictions [N, G] of the test patches, in the order of samples and patches.
    """
    found, predictions = [], []
    for fold in task.folds:
        by_trees = protocol in trees.PROTOCOLS
        fitted = trees.fit(protocol, probe, fold.train) if by_trees else probe.fit(protocol, fold.train)
        of_sample = {name: fitted.predict(probe.features[name]) for name in fold.test}
        within = {name: metrics.pearson_per_gene(of_sample[name], samples[name].targets) for name in fold.test}
        predicted = np.concatenate(list(of_sample.values()))
        truth = np.concatenate([samples[name].targets for name in fold.test])
        mse = np.mean(np.square(predicted - truth), axis=0)
        r2 = np.where(
            metrics.varying(truth), 1 - mse / np.maximum(truth.var(axis=0), np.finfo(np.float64).tiny), np.nan
        )
        patches = {"train": sum(len(samples[name].targets) for name in fold.train), "test": len(truth)}
        pcc = metrics.pearson_per_gene(predicted, truth)
        found.append(FoldScores(fold, patches, fitted.alpha, fitted.components, mse, r2, pcc, within))
        predictions.append(predicted)
    return found, predictions


# ---------------------------------------------------------------------------------------------------------- files


def inputs_of(task: Task, features: Mapping[str, Path]) -> str:
    """By which scores are known to be of these files, as they are, and of this version of stjax."""
    splits = sorted((task.folder / "splits").glob("*_*.csv"))
    paths = [task.folder / GENES, *splits, *task.patches.values(), *task.expression.values(), *features.values()]
    stamps = [[path.name, *hest_features.stamp(path)] for path in paths]
    return json_files.digest({"files": stamps, "stjax": metadata.version("stjax")})


def write(path: Path, scores: Scores, inputs: str) -> None:
    """Keeps scores in a file."""
    values = {
        "inputs": inputs,
        "task": scores.task,
        "encoder": scores.encoder,
        "protocol": scores.protocol,
        "width": scores.width,
        "made": dict(scores.made),
        "genes": list(scores.genes),
        "folds": [
            {
                "train": list(each.fold.train),
                "test": list(each.fold.test),
                "patches": dict(each.patches),
                "alpha": each.alpha,
                "components": each.components,
                **{name: plain(getattr(each, name)) for name in ("mse", "r2", "pcc")},
                "pcc_of_samples": {name: plain(pcc) for name, pcc in each.pcc_of_samples.items()},
            }
            for each in scores.folds
        ],
    }
    json_files.write(path, json_files.sealed(values))


def plain(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def read(path: Path, inputs: str = "") -> Scores | None:
    """Scores that were kept; None where there are none, or where they are of other inputs than these.

    Raises:
        InputError: the file was changed.
    """
    kept = json_files.read_sealed(path, remedy=_AGAIN) if files.is_there(path) else {}
    if not kept or kept["inputs"] != (inputs or kept["inputs"]):
        return None
    folds = tuple(_of_fold(each) for each in kept["folds"])
    named = {name: kept[name] for name in ("task", "encoder", "protocol", "width", "made")}
    return Scores(genes=tuple(kept["genes"]), folds=folds, **named)


def _of_fold(kept: Mapping[str, Any]) -> FoldScores:
    values: dict[str, Any] = {name: kept[name] for name in ("patches", "alpha", "components")}
    values |= {name: _array(kept[name]) for name in ("mse", "r2", "pcc")}
    values["pcc_of_samples"] = {name: _array(pcc) for name, pcc in kept["pcc_of_samples"].items()}
    return FoldScores(Fold(tuple(kept["train"]), tuple(kept["test"])), **values)


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.array(values, np.float64)  # None is NaN
