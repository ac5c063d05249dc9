"""Exports a trained model as one folder, for use without its code and data (docs/export.md).

usage: python -m stjax.export --workdir=DIR --out=DIR [--weights=FILE | --head-only]

writes into <out>, completely or not at all:
  model.stablehlo          the function from uint8 images to predictions, for CPU, CUDA and TPU and any batch size
  weights.safetensors      its first argument
  config.json, genes.csv   genes, target and image statistics, scale, stain target, protocol, settings of the training
  trust.csv                of a run that is evaluated: how well each gene was predicted on held-out sections
  MODEL_CARD.md, LICENSE_NOTE.md, and README.md for the Hugging Face Hub, which is yours to edit
  backbone.safetensors     the backbone under torchvision's names and in PyTorch's shapes (EfficientNet-Lite0: its
                           package's names), which the same torchvision model without its classifier loads strictly
  heads.safetensors        of a model of patches: the linear layers `main` and `aux` on the backbone's feature vector,
                           whose outputs are standardised targets
  orbax/                   parameters and statistics as an Orbax checkpoint
  manifest.json            the SHA-256 of every other file, checked when the folder is loaded
`stjax.predict --model=<out>`, `stjax.load` and examples/predict_with_jax_only.py run it. For a model of features the
encoder is included; with --head-only it is not, and prediction needs the encoder's weights.

examples:
  python -m stjax.export --workdir=runs/enet_b0_aux --out=exported
  python -m stjax.export --workdir=runs/probe_mlp --out=exported --head-only
  python -m stjax.train --config=configs/enet_b0_aux.py --workdir=runs/tuned \\
      --config.init_from=exported/backbone.safetensors
"""

import argparse
import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
from flax import nnx
from jax import export as jax_export

from data_prep import cli, files, json_files, system_errors
from data_prep.errors import InputError
from data_prep.patients import ORIGINS
from stjax import gene_sets, manifest, model_card, models, progress, workdir
from stjax.inference.model_folder import (
    CONFIG,
    FORMAT,
    FUNCTION,
    REQUIRED,
    VERSION,
    WEIGHTS,
    names,
    protocol_to_json,
    restore,
)
from stjax.models import tuning, weight_files, weights
from stjax.ops.attention import portable
from stjax.splits import Split
from stjax.tables import write_csv
from stjax.trained import ENCODER_HELP

PLATFORMS = ("cpu", "cuda", "tpu")
LICENSE_NOTE = """\
The code this model was made with, stjax, is under the Apache License 2.0. That does not cover the weights: they derive
from the training data and, where the training started from released weights, from those. Whoever passes this folder on
must have the right to, by the terms of both; MODEL_CARD.md says what they were.
"""


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser(
        prog="python -m stjax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path, help="a run of stjax.train")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument("--weights", type=Path, help=ENCODER_HELP)
    parser.add_argument("--head-only", action="store_true", help="of a model of features: without the encoder")
    given = parser.parse_args(arguments)
    written = export(given.workdir, given.out, weights=given.weights, head_only=given.head_only)
    print("results:")
    for path in written:
        print(path)


def export(folder: Path, out: Path, *, weights: Path | None = None, head_only: bool = False) -> list[Path]:
    """Exports the best checkpoint of a run.

    Args:
        folder: the work directory.
        out: the folder to make; it may be there if it is empty.
        weights: of a model of features, the file of its encoder's; default that of its training.
        head_only: leave the encoder out.

    Returns:
        What is in it.

    Raises:
        InputError: no trained model, no weights of its encoder or others, or `out` cannot be made.
    """
    for place in (out, out.parent):  # it is made next to its place
        system_errors.check_folder(place, "--out")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {out} is not empty; choose another folder, or remove it first")
    run = _to_export(folder, weights, head_only=head_only)
    progress.say(str(folder), run.progress)
    out = out.parent / out.name  # "folder/" is "folder"
    busy = f"another process is writing --out {out}; wait for it, or choose another"
    with files.lock(out.with_name(f".{out.name}.lock"), busy=busy), files.whole(out, sync=True) as made:
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"--out {out} was written by another process meanwhile; choose another folder")
        made.mkdir()
        config = write(run, made)
        manifest.seal(made, {"format": FORMAT, "version": VERSION}, required=REQUIRED)
        card = (made / "MODEL_CARD.md").read_text()
        (made / "README.md").write_text(model_card.for_the_hub(run, config, card))  # not sealed: its licence is edited
    return sorted(out.iterdir())


def _to_export(folder: Path, encoder: Path | None, *, head_only: bool) -> workdir.Run:
    """The run with its encoder in front, where it has one, or without; says what the encoder's licence asks for."""
    run = workdir.Run.load(folder).with_weights(encoder)
    in_front = run.view.encoded and not run.view.two_passes
    if head_only and not in_front:
        raise InputError(f"{folder} is a model of {run.view.items}, without an encoder in front; leave out --head-only")
    run = run.on_slides if in_front and not head_only else run
    if (of := run.encoder) and of["included"] and of["restricted"]:
        way = "; --head-only leaves them out" if run.view.encoded else ""
        print(f"note: the weights of {of['title']} go into the folder, under {of['licence']}: {of['terms']}{way}")
    return run


