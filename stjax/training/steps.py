"""The jitted computations: one training step, one evaluation step. Augmentation and normalisation are part of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from stjax import augmentation, losses, models, optim, parallel, views
from stjax.config import Config
from stjax.data.fold import Fold
from stjax.forward import forward
from stjax.models.expression import to_expression
from stjax.ops.cpu.elementwise import compiler_options
from stjax.protocols import Protocol
from stjax.state import State, make_optimizer, moving, weights_of
from stjax.symmetries import random_symmetries
from stjax.views import Batch


def make_targets(batch: Batch, fold: Fold, protocol: Protocol) -> dict[str, jax.Array]:
    """Raw counts [B, S, M + A], or of the main genes [B, S, M], to the protocol's targets: {"main": [B, S, M], "aux":
    [B, S, A or 0]}."""
    expression = protocol.transform(batch["counts"], batch["total"], fold.panel.num_genes)
    genes = expression.shape[-1]
    mean, std = (
        jnp.asarray(value[:genes], jnp.float32)[None, None, :] for value in (fold.target_mean, fold.target_std)
    )
    standardised = (expression - mean) * (1 / std)  # as in `normalise`
    return {"main": standardised[..., : fold.panel.num_main], "aux": standardised[..., fold.panel.num_main :]}


def loss_of_config(config: Config) -> losses.Loss:
    """The loss a config names. Raises InputError when it does not suit the config's model."""
    additive = config.model.options.to_dict().get("aggregation") == "additive"
    return losses.get_loss(config.loss, additive=additive)


