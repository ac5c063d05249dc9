"""What a run says: on the terminal, in `logs/train.jsonl`, and to TensorBoard."""

import json
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from flax import nnx
from tensorboardX import SummaryWriter

from data_prep import files
from data_prep.counted import counted
from data_prep.dataset import PatchDataset
from stjax import distributed, log_file, protocols, views
from stjax.config import Config
from stjax.data.fold import Fold
from stjax.models import tuning
from stjax.state import State
from stjax.views import Items


class Log:
    """`logs/train.jsonl` and TensorBoard events, of process 0. What a killed run wrote after its last checkpoint is
    taken back."""

    def __init__(self, folder: Path, step: int):
        self._writes = distributed.is_writer()
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "train.jsonl"
        kept = [json.dumps(entry) + "\n" for entry in log_file.read(path) if entry["step"] <= step]
        files.write_text(path, "".join(kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Logs the metrics of a step or an epoch; `values` names the step."""
        if not self._writes:
            return
        self._file.write(json.dumps({"kind": kind, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, values["step"])

    def close(self) -> None:
        """Ends both logs."""
        if not self._writes:
            return
        self._file.close()
        self._board.close()


def overview(state: State, config: Config) -> str:
    """Parameters by part of the model, and how many others are frozen."""
    arrays, frozen = nnx.to_pure_dict(state["params"]), tuning.separated(state["statistics"])[0]
    heads = {"main": "main head", "aux": "aux head"}
    parts = {f"backbone {name}": part for name, part in arrays.get("backbone", {}).items()}
    parts |= {heads.get(name, name): part for name, part in arrays.items() if name != "backbone"}
    # A part may be an array by itself, as ViT's position embedding is.
    count = parameter_overview.count_parameters  # of a scalar, it gives a float
    rows = [f"  {name:24s}{int(count({name: part})):>12,}" for name, part in parts.items()]
    total, others = int(count(arrays)), sum(leaf.size for leaf in jax.tree.leaves(frozen))
    beside = f", and {others:,} that are not trained" if others else ""
    return "\n".join([f"{config.model.module} {config.model.variant}: {total:,} parameters{beside}", *rows])


def print_data(fold: Fold, dataset: PatchDataset, items: dict[str, Items | None]) -> None:
    """What the run learns from, and what a reader of its results must know."""
    view = views.of(fold)
    if fold.synthetic:
        print("The data is SYNTHETIC (stjax's demo): its results say nothing about real tissue.")
    for part in ("train", "val", "test"):
        sections = getattr(fold.split, part)
        patients = sorted({s["patient"] for s in dataset.sections if s["name"] in sections})
        size = ""
        if (known := items.get(part)) is not None:
            size = f", {counted(known.num_spots, 'spots')}"
            if not view.one_spot:
                size += f" in {len(known)} {view.items}"
            if known.left_out:
                size += f" ({known.left_out} left out by the protocol: few counts or white)"
        print(f"{part:>5}: {counted(len(sections), 'sections')} of patient {', '.join(patients) or '-'}{size}")
    left_out = len(dataset.genes) - len(fold.panel.symbol)
    print(
        f"protocol {fold.protocol}: {fold.panel.num_main} main genes, {fold.panel.num_aux} aux genes, "
        f"{left_out} expressed in too few spots"
    )
    protocol = protocols.get_protocol(fold.protocol)
    if protocol.stain != "none" and fold.parameters["stain"] != protocol.stain:
        print(f"note: {protocol.name} prepares slides with --stain {protocol.stain}; this data set has another")
    for warning in fold.split.warnings:
        print(f"note: {warning}")


def epoch_figures(summary: dict[str, Any], num_epochs: int) -> str:
    """An epoch's metrics, for the terminal."""
    parts = [f"epoch {summary['epoch']}/{num_epochs}", f"loss {summary['loss']:.4f}"]
    if "val_loss" in summary:
        parts.append(f"val loss {summary['val_loss']:.4f}")
        if summary["val_pcc_median"] is not None:
            parts.append(f"val median PCC {summary['val_pcc_median']:.3f}")
        if summary.get("val_genes_constant"):
            parts.append(f"{summary['val_genes_constant']} genes with a constant prediction")
    return "  ".join(parts)


def epoch_line(summary: dict[str, Any], num_epochs: int, speed: float, seconds_left: float, *, best: bool) -> str:
    """An epoch's metrics, speed and the time left, for the terminal."""
    minutes, seconds = divmod(round(seconds_left), 60)
    line = f"{epoch_figures(summary, num_epochs)}  {speed:.1f} spots/s  {minutes}:{seconds:02d} left"
    return line + ("  best so far" if best else "")
