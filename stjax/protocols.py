"""Published protocols as data: targets, gene panel, filters, folds and scoring, from the training patients of a fold.

A protocol says everything about *what is learnt and how it is scored*; `recipe` holds the optimisation settings its
source publishes, used where the config leaves a field at None. Sources are cited in `Protocol.source`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from data_prep.dataset import PatchDataset, SectionTable
from data_prep.errors import InputError

COUNTS_PER_SPOT = 1e4  # library size after normalisation, scanpy's convention


# A target transform takes counts [..., G], the spots' totals [..., 1] and the number of genes those totals are over.


def log1p_counts(counts: Any, total: Any, num_genes: int) -> Any:
    """log(1 + counts); BrST-Net's target, with no library-size normalisation."""
    del total, num_genes
    return _array_module(counts).log1p(counts)


def log1p_library(counts: Any, total: Any, num_genes: int) -> Any:
    """log(1 + 10,000 counts / total counts of the spot)."""
    del num_genes
    xp = _array_module(counts)
    return xp.log1p(counts * (COUNTS_PER_SPOT / xp.maximum(total, 1)))


def log_smoothed_share(counts: Any, total: Any, num_genes: int) -> Any:
    """log((1 + counts) / (number of genes + total counts of the spot)); ST-Net's target."""
    return _array_module(counts).log((1 + counts) / (num_genes + total))


