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
from jax.sharding import Mesh

from data_prep import files, json_files, stain, system_errors
from data_prep.dataset import PARAMETERS, PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Each, Lacking, Maybe
from stjax import checkpoint, intervals, parallel
from stjax import config as configs
from stjax.config import Config
from stjax.data.panel import PANEL, Panel
from stjax.data.tile_records import TILE_FACTS, TileFacts
from stjax.intervals import Intervals
from stjax.models import weight_files
from stjax.progress import UNKNOWN, Progress
from stjax.protocols import Protocol, Split, get_protocol
from stjax.training import steps

CONFIG, DATA, CHECKPOINTS, LOCK = "config.json", "data.json", "checkpoints", ".lock"


_REMEDY = "restore it, or train in a new work directory"
_UNSAID = {"resolve_aliases": False, "context_px": None, "stain_standardise": "both", "min_counts": 0}
RECORD = {  # a data record's plain values
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
    "tiles": Maybe(TILE_FACTS),
}


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """What a run knows of its data: enough to predict without the data set.

    Attributes:
        data_dir, content_hash: the data set, and the SHA-256 of its manifest.
        parameters: how patches were cut and stained, from the manifest.
        stain_target: the fitted slide that stains were normalised to, from the manifest; None without normalisation.
        image_size_px: side of a patch or tile.
        um_per_px: physical size of its pixel, the training sections' median.
        synthetic: whether the data is the demo's.
        train_patients: whose sections the model is trained on.
        train_patient_origins: how each of them is known, a key of `data_prep.patients.ORIGINS`; empty of runs trained
            before that was recorded.
        tiles: of a model of tiles; None for patches.
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
    tiles: TileFacts | None = None
    train_patient_origins: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tiles = None if self.tiles is None else self.tiles.to_json()
        return values | {"split": dataclasses.asdict(self.split), "panel": self.panel.to_json(), "tiles": tiles}

    @classmethod
    def from_json(cls, values: dict[str, Any], name: str = DATA) -> "DataRecord":
        """What `to_json` returned, as a record again.

        Args:
            name: of the file, for messages.

        Raises:
            InputError: it is none.
        """
        json_files.require(values, RECORD, name, remedy=_REMEDY)
        given = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        given["parameters"] = _UNSAID | given["parameters"]
        split = Split(**{part: tuple(values["split"][part]) for part in RECORD["split"]})
        patients = tuple(values["train_patients"])
        panel = Panel.from_json(values["panel"])
        tiles = None if values["tiles"] is None else TileFacts.from_json(values["tiles"])
        if tiles is not None and len(tiles.base_rates) != panel.num_main + 1:
            raise InputError(
                f"{name}: {len(tiles.base_rates)} base rates beside {panel.num_main} main genes, expected one more; "
                f"{_REMEDY}"
            )
        return cls(**given | {"split": split, "panel": panel, "train_patients": patients, "tiles": tiles})


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with its settings, ready to predict: a `predictor.Predictor`.

    Attributes:
        step: the step of the checkpoint: the best on validation, or the last where there is no validation.
        progress: how far the run has come.
    """

    workdir: Path
    config: Config
    data: DataRecord
    protocol: Protocol
    graphdef: Any
    state: steps.State
    step: int
    mesh: Mesh
    progress: Progress = UNKNOWN

    @classmethod
    def load(cls, workdir: Path) -> "Run":
        """Raises InputError when the folder holds no trained model, or a damaged one."""
        config = configs.load(workdir / CONFIG)
        data = load_data_record(workdir)
        mesh = parallel.make_mesh()
        folder = workdir / CHECKPOINTS
        meta = checkpoint.newest(folder)
        if meta is None:
            raise InputError(f"{workdir} has no checkpoint yet; train it (again) with python -m stjax.train")
        step = meta["best_step"] or meta["step"]  # 0: saved before the end of the first epoch
        checkpoint.check_of(folder, step)
        protocol = checked_protocol(data, workdir)
        graphdef, template = steps.init_state(
            config, data.panel, image_size_px=data.image_size_px, tiles=data.tiles, mesh=mesh, abstract=True
        )
        state = steps.weights_of(checkpoint.restore(folder, step, template))
        weight_files.check_finite(_arrays(state), f"checkpoint {folder / str(step)}")
        progress = Progress.of(meta, config.num_epochs, workdir)
        return cls(workdir, config, data, protocol, graphdef, state, step, mesh, progress)

    @property
    def folder(self) -> Path:
        """The work directory."""
        return self.workdir

    @property
    def model_name(self) -> str:
        """Module and variant, e.g. "efficientnet b0"."""
        return f"{self.config.model.module} {self.config.model.variant}"

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model's structure, parameters and statistics, as 64 hexadecimal digits."""
        return self._model_sha256

    @functools.cached_property
    def _model_sha256(self) -> str:
        digest = hashlib.sha256(json.dumps(self.config.model.to_dict(), sort_keys=True).encode())
        for name, leaf in _arrays(self.state):
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
        if found := Intervals.load(self.workdir):
            found.check_genes(self.data.panel.num_main, str(self.workdir / intervals.FILE))
        return found and found.of(self.model_sha256, symmetries=self.protocol.test_symmetries)

    def network(self) -> Any:
        """The nnx module."""
        return nnx.merge(self.graphdef, self.state["params"], self.state["statistics"])

    def predict(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """As `predictor.Predictor` says."""
        return self.predict_step(self.state, parallel.put_whole(dict(batch), self.mesh))

    def over_symmetries(self) -> "Run":
        """The same model, predicting the mean over the eight symmetries of the square, whatever its protocol says."""
        return dataclasses.replace(self, protocol=dataclasses.replace(self.protocol, test_symmetries=True))

    @functools.cached_property
    def predict_step(self) -> Callable[[steps.State, steps.Batch], dict[str, jax.Array]]:
        """`steps.make_predict_step` of this model, compiled once."""
        return steps.make_predict_step(self.graphdef, self.data.panel, self.protocol, self.mesh)

    def open_dataset(self, data_dir: str = "") -> PatchDataset:
        """The data set it was trained on, or another. Raises InputError when it is not there or has changed."""
        dataset = PatchDataset.open(Path(data_dir or self.data.data_dir))
        if not data_dir and dataset.content_hash != self.data.content_hash:
            raise InputError(
                f"the data set {self.data.data_dir} has changed since this run was trained; "
                "name the one to use with --data_dir"
            )
        return dataset


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


def checked_protocol(data: DataRecord, workdir: Path) -> Protocol:
    """A run's protocol. Raises InputError when its rules have changed since the run began."""
    protocol = get_protocol(data.protocol)
    if protocol.hash != data.protocol_hash:
        raise InputError(
            f"{workdir} was trained under other rules than protocol {protocol.name} now has; "
            "use the version of stjax it was trained with, or train in a new work directory"
        )
    return protocol


def load_data_record(workdir: Path) -> DataRecord:
    """A run's data.json. Raises InputError when there is none, none that can be read, or one that was changed."""
    path = workdir / DATA
    if not path.exists():
        if (workdir / "model.stablehlo").exists():
            raise InputError(
                f"{workdir} is no work directory but an exported model, which predicts (stjax predict, stjax.load); "
                "give the work directory it was exported from"
            )
        raise InputError(f"{workdir} is no work directory: it has no {DATA}; train one first")
    content = json_files.unsealed(json_files.read(path, remedy=_REMEDY), str(path), remedy=_REMEDY)
    return DataRecord.from_json(content, str(path))


def hardware() -> str:
    """The devices of this run, for results."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"


def versions() -> dict[str, str]:
    """Of stjax and what its figures may depend on, for results."""
    packages = ("stjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
