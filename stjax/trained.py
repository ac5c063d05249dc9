"""What predicts: a trained model with all it knows of its data, wherever it comes from."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jax
from jax.sharding import Mesh

from data_prep.errors import InputError
from stjax import hub, views
from stjax.data.fold import Fold
from stjax.intervals import Intervals
from stjax.progress import UNKNOWN, Progress
from stjax.protocols import Protocol
from stjax.trust import Trust

if TYPE_CHECKING:
    from stjax.features.embedder import Embedder

OF_IMAGES_ALONE = "--symmetries is for images, and features are of patches as they lie; leave it out"
ENCODER_HELP = "of a model of features: file of its encoder's weights, in place of config.encoder_weights"


@dataclasses.dataclass(frozen=True)
class Trained(abc.ABC):
    """A trained model, as everything that predicts takes it: a run's (`workdir.Run`) or an exported one
    (`inference.model_folder.Exported`).

    Attributes:
        folder: where it was loaded from.
        fold: genes, target and image statistics, scale, stain target, and of what spots it was trained.
        protocol: the rules it was trained under: what its numbers mean.
        mesh: the devices it runs on.
        step: the training step of its weights.
        progress: how far it was trained.
        encoder_weights: file of the encoder's, of a model of features that has none in itself.
        embedder: that encoder, of a model `on_slides` whose view goes over them twice.
    """

    folder: Path
    fold: Fold
    protocol: Protocol
    mesh: Mesh
    step: int
    progress: Progress = dataclasses.field(default=UNKNOWN, kw_only=True)
    encoder_weights: Path | None = dataclasses.field(default=None, kw_only=True)
    embedder: "Embedder | None" = dataclasses.field(default=None, kw_only=True)

    @functools.cached_property
    def view(self) -> views.View:
        """What its items are."""
        return views.of(self.fold)

    def with_weights(self, encoder: Path | None) -> Self:
        """The same model with another file of its encoder's weights, where one is given. Raises InputError for one that
        has no encoder next to it."""
        if encoder is None:
            return self
        if not self.view.encoded:
            raise InputError(f"{self.folder} is a model of {self.view.items}, without an encoder; leave out --weights")
        return dataclasses.replace(self, encoder_weights=encoder)

    @property
    @abc.abstractmethod
    def on_slides(self) -> Self:
        """The same model, which takes windows cut from a slide: one of features with its encoder in front, or alongside
        where its view goes over a slide twice.

        Raises:
            InputError: the encoder's weights are not given, or others.
        """

    @property
    def takes_features(self) -> bool:
        """Whether `predict` takes an encoder's features of single spots, in place of images."""
        return False

    @property
    def units(self) -> str:
        """What its predictions are in: the protocol and its target transform."""
        return f"{self.fold.protocol}: {self.protocol.target}"

    @property
    @abc.abstractmethod
    def encoder(self) -> dict[str, Any] | None:
        """The published encoder in the model or in front of it, as plain values: "name" and "title", "source" of its
        weights, how it was "trained" here, "weights_sha256" of the file ("random:SEED" of random ones, "" where that is
        not known), "pooling" of features, "licence" and its "terms", whether these are "restricted", and whether its
        weights are "included" in the model. None where there is none."""

    @property
    @abc.abstractmethod
    def model_name(self) -> str:
        """Module and variant, e.g. "efficientnet b0"."""

    @property
    @abc.abstractmethod
    def model_sha256(self) -> str:
        """SHA-256 of its structure, parameters and statistics, 64 hexadecimal digits; the same of a run's model and of
        its export."""

    @property
    @abc.abstractmethod
    def intervals(self) -> Intervals | None:
        """Of single values: how far it was off on its validation patients; None where that is not known."""

    @property
    def trust(self) -> Trust | None:
        """How well each gene was predicted on held-out sections; None where that is not known."""
        found = Trust.load(self.folder)
        names, symmetries = self.fold.panel.main.names, self.protocol.test_symmetries
        return found and found.of(names, self.model_sha256, symmetries=symmetries)

    @property
    @abc.abstractmethod
    def batch_size(self) -> int:
        """How many items `predict` is best given: always as many, so that one compiled program serves them all."""

    @abc.abstractmethod
    def predict(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Predicts a batch. The devices compute while the caller goes on; `np.asarray` of a result waits for it.

        Args:
            batch: what the view's `Windows.inputs` give, in NumPy: {"image": uint8 [B, H, H, 3], stain-normalised, at
                the scale of `fold.um_per_px`, ...}; B a multiple of the devices.

        Returns:
            {"expression": float32 [B, S, M] in the protocol's units}, S = 1 of patches, and from a model of rates
            {"total": [B, S]}, the expected counts of each spot.
        """

    @abc.abstractmethod
    def over_symmetries(self) -> Self:
        """The same model, predicting the mean over the eight symmetries of the square, whatever its protocol says."""

    @abc.abstractmethod
    def network(self) -> Any:
        """The nnx module, for what `predict` does not give: feature maps, single layers. Of a model of features that is
        the head, which takes features [B, D]; of a run's `on_slides` with the encoder in front."""


def load(folder: Path, *, encoder_weights: Path | None = None) -> Trained:
    """Opens a trained model.

    Args:
        folder: a work directory of `stjax.train`, or what `stjax.export` made of one; the latter may be on the Hugging
            Face Hub, `hf://NAME/MODEL[@REVISION]`.
        encoder_weights: of a model of features, the file of its encoder's weights; default that of its training.

    Raises:
        InputError: the folder holds no trained model, or a damaged one; weights for one that has no encoder next to it.
    """
    from stjax.inference.model_folder import Exported, is_model_folder

    if from_hub := hub.is_address(folder):
        folder = hub.download(folder)
    if from_hub or is_model_folder(folder):
        return Exported.load(folder).with_weights(encoder_weights)
    from stjax.workdir import Run  # what trains is imported for a run alone

    return Run.load(folder).with_weights(encoder_weights)