def _array_module(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp


TRANSFORMS = {
    "log1p_counts": log1p_counts,
    "log1p_library": log1p_library,
    "log_smoothed_share": log_smoothed_share,
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to pose and score the task.

    Attributes:
        name: how configs and command lines call it.
        source: the paper or code it follows, and where this protocol departs from it.
        target: name of the target transform, a key of `TRANSFORMS`.
        standardise_main, standardise_aux: z-score the targets with the training spots' mean and deviation.
        num_main_genes: size of the main panel, ranked by mean raw count.
        panel_scope: "train" selects genes on training spots; "all" also on test spots (a leak, as published).
        min_spot_fraction: a gene is kept when more than this fraction of the scope's spots express it.
        min_counts: spots with fewer reads are not used at all.
        max_white_fraction: patches whiter than this are not used ...
        white_filter_scope: ... in "train" only, or in "all".
        image_std: "pooled" over pixels, or "mean_of_images": the mean of each patch's own deviation.
        test_symmetries: predict the mean over the eight symmetries of the square.
        pooling: PCC over "pooled" test spots, or the median of the PCCs of each section ("section_median") or patient
            ("patient_median").
        head_at_mean: the main head starts at weight 0 and bias at the mean target.
        num_folds: patients, sorted, are dealt to folds as `patients[f::num_folds]`.
        test_patients: held out when present; otherwise the last patient is.
        recipe: optimisation settings of the source.
    """

    name: str
    source: str
    target: str
    standardise_main: bool
    standardise_aux: bool
    panel_scope: str
    min_spot_fraction: float
    white_filter_scope: str
    max_white_fraction: float
    image_std: str
    pooling: str
    test_patients: tuple[str, ...]
    recipe: Mapping[str, Any]
    num_main_genes: int = 250
    min_counts: int = 1000
    test_symmetries: bool = False
    head_at_mean: bool = False
    num_folds: int = 5

    @property
    def hash(self) -> str:
        """SHA-256 of every field, written into results so that figures name the rules they were made under."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["recipe"] = dict(self.recipe)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def transform(self, counts: Any, total: Any, num_genes: int) -> Any:
        """Raw counts [..., G] and spot totals [..., 1] over `num_genes` genes to the protocol's expression units."""
        return TRANSFORMS[self.target](counts, total, num_genes)


brstnet_paper = Protocol(
    name="brstnet_paper",
    source=(
        "Rahaman et al., Breast cancer histopathology image-based gene expression prediction using spatial "
        "transcriptomics data and deep learning, Sci Rep 2023, text. Differs: mean squared error, because the "
        "cross-entropy the text names is not defined on real-valued targets; genes selected on training patients."
    ),
    target="log1p_counts",
    standardise_main=True,
    standardise_aux=False,
    panel_scope="train",
    min_spot_fraction=0.0,
    white_filter_scope="all",
    max_white_fraction=0.5,
    image_std="pooled",
    pooling="section_median",
    test_patients=("BC23903",),
    recipe=MappingProxyType(
        {
            "optimizer": "sgd",
            "learning_rate": 1e-3,
            "momentum": 0.9,
            "weight_decay": 1e-6,
            "schedule": "plateau",
            "early_stopping_patience": 20,
            "batch_size": 32,
            "num_epochs": 200,
            "aux_weight": 40.0,
        }
    ),
)

brstnet_code = Protocol(
    name="brstnet_code",
    source="The code published with BrST-Net; genes are ranked over all patients, test included, as published.",
    target="log1p_counts",
    standardise_main=True,
    standardise_aux=False,
    panel_scope="all",
    min_spot_fraction=0.1,
    white_filter_scope="train",
    max_white_fraction=0.5,
    image_std="mean_of_images",
    pooling="pooled",
    test_patients=("BC23450", "BC23903"),
    recipe=MappingProxyType(
        {
            "optimizer": "sgd",
            "learning_rate": 1e-3,
            "momentum": 0.9,
            "weight_decay": 1e-6,
            "schedule": "cosine_5_epochs",
            "early_stopping_patience": 0,
            "batch_size": 32,
            "num_epochs": 50,
            "aux_weight": 1.0,
        }
    ),
)

stnet = Protocol(
    name="stnet",
    source=(
        "He et al., Integrating spatial gene expression and breast tumour morphology via deep learning, Nat Biomed Eng "
        "2020, and its code. Its loss is summed over the batch of 32 at a rate of 1e-6: the mean at 32e-6."
    ),
    target="log_smoothed_share",
    standardise_main=False,
    standardise_aux=False,
    panel_scope="train",
    min_spot_fraction=0.0,
    white_filter_scope="train",
    max_white_fraction=1.0,
    image_std="pooled",
    pooling="patient_median",
    test_patients=(),
    test_symmetries=True,
    head_at_mean=True,
    recipe=MappingProxyType(
        {
            "optimizer": "sgd",
            "learning_rate": 32e-6,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "schedule": "constant",
            "early_stopping_patience": 0,
            "batch_size": 32,
            "num_epochs": 50,
            "aux_weight": 1.0,
        }
    ),
)

stjax = Protocol(
    name="stjax",
    source="stjax's own: library-normalised log targets, nothing chosen or fitted outside the training patients.",
    target="log1p_library",
    standardise_main=True,
    standardise_aux=False,
    panel_scope="train",
    min_spot_fraction=0.1,
    white_filter_scope="train",
    max_white_fraction=1.0,
    image_std="pooled",
    pooling="pooled",
    test_patients=(),
    recipe=MappingProxyType(
        {
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "momentum": 0.9,
            "weight_decay": 1e-2,
            "schedule": "cosine",
            "early_stopping_patience": 0,
            "batch_size": 32,
            "num_epochs": 30,
            "aux_weight": 1.0,
        }
    ),
)


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`. Raises InputError naming the known ones."""
    protocol = globals().get(name)
    if not isinstance(protocol, Protocol):
        known = sorted(key for key, value in globals().items() if isinstance(value, Protocol))
        raise InputError(f"protocol {name!r} is not known; choose one of {', '.join(known)}")
    return protocol


# ---------------------------------------------------------------------------------------------------------- split


@dataclasses.dataclass(frozen=True)
class Split:
    """Names of the sections of each part, and what a reader of the results must be told about it."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def split_sections(
    protocol: Protocol,
    patient_of: Mapping[str, str],
    *,
    fold: int = 0,
    test_patients: Sequence[str] = (),
    test_sections: Sequence[str] = (),
    val_sections: Sequence[str] = (),
) -> Split:
    """Deals sections to training, validation and test, by patient unless sections are named.

    Args:
        patient_of: section name to patient, in data set order.
        fold: which fold of the remaining patients validates.
        test_patients: overrides the protocol's held-out patients.
        test_sections, val_sections: name sections directly; no patient rule applies then, and validation is empty
            unless named.

    Raises:
        InputError: an unknown name, a fold out of range, or nothing left to train on.
    """
    names = tuple(patient_of)
    for what, given, known in (
        ("test_sections", test_sections, names),
        ("val_sections", val_sections, names),
        ("test_patients", test_patients, tuple(patient_of.values())),
    ):
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"{what} names {', '.join(unknown)}; the data set has {', '.join(sorted(set(known)))}")
    warnings = []
    if test_sections or val_sections:
        if not test_sections:
            raise InputError("val_sections is given without test_sections; name both, or neither to split by patient")
        test = tuple(name for name in names if name in test_sections)
        val = tuple(name for name in names if name in val_sections)
        if both := set(test) & set(val):
            raise InputError(f"{', '.join(sorted(both))} is in both test_sections and val_sections")
    else:
        patients = sorted(set(patient_of.values()))
        held_out = set(test_patients) or set(protocol.test_patients) & set(patients) or {patients[-1]}
        rest = [patient for patient in patients if patient not in held_out]
        num_folds = min(protocol.num_folds, len(rest))
        if not 0 <= fold < max(num_folds, 1):
            raise InputError(f"fold is {fold}; the {len(rest)} remaining patients make folds 0 to {num_folds - 1}")
        validating = set(rest[fold::num_folds]) if num_folds > 1 else set()
        test = tuple(name for name in names if patient_of[name] in held_out)
        val = tuple(name for name in names if patient_of[name] in validating)
    train = tuple(name for name in names if name not in test and name not in val)
    if not train:
        raise InputError(
            f"no section is left to train on: {len(names)} section(s) of {len(set(patient_of.values()))} patient(s), "
            f"{len(test)} held out for test; add patients, or name --config.test_sections"
        )
    for part, sections in (("test", test), ("validation", val)):
        if shared := {patient_of[name] for name in sections} & {patient_of[name] for name in train}:
            warnings.append(
                f"patient {', '.join(sorted(shared))} is in both training and {part}: "
                f"{part} figures say how well the model does on tissue it knows, not on new patients"
            )
    if not val:
        warnings.append("no validation sections: the last checkpoint is used, none is selected")
    return Split(train, val, test, tuple(warnings))


# ---------------------------------------------------------------------------------------------------------- panel


@dataclasses.dataclass(frozen=True)
class Panel:
    """Genes, target statistics and image statistics of one fold: all a trained model needs to know of its data.

    Attributes:
        ensembl_id, symbol: [M + A] str; the M main genes first, each part in the data set's column order.
        num_main: M.
        target_mean, target_std: [M + A] float64; 0 and 1 where the protocol does not standardise.
        image_mean, image_std: [3] float64, of pixel values 0..255.
        train_mean: [M] float64, mean main expression over training spots: the mean predictor.
        num_genes: of the data set, over which the spots' totals are.
    """

    ensembl_id: np.ndarray
    symbol: np.ndarray
    num_main: int
    target_mean: np.ndarray
    target_std: np.ndarray
    image_mean: np.ndarray
    image_std: np.ndarray
    train_mean: np.ndarray
    num_genes: int

    @property
    def num_aux(self) -> int:
        """A, the genes of AuxNet."""
        return len(self.symbol) - self.num_main

    @property
    def names(self) -> np.ndarray:
        """[M + A] str: symbol, or Ensembl id where there is none."""
        return np.where(self.symbol == "", self.ensembl_id, self.symbol)

    def columns(self, genes: Any) -> np.ndarray:
        """Column of each panel gene in another gene table, -1 where that table lacks it."""
        keys = np.where(self.ensembl_id == "", self.symbol, self.ensembl_id)
        place = {key: column for column, key in enumerate(genes.keys)}
        return np.array([place.get(key, -1) for key in keys], dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact."""
        return {
            field.name: value.tolist() if isinstance(value := getattr(self, field.name), np.ndarray) else value
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Panel":
        """What `to_json` returned, as a panel again."""
        kinds = {"ensembl_id": str, "symbol": str}
        fields: dict[str, Any] = {
            key: np.array(value, dtype=kinds.get(key, np.float64)) if isinstance(value, list) else value
            for key, value in values.items()
        }
        return cls(**fields)


def usable_spots(protocol: Protocol, table: SectionTable, *, train: bool) -> np.ndarray:
    """[S] bool: the spots of a section that the protocol trains (or tests) on."""
    usable = table.total_counts >= protocol.min_counts
    if train or protocol.white_filter_scope == "all":
        usable &= table.white_fraction[table.record_of_spot] <= protocol.max_white_fraction
    return usable


def fit_panel(protocol: Protocol, dataset: PatchDataset, split: Split) -> Panel:
    """Selects the genes and measures targets and images, on the training spots of the split.

    Raises:
        InputError: fewer usable spots or genes than the protocol needs.
    """
    tables = {name: dataset.table(name) for name in split.train}
    kept = {name: usable_spots(protocol, table, train=True) for name, table in tables.items()}
    counts = _stack([table.counts[kept[name]] for name, table in tables.items()])
    total = np.concatenate([table.total_counts[kept[name]] for name, table in tables.items()])
    if counts.shape[0] < 2:
        raise InputError(
            f"{counts.shape[0]} training spots have at least {protocol.min_counts} reads, which protocol "
            f"{protocol.name} asks for; add sections or choose another protocol"
        )

    scope = counts
    if protocol.panel_scope == "all":  # as published: the panel sees the test patients
        others = [dataset.table(name) for name in (*split.val, *split.test)]
        seen = [table.counts[usable_spots(protocol, table, train=False)] for table in others]
        scope = _stack([counts, *seen])
    mean = np.asarray(scope.mean(axis=0)).ravel()
    fraction = np.bincount(scope.indices, weights=scope.data > 0, minlength=scope.shape[1]) / scope.shape[0]
    eligible = np.flatnonzero(fraction > protocol.min_spot_fraction)
    if len(eligible) < protocol.num_main_genes:
        raise InputError(
            f"{len(eligible)} genes are expressed in more than {protocol.min_spot_fraction:.0%} of the training spots; "
            f"protocol {protocol.name} needs {protocol.num_main_genes}"
        )
    ranked = eligible[np.argsort(-mean[eligible], kind="stable")]
    columns = np.concatenate([np.sort(ranked[: protocol.num_main_genes]), np.sort(ranked[protocol.num_main_genes :])])

    target_mean, target_std = _moments(protocol, counts, total, columns)
    num_main = protocol.num_main_genes
    train_mean = target_mean[:num_main].copy()
    for part, standardise in (
        (slice(None, num_main), protocol.standardise_main),
        (slice(num_main, None), protocol.standardise_aux),
    ):
        if not standardise:
            target_mean[part], target_std[part] = 0.0, 1.0

    records = {name: np.unique(table.record_of_spot[kept[name]]) for name, table in tables.items()}
    pixel_mean = np.concatenate([tables[name].channel_mean[index] for name, index in records.items()])
    pixel_square = np.concatenate([tables[name].channel_mean_square[index] for name, index in records.items()])
    image_mean = pixel_mean.mean(axis=0)
    if protocol.image_std == "mean_of_images":
        image_std = np.sqrt(np.maximum(pixel_square - pixel_mean**2, 0)).mean(axis=0)
    else:
        image_std = np.sqrt(np.maximum(pixel_square.mean(axis=0) - image_mean**2, 0))
    if not np.all(image_std > 0):
        raise InputError("the training patches are all of one colour; check the slides with python -m data_prep.check")

    return Panel(
        ensembl_id=dataset.genes.ensembl_id[columns],
        symbol=dataset.genes.symbol[columns],
        num_main=num_main,
        target_mean=target_mean,
        target_std=target_std,
        image_mean=image_mean,
        image_std=image_std,
        train_mean=train_mean,
        num_genes=len(dataset.genes),
    )


def _stack(counts: Sequence[Any]) -> Any:
    """One CSR array of several; SciPy's own types stop short of saying so."""
    return scipy.sparse.csr_array(scipy.sparse.vstack(counts))


def _moments(protocol: Protocol, counts: Any, total: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the transformed targets, a block of genes at a time to bound the memory."""
    mean, std = np.zeros(len(columns)), np.ones(len(columns))
    by_gene = counts.tocsc()
    for start in range(0, len(columns), 512):
        block = slice(start, start + 512)
        block_counts = by_gene[:, columns[block]].toarray().astype(np.float64)
        values = protocol.transform(block_counts, total[:, None], counts.shape[1])
        mean[block], deviation = values.mean(axis=0), values.std(axis=0)
        std[block] = np.where(deviation > 0, deviation, 1.0)  # a constant gene stays constant, it does not blow up
    return mean, std
