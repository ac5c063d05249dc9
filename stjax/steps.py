"""The jitted computations: one training step, one evaluation step. Augmentation and normalisation are part of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from stjax import losses, models, optim, parallel
from stjax.config import Config
from stjax.models import weights
from stjax.panel import Panel
from stjax.protocols import Protocol, get_protocol

State = dict[str, Any]  # {"params", "statistics", "opt_state"}
NUM_SYMMETRIES = 8


def symmetry(images: jax.Array, which: int) -> jax.Array:
    """One of the eight symmetries of the square, `which` in 0..7, applied to all [B, H, H, C] images."""
    images = jnp.flip(images, axis=1) if which & 1 else images
    images = jnp.flip(images, axis=2) if which & 2 else images
    return jnp.swapaxes(images, 1, 2) if which & 4 else images


def random_symmetry(images: jax.Array, key: jax.Array) -> jax.Array:
    """A random symmetry per image: horizontal flip, vertical flip and 90-degree turn, each with p = 0.5, as BrST-Net.

    Args:
        images: [B, H, H, C], square.
    """
    choices = jax.random.bernoulli(key, 0.5, (3, images.shape[0], 1, 1, 1))
    images = jnp.where(choices[0], jnp.flip(images, axis=1), images)
    images = jnp.where(choices[1], jnp.flip(images, axis=2), images)
    return jnp.where(choices[2], jnp.swapaxes(images, 1, 2), images)


def normalise(images: jax.Array, panel: Panel) -> jax.Array:
    """uint8 [B, H, W, 3] to float32 of zero mean and unit deviation over the training patches."""
    mean, std = (np.asarray(value, np.float32)[None, None, None, :] for value in (panel.image_mean, panel.image_std))
    return (images.astype(jnp.float32) - mean) / std


def make_targets(batch: dict[str, jax.Array], panel: Panel, protocol: Protocol) -> dict[str, jax.Array]:
    """Raw counts [B, S, M + A] to the protocol's targets, {"main": [B, S, M], "aux": [B, S, A]}."""
    expression = protocol.transform(batch["counts"], batch["total"], panel.num_genes)
    mean, std = (np.asarray(value, np.float32)[None, None, :] for value in (panel.target_mean, panel.target_std))
    standardised = (expression - mean) / std
    return {"main": standardised[..., : panel.num_main], "aux": standardised[..., panel.num_main :]}


def make_model(config: Config, panel: Panel, *, image_size_px: int, rngs: nnx.Rngs) -> models.PatchModel:
    """The model a config names, with heads as wide as the panel."""
    mean, std = panel.target_mean[: panel.num_main], panel.target_std[: panel.num_main]
    return models.build(
        module=config.model.module,
        variant=config.model.variant,
        dtype=config.model.dtype,
        options=config.model.options.to_dict(),
        num_main=panel.num_main,
        num_aux=panel.num_aux if config.model.aux else 0,
        image_size_px=image_size_px,
        main_mean=((panel.train_mean - mean) / std) if get_protocol(config.protocol).head_at_mean else None,
        rngs=rngs,
    )


def make_optimizer(config: Config) -> Any:
    """The optimiser a config names."""
    return optim.make_optimizer(config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay)


def init_state(
    config: Config, panel: Panel, *, image_size_px: int, mesh: Mesh, abstract: bool = False
) -> tuple[Any, State]:
    """The model's graph definition and a fresh state, replicated over the mesh; a function of `config.seed` alone.

    Args:
        abstract: return shapes and shardings in place of arrays, as a template to restore a checkpoint into.
    """
    optimizer = make_optimizer(config)
    sharding = parallel.replicated(mesh)

    def fresh() -> tuple[Any, State]:
        rngs = nnx.Rngs(jax.random.key(config.seed))
        model = make_model(config, panel, image_size_px=image_size_px, rngs=rngs)
        if config.init_from and not abstract:
            print(f"{config.init_from}: {weights.load(model.backbone, weights.locate(config.init_from))}")
        graphdef, params, statistics = models.split(model)
        return graphdef, {"params": params, "statistics": statistics, "opt_state": jax.jit(optimizer.init)(params)}

    if not abstract:
        graphdef, state = fresh()
        return graphdef, parallel.put_replicated(state, mesh)
    graphdefs = []

    def shapes_only() -> State:
        graphdef, state = fresh()
        graphdefs.append(graphdef)  # static: the same whether traced or run
        return state

    shapes = jax.eval_shape(shapes_only)
    return graphdefs[0], jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


