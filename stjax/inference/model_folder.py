"""A trained model as a folder that travels: a StableHLO function, its weights, and what its numbers mean.

`stjax.export` writes it. `config.json` says everything about the model, `model.stablehlo` is `jax.export`'s
`function(weights, images)` for CPU, CUDA and TPU and any batch size, `weights.safetensors` holds its first argument.
Nothing in it is executable Python, every file is named in `manifest.json` with its SHA-256, and all are checked before
any is believed.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx
from jax import export
from jax.sharding import Mesh, PartitionSpec

from data_prep.errors import InputError
from stjax import manifest, models, parallel
from stjax.intervals import Intervals
from stjax.models import weight_files
from stjax.ops.elementwise import compiler_options
from stjax.ops.spot_pool import spot_pool
from stjax.progress import Progress
from stjax.protocols import Protocol
from stjax.training import steps
from stjax.workdir import DataRecord

FORMAT, VERSION = "stjax.model", 1
CONFIG, FUNCTION, WEIGHTS = "config.json", "model.stablehlo", "weights.safetensors"
EXPRESSION, SUM, MEAN, ADDITIVE = "expression", "sum", "mean", "additive"  # what the function's output is

Weights = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """An exported model, ready to predict: a `predictor.Predictor`.

    Attributes:
        config: what config.json holds.
        exported: the function: `exported.call(weights, uint8 [B, H, H, 3])` is the expression [B, M] of a model of
            patches, and the map [B, H / 4, H / 4, M, or M + 1 of rates] of a model of tiles.
        weights: its first argument.
        turned: whether `predict` turns the images for it, which takes no mean over symmetries by itself.
    """

    folder: Path
    config: dict[str, Any]
    data: DataRecord
    protocol: Protocol
    exported: export.Exported
    weights: Weights
    mesh: Mesh
    turned: bool = False

    @classmethod
    def load(cls, folder: Path) -> "ModelFolder":
        """Raises InputError when the folder is damaged, or of another version or platform."""
        manifest.verify(folder, what="model folder", others=True)
        try:
            config = json.loads((folder / CONFIG).read_text())
            found = config["format"], config["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no exported model ({error!r}); make one with stjax.export") from None
        origin = f"{folder} was exported by stjax {config.get('stjax')} with jax {config.get('jax')}"
        if found != (FORMAT, VERSION):
            raise InputError(f"{origin} as {found}, this version reads {(FORMAT, VERSION)}; use that version of stjax")
        mesh = parallel.make_mesh()
        try:
            data = DataRecord.from_json(config["data"])
            protocol = protocol_from_json(config["protocol"])
            exported = export.deserialize(bytearray((folder / FUNCTION).read_bytes()))
        except ImportError as error:
            raise InputError(f"exported models need flatbuffers ({error}); pip install flatbuffers") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{origin}, which this version cannot read ({error}); use those versions") from None
        if (platform := export.default_export_platform()) not in exported.platforms:
            raise InputError(
                f"{folder} runs on {', '.join(exported.platforms)}, this is {platform}; set JAX_PLATFORMS=cpu"
            )
        weights = weight_files.read(folder / WEIGHTS)
        weight_files.check_finite(weights.items(), f"{folder / WEIGHTS}")
        return cls(folder, config, data, protocol, exported, parallel.put_replicated(weights, mesh), mesh)

    @property
    def step(self) -> int:
        """The training step of the weights."""
        return self.config["checkpoint_step"]

    @property
    def progress(self) -> Progress:
        """Of the run it was exported from; older versions did not say."""
        training = self.config["training"]
        saved = training.get("progress")
        return Progress.from_json(saved) if saved else Progress(planned=training.get("num_epochs"))

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
        """As `predictor.Predictor` says."""
        return self._program(self.weights, parallel.put_whole(dict(batch), self.mesh))

    def over_symmetries(self) -> "ModelFolder":
        """The same model, predicting the mean over the eight symmetries of the square."""
        if self.protocol.test_symmetries:  # its function does so
            return self
        return dataclasses.replace(self, protocol=dataclasses.replace(self.protocol, test_symmetries=True), turned=True)

    def network(self) -> Any:
        """The nnx module, built by this version of stjax and filled with the weights.

        Raises:
            InputError: this version builds another network than the one exported.
        """
        graphdef, template = _build(self.config["model"], self.data)
        expected = {name: leaf.shape for name, leaf in zip(names(template), jax.tree.leaves(template), strict=True)}
        if expected != {name: array.shape for name, array in self.weights.items()}:
            raise InputError(
                f"{self.folder} was exported by stjax {self.config['stjax']}, whose {self.model_name} is not this "
                "version's; use that version for what needs the network itself (dense maps)"
            )
        state = restore(template, self.weights)
        return nnx.merge(graphdef, state["params"], state["statistics"])

    @functools.cached_property
    def _program(self) -> Callable[[Weights, Mapping[str, Any]], dict[str, jax.Array]]:
        of_tiles, output = self.data.tiles is not None, self.config["output"]["kind"]

        def values(weights: Weights, images: jax.Array) -> jax.Array:
            if not self.turned:
                return self.exported.call(weights, images)

            def of_turned(parts: jax.Array) -> jax.Array:
                found = self.exported.call(weights, steps.turn(images, parts))
                return steps.turn_back(found, parts) if of_tiles else found

            return steps.mean_over_symmetries(of_turned)

        def one(weights: Weights, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            found = values(weights, batch["image"])
            if output == EXPRESSION:
                return {"expression": found[:, None]}
            spots = spot_pool(found, batch["spots"], aggregation=MEAN if output == MEAN else SUM)
            return steps.predicted({"rates" if output == ADDITIVE else "main": spots}, self.data.panel, self.protocol)

        # An exported function knows of one device: each is given its part of the batch.
        whole, split = PartitionSpec(), PartitionSpec("data")
        program = jax.shard_map(one, mesh=self.mesh, in_specs=(whole, split), out_specs=split, check_vma=False)
        return jax.jit(program, out_shardings=parallel.replicated(self.mesh), compiler_options=compiler_options())


def is_model_folder(folder: Path) -> bool:
    """Whether a folder looks like an exported model, sound or not."""
    return any((folder / name).is_file() for name in (FUNCTION, WEIGHTS))


def names(state: Mapping[str, Any]) -> list[str]:
    """A name for each leaf of {"params", "statistics"}, in `jax.tree.leaves`' order: its path, joined by dots."""
    pure = {part: nnx.to_pure_dict(value) for part, value in state.items()}
    return [".".join(str(key.key) for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(pure)]


def restore(template: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """{"params", "statistics"} like `template` with the arrays of these names."""
    return jax.tree.unflatten(jax.tree.structure(dict(template)), [weights[name] for name in names(template)])


def protocol_to_json(protocol: Protocol) -> dict[str, Any]:
    """A protocol's fields as plain values: the rules a model was trained under travel with it, as those of the same
    name may change."""
    fields = {field.name: getattr(protocol, field.name) for field in dataclasses.fields(protocol)}
    return fields | {"recipe": dict(protocol.recipe)}


def protocol_from_json(values: Mapping[str, Any]) -> Protocol:
    """What `protocol_to_json` returned, as a protocol again."""
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
    fields["recipe"] = MappingProxyType(fields["recipe"])
    return Protocol(**fields)


def _build(settings: Mapping[str, Any], data: DataRecord) -> tuple[Any, dict[str, Any]]:
    """Graph definition and shapes of {"params", "statistics"} of a model without AuxNet."""
    graphdefs = []
    tiles = data.tiles

    def shapes() -> dict[str, Any]:
        model = models.build(
            **settings,
            num_main=data.panel.num_main,
            num_aux=0,
            image_size_px=data.image_size_px,
            tiles=None if tiles is None else {"pixels_per_spot": tiles.pixels_per_spot, "base_rates": tiles.base_rates},
            rngs=nnx.Rngs(jax.random.key(0)),
        )
        graphdef, params, statistics = models.split(model)
        graphdefs.append(graphdef)  # static: the same whether traced or run
        return {"params": params, "statistics": statistics}

    template = jax.eval_shape(shapes)
    return graphdefs[0], template
