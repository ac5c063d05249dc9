"""Scores a trained model on held-out sections, beside the baselines it must beat.

usage: python -m stjax.evaluate --workdir=DIR [--data_dir=DIR] [--sections=A,B]

writes, under the work directory: evaluation/<protocol>/metrics.json, evaluation/<protocol>/per_gene.csv,
predictions/<section>.h5ad and predictions/<section>_<gene>.png

examples:
  python -m stjax.evaluate --workdir=runs/enet_b0_aux
  python -m stjax.evaluate --workdir=runs/c5 --sections=C4,C5
"""

import argparse
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from data_prep import cli
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import DISC
from stjax import baselines, input_pipeline, metrics, predict, workdir, writer
from stjax.config import names

COLUMNS = {
    "pcc_median": "median PCC",
    "pcc_mean": "mean PCC",
    "genes_pcc_above_0": "> 0",
    "genes_pcc_0.1_to_0.3": ".1-.3",
    "genes_pcc_0.3_to_0.5": ".3-.5",
    "genes_pcc_above_0.5": "> .5",
    "amae": "aMAE",
    "armse": "aRMSE",
}


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stjax.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path, help="a run of stjax.train")
    parser.add_argument("--data_dir", default="", help="score on another data set than the run's own")
    parser.add_argument(
        "--protocol", default="", help="the protocol to score under; default and so far only: the run's"
    )
    parser.add_argument("--sections", default="", help="comma-separated; default the run's held-out sections")
    given = parser.parse_args(arguments)
    evaluate(given.workdir, data_dir=given.data_dir, protocol=given.protocol, sections=names(given.sections))


def evaluate(folder: Path, *, data_dir: str = "", protocol: str = "", sections: Sequence[str] = ()) -> dict[str, Any]:
    """Predicts the sections, scores model and baselines, writes and prints the results.

    Args:
        folder: the work directory.
        data_dir: another data set, all of whose sections are scored unless `sections` names some.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: no trained model, another protocol than the run's, an unknown section.
    """
    run = workdir.Run.load(folder)
    if protocol and protocol != run.data.protocol:
        raise InputError(
            f"{folder} was trained under protocol {run.data.protocol}, whose targets {protocol} does not share; "
            "leave --protocol out, or train with --config.protocol"
        )
    dataset = run.open_dataset(data_dir)
    known = [section["name"] for section in dataset.sections]
    chosen = tuple(sections) or (tuple(known) if data_dir else run.data.split.test)
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"--sections names {', '.join(unknown)}; {dataset.path} has {', '.join(known)}")
    if not chosen:
        raise InputError(f"{folder} holds out no section; name the ones to score with --sections")
    check_preparation(run, dataset)
    # Only the sections held out by default go where the run's own result lives.
    held_out = not data_dir and set(chosen) == set(run.data.split.test)
    target = folder / "evaluation" / run.data.protocol
    pictures = folder / "predictions"
    if not held_out:
        label = hashlib.sha256(f"{dataset.content_hash}{sorted(chosen)}".encode()).hexdigest()[:12]
        target = target / label
        pictures = target / "predictions"

    features_of_train, targets_of_train = training_features(run)
    ridge = None if features_of_train is None else baselines.Ridge.fit(features_of_train, targets_of_train)
    predictions, ridge_predictions = [], []
    for name in chosen:
        prediction, features = predict_section(run, dataset, name)
        if not len(prediction.spot_id):
            print(f"note: section {name} has no spot with {run.protocol.min_counts} reads; it is not scored")
            continue
        predictions.append(prediction)
        if ridge is not None:
            ridge_predictions.append(ridge.predict(features))
    if not predictions:
        raise InputError(
            f"no spot of {', '.join(chosen)} has the {run.protocol.min_counts} reads the protocol asks for"
        )

    panel = run.data.panel
    mean, std = panel.target_mean[: panel.num_main], panel.target_std[: panel.num_main]
    truths = [np.asarray(prediction.truth, np.float64) for prediction in predictions]
    methods = {"model": [prediction.expression for prediction in predictions]}
    if ridge is not None:
        methods["ridge on colour"] = [each * std + mean for each in ridge_predictions]
    methods["mean predictor"] = [np.broadcast_to(panel.train_mean, truth.shape) for truth in truths]
    per_gene = pd.DataFrame({"gene": panel.names[: panel.num_main], "ensembl_id": panel.ensembl_id[: panel.num_main]})
    summaries = {}
    for method, each in methods.items():
        pcc = metrics.pooled_pcc(each, truths, [p.patient for p in predictions], pooling=run.protocol.pooling)
        mae = metrics.mae_per_gene(np.concatenate(each) / std, np.concatenate(truths) / std)
        rmse = metrics.rmse_per_gene(np.concatenate(each) / std, np.concatenate(truths) / std)
        summaries[method] = metrics.summarise(pcc, mae, rmse)
        suffix = "" if method == "model" else f"_{method.split()[0]}"
        per_gene[f"pcc{suffix}"], per_gene[f"mae{suffix}"], per_gene[f"rmse{suffix}"] = pcc, mae, rmse
    per_gene.insert(5, "mean_expression", np.concatenate(truths).mean(axis=0))

    result = {
        **writer.provenance(
            run, data_sha256=dataset.content_hash, synthetic=any(prediction.synthetic for prediction in predictions)
        ),
        "part": part_of(run, dataset, [prediction.section for prediction in predictions]),
        "sections": [prediction.section for prediction in predictions],
        "spots": sum(len(prediction.spot_id) for prediction in predictions),
        "pcc_pooling": run.protocol.pooling,
        "error_unit": "standard deviations of the training targets" if run.protocol.standardise_main else "expression",
        "patients_also_in_training": sorted({each.patient for each in predictions} & set(run.data.train_patients)),
        "genes_not_in_the_data": int(np.isnan(truths[0]).all(axis=0).sum()),
        "hardware": workdir.hardware(),
        "methods": summaries,
    }
    target.mkdir(parents=True, exist_ok=True)
    workdir.write_json(target / "metrics.json", result)
    temporary = target / "per_gene.csv.tmp"
    per_gene.to_csv(temporary, index=False)
    os.replace(temporary, target / "per_gene.csv")

    written = [target / "metrics.json", target / "per_gene.csv"]
    best = int(per_gene["pcc"].fillna(-2).to_numpy().argmax())
    for prediction in predictions:
        base = pictures / prediction.section
        writer.write_h5ad(base.with_name(f"{base.name}.h5ad"), prediction, run, genes=np.arange(panel.num_main))
        picture = base.with_name(f"{base.name}_{writer.file_name(writer.gene_names(panel)[best])}.png")
        writer.write_map(picture, prediction, run, gene=best)
        written += [base.with_name(f"{base.name}.h5ad"), picture]
    print_table(result, ridge_known=ridge is not None)
    print("results:")
    for path in written:
        print(path)
    return result


