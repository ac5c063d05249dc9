"""Scores a trained model on held-out sections, beside the baselines it must beat.

usage: python -m stjax.evaluate --workdir=DIR [--data_dir=DIR] [--sections=A,B] [--spot-size-um=2,8,16,100]

writes, under the work directory: evaluation/<protocol>/metrics.json, evaluation/<protocol>/per_gene.csv,
predictions/<section>.h5ad and predictions/<section>_<gene>.png

examples:
  python -m stjax.evaluate --workdir=runs/enet_b0_aux
  python -m stjax.evaluate --workdir=runs/c5 --sections=C4,C5
  python -m stjax.evaluate --workdir=runs/pixnet --data_dir=data/hd_tiles --spot-size-um=2,8,16,100

A model of tiles is scored on spots of every size. Sizes that the data lacks are made from its finest bins; a size the
model was not trained at is scored beside a lookup of the nearest spot of the training's size, as the model predicts it,
and `--beside=RUN` adds a model of patches, applied to a patch around every spot.
"""

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import cli
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import baselines, dense, distributed, prepared, scoring, workdir, writer
from stjax.config import names, numbers
from stjax.tile_records import rounded

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
SIZE_COLUMNS = {  # as PixNet's tables
    "pcc_first_quartile": "PCC@F",
    "pcc_median": "PCC@S",
    "pcc_mean": "PCC@M",
    "mse": "MSE",
    "amae": "MAE",
}
MAX_SPOTS = 20_000
SYMMETRIES_HELP = "predict the mean over the eight symmetries of the square: eight times the work, steadier maps"


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
    parser.add_argument("--spot-size-um", default="", help="of tiles: sizes to score, default those of training")
    parser.add_argument(
        "--max-spots", type=int, default=MAX_SPOTS, help=f"of tiles: of a section and size, at random ({MAX_SPOTS})"
    )
    parser.add_argument("--beside", type=Path, help="of tiles: a run of a model of patches, scored on the same spots")
    parser.add_argument(
        "--demo-truth", type=Path, help="raw demo folder: score against its cells, without counting noise"
    )
    parser.add_argument("--symmetries", action="store_true", help=SYMMETRIES_HELP)
    given = parser.parse_args(arguments)
    evaluate(
        given.workdir,
        data_dir=given.data_dir,
        protocol=given.protocol,
        sections=names(given.sections),
        sizes_um=numbers(given.spot_size_um, "--spot-size-um"),
        max_spots=given.max_spots,
        beside=given.beside,
        symmetries=given.symmetries,
        demo_truth=given.demo_truth,
    )


