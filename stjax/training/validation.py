"""Metrics of the validation spots, which come a batch at a time; bounded memory for any number of them."""

import numpy as np

from stjax import metrics
from stjax.data.fold import Fold
from stjax.protocols import Protocol
from stjax.views import Batch


class Validation:
    """Loss; over genes the median and mean of the pooled PCC, and the mean of MAE and RMSE, in standard deviations of
    the training targets."""

    def __init__(self, fold: Fold, protocol: Protocol):
        self._fold, self._protocol = fold, protocol
        self._moments = metrics.Moments(fold.panel.num_main)
        self._absolute, self._squares = np.zeros((2, fold.panel.num_main))
        self._loss = self._weight = 0.0

    def update(self, prediction: np.ndarray, loss: float, batch: Batch) -> None:
        """Adds a batch.

        Args:
            prediction: [B, S, M] in the protocol's expression units.
            loss: summed over the batch's measured spots.
            batch: its mask, counts and total.
        """
        measured = batch["mask"] > 0
        counts = batch["counts"][measured][:, : self._fold.panel.num_main].astype(np.float64)
        total = batch["total"][measured].astype(np.float64)
        truth = self._protocol.transform(counts, total, self._fold.panel.num_genes)
        predicted = prediction[measured]
        self._moments.update(predicted, truth)
        self._absolute += np.abs(predicted - truth).sum(axis=0)
        self._squares += np.square(predicted - truth).sum(axis=0)
        self._loss, self._weight = self._loss + loss, self._weight + float(batch["mask"].sum())

    def figures(self) -> dict[str, float | None]:
        """{"val_loss", "val_pcc_median", "val_pcc_mean", "val_amae", "val_armse"}; None where there is none; and
        "val_genes_constant", how many genes are predicted the same at every spot, and "val_spots", their number."""
        pcc, (predicted, _) = self._moments.pearson(), self._moments.varying()
        known = pcc[~np.isnan(pcc)]
        std, count = self._fold.main.target_std, self._moments.count
        return {
            "val_loss": self._loss / self._weight,
            "val_pcc_median": float(np.median(known)) if len(known) else None,
            "val_pcc_mean": float(np.mean(known)) if len(known) else None,
            "val_genes_constant": int(np.sum(~predicted)),
            "val_amae": float(np.mean(self._absolute / count / std)),
            "val_armse": float(np.mean(np.sqrt(self._squares / count) / std)),
            "val_spots": int(count),
        }
