"""What predicts: a trained model with all it knows of its data, wherever it comes from."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
from jax.sharding import Mesh

from stjax import workdir
from stjax.inference.model_folder import ModelFolder, is_model_folder
from stjax.intervals import Intervals
from stjax.progress import Progress
from stjax.protocols import Protocol
from stjax.workdir import DataRecord


class Predictor(typing.Protocol):
    """A trained model, as everything that predicts takes it: `workdir.Run` or `model_folder.ModelFolder`."""

    @property
    def folder(self) -> Path:
        """Where it was loaded from, for messages."""
        ...

    @property
    def data(self) -> DataRecord:
        """Genes, target and image statistics, scale, stain target, and of what spots it was trained."""
        ...

    @property
    def protocol(self) -> Protocol:
        """The rules it was trained under: what its numbers mean."""
        ...

    @property
    def step(self) -> int:
        """The training step of its weights."""
        ...

    @property
    def progress(self) -> Progress:
        """How far it was trained."""
        ...

    @property
    def model_name(self) -> str:
        """Module and variant, e.g. "efficientnet b0"."""
        ...

    @property
    def model_sha256(self) -> str:
        """SHA-256 of its structure, parameters and statistics, 64 hexadecimal digits."""
        ...

    @property
    def intervals(self) -> Intervals | None:
        """Of single values: how far it was off on its validation patients; None where that is not known."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The devices it runs on."""
        ...

    @property
    def batch_size(self) -> int:
        """How many images `predict` is best given: always as many, so that one compiled program serves them all."""
        ...

    def predict(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Predicts a batch. The devices compute while the caller goes on; `np.asarray` of a result waits for it.

        Args:
            batch: {"image": uint8 [B, H, H, 3] NumPy, stain-normalised, at the scale of `data.um_per_px`}, and of a
                model of tiles "spots", their stacked `SpotTable`s; B a multiple of the devices.

        Returns:
            {"expression": float32 [B, S, M] in the protocol's units}, S = 1 of patches, and from a model of rates
            {"total": [B, S]}, the expected reads of each spot.
        """
        ...

    def over_symmetries(self) -> Self:
        """The same model, predicting the mean over the eight symmetries of the square, whatever its protocol says."""
        ...

    def network(self) -> Any:
        """The nnx module, for what `predict` does not give: feature maps, single layers."""
        ...


def load(folder: Path) -> Predictor:
    """Opens a trained model.

    Args:
        folder: a work directory of `stjax.train`, or what `stjax.export` made of one.

    Raises:
        InputError: the folder holds no trained model, or a damaged one.
    """
    return ModelFolder.load(folder) if is_model_folder(folder) else workdir.Run.load(folder)