def make_train_step(
    graphdef: Any, config: Config, fold: Fold, protocol: Protocol, mesh: Mesh
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """A jitted `step(state, batch, step, learning_rate) -> state, {"loss", ...}`; the state given is donated."""
    train_step = train_step_of(graphdef, config, fold, protocol, seed=config.seed, aux_weight=config.aux_weight)
    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, split, whole, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def train_step_of(
    graphdef: Any, config: Config, fold: Fold, protocol: Protocol, *, seed: Any, aux_weight: Any
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`step(state, batch, step, learning_rate) -> state, {"loss", ...}`, a pure function.

    All randomness comes from the seed and the step number, so a resumed run repeats an uninterrupted one.

    Args:
        fold: whose statistics may be traced arrays, as `seed` and `aux_weight` may be.
    """
    optimizer, loss_function, view = make_optimizer(config), loss_of_config(config), views.of(fold)
    backbone_scale, sees_targets = config.backbone_learning_rate_scale, models.sees_targets(config.model.module)

    def loss_of(
        params: nnx.State, statistics: nnx.State, batch: Batch, parts: jax.Array | None, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        inputs, targets = view.inputs(batch, fold, parts), make_targets(batch, fold, protocol)
        if sees_targets:
            inputs["targets"] = targets["main"]
        outputs, statistics = models.apply(
            graphdef, params, statistics, inputs, train=True, key=key, frozen_backbone=backbone_scale == 0
        )
        loss, figures = loss_function(outputs, targets, batch, aux_weight)
        return loss, (figures, statistics)

    gradients_of = jax.grad(loss_of, has_aux=True)

    def train_step(
        state: State, batch: Batch, step: jax.Array, learning_rate: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        params, statistics = state["params"], state["statistics"]
        augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        if augmentation.active(config.augmentation):
            images = augmentation.augment(batch["image"], config.augmentation, jax.random.fold_in(augment_key, 0))
            batch = batch | {"image": images}
        parts = random_symmetries(len(batch["mask"]), augment_key) if config.augment else None
        if config.micro_batch in (0, config.batch_size):
            gradients, (figures, statistics) = gradients_of(params, statistics, batch, parts, model_key)
        else:
            gradients, figures, statistics = accumulated(
                gradients_of, params, statistics, batch, parts, model_key, config.batch_size // config.micro_batch
            )
        updates, opt_state = optimizer.update(gradients, state["opt_state"], params)
        if backbone_scale != 1 and "backbone" in updates:
            updates = jax.tree.map(lambda update: update, updates)  # SGD's are its momentum, which is to stay
            updates["backbone"] = jax.tree.map(lambda update: backbone_scale * update, updates["backbone"])
        params = optim.apply_updates(params, updates, learning_rate)
        new = {"params": params, "statistics": statistics, "opt_state": opt_state}
        if config.ema_decay:
            new["average"] = optim.averaged(state["average"], moving(new), step, decay=config.ema_decay)
        return new, figures

    return train_step


def accumulated(
    gradients_of: Callable[..., tuple[Any, tuple[dict[str, jax.Array], nnx.State]]],
    params: nnx.State,
    statistics: nnx.State,
    batch: Batch,
    parts: jax.Array | None,
    key: jax.Array,
    count: int,
) -> tuple[Any, dict[str, jax.Array], nnx.State]:
    """Gradients and metrics of a batch from those of `count` micro-batches, one after another, each weighing as its
    measured spots do.

    BatchNorm normalises each micro-batch by its own statistics, and the running ones move once a micro-batch; a loss
    that correlates over the batch does so over the micro-batch. All else is that of the whole batch.

    Returns:
        Gradients, metrics, and the statistics after the last.
    """
    total = jnp.maximum(jnp.sum(batch["mask"]), 1.0)

    def dealt(array: jax.Array) -> jax.Array:
        # Every count-th row to a micro-batch: rows stay on their devices, and it does not matter how many there are.
        return jnp.moveaxis(array.reshape(-1, count, *array.shape[1:]), 1, 0)

    pieces = jax.tree.map(dealt, batch), None if parts is None else dealt(jnp.moveaxis(parts, 1, 0))

    def one(carry: tuple[Any, nnx.State], piece: tuple[Any, ...]) -> tuple[tuple[Any, nnx.State], Any]:
        gradients, statistics = carry
        (batch, parts), key = piece
        parts = None if parts is None else jnp.moveaxis(parts, 0, 1)
        weight = jnp.sum(batch["mask"]) / total
        more, (figures, statistics) = gradients_of(params, statistics, batch, parts, key)
        gradients = jax.tree.map(lambda so_far, new: so_far + weight * new, gradients, more)
        return (gradients, statistics), jax.tree.map(lambda figure: weight * figure, figures)

    start = jax.tree.map(jnp.zeros_like, params), statistics
    (gradients, statistics), figures = jax.lax.scan(one, start, (pieces, jax.random.split(key, count)))
    return gradients, jax.tree.map(lambda figure: jnp.sum(figure, axis=0), figures), statistics


def make_eval_step(
    graphdef: Any, config: Config, fold: Fold, protocol: Protocol, mesh: Mesh
) -> Callable[[State, Batch], tuple[jax.Array, dict[str, jax.Array]]]:
    """A jitted `step(state, batch) -> expression [B, S, M], losses`: the whole batch's on every host, each
    loss as its sum over measured spots."""
    eval_step = eval_step_of(graphdef, config, fold, protocol, aux_weight=config.aux_weight)
    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    options = {"in_shardings": (whole, split), "compiler_options": compiler_options()}
    return jax.jit(eval_step, out_shardings=(whole, whole), **options)


def eval_step_of(
    graphdef: Any, config: Config, fold: Fold, protocol: Protocol, *, aux_weight: Any
) -> Callable[[State, Batch], tuple[jax.Array, dict[str, jax.Array]]]:
    """`make_eval_step`'s as a pure function, of a fold as in `train_step_of`."""
    loss_function, view = loss_of_config(config), views.of(fold)

    def eval_step(state: State, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = forward(view, graphdef, weights_of(state), batch, fold, protocol)
        wanted = make_targets(batch, fold, protocol)
        _, parts = loss_function(outputs, wanted, batch, aux_weight)
        spots = jnp.sum(batch["mask"])
        return to_expression(outputs, fold, protocol), {name: part * spots for name, part in parts.items()}

    return eval_step
