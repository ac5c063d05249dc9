"""Published protocols as data: targets, filters, folds and scoring.

A protocol says everything about *what is learnt and how it is scored*; `recipe` holds the optimisation settings its
source publishes, used where the config leaves a field at None. Sources are cited in `Protocol.source`.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from data_prep import json_files
from data_prep.errors import InputError
from stjax.targets import RANKINGS, TRANSFORMS, Moments

# What no published recipe here has; also what runs were trained with before these settings existed.
WITHOUT: Mapping[str, Any] = MappingProxyType({"warmup_steps": 0, "max_gradient_norm": 0.0, "ema_decay": 0.0})
# stjax's own recipe: a slow start, no step out of all proportion, and averaged weights in place of the last ones.
STEADY: Mapping[str, Any] = MappingProxyType({"warmup_steps": 100, "max_gradient_norm": 10.0, "ema_decay": 0.99})


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to pose and score the task.

    Attributes:
        name: how configs and command lines call it.
        source: the paper or code it follows, and where this protocol departs from it.
        target: name of the target transform, a key of `targets.TRANSFORMS`.
        standardise_main, standardise_aux: z-score the targets with the training spots' mean and deviation.
        num_main_genes: size of the main panel.
        gene_ranking: what its genes are ranked by, a key of `targets.RANKINGS`, or "hmhvg", see `stjax.data.hmhvg`.
        panel_scope: "train" selects genes on training spots; "all" also on test spots (a leak, as published).
        min_spot_fraction: a gene is kept when at least this fraction of the scope's spots express it.
        min_counts: spots with fewer counts are not used at all.
        stain: the normalisation its source prepares slides with; a data set prepared otherwise is noted.
        max_white_fraction: patches as white as this, or whiter, are not used (1 uses all) ...
        white_filter_scope: ... in "train" only, or in "all".
        image_std: "pooled" over pixels, or "mean_of_images": the mean of each patch's own deviation.
        test_symmetries: predict the mean over the eight symmetries of the square.
        pooling: PCC over "pooled" test spots, or the median of the PCCs of each section ("section_median") or patient
            ("patient_median").
        head_at_mean: the main head starts at weight 0 and bias at the mean target.
        validation: the checkpoint is chosen on sections that are "held_out" besides those of the test, or on those of
            the "test" themselves (a leak, as published).
        num_folds: patients, sorted, are dealt to folds as `patients[f::num_folds]`; 0: no validation, all train.
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
    stain: str = "none"
    min_counts: int = 1000
    test_symmetries: bool = False
    head_at_mean: bool = False
    num_folds: int = 5
    gene_ranking: str = "mean_count"
    validation: str = "held_out"

    @property
    def hash(self) -> str:
        """SHA-256 of every field, written into results so that results name the rules they were made under."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, only in (("gene_ranking", "mean_count"), ("validation", "held_out")):
            if fields[name] == only:  # once the only one: runs trained then keep their rules' hash
                del fields[name]
        # These came later, and say how training is kept steady, not what is learnt or scored; config.json has them.
        fields["recipe"] = {name: value for name, value in self.recipe.items() if name not in WITHOUT}
        return json_files.digest(fields)

    def uses(self, total: np.ndarray, white: np.ndarray | None = None, *, train: bool) -> np.ndarray:
        """[S] bool: the spots that are trained (or, not `train`, tested) on.

        Args:
            total: [S] counts of all genes.
            white: [S] how much of each spot's patch is white; None of tiles, which are white and tissue at once.
        """
        used = total >= self.min_counts
        if white is not None and self.max_white_fraction < 1 and (train or self.white_filter_scope == "all"):
            used &= white < self.max_white_fraction
        return used

    def transform(self, counts: Any, total: Any, num_genes: int) -> Any:
        """Raw counts [..., G] and spot totals [..., 1] over `num_genes` genes to the protocol's expression units."""
        return TRANSFORMS[self.target](counts, total, num_genes)

    def rank_genes(self, moments: Moments, eligible: np.ndarray) -> np.ndarray:
        """[E] genes that may be chosen, best first, by the moments of their counts."""
        return RANKINGS[self.gene_ranking](moments, eligible)


def _recipe(optimizer: str, *, steady: Mapping[str, Any] = WITHOUT, **settings: Any) -> Mapping[str, Any]:
    usual = {"momentum": 0.9, "early_stopping_patience": 0, "batch_size": 32, "aux_weight": 1.0}
    return MappingProxyType({"optimizer": optimizer, **usual, **settings, **steady})


# stjax's own, also of protocols whose source trains no network.
OWN_RECIPE = _recipe("adamw", learning_rate=1e-3, weight_decay=1e-2, schedule="cosine", num_epochs=30, steady=STEADY)

# The others say what differs from it.
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
    recipe=OWN_RECIPE,
)

brstnet_paper = dataclasses.replace(
    stjax,
    name="brstnet_paper",
    source=(
        "Rahaman et al., Breast cancer histopathology image-based gene expression prediction using spatial "
        "transcriptomics data and deep learning, Sci Rep 2023, text. Differs: mean squared error, because the "
        "cross-entropy the text names is not defined on real-valued targets; genes selected on training patients. "
        "The text gives no settings of ReduceLROnPlateau: factor 0.1, patience 5 epochs."
    ),
    stain="vahadane",
    target="log1p_counts",
    min_spot_fraction=0.0,
    white_filter_scope="all",
    max_white_fraction=0.5,
    pooling="section_median",
    test_patients=("BC23903",),
    recipe=_recipe(
        "sgd",
        learning_rate=1e-3,
        weight_decay=1e-6,
        schedule="plateau",
        early_stopping_patience=20,
        num_epochs=200,
        aux_weight=40.0,
    ),
)