def part_of(run: workdir.Run, dataset: PatchDataset, sections: Sequence[str]) -> str:
    """What sections are to the run: "held-out", "TRAINING", "validation", "mixed", or "other" data's."""
    if dataset.content_hash != run.data.content_hash:
        return "other"
    split = run.data.split
    parts = {"held-out": split.test, "TRAINING": split.train, "validation": split.val}
    found = {part for part, names_of_part in parts.items() for name in sections if name in names_of_part}
    return found.pop() if len(found) == 1 else "mixed"


def check_preparation(run: workdir.Run, dataset: PatchDataset) -> None:
    """Raises InputError unless a data set's patches were made as those the model was trained on."""
    data, there = run.data, dataset.manifest["parameters"]
    if dataset.patch_size_px != data.image_size_px:
        raise InputError(
            f"{dataset.path} has patches of {dataset.patch_size_px} px, the model was trained on "
            f"{data.image_size_px} px; build it with --patch-size-px {data.image_size_px}"
        )
    target = dataset.manifest["stain_target"]
    if (target or {}).get("image_sha256") != (data.stain_target or {}).get("image_sha256") or (
        there["stain"] != data.parameters["stain"]
    ):
        raise InputError(
            f"{dataset.path} was prepared with --stain {there['stain']}, the model's data with --stain "
            f"{data.parameters['stain']}, or to another target; build it as that was, with the same target slide"
        )
    for section in dataset.sections:
        scale = there["um_per_px"] or section["um_per_px"]
        if abs(scale / data.um_per_px - 1) > predict.SCALE_TOLERANCE:
            raise InputError(
                f"{dataset.path}: section {section['name']} has {scale:.3f} um per px, the model was trained at "
                f"{data.um_per_px:.3f}; build it with --um-per-px {data.um_per_px:.3f}"
            )


