"""A predictor whose answer is known: a patch's mean red, green and blue. What streams past it shows in the result."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from stjax import parallel, views
from stjax.data.fold import Fold
from stjax.data.panel import Panel
from stjax.intervals import Intervals
from stjax.progress import Progress
from stjax.protocols import get_protocol
from stjax.splits import Split
from stjax.trained import Trained
from stjax.trust import Trust

FINISHED = Progress(30, 30, True)
UM, SIZE_PX = 1.0, 32
GENES = ("RED", "GREEN", "BLUE")


def made_fold(**values):
    """A fold of patches and three genes, with these values in place of its own."""
    protocol = get_protocol("stjax")
    fold = Fold(
        data_dir="",
        content_hash="c" * 64,
        parameters={"resolve_aliases": False, "stain": "none", "stain_standardise": "both", "um_per_px": None},
        stain_target=None,
        image_size_px=SIZE_PX,
        um_per_px=UM,
        synthetic=False,
        train_patients=(),
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        split=Split((), (), ()),
        panel=Panel(np.array(["ENSG1", "ENSG2", "ENSG3"]), np.array(GENES), num_main=3, num_genes=3),
        target_mean=np.zeros(3),
        target_std=np.ones(3),
        train_mean=np.zeros(3),
        image_mean=np.array([190.0, 110.0, 165.0]),
        image_std=np.full(3, 40.0),
        view="patches",
    )
    return dataclasses.replace(fold, **values)


@dataclasses.dataclass(frozen=True)
class MeanColour:
    """As much of a `Trained` as predicting takes."""

    fold: Fold = dataclasses.field(default_factory=made_fold)
    model_sha256: str = "m" * 64
    batch_size: int = 4
    folder: Path = Path("fake")
    model_name: str = "mean colour"
    encoder: None = None
    embedder: None = None
    step: int = 1
    averaging: bool = False
    intervals: Intervals | None = None
    trust: Trust | None = None
    progress: Progress = FINISHED
    units = Trained.units

    @property
    def view(self):
        return views.of(self.fold)

    @property
    def protocol(self):
        return dataclasses.replace(get_protocol("stjax"), test_symmetries=self.averaging)

    @property
    def mesh(self):
        return parallel.make_mesh(jax.devices()[:1])

    def predict(self, batch):
        assert batch["image"].shape == (self.batch_size, SIZE_PX, SIZE_PX, 3)
        return {"expression": jnp.mean(jnp.asarray(batch["image"], jnp.float32), axis=(1, 2))[:, None]}

    @property
    def on_slides(self):
        return self

    def over_symmetries(self):
        return dataclasses.replace(self, averaging=True)

    def network(self):
        raise NotImplementedError