def make_train_step(
    graphdef: Any, config: Config, panel: Panel, protocol: Protocol, mesh: Mesh
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """A jitted `step(state, batch, step, learning_rate) -> state, {"loss", ...}`; the state given is donated.

    All randomness comes from `config.seed` and the step number, so a resumed run repeats an uninterrupted one.
    """
    optimizer = make_optimizer(config)
    aux_weight, backbone_scale = config.aux_weight, config.backbone_learning_rate_scale

    def train_step(
        state: State, batch: dict[str, jax.Array], step: jax.Array, learning_rate: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step))
        images = random_symmetry(batch["image"], augment_key) if config.augment else batch["image"]
        images = normalise(images, panel)
        wanted = make_targets(batch, panel, protocol)

        def loss_of(params: nnx.State) -> tuple[jax.Array, Any]:
            outputs, statistics = models.apply(
                graphdef,
                params,
                state["statistics"],
                images,
                train=True,
                key=model_key,
                frozen_backbone=backbone_scale == 0,
            )
            loss, parts = losses.main_aux_mse(outputs, wanted, batch["mask"], aux_weight=aux_weight)
            return loss, (parts, statistics)

        gradients, (parts, statistics) = jax.grad(loss_of, has_aux=True)(state["params"])
        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        if backbone_scale != 1:
            updates["backbone"] = jax.tree.map(lambda update: backbone_scale * update, updates["backbone"])
        params = optim.apply_updates(state["params"], updates, learning_rate)
        return {"params": params, "statistics": statistics, "opt_state": opt_state}, parts

    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    return jax.jit(
        train_step, in_shardings=(whole, split, whole, whole), out_shardings=(whole, whole), donate_argnums=0
    )


def forward(graphdef: Any, state: State, images: jax.Array, panel: Panel, protocol: Protocol) -> dict[str, jax.Array]:
    """The model's outputs for uint8 [B, H, H, 3], averaged over the eight symmetries where the protocol says so."""

    def outputs(images: jax.Array) -> dict[str, jax.Array]:
        normalised = normalise(images, panel)
        return models.apply(graphdef, state["params"], state["statistics"], normalised, train=False, key=None)[0]

    if not protocol.test_symmetries:
        return outputs(images)
    views = jnp.stack([symmetry(images, which) for which in range(NUM_SYMMETRIES)])  # [8, B, H, H, 3]
    return jax.tree.map(
        lambda each: jnp.mean(each, axis=0), jax.lax.map(outputs, views)
    )  # one program, run eight times


def to_expression(main: jax.Array, panel: Panel) -> jax.Array:
    """Main-head outputs [B, S, M] in the protocol's expression units: standardisation undone."""
    mean = np.asarray(panel.target_mean[: panel.num_main], np.float32)[None, None, :]
    std = np.asarray(panel.target_std[: panel.num_main], np.float32)[None, None, :]
    return main * std + mean


def make_predict_step(
    graphdef: Any, panel: Panel, protocol: Protocol, mesh: Mesh
) -> Callable[[State, jax.Array], jax.Array]:
    """A jitted `step(state, images uint8 [B, H, H, 3]) -> [B, S, M]` in the protocol's expression units."""

    def predict_step(state: State, images: jax.Array) -> jax.Array:
        return to_expression(forward(graphdef, state, images, panel, protocol)["main"], panel)

    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    return jax.jit(predict_step, in_shardings=(whole, split), out_shardings=split)


def make_eval_step(
    graphdef: Any, config: Config, panel: Panel, protocol: Protocol, mesh: Mesh
) -> Callable[[State, dict[str, jax.Array]], tuple[jax.Array, dict[str, jax.Array]]]:
    """A jitted `step(state, batch) -> prediction, losses`: the prediction as `make_predict_step`, each loss as its sum
    over measured spots."""

    def eval_step(state: State, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = forward(graphdef, state, batch["image"], panel, protocol)
        wanted = make_targets(batch, panel, protocol)
        _, parts = losses.main_aux_mse(outputs, wanted, batch["mask"], aux_weight=config.aux_weight)
        spots = jnp.sum(batch["mask"])
        return to_expression(outputs["main"], panel), {name: part * spots for name, part in parts.items()}

    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    return jax.jit(eval_step, in_shardings=(whole, split), out_shardings=(split, whole))