def training_features(run: workdir.Run) -> tuple[Any, Any]:
    """Colour statistics [N, D] and standardised main targets [N, M] of the training patches; None if gone."""
    try:
        dataset = run.open_dataset()
    except InputError as error:
        print(f"note: the ridge needs the training patches: {error}")
        return None, None
    panel = run.data.panel
    records = input_pipeline.PatchRecords(dataset, run.data.split.train, panel, run.protocol, train=True)
    features = np.concatenate([baselines.colour_statistics(image[None]) for image in images(records, "ridge")])
    std, mean = panel.target_std[: panel.num_main], panel.target_mean[: panel.num_main]
    return features, (records.main_expression(panel, run.protocol) - mean) / std


def images(records: input_pipeline.PatchRecords, description: str) -> Iterator[np.ndarray]:
    """Every patch in order, [H, W, 3] uint8, under a progress bar."""
    for index in cli.progress(range(len(records)), description=description, unit="spot"):
        yield records[index]["image"]


def predict_section(run: workdir.Run, dataset: PatchDataset, name: str) -> tuple[writer.SectionPrediction, np.ndarray]:
    """The model's prediction of one prepared section, and its patches' colour statistics [S, D]."""
    panel = run.data.panel
    records = input_pipeline.PatchRecords(dataset, (name,), panel, run.protocol, train=False)
    features: list[np.ndarray] = []

    def patches() -> Iterator[np.ndarray]:
        for image in images(records, name):
            features.append(baselines.colour_statistics(image[None]))
            yield image

    entry = next(section for section in dataset.sections if section["name"] == name)
    expression = list(predict.predict_patches(run, patches(), len(records)))
    table = dataset.table(name)
    discs = table.spot_size_px[table.spot_kind == DISC]
    with Image.open(dataset.path / entry["thumbnail"]) as picture:
        thumbnail = np.asarray(picture.convert("RGB"))
    return writer.SectionPrediction(
        section=name,
        patient=entry["patient"],
        spot_id=records.spot_id,
        spot_xy=records.spot_xy,
        spot_radius_px=float(np.median(discs)) if len(discs) else 50 / entry["um_per_px"],
        um_per_px=entry["um_per_px"],
        expression=np.concatenate(expression) if expression else np.zeros((0, panel.num_main), np.float32),
        truth=records.main_expression(panel, run.protocol),
        synthetic=bool(dataset.manifest["synthetic"]),
        data_sha256=dataset.content_hash,
        thumbnail=thumbnail,
        thumbnail_scale=thumbnail.shape[1] / entry["image"]["width"],
    ), np.concatenate(features) if features else np.zeros((0, 0))


def print_table(result: dict[str, Any], *, ridge_known: bool) -> None:
    """Model and baselines, a row each, and what the figures do and do not say."""
    rules = f"protocol {result['protocol']} ({result['units'].split(': ')[1]}), PCC {result['pcc_pooling']}"
    sections = ", ".join(result["sections"])
    print(f"\n{result['part']} sections {sections}: {result['spots']} spots, {rules}, errors in {result['error_unit']}")
    print(f"{'':18s}" + "".join(f"{title:>12s}" for title in COLUMNS.values()))
    for method, summary in result["methods"].items():
        cells = ["-" if (value := summary[key]) is None else value for key in COLUMNS]
        print(f"{method:18s}" + "".join(f"{c:>12.3f}" if isinstance(c, float) else f"{c!s:>12s}" for c in cells))
    if result["synthetic"]:
        print("SYNTHETIC tissue: these figures say nothing about real tissue.")
    if result["genes_not_in_the_data"]:
        print(f"note: the scored data lacks {result['genes_not_in_the_data']} of the genes; they have no figures.")
    if result["patients_also_in_training"]:
        print(f"note: patient {', '.join(result['patients_also_in_training'])} is also in training.")
    if ridge_known and (ours := result["methods"]["model"]["pcc_median"]) is not None:
        theirs = result["methods"]["ridge on colour"]["pcc_median"]
        if theirs is not None and ours <= theirs:
            print("The model does NOT beat a ridge regression on the colour of the patch.")
    print()


if __name__ == "__main__":
    cli.run(main)
