"""Scores in HEST-Benchmark's own files, which its readers know.

    TASK/ENCODER/split0/{config,results,summary}.json, inference_dump.npz (its own is a pickle)
    TASK/ENCODER/results_kfold.json, TASK/enc_results.json, dataset_results.{csv,json}

A gene without a PCC is null in them, and left out of means, where HEST's own are NaN.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import files, json_files
from data_prep.hest_bench import GENES
from stjax import metrics
from stjax.evaluation.hest_scores import FoldScores, Scores, plain
from stjax.evaluation.linear_probe import COMPONENTS
from stjax.tables import write_csv


def write_task(folder: Path, scores: Scores, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> None:
    """Writes what HEST has of a task and an encoder.

    Args:
        folder: of a protocol.
        predictions, truths: [N, G] of each fold's test patches.
    """
    place = folder / scores.task / scores.encoder
    for number, fold in enumerate(scores.folds):
        split, results = place / f"split{number}", _results(scores.genes, fold)
        config = {
            "method": scores.protocol.partition("-")[2] or "ridge",
            "normalize": True,
            "dimreduce": "PCA" if fold.components else None,
            "latent_dim": fold.components or COMPONENTS,
            "alpha": fold.alpha or None,
            "gene_list": GENES,
            "encoders": [scores.encoder],
            "datasets": [scores.task],
        }
        counts = {"n_train": fold.patches["train"], "n_test": fold.patches["test"]}
        json_files.write(split / "config.json", config)
        json_files.write(split / "results.json", results)
        json_files.write(split / "summary.json", counts | results)
        with files.whole(split / "inference_dump.npz") as made, made.open("wb") as file:
            np.savez(file, preds_all=predictions[number].astype(np.float32), targets_all=truths[number])
    mean, spread = scores.pooled
    genes = [_gene(name, [fold.pcc[g] for fold in scores.folds]) for g, name in enumerate(scores.genes)]
    genes.sort(key=lambda gene: -np.inf if gene["mean"] is None else gene["mean"], reverse=True)
    summary = {"pearson_corrs": genes, "pearson_mean": _known(mean), "pearson_std": _known(spread)}
    summary["mean_per_split"] = plain(np.array([fold.pooled for fold in scores.folds]))
    json_files.write(place / "results_kfold.json", summary)


def _results(genes: Sequence[str], fold: FoldScores) -> dict[str, Any]:
    """Of a fold."""
    known = fold.pcc[~np.isnan(fold.pcc)]
    found: dict[str, Any] = {"l2_errors": plain(fold.mse), "r2_scores": plain(fold.r2)}
    found["pearson_corrs"] = [
        {"name": name, "pearson_corr": value} for name, value in zip(genes, plain(fold.pcc), strict=True)
    ]
    found |= {"pearson_mean": _known(fold.pooled), "pearson_std": float(known.std()) if len(known) else None}
    for name, values in (("l2_error", fold.mse), ("r2_score", fold.r2[~np.isnan(fold.r2)])):
        quarters = np.percentile(values, [25, 50, 75]).tolist() if len(values) else [None] * 3
        found |= {f"{name}_q{place + 1}": value for place, value in enumerate(quarters)}
    return found


def _gene(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Of a gene over folds."""
    of = np.array(values)
    known = of[~np.isnan(of)]
    spread = float(known.std()) if len(known) else None
    return {"name": name, "pearson_corrs": plain(of), "mean": _known(float(metrics.mean_of_known(of))), "std": spread}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_summaries(folder: Path, scores: Sequence[Scores]) -> list[Path]:
    """Writes what HEST has of all tasks and encoders under a protocol; returns dataset_results' paths."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for each in scores:
        mean, spread = map(_known, each.pooled)
        of_encoder = {"encoder_name": each.encoder, "pearson_mean": mean, "pearson_std": spread}
        tasks.setdefault(each.task, []).append(of_encoder)
    for task, found in tasks.items():
        found.sort(key=_best, reverse=True)
        json_files.write(folder / task / "enc_results.json", {"results": found})
    means = {
        encoder: [
            found["pearson_mean"] for task in tasks.values() for found in task if found["encoder_name"] == encoder
        ]
        for encoder in dict.fromkeys(each.encoder for each in scores)
    }
    average = {name: None if None in values else float(np.mean(values)) for name, values in means.items()}
    results = [{"dataset_name": task, "results": found} for task, found in tasks.items()]
    json_files.write(folder / "dataset_results.json", {"average": average, "results": results})
    rows = [
        {"dataset": task}
        | {f"{one['encoder_name']}_{name}": one[f"pearson_{name}"] for one in found for name in ("mean", "std")}
        for task, found in tasks.items()
    ]
    table = pd.DataFrame(rows)
    table.insert(0, "", np.arange(len(table)))  # as pandas writes the index
    write_csv(folder / "dataset_results.csv", table)
    return [folder / "dataset_results.csv", folder / "dataset_results.json"]


def _best(found: Mapping[str, Any]) -> float:
    return -np.inf if found["pearson_mean"] is None else found["pearson_mean"]
