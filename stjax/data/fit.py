"""A fold from its training spots: genes selected, targets and images measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_prep import csr
from data_prep.counted import counted
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.patients import weakest
from stjax import metrics
from stjax.data import hmhvg
from stjax.data.fold import Fold
from stjax.data.items import Blocks, Measured
from stjax.data.panel import Panel
from stjax.data.selection import Selection
from stjax.protocols import Protocol
from stjax.splits import Split
from stjax.targets import Moments

if TYPE_CHECKING:
    from stjax.views import View


def fit(
    view: "View", protocol: Protocol, dataset: PatchDataset, split: Split, *, sizes_um: Sequence[float] = ()
) -> Fold:
    """Selects the genes and measures targets and images, on the training spots of the split.

    Args:
        sizes_um: where the view's spots are of any size, those that the model is trained on; default all there are.

    Raises:
        InputError: fewer usable spots or genes than the protocol needs.
    """
    training = view.measured(Selection(dataset, split.train, protocol, train=True, sizes_um=sizes_um))
    if len(training.total) < 2:
        of = f" of {', '.join(f'{size:g}' for size in sizes_um)} um" if sizes_um else ""
        found = counted(len(training.total), f"training spots{of} have")
        raise InputError(
            f"{found} at least {protocol.min_counts} counts, which protocol {protocol.name} asks for; "
            "add sections or choose another protocol"
        )
    others = tuple(dict.fromkeys((*split.val, *split.test)))
    if protocol.panel_scope != "all":  # else as published: the panel sees the test patients
        others = ()
    if protocol.gene_ranking == hmhvg.NAME:
        columns = _ranked_by_section(protocol, dataset, (*split.train, *others))
    else:
        scope = [training]
        if others:
            scope.append(view.measured(Selection(dataset, others, protocol, train=False, sizes_um=sizes_um)))
        blocks = Blocks(lambda: (block for part in scope for block in part.blocks))
        columns = _ranked(protocol, blocks, sum(len(part.total) for part in scope))

    num_main = protocol.num_main_genes
    target_mean, target_std = np.zeros(len(columns)), np.ones(len(columns))
    train_mean, main_std = _moments(protocol, training, columns[:num_main], len(dataset.genes))
    if protocol.standardise_main:
        target_mean[:num_main], target_std[:num_main] = train_mean, main_std
    if protocol.standardise_aux:
        aux = _moments(protocol, training, columns[num_main:], len(dataset.genes))
        target_mean[num_main:], target_std[num_main:] = aux
    image_mean, image_std = _of_images(protocol, training.channel_mean, training.channel_mean_square)

    whose, parameters = dataset.patients(split.train), dataset.manifest["parameters"]
    training_sections = [section for section in dataset.sections if section["name"] in split.train]
    scales = [section["um_per_px"] * section["px_scale"] for section in training_sections]
    return Fold(
        data_dir=str(dataset.path.resolve()),
        content_hash=dataset.content_hash,
        parameters=parameters,
        stain_target=dataset.manifest["stain_target"],
        image_size_px=dataset.size_px,
        um_per_px=float(parameters.get("um_per_px") or np.median(scales)),
        synthetic=bool(dataset.manifest["synthetic"]),
        train_patients=tuple(sorted({patient for patient, _ in whose.values()})),
        train_patient_origins=weakest(list(whose.values())),
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        split=split,
        panel=Panel(dataset.genes.ensembl_id[columns], dataset.genes.symbol[columns], num_main, len(dataset.genes)),
        target_mean=target_mean,
        target_std=target_std,
        train_mean=train_mean,
        image_mean=image_mean,
        image_std=image_std,
        view=view.name,
    )


def _ranked(protocol: Protocol, blocks: Blocks, spots: int) -> np.ndarray:
    """Columns of the panel's genes: the main ones, then all others that are expressed in enough of so many spots."""
    expressed = sum(np.bincount(each.indices, weights=each.data > 0, minlength=each.shape[1]) for each in blocks)
    fraction = np.asarray(expressed) / spots
    eligible = np.flatnonzero((fraction > 0) & (fraction >= protocol.min_spot_fraction))
    if len(eligible) < protocol.num_main_genes:
        raise InputError(
            f"{len(eligible)} genes are expressed in at least {protocol.min_spot_fraction:.0%} of the training spots; "
            f"protocol {protocol.name} needs {protocol.num_main_genes}"
        )
    ranked = protocol.rank_genes(Moments.of(blocks, spots), eligible)
    return np.concatenate([np.sort(ranked[: protocol.num_main_genes]), np.sort(ranked[protocol.num_main_genes :])])


def _ranked_by_section(protocol: Protocol, dataset: PatchDataset, sections: Sequence[str]) -> np.ndarray:
    """As `_ranked`, of what a section at a time says."""
    ranked = hmhvg.rank((dataset.table(name).counts for name in sections), dataset.genes.names)
    if len(ranked) < protocol.num_main_genes:
        raise InputError(
            f"{len(ranked)} genes have counts in each of {len(sections)} sections; protocol {protocol.name} needs "
            f"{protocol.num_main_genes}"
        )
    return np.concatenate([np.sort(ranked[: protocol.num_main_genes]), np.sort(ranked[protocol.num_main_genes :])])


def _of_images(protocol: Protocol, mean: np.ndarray, mean_square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[3] mean and deviation of pixels from the moments [R, 3] of each image."""
    image_mean = mean.mean(axis=0)
    if protocol.image_std == "mean_of_images":
        image_std = np.sqrt(np.maximum(mean_square - mean**2, 0)).mean(axis=0)
    else:
        image_std = np.sqrt(np.maximum(mean_square.mean(axis=0) - image_mean**2, 0))
    if not np.all(image_std > 0):
        raise InputError("the training patches are all of one colour; check the slides with python -m data_prep.check")
    return image_mean, image_std


def _moments(
    protocol: Protocol, training: Measured, columns: np.ndarray, num_genes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the transformed targets, some genes at a time to bound the memory."""
    mean, std = np.zeros(len(columns)), np.ones(len(columns))
    total = training.total[:, None]
    by_gene = csr.stack([block[:, columns] for block in training.blocks]).tocsc()
    genes = max(1, (1 << 25) // max(len(total), 1))
    for start in range(0, len(columns), genes):
        block = slice(start, start + genes)
        values = protocol.transform(by_gene[:, block].toarray().astype(np.float64), total, num_genes)
        mean[block], std[block] = values.mean(axis=0), metrics.scale_of(values)
    return mean, std
