"""A work directory: what `train` leaves and everything later reads. JSON and arrays only, nothing executable."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from data_prep import files, json_files, system_errors
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import checkpoint, encoders, intervals, models, parallel, views
from stjax import config as configs
from stjax.config import Config
from stjax.data.fold import Fold
from stjax.features.store import RANDOM
from stjax.forward import Weights, make_predict_step
from stjax.intervals import Intervals
from stjax.models import tuning, weight_files
from stjax.progress import Progress
from stjax.protocols import Protocol, get_protocol
from stjax.state import init_state, weights_of
from stjax.trained import OF_IMAGES_ALONE, Trained

CONFIG, DATA, CHECKPOINTS, LOCK = "config.json", "data.json", "checkpoints", ".lock"


_REMEDY = "restore it, or train in a new work directory"


@dataclasses.dataclass(frozen=True)
class Run(Trained):
    """A run of `stjax.train` with its settings; its `step` is the best on validation, or the last where there is no
    validation."""

    config: Config
    graphdef: Any
    weights: Weights
    alone: "Run | None" = None  # of a model with its encoder in front: the model

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Raises InputError when the folder holds no trained model, or a damaged one."""
        folder = Path(folder)
        config = configs.load(folder / CONFIG)
        fold = load_fold(folder)
        mesh = parallel.make_mesh()
        checkpoints = folder / CHECKPOINTS
        meta = checkpoint.newest(checkpoints)
        if meta is None:
            raise InputError(f"{folder} has no checkpoint yet; train it (again) with python -m stjax.train")
        step = meta["best_step"] or meta["step"]  # 0: saved before the end of the first epoch
        checkpoint.check_of(checkpoints, step)
        protocol = checked_protocol(fold, folder)
        graphdef, template = init_state(config, fold, mesh=mesh, abstract=True)
        weights = weights_of(checkpoint.restore(checkpoints, step, template))
        weight_files.check_finite(_arrays(weights), f"checkpoint {checkpoints / str(step)}")
        progress = Progress.of(meta, config.num_epochs, folder)
        encoder = Path(config.encoder_weights) if config.encoder_weights else None
        run = cls(folder, fold, protocol, mesh, step, config, graphdef, weights, progress=progress)
        return dataclasses.replace(run, encoder_weights=encoder)

    @property
    def on_slides(self) -> "Run":
        """As `Trained` says."""
        return self._on_slides

    @functools.cached_property
    def _on_slides(self) -> "Run":
        if not self.view.encoded:
            return self
        model = self.network()
        embedder = self.view.embedder(self.fold, self.view.kind_of(model), self.encoder_weights, self.mesh)
        if embedder is None:
            return self
        if self.view.two_passes:
            return dataclasses.replace(self, embedder=embedder)
        model.put_in_front(embedder.function, embedder.state)
        graphdef, params, statistics = models.split(model)
        weights = parallel.put_replicated({"params": params, "statistics": statistics}, self.mesh)
        return dataclasses.replace(self, graphdef=graphdef, weights=weights, alone=self)

    @property
    def takes_features(self) -> bool:
        """As `Trained` says."""
        return self.view.encoded and self.view.one_spot and self.alone is None

    @property
    def encoder(self) -> dict[str, Any] | None:
        """As `Trained` says."""
        settings, encoded = self.config.model, self.view.encoded
        name = self.view.encoder if encoded else settings.variant
        known = encoders.ENCODERS.get(name) if encoded else models.published(settings.module, name)
        if known is None and not encoded:
            return None
        begun = self.fold.facts["weights_sha256"] if encoded else self.fold.init_sha256
        random = begun.startswith(RANDOM) if encoded else not self.config.init_from
        licence = "" if known is None or random else known.licence
        return {
            "name": name,
            "title": name if known is None else known.title,
            "source": "" if known is None or random else known.source,
            "trained": "not trained" if encoded else tuning.described(settings.options),
            "weights_sha256": begun,
            "pooling": self.fold.facts.get("pooling", ""),
            "licence": licence or ("none, as its weights are random" if random else "not known to stjax"),
            "terms": encoders.LICENCES.get(licence, ""),
            "restricted": bool(licence) and known is not None and known.restricted,
            "included": not encoded or self.alone is not None,
        }

    @property
    def model_name(self) -> str:
        """Module and variant, e.g. "efficientnet b0"."""
        return f"{self.config.model.module} {self.config.model.variant}"

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model's structure, parameters and statistics, as 64 hexadecimal digits."""
        return self._model_sha256 if self.alone is None else self.alone.model_sha256

    @functools.cached_property
    def _model_sha256(self) -> str:
        digest = hashlib.sha256(json.dumps(self.config.model.to_dict(), sort_keys=True).encode())
        for name, leaf in _arrays(self.weights):
            digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).data)
        return digest.hexdigest()

    @property
    def batch_size(self) -> int:
        """The config's `eval_batch_size`, rounded up to a multiple of the devices."""
        return parallel.round_up(self.config.eval_batch_size, self.mesh)

    @property
    def intervals(self) -> Intervals | None:
        """Of single values, as its evaluation found them."""
        if found := Intervals.load(self.folder):
            found.check_genes(self.fold.panel.num_main, str(self.folder / intervals.FILE))
        return found and found.of(self.model_sha256, symmetries=self.protocol.test_symmetries)

    def network(self) -> Any:
        """The nnx module."""
        return nnx.merge(self.graphdef, self.weights["params"], self.weights["statistics"])

    def predict(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """As `Trained` says."""
        return self.predict_step(self.weights, parallel.put_whole(dict(batch), self.mesh))

    def over_symmetries(self) -> "Run":
        """The same model, predicting the mean over the eight symmetries of the square, whatever its protocol says.

        Raises:
            InputError: it takes features, which are of patches as they lie.
        """
        if self.view.encoded and self.alone is None:
            raise InputError(OF_IMAGES_ALONE)
        return dataclasses.replace(self, protocol=dataclasses.replace(self.protocol, test_symmetries=True))

    @functools.cached_property
    def predict_step(self) -> Callable[[Weights, views.Batch], views.Outputs]:
        """`forward.make_predict_step` of this model, compiled once."""
        return make_predict_step(self.view, self.graphdef, self.fold, self.protocol, self.mesh)

    def open_dataset(self, data_dir: str = "") -> PatchDataset:
        """The data set it was trained on, or another. Raises InputError when it is not there or has changed."""
        dataset = PatchDataset.open(Path(data_dir or self.fold.data_dir))
        if not data_dir and dataset.content_hash != self.fold.content_hash:
            raise InputError(
                f"the data set {self.fold.data_dir} has changed since this run was trained; "
                "name the one to use with --data-dir"
            )
        return self.fold.divided(dataset)


def _arrays(state: Mapping[str, Any]) -> list[tuple[str, jax.Array]]:
    """Parameters and statistics, each under its place in the model."""
    parts = {name: nnx.to_pure_dict(state[name]) for name in ("params", "statistics")}
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(parts)]


