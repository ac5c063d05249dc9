"""A trained model as one exported folder: a StableHLO function, its weights, and what its numbers mean.

`stjax.export` writes it. `config.json` says everything about the model, `model.stablehlo` is `jax.export`'s
`function(weights, images)` for CPU, CUDA and TPU and any batch size, `weights.safetensors` holds its first argument.
Nothing in it is executable Python, every file is named in `manifest.json` with its SHA-256, and all are checked before
any is believed.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax import export
from jax.sharding import PartitionSpec

from data_prep import files, json_files
from data_prep.errors import InputError
from data_prep.json_files import Lacking, Maybe
from stjax import encoders, manifest, models, parallel, views
from stjax.data.fold import Fold
from stjax.inference import exported_program
from stjax.intervals import INTERVALS, Intervals
from stjax.models import weight_files
from stjax.ops.cpu.elementwise import compiler_options
from stjax.progress import PROGRESS, Progress
from stjax.protocols import Protocol
from stjax.targets import TRANSFORMS
from stjax.trained import OF_IMAGES_ALONE, Trained
from stjax.views.patches import EXPRESSION

FORMAT, VERSION = "stjax.model", 2
READS = (1, 2)  # versions
CONFIG, FUNCTION, WEIGHTS = "config.json", "model.stablehlo", "weights.safetensors"
REQUIRED = (CONFIG, FUNCTION, WEIGHTS)
Weights = Mapping[str, Any]
_KINDS = {str: json_files.TEXT, bool: json_files.FLAG, float: json_files.number(), int: json_files.COUNT}
_KINDS |= {tuple[str, ...]: json_files.TEXTS, Mapping[str, Any]: json_files.OBJECT}
PROTOCOL = {  # a protocol's plain values; what has a default is not in older folders
    field.name: _KINDS[field.type] if field.default is dataclasses.MISSING else Lacking(_KINDS[field.type])
    for field in dataclasses.fields(Protocol)
} | {"name": json_files.NAME, "target": json_files.one_of(*TRANSFORMS)}
_REMEDY = "make the model folder anew with stjax.export"
_ENCODER = "params.front."  # how the names of an encoder's weights begin, which `Probe.put_in_front` gave a probe
MODEL = {  # what config.json holds
    "model": {
        "module": json_files.NAME,
        "variant": json_files.TEXT,
        "dtype": json_files.TEXT,
        "options": json_files.OBJECT,
    },
    "model_sha256": json_files.SHA256,
    "checkpoint_step": json_files.COUNT,
    "batch_size": json_files.whole_number(1, 1 << 20),
    "output": {"kind": json_files.NAME},
    "encoder": Lacking(Maybe(dict.fromkeys(encoders.IN_RESULTS, json_files.TEXT))),
    "intervals": Lacking(Maybe(INTERVALS)),
    "training": {"num_epochs": Lacking(json_files.COUNT), "progress": Lacking(Maybe(PROGRESS))},
    "protocol": json_files.OBJECT,
    "data": json_files.OBJECT,
}


@dataclasses.dataclass(frozen=True)
class Exported(Trained):
    """An exported model.

    Attributes:
        config: what config.json holds.
        exported: the function: `exported.call(weights, ...)` of what its view's `signature` says; of patches the
            expression [B, M], of tiles the map [B, H / 4, H / 4, M, or M + 1 of rates].
        weights: its first argument.
        turned: whether `predict` turns the images for it, which takes no mean over symmetries by itself.
    """

    config: dict[str, Any]
    exported: "export.Exported | _InFront"
    weights: Weights
    turned: bool = False

    @classmethod
    def load(cls, folder: Path) -> "Exported":
        """Raises InputError when the folder is damaged, or of another version or platform."""
        manifest.verify(folder, what="model folder", others=True, required=REQUIRED)
        name, remedy = str(folder / CONFIG), "make the model folder anew with stjax.export"
        config = json_files.read(folder / CONFIG, remedy=f"{folder} holds no exported model; {remedy}")
        made_by, of_jax = (files.shown(config.get(each)) for each in ("stjax", "jax"))
        origin = f"{folder} was exported by stjax {made_by} with jax {of_jax}"
        found = config.get("format"), config.get("version")
        if found not in [(FORMAT, version) for version in READS]:
            expected = f"this version reads {(FORMAT, *READS)}"
            raise InputError(f"{origin} as {files.shown(found)}, {expected}; use that version of stjax")
        json_files.require(config, MODEL, name, remedy=remedy)
        fold = Fold.from_json(config["data"], name)
        view = views.of(fold)
        view.check_facts(fold, name)
        if (kind := config["output"]["kind"]) not in view.kinds:
            raise InputError(f"{name}: output.kind {files.shown(kind)} is not that of such a model; {remedy}")
        if saved := config.get("intervals"):
            Intervals.from_json(saved).check_genes(fold.panel.num_main, name, remedy=remedy)
        protocol = protocol_from_json(config["protocol"], name)
        mesh = parallel.make_mesh()
        exported = exported_program.read(folder / FUNCTION, origin=origin)
        arrays = weight_files.read(folder / WEIGHTS)
        weight_files.check_finite(arrays.items(), f"{folder / WEIGHTS}")
        exported_program.check_takes(exported, arrays, fold, kind, f"{folder / FUNCTION}", remedy=remedy)
        weights = parallel.put_replicated(arrays, mesh)
        training = config["training"]
        saved = training.get("progress")  # older versions did not say
        progress = Progress.from_json(saved) if saved else Progress(planned=training.get("num_epochs"))
        step = config["checkpoint_step"]
        return cls(folder, fold, protocol, mesh, step, config, exported, weights, progress=progress)

    @property
    def takes_features(self) -> bool:
        """As `Trained` says."""
        of_images = isinstance(self.exported, _InFront) or self.config["output"]["kind"] == EXPRESSION
        return self.view.encoded and self.view.one_spot and not of_images

    @property
    def encoder(self) -> dict[str, Any] | None:
        """As `Trained` says; None, too, of folders that older versions wrote."""
        return self.config.get("encoder")

    @property
    def model_name(self) -> str:
        """Module and variant, e.g. "efficientnet b0"."""
        return f"{self.config['model']['module']} {self.config['model']['variant']}"

    @property
    def model_sha256(self) -> str:
        """As of the run it was exported from: the same weights have the same hash."""
        return self.config["model_sha256"]

    @property
    def batch_size(self) -> int:
        """The run's, rounded up to a multiple of the devices."""
        return parallel.round_up(self.config["batch_size"], self.mesh)

    @property
    def intervals(self) -> Intervals | None:
        """Those of the run it was exported from."""
        saved = self.config.get("intervals")
        found = Intervals.from_json(saved) if saved else None
        return found and found.of(self.model_sha256, symmetries=self.protocol.test_symmetries)

    def predict(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """As `Trained` says.

        Raises:
            InputError: a batch of other items than the model's, or a function that does not run.
        """
        rows = {name: len(jax.tree.leaves(each)[0]) for name, each in batch.items()}  # a table of spots is many arrays
        if not rows or len(set(rows.values())) > 1 or min(rows.values()) % self.mesh.size:
            found = ", ".join(f"{name} {count}" for name, count in rows.items()) or "nothing"
            raise InputError(
                f"the batch holds {found}, expected as many items of each, a multiple of the {self.mesh.size} devices"
            )
        placed = parallel.put_whole(dict(batch), self.mesh)
        with exported_program.running(f"{self.folder / FUNCTION}", remedy=_REMEDY):
            return self._program(self.weights, placed)

    @property
    def on_slides(self) -> "Exported":
        """As `Trained` says."""
        return self._on_slides

    @functools.cached_property
    def _on_slides(self) -> "Exported":
        embedder = self.view.embedder(self.fold, self.config["output"]["kind"], self.encoder_weights, self.mesh)
        if embedder is None or isinstance(self.exported, _InFront):
            return self
        if self.view.two_passes:
            return dataclasses.replace(self, embedder=embedder)
        weights = {"model": self.weights, "encoder": embedder.state}
        return dataclasses.replace(self, exported=_InFront(self.exported, embedder.function), weights=weights)

    def over_symmetries(self) -> "Exported":
        """The same model, predicting the mean over the eight symmetries of the square.

        Raises:
            InputError: it takes features, which are of patches as they lie.
        """
        if self.view.encoded and self.view.two_passes:
            raise InputError(OF_IMAGES_ALONE)
        if self.protocol.test_symmetries:  # its function does so
            return self
        return dataclasses.replace(self, protocol=dataclasses.replace(self.protocol, test_symmetries=True), turned=True)

    def network(self) -> Any:
        """As `Trained` says, built by this version of stjax and filled with the folder's weights, without AuxNet; of a
        model of features the head alone, which takes features, also where the folder has the encoder in it.

        Raises:
            InputError: this version builds another network than the one exported.
        """
        from flax import nnx

        graphdef, template = _build(self.config["model"], self.fold)
        expected = {name: leaf.shape for name, leaf in zip(names(template), jax.tree.leaves(template), strict=True)}
        own = self.weights["model"] if isinstance(self.exported, _InFront) else self.weights
        own = {name: array for name, array in own.items() if not name.startswith(_ENCODER)}
        if expected != {name: array.shape for name, array in own.items()}:
            raise InputError(
                f"{self.folder} was exported by stjax {self.config['stjax']}, whose {self.model_name} is not this "
                "version's; use that version for what needs the network itself (dense maps)"
            )
        state = restore(template, own)
        return nnx.merge(graphdef, state["params"], state["statistics"])

    @functools.cached_property
    def _program(self) -> Callable[[Weights, Mapping[str, Any]], dict[str, jax.Array]]:
        kind = self.config["output"]["kind"]

        def one(weights: Weights, batch: views.Batch) -> views.Outputs:
            def call(*given: jax.Array) -> jax.Array:
                self._check_items(given)
                return self.exported.call(weights, *given)

            return self.view.predicted(call, _Batch(batch), self.fold, self.protocol, kind, turned=self.turned)

        # An exported function knows of one device: each is given its part of the batch.
        whole, split = PartitionSpec(), PartitionSpec("data")
        program = jax.shard_map(one, mesh=self.mesh, in_specs=(whole, split), out_specs=split, check_vma=False)
        return jax.jit(program, out_shardings=parallel.replicated(self.mesh), compiler_options=compiler_options())

    @functools.cached_property
    def _items(self) -> Sequence[Any]:
        """Shapes and types of what the function takes beside its weights; sizes that may be any are symbols."""
        if isinstance(self.exported, _InFront):
            return self.view.signature(self.fold, EXPRESSION, 1)
        (_, *items), _ = jax.tree.unflatten(self.exported.in_tree, self.exported.in_avals)
        return items

    def _check_items(self, given: Sequence[jax.Array]) -> None:
        """Raises InputError unless the function takes items of these shapes and types."""
        for found, taken in zip(given, self._items, strict=True):
            if (
                found.dtype != taken.dtype
                or len(found.shape) != len(taken.shape)
                or any(
                    isinstance(size, int) and size != other
                    for size, other in zip(taken.shape[1:], found.shape[1:], strict=True)
                )
            ):
                shape = ", ".join(map(str, taken.shape[1:]))
                raise InputError(
                    f"the batch holds an array {list(found.shape)} of {found.dtype}, expected [B, {shape}] of "
                    f"{taken.dtype}: {self.view.items} as the model of {self.folder} takes them"
                )


class _Batch(dict[str, Any]):
    """A batch that says what it lacks."""

    def __missing__(self, name: str) -> Any:
        raise InputError(f"the batch holds {', '.join(self)}, expected {name}, as Windows.inputs of the view gives it")


class _InFront(NamedTuple):
    """An exported function of features, with what makes these of images before it."""

    exported: "export.Exported | _InFront"
    function: Callable[[Any, jax.Array], jax.Array]

    def call(self, weights: Mapping[str, Any], images: jax.Array) -> jax.Array:
        """That of images, with {"model", "encoder"} weights."""
        return self.exported.call(weights["model"], self.function(weights["encoder"], images))


def is_model_folder(folder: Path) -> bool:
    """Whether a folder looks like an exported model, sound or not."""
    return any((folder / name).is_file() for name in (FUNCTION, WEIGHTS))


def names(state: Mapping[str, Any]) -> list[str]:
    """A name for each leaf of {"params", "statistics"}, in `jax.tree.leaves`' order: its path, joined by dots."""
    from flax import nnx

    pure = {part: nnx.to_pure_dict(value) for part, value in state.items()}
    return [".".join(str(key.key) for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(pure)]


def restore(template: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """{"params", "statistics"} like `template` with the arrays of these names."""
    return jax.tree.unflatten(jax.tree.structure(dict(template)), [weights[name] for name in names(template)])


def protocol_to_json(protocol: Protocol) -> dict[str, Any]:
    """A protocol's fields as plain values: the rules a model was trained under are stored with it, as those of the same
    name may change."""
    fields = {field.name: getattr(protocol, field.name) for field in dataclasses.fields(protocol)}
    return fields | {"recipe": dict(protocol.recipe)}


def protocol_from_json(values: Mapping[str, Any], name: str = CONFIG) -> Protocol:
    """What `protocol_to_json` returned, as a protocol again. Raises InputError when it is none."""
    json_files.require(values, PROTOCOL, f"{name}: protocol", remedy=_REMEDY)
    if unknown := sorted(values.keys() - PROTOCOL.keys()):
        raise InputError(f"{name}: protocol has rules this version does not know ({files.shown(unknown)}); {_REMEDY}")
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
    fields["recipe"] = MappingProxyType(fields["recipe"])
    return Protocol(**fields)


def _build(settings: Mapping[str, Any], fold: Fold) -> tuple[Any, dict[str, Any]]:
    """Graph definition and shapes of {"params", "statistics"} of a model without AuxNet, as export writes it: with
    nothing frozen."""
    from flax import nnx

    from stjax.models import tuning

    graphdefs = []

    def shapes() -> dict[str, Any]:
        facts = views.of(fold).model_options(fold)
        rngs = nnx.Rngs(jax.random.key(0))
        model = models.build(**settings, num_main=fold.panel.num_main, num_aux=0, facts=facts, rngs=rngs)
        graphdef, params, statistics = models.split(tuning.merged(model))
        graphdefs.append(graphdef)  # static: the same whether traced or run
        return {"params": params, "statistics": statistics}

    template = jax.eval_shape(shapes)
    return graphdefs[0], template