brstnet_code = dataclasses.replace(
    stjax,
    name="brstnet_code",
    source=(
        "The code published with BrST-Net; genes are ranked over all patients, test included, as published. It "
        "averages the best epochs of four figures over folds and retrains on all training patients for that many, as "
        "stjax.crossval does; one fold alone (stjax.train) uses the checkpoint of its lowest validation loss."
    ),
    stain="vahadane",
    target="log1p_counts",
    panel_scope="all",
    max_white_fraction=0.5,
    image_std="mean_of_images",
    test_patients=("BC23450", "BC23903"),
    recipe=_recipe("sgd", learning_rate=1e-3, weight_decay=1e-6, schedule="cosine_5_epochs", num_epochs=50),
)

stnet = dataclasses.replace(
    stjax,
    name="stnet",
    source=(
        "He et al., Integrating spatial gene expression and breast tumour morphology via deep learning, Nat Biomed Eng "
        "2020, and its code. Its loss is summed over the batch of 32 at a rate of 1e-6: the mean at 32e-6."
    ),
    target="log_smoothed_share",
    standardise_main=False,
    min_spot_fraction=0.0,
    pooling="patient_median",
    num_folds=0,
    test_symmetries=True,
    head_at_mean=True,
    recipe=_recipe("sgd", learning_rate=32e-6, weight_decay=0.0, schedule="constant", num_epochs=50),
)

pixnet = dataclasses.replace(
    stjax,
    name="pixnet",
    source=(
        "Zhang, Yang and Pan, PixNet, arXiv 2503.01347, 2025: expression divided by the spot's sum, then log. Reading: "
        "10,000 reads a spot and log(1 + x), the normalisation of the work it cites. Differs: genes are ranked on "
        "training patients (the text says across the data set), and the checkpoint is chosen on validation patients."
    ),
    standardise_main=False,
    min_spot_fraction=0.0,
    min_counts=0,
    recipe=_recipe("adam", learning_rate=5e-4, weight_decay=1e-4, schedule="constant", batch_size=8, num_epochs=500),
)

hest = dataclasses.replace(
    stjax,
    name="hest",
    source=(
        "Jaume et al., HEST-1k, NeurIPS 2024, arXiv 2406.16192: HEST-Benchmark, and its code (mahmoodlab/HEST, "
        "src/hest/bench, and get_k_genes of src/hest/utils.py): the 50 most variable genes among those in at least a "
        "tenth of the spots, as scanpy ranks them; PCC of all held-out spots together, mean over genes. "
        "The text says log1p-normalised; the code takes log(1 + counts) and does not divide by the spot's total, as "
        "here. Differs: genes are ranked on training patients (there on all samples, test included), and kept by their "
        "share of all training spots (there of every sample's); spots are not masked by tissue; trained end to end "
        "instead of by ridge regression on frozen features, so `recipe` is stjax's own; the last checkpoint is used."
    ),
    target="log1p_counts",
    standardise_main=False,
    num_main_genes=50,
    gene_ranking="variability",
    min_counts=0,
    num_folds=0,
)

stp = dataclasses.replace(
    stjax,
    name="stp",
    source=(
        "STP-Bench (github.com/NEXGEM/STP-Bench, commit 447fe226; its paper was not to be had): log(1 + counts) of 200 "
        "genes, those highest in the sum of their ranks in mean and deviation over all spots, test included, of the "
        "genes that are among scanpy's 2,000 most variable of some section and counted in every one, less those called "
        "MT..., RPS... or RPL...; the checkpoint is chosen on the test fold, as published. Differs: a gene without any "
        "count in a section is taken for not measured there; training is in float32; the PCC of a gene is the median "
        "over sections here, where STP-Bench takes the mean over genes in each section, and then over sections, which "
        "the suite stp does. Reading: the weight decay, 0.01, is that of PyTorch's AdamW."
    ),
    target="log1p_counts",
    standardise_main=False,
    num_main_genes=200,
    gene_ranking="hmhvg",
    panel_scope="all",
    min_spot_fraction=0.0,
    min_counts=0,
    pooling="section_median",
    validation="test",
    num_folds=0,
    recipe=_recipe(
        "adamw",
        learning_rate=1e-4,
        weight_decay=1e-2,
        schedule="plateau",
        early_stopping_patience=20,
        batch_size=128,
        num_epochs=200,
    ),
)

stp_inner = dataclasses.replace(
    stp,
    name="stp_inner",
    source=(
        "stjax's own: as `stp`, but genes are chosen on the training sections alone, and the checkpoint on patients "
        "that are neither trained on nor scored."
    ),
    panel_scope="train",
    validation="held_out",
    num_folds=5,
)


def names() -> list[str]:
    """Of every protocol."""
    return sorted(key for key, value in globals().items() if isinstance(value, Protocol))


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`. Raises InputError naming the known ones."""
    protocol = globals().get(name)
    if not isinstance(protocol, Protocol):
        raise InputError(f"protocol {name!r} is not known; choose one of {', '.join(names())}")
    return protocol
