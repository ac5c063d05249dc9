"""A fold: what a run knows of its data, and all that its model needs of it to predict without the data set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep import json_files, stain
from data_prep.dataset import PARAMETERS, PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Each, Lacking, Maybe
from stjax.data.blocks import BLOCKS, Blocks
from stjax.data.panel import Panel
from stjax.splits import Split

_REMEDY = "restore it, or train in a new work directory"
_UNSAID = {"resolve_aliases": False, "context_px": None, "stain_standardise": "both", "min_counts": 0}
_GENES = ("ensembl_id", "symbol", "num_main", "num_genes")
_STATISTICS = ("target_mean", "target_std", "image_mean", "image_std", "train_mean")
PANEL = {  # genes and statistics, as plain values
    "ensembl_id": json_files.TEXTS,
    "symbol": json_files.TEXTS,
    "num_main": json_files.whole_number(1),
    "target_mean": json_files.numbers(),
    "target_std": json_files.numbers(0),
    "image_mean": json_files.numbers(length=3),
    "image_std": json_files.numbers(0, length=3),
    "train_mean": json_files.numbers(),
    "num_genes": json_files.whole_number(1),
}
FOLD = {  # a fold's plain values
    "data_dir": json_files.TEXT,
    "content_hash": json_files.TEXT,
    "parameters": {name: Lacking(kind) for name, kind in PARAMETERS.items()} | {"stain": PARAMETERS["stain"]},
    "stain_target": Maybe(stain.PROFILE),
    "image_size_px": json_files.SIZE_PX,
    "um_per_px": json_files.POSITIVE,
    "synthetic": json_files.FLAG,
    "train_patients": json_files.TEXTS,
    "train_patient_origins": Lacking(Each(json_files.TEXT)),
    "protocol": json_files.NAME,
    "protocol_hash": json_files.TEXT,
    "split": dict.fromkeys(("train", "val", "test", "warnings"), json_files.TEXTS),
    "panel": PANEL,
    "view": json_files.NAME,
    "facts": json_files.OBJECT,
    "normalisation": Lacking(Maybe(json_files.Each(json_files.numbers(length=3)))),
    "init_sha256": Lacking(json_files.TEXT),
    "blocks": Lacking(Maybe(BLOCKS)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One way to train on a data set: its split, and what the training sections say.

    Attributes:
        data_dir, content_hash: the data set, and the SHA-256 of its manifest.
        parameters: how patches were cut and stained, from the manifest.
        stain_target: the fitted slide that stains were normalised to, from the manifest; None without normalisation.
        image_size_px: side of a patch or tile.
        um_per_px: physical size of its pixel, the training sections' median.
        synthetic: whether the data is the demo's.
        train_patients: whose sections the model is trained on.
        protocol, protocol_hash: the rules.
        split: which sections are for what.
        panel: the genes.
        target_mean, target_std: [M + A] float64 of the training targets; 0 and 1 where the protocol does not
            standardise them.
        train_mean: [M] float64, mean main expression over training spots: the mean predictor.
        image_mean, image_std: [3] float64, of the training images' pixel values 0..255.
        view: name of the view that the model takes, see `stjax.views`.
        facts: plain values that this view knows of the training items.
        train_patient_origins: how each of the patients is known, a key of `data_prep.patients.ORIGINS`; empty of runs
            trained before that was recorded.
        normalisation: {"mean", "std"}, [3] of 0..255, by which images are normalised where not by `image_mean` and
            `image_std`: those that an encoder was trained with.
        init_sha256: of the weights file that the backbone began with; empty where it began at random, and of runs
            trained before that was recorded.
        blocks: the parts of its sections, where training, validation and test are spatial blocks of the same sections,
            which `split` then names; None where sections are whole.
    """

    data_dir: str
    content_hash: str
    parameters: dict[str, Any]
    stain_target: dict[str, Any] | None
    image_size_px: int
    um_per_px: float
    synthetic: bool
    train_patients: tuple[str, ...]
    protocol: str
    protocol_hash: str
    split: Split
    panel: Panel
    target_mean: np.ndarray
    target_std: np.ndarray
    train_mean: np.ndarray
    image_mean: np.ndarray
    image_std: np.ndarray
    view: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    train_patient_origins: dict[str, str] = dataclasses.field(default_factory=dict)
    normalisation: dict[str, list[float]] | None = None
    init_sha256: str = ""
    blocks: Blocks | None = None

    def divided(self, dataset: PatchDataset) -> PatchDataset:
        """The data set trained on with the sections that `split` names; another one as it is."""
        if self.blocks is None or dataset.content_hash != self.content_hash:
            return dataset
        return self.blocks.open(dataset.whole)

    @property
    def caveat(self) -> str:
        """What results on its test sections do not say, "" where there is nothing to add."""
        return "" if self.blocks is None else self.blocks.caveat

    @property
    def main(self) -> "Fold":
        """The same without AuxNet's genes."""
        genes = slice(self.panel.num_main)
        statistics = {"target_mean": self.target_mean[genes], "target_std": self.target_std[genes]}
        return dataclasses.replace(self, panel=self.panel.main, **statistics)

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact."""
        values = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in _STATISTICS
        }
        blocks = None if self.blocks is None else self.blocks.to_json()
        return values | {"split": dataclasses.asdict(self.split), "panel": self.learned(), "blocks": blocks}

    def learned(self) -> dict[str, Any]:
        """Genes and statistics, plain values."""
        named = {name: getattr(self.panel, name) for name in _GENES} | {n: getattr(self, n) for n in _STATISTICS}
        return {name: v.tolist() if isinstance(v := named[name], np.ndarray) else v for name in PANEL}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], name: str) -> "Fold":
        """What `to_json` returned, as a fold again; its view has yet to look at its facts (`View.check_facts`).

        Args:
            name: of the file, for messages.

        Raises:
            InputError: it is none.
        """
        values = _as_now(values)
        json_files.require(values, FOLD, name, remedy=_REMEDY)
        _check_lengths(values["panel"], name)
        genes, split = values["panel"], values["split"]
        names = {key: np.array(genes[key], dtype=str) for key in ("ensembl_id", "symbol")}
        given: dict[str, Any] = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        given |= {key: np.array(genes[key], dtype=np.float64) for key in _STATISTICS}
        given |= {
            "parameters": _UNSAID | values["parameters"],
            "split": Split(**{part: tuple(split[part]) for part in FOLD["split"]}),
            "train_patients": tuple(values["train_patients"]),
            "blocks": Blocks.from_json(blocks, name) if (blocks := values.get("blocks")) else None,
            "panel": Panel(**names, num_main=genes["num_main"], num_genes=genes["num_genes"]),
        }
        return cls(**given)


def _as_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """A fold as written by any version: earlier ones had "tiles", null of patches, in place of a view and its facts."""
    if "view" in values or "tiles" not in values:
        return dict(values)
    facts = values["tiles"]
    return dict(values) | {"view": "patches" if facts is None else "tiles", "facts": facts or {}}


def _check_lengths(panel: Mapping[str, Any], name: str) -> None:
    lengths = {key: len(panel[key]) for key in ("ensembl_id", "symbol", "target_mean", "target_std")}
    genes, main = lengths["symbol"], panel["num_main"]
    if set(lengths.values()) != {genes} or len(panel["train_mean"]) != main or main > genes:
        raise InputError(
            f"{name}: gene panel of {main} main genes with {len(panel['train_mean'])} means, and lists of {lengths}, "
            f"which do not agree; {_REMEDY}"
        )