@contextlib.contextmanager
def locked(workdir: Path, *, doing: str = "training") -> Iterator[None]:
    """Makes the folder, and keeps other processes from training in it; the lock ends with the process, however it ends.

    Args:
        doing: what other processes are told.

    Raises:
        InputError: another process trains there, or something else has the folder's name.
    """
    system_errors.check_folder(workdir, "--workdir")
    busy = f"another process is {doing} in {workdir}; wait for it, or choose another --workdir"
    with files.lock(workdir / LOCK, busy=busy):
        yield


def checked_protocol(fold: Fold, workdir: Path) -> Protocol:
    """A run's protocol. Raises InputError when its rules have changed since the run began."""
    protocol = get_protocol(fold.protocol)
    if protocol.hash != fold.protocol_hash:
        raise InputError(
            f"{workdir} was trained under other rules than protocol {protocol.name} now has; "
            "use the version of stjax it was trained with, or train in a new work directory"
        )
    return protocol


def load_fold(workdir: Path) -> Fold:
    """A run's data.json. Raises InputError when there is none, none that can be read, or one that was changed."""
    path = workdir / DATA
    if not path.exists():
        if (workdir / "model.stablehlo").exists():
            raise InputError(
                f"{workdir} is not a stjax run directory but an exported model, which predicts "
                "(stjax predict, stjax.load); give the run directory it was exported from"
            )
        raise InputError(f"{workdir} is not a stjax run directory: it has no {DATA}; train one first")
    content = json_files.read_sealed(path, remedy=_REMEDY)
    fold = Fold.from_json(content, str(path))
    views.of(fold).check_facts(fold, str(path))
    return fold


def hardware() -> str:
    """The devices of this run, for results."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"


def versions() -> dict[str, str]:
    """Of stjax and what its results may depend on, for results."""
    packages = ("stjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