def write(run: workdir.Run, out: Path) -> dict[str, Any]:
    """Writes everything that the manifest is to name into a folder that is there; returns what config.json has."""
    model = tuning.merged(run.network())
    if hasattr(model, "backbone"):
        weights.save(model.backbone, out / "backbone.safetensors")
    if heads := getattr(model, "linear_heads", dict)():
        weights.save_heads(heads, out / "heads.safetensors")
    if getattr(model, "aux", None) is not None:
        model.aux = None  # it helps in training alone
    graphdef, params, statistics = models.split(model)
    state = {"params": params, "statistics": statistics}
    arrays = {name: np.asarray(leaf) for name, leaf in zip(names(state), jax.tree.leaves(state), strict=True)}
    weight_files.write_safetensors(out / WEIGHTS, arrays, metadata={"format": FORMAT, "model": run.model_name})
    kind = run.view.kind_of(model)
    exported = exported_function(run, graphdef, state, kind=kind)
    (out / FUNCTION).write_bytes(exported.serialize())
    with ocp.StandardCheckpointer() as checkpointer:
        pure = {part: jax.tree.map(np.asarray, nnx.to_pure_dict(value)) for part, value in state.items()}
        checkpointer.save((out / "orbax").absolute(), pure)
    (out / "orbax" / "commit_success.txt").unlink(missing_ok=True)  # of no use, and says in whose folder it was written
    config = describe(run, exported, kind=kind)
    json_files.write(out / CONFIG, config)
    write_csv(out / "genes.csv", gene_table(run))
    if (found := run.trust) is not None:
        found.save(out)
    if files.is_there(of_sets := run.folder / gene_sets.FILE):
        shutil.copyfile(of_sets, out / gene_sets.FILE)
    (out / "MODEL_CARD.md").write_text(model_card.card(run, config))
    (out / "LICENSE_NOTE.md").write_text(LICENSE_NOTE + model_card.encoder_terms(config["encoder"]))
    return config


def exported_function(run: workdir.Run, graphdef: Any, state: dict[str, Any], *, kind: str) -> jax_export.Exported:
    """The function of weights and what the view's `signature` says, as `Exported.exported` is, for every platform and
    any number of items.

    Args:
        kind: what it gives, a key of the view's `kinds`.
    """
    view = run.view
    of_state = view.exported(graphdef, run.fold, run.protocol)

    def function(weights: dict[str, jax.Array], *inputs: jax.Array) -> jax.Array:
        return of_state(restore(state, weights), *inputs)

    leaves = zip(names(state), jax.tree.leaves(state), strict=True)
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves}
    inputs = view.signature(run.fold, kind, jax_export.symbolic_shape("batch")[0])
    with portable(), nameless():
        return jax_export.export(jax.jit(function), platforms=PLATFORMS)(shapes, *inputs)


@contextlib.contextmanager
def nameless() -> Iterator[None]:
    """While entered, compiled functions name source files without their folders, which tell whose machine it was."""
    option = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, option)
    jax.config.update(option, r".*[/\\]")
    try:
        yield
    finally:
        jax.config.update(option, before)


def describe(run: workdir.Run, exported: jax_export.Exported, *, kind: str) -> dict[str, Any]:
    """What config.json holds: all that is known of the model, except who the patients are and where their data lies."""
    data, takes = run.fold, run.view.signature(run.fold, kind, jax_export.symbolic_shape("B")[0])
    record = dataclasses.replace(
        data.main,
        data_dir="",
        split=Split((), (), ()),
        train_patients=(),
        train_patient_origins={},
        blocks=None if data.blocks is None else data.blocks.exported,
    )
    settings = run.config.to_dict()
    options = settings["model"]["options"]
    plain = {key: value for key, value in options.items() if key not in tuning.OPTIONS}  # updates are merged
    private = ("data_dir", "test_patients", "test_sections", "val_sections", "init_from", "encoder_weights")
    private += ("gene_vectors", "model")
    shape = str(list(exported.out_avals[0].shape))
    return {
        "format": FORMAT,
        "version": VERSION,
        "stjax": metadata.version("stjax"),
        "jax": jax.__version__,
        "model": {key: settings["model"][key] for key in ("module", "variant", "dtype")} | {"options": plain},
        "model_sha256": run.model_sha256,
        "encoder": run.encoder,
        "checkpoint_step": run.step,
        "batch_size": run.config.eval_batch_size,
        "platforms": list(exported.platforms),
        "input": {
            "shape": ", ".join(str(list(each.shape)) for each in takes),
            "dtype": ", ".join(str(each.dtype) for each in takes),
            "um_per_px": data.um_per_px,
            "stain": data.parameters["stain"],
        },
        "output": {
            "kind": kind,
            "shape": shape.replace("batch", "B"),
            "dtype": "float32",
            "meaning": run.view.kinds[kind],
            "units": f"{data.protocol}: {run.protocol.target}",
            "mean_over_symmetries": run.protocol.test_symmetries,
        },
        "intervals": None if (intervals := run.intervals) is None else intervals.to_json(),
        "protocol": protocol_to_json(run.protocol),
        "training": {key: value for key, value in settings.items() if key not in private}
        | {
            "patients": len(data.train_patients),
            "patients_known": ", ".join(
                ORIGINS[origin] for origin in ORIGINS if origin in data.train_patient_origins.values()
            ),
            "sections": len(data.split.train),
            "progress": dataclasses.asdict(run.progress),
            "init_from": Path(settings["init_from"]).name,
            "tuning": {key: value for key, value in options.items() if key in tuning.OPTIONS},
        },
        "data": record.to_json(),
    }


def gene_table(run: workdir.Run) -> pd.DataFrame:
    """The main genes in the order of the predictions, with their targets' statistics."""
    panel = run.fold.panel
    main = slice(panel.num_main)
    return pd.DataFrame(
        {
            "gene": panel.labels,
            "symbol": panel.symbol[main],
            "ensembl_id": panel.ensembl_id[main],
            "target_mean": run.fold.target_mean[main],
            "target_std": run.fold.target_std[main],
            "train_mean": run.fold.train_mean,
        }
    )


if __name__ == "__main__":
    cli.program(main)