def evaluate(
    folder: Path,
    *,
    data_dir: str = "",
    protocol: str = "",
    sections: Sequence[str] = (),
    sizes_um: Sequence[float] = (),
    max_spots: int = MAX_SPOTS,
    beside: Path | None = None,
    symmetries: bool = False,
    demo_truth: Path | None = None,
) -> dict[str, Any]:
    """Predicts the sections, scores model and baselines, writes and prints the results.

    Args:
        folder: the work directory.
        data_dir: another data set, all of whose sections are scored unless `sections` names some.
        sizes_um: of tiles, the sizes of spots to score; default those asked for in training, or of the data.
        max_spots: of tiles, how many of a section and size, drawn at random; 0 scores all.
        beside: of tiles, the work directory of a model of patches to score on the same spots.
        symmetries: predict means over the eight symmetries, which protocols other than `stnet` do not.
        demo_truth: the raw folder of a demo: its cells' expected expression takes the place of the counts'.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: no trained model, another protocol than the run's, an unknown section.
    """
    run = workdir.Run.load(folder)
    run = run.over_symmetries() if symmetries else run
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
    if (sizes_um or beside) and run.data.tiles is None:
        raise InputError("--spot-size-um and --beside are for models of tiles; this one sees a patch around each spot")
    trained_sizes = numbers(run.config.spot_sizes_um, "spot_sizes_um")
    sizes_um = sizes_um or trained_sizes
    # Only the sections held out by default go where the run's own result lives.
    held_out = (
        not (data_dir or symmetries or demo_truth)
        and sizes_um == trained_sizes
        and set(chosen) == set(run.data.split.test)
    )
    target = folder / "evaluation" / run.data.protocol
    pictures = folder / "predictions"
    if not held_out:
        label = hashlib.sha256(
            f"{dataset.content_hash}{sorted(chosen)}{sorted(sizes_um)}{symmetries}{demo_truth}".encode()
        ).hexdigest()[:12]
        target = target / label
        pictures = target / "predictions"

    features_of_train, targets_of_train = prepared.training_features(run)
    ridge = None if features_of_train is None else baselines.Ridge.fit(features_of_train, targets_of_train)
    patch_model = None if beside is None else prepared.comparable(workdir.Run.load(beside), run)
    if patch_model is not None and symmetries:
        patch_model = patch_model.over_symmetries()
    found = prepared.predict_sections(run, dataset, chosen, sizes_um=sizes_um, max_spots=max_spots, beside=patch_model)
    if not found:
        raise InputError(
            f"no spot of {', '.join(chosen)} has the {run.protocol.min_counts} reads the protocol asks for"
        )
    predictions = [each.prediction for each in found]
    if demo_truth is not None:
        predictions = [scoring.without_noise(prediction, run, demo_truth) for prediction in predictions]

    panel = run.data.panel
    mean, std = panel.target_mean[: panel.num_main], panel.target_std[: panel.num_main]
    truths = [np.asarray(prediction.truth, np.float64) for prediction in predictions]
    methods: dict[str, Sequence[np.ndarray | None]] = {"model": [prediction.expression for prediction in predictions]}
    if ridge is not None:
        methods["ridge on colour"] = [ridge.predict(each.colours) * std + mean for each in found]
    methods["mean predictor"] = [np.broadcast_to(panel.train_mean, truth.shape) for truth in truths]
    if run.data.tiles is not None:
        if patch_model is not None:
            methods["patch model"] = [each.beside for each in found]
        methods["nearest spot"] = scoring.nearest_spots(predictions, run.data.tiles.sizes_um)
    patients = [prediction.patient for prediction in predictions]
    sizes = [rounded(prediction.spot_size_um) for prediction in predictions]
    measured: list[np.ndarray] = [np.asarray(np.isfinite(truth).any(axis=1)) for truth in truths]
    summaries, per_gene = scoring.score(run, methods, truths, patients, measured)
    by_size = {}
    if run.data.tiles is not None:
        for size in np.unique(np.concatenate(sizes)):
            which = [(each == size) & there for each, there in zip(sizes, measured, strict=True)]
            by_size[f"{size:g}"] = {
                "spots": int(sum(map(np.sum, which))),
                "trained_on": scoring.is_size(size, run.data.tiles.sizes_um),
                "total_ratio": scoring.total_ratio(predictions, [each == size for each in sizes]),
                "methods": scoring.score(run, methods, truths, patients, which)[0],
            }

    result = {
        **writer.provenance(
            run, data_sha256=dataset.content_hash, synthetic=any(prediction.synthetic for prediction in predictions)
        ),
        "truth": "counts" if demo_truth is None else "expected expression of the demo's cells",
        "part": part_of(run, dataset, chosen),
        "sections": [prediction.section for prediction in predictions],
        "spots": sum(len(prediction.spot_id) for prediction in predictions),
        "pcc_pooling": run.protocol.pooling,
        "error_unit": "standard deviations of the training targets" if run.protocol.standardise_main else "expression",
        "patients_also_in_training": sorted({each.patient for each in predictions} & set(run.data.train_patients)),
        "genes_not_in_the_data": int(np.isnan(truths[0]).all(axis=0).sum()),
        "hardware": workdir.hardware(),
        "methods": summaries,
        "sizes_um": by_size,
    }
    if not distributed.is_writer():
        return result
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
    found = {part for part, of_part in parts.items() for name in sections if name in of_part}
    return found.pop() if len(found) == 1 else "mixed"


def check_preparation(run: workdir.Run, dataset: PatchDataset) -> None:
    """Raises InputError unless a data set's patches were made as those the model was trained on."""
    data, there = run.data, dataset.manifest["parameters"]
    kind = "patches" if data.tiles is None else "tiles"
    if (dataset.kind, dataset.size_px) != (kind, data.image_size_px):
        flag = "--patch-size-px" if kind == "patches" else "--tile-size-px"
        raise InputError(
            f"{dataset.path} has {dataset.kind} of {dataset.size_px} px, the model was trained on {kind} of "
            f"{data.image_size_px} px; build it with {flag} {data.image_size_px}"
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
        if abs(scale / data.um_per_px - 1) > dense.SCALE_TOLERANCE:
            raise InputError(
                f"{dataset.path}: section {section['name']} has {scale:.3f} um per px, the model was trained at "
                f"{data.um_per_px:.3f}; build it with --um-per-px {data.um_per_px:.3f}"
            )


def print_table(result: dict[str, Any], *, ridge_known: bool) -> None:
    """Model and baselines, a row each, and what the figures do and do not say."""
    rules = f"protocol {result['protocol']} ({result['units'].split(': ')[1]}), PCC {result['pcc_pooling']}"
    sections = ", ".join(result["sections"])
    print(f"\n{result['part']} sections {sections}: {result['spots']} spots, {rules}, errors in {result['error_unit']}")
    print(f"{'':18s}" + "".join(f"{title:>12s}" for title in COLUMNS.values()))
    for method, summary in result["methods"].items():
        cells = ["-" if (value := summary[key]) is None else value for key in COLUMNS]
        print(f"{method:18s}" + "".join(f"{c:>12.3f}" if isinstance(c, float) else f"{c!s:>12s}" for c in cells))
    for size, figures in result["sizes_um"].items():
        trained = "trained on" if figures["trained_on"] else "not trained on"
        ratio = "" if figures["total_ratio"] is None else f", expected / measured reads {figures['total_ratio']:.3f}"
        print(f"spots of {size} um ({trained}): {figures['spots']}{ratio}")
        print(f"{'':18s}" + "".join(f"{title:>12s}" for title in SIZE_COLUMNS.values()))
        for method, summary in figures["methods"].items():
            cells = ["-" if (value := summary[key]) is None else f"{value:.3f}" for key in SIZE_COLUMNS]
            print(f"{method:18s}" + "".join(f"{cell:>12s}" for cell in cells))
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
