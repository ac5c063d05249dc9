"""The jitted computations: one training step, one evaluation step. Augmentation and normalisation are part of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from stjax import losses, models, parallel
from stjax.config import Config
from stjax.data.panel import Panel
from stjax.data.tile_records import TileFacts
from stjax.models import weights
from stjax.ops.elementwise import compiler_options
from stjax.protocols import Protocol, get_protocol
from stjax.training import optim

State = dict[str, Any]  # {"params", "statistics", "opt_state"} and, with config.ema_decay, "average" of the former two
Batch = dict[str, Any]  # see `input_pipeline`
NUM_SYMMETRIES = 8


def symmetry(which: Any) -> jax.Array:
    """One of the eight symmetries of the square for all images, `which` in 0..7, as `turn` takes it."""
    return ((jnp.asarray(which) >> jnp.arange(3)) & 1 > 0).reshape(3, 1, 1, 1, 1)


def random_symmetries(count: int, key: jax.Array) -> jax.Array:
    """A random symmetry for each of `count` images, each of the three parts with p = 0.5, as BrST-Net."""
    return jax.random.bernoulli(key, 0.5, (3, count, 1, 1, 1))


def turn(images: jax.Array, parts: jax.Array) -> jax.Array:
    """Flips rows, flips columns, then swaps them, where `parts` say so.

    Args:
        images: [B, H, H, C], square.
        parts: [3, B or 1, 1, 1, 1] bool.
    """
    images = jnp.where(parts[0], jnp.flip(images, axis=1), images)
    images = jnp.where(parts[1], jnp.flip(images, axis=2), images)
    return jnp.where(parts[2], jnp.swapaxes(images, 1, 2), images)


def turn_back(images: jax.Array, parts: jax.Array) -> jax.Array:
    """The inverse of `turn`."""
    images = jnp.where(parts[2], jnp.swapaxes(images, 1, 2), images)
    images = jnp.where(parts[1], jnp.flip(images, axis=2), images)
    return jnp.where(parts[0], jnp.flip(images, axis=1), images)


def spots_of(batch: Batch, parts: jax.Array | None) -> dict[str, Any]:
    """What a model is told of a batch beside its images: for tiles the spots, which stay where they are while the
    images are turned."""
    if "spots" not in batch:
        return {}
    undo = None if parts is None else lambda features: turn_back(features, parts)
    return {"spots": batch["spots"], "undo": undo}


def normalise(images: jax.Array, panel: Panel) -> jax.Array:
    """uint8 [B, H, W, 3] to float32 of zero mean and unit deviation over the training patches."""
    mean, std = (jnp.asarray(value, jnp.float32)[None, None, None, :] for value in (panel.image_mean, panel.image_std))
    return (images.astype(jnp.float32) - mean) * (1 / std)  # rounded alike whether std is a constant or an argument


def make_targets(batch: Batch, panel: Panel, protocol: Protocol) -> dict[str, jax.Array]:
    """Raw counts [B, S, M + A], or of the main genes [B, S, M], to the protocol's targets: {"main": [B, S, M], "aux":
    [B, S, A or 0]}."""
    expression = protocol.transform(batch["counts"], batch["total"], panel.num_genes)
    genes = expression.shape[-1]
    mean, std = (
        jnp.asarray(value[:genes], jnp.float32)[None, None, :] for value in (panel.target_mean, panel.target_std)
    )
    standardised = (expression - mean) * (1 / std)  # as in `normalise`
    return {"main": standardised[..., : panel.num_main], "aux": standardised[..., panel.num_main :]}


def make_model(
    config: Config, panel: Panel, *, image_size_px: int, tiles: TileFacts | None = None, rngs: nnx.Rngs
) -> models.Model:
    """The model a config names, with heads as wide as the panel; `tiles` is for models of tiles."""
    mean, std = panel.target_mean[: panel.num_main], panel.target_std[: panel.num_main]
    return models.build(
        module=config.model.module,
        variant=config.model.variant,
        dtype=config.model.dtype,
        options=config.model.options.to_dict(),
        num_main=panel.num_main,
        num_aux=panel.num_aux if config.model.aux else 0,
        image_size_px=image_size_px,
        tiles=None if tiles is None else {"pixels_per_spot": tiles.pixels_per_spot, "base_rates": tiles.base_rates},
        main_mean=((panel.train_mean - mean) / std) if get_protocol(config.protocol).head_at_mean else None,
        rngs=rngs,
    )


def loss_of_config(config: Config) -> losses.Loss:
    """The loss a config names. Raises InputError when it does not suit the config's model."""
    additive = config.model.options.to_dict().get("aggregation") == "additive"
    return losses.get_loss(config.loss, additive=additive)


def make_optimizer(config: Config) -> Any:
    """The optimiser a config names."""
    return optim.make_optimizer(
        config.optimizer,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
    )


def weights_of(state: State) -> State:
    """{"params", "statistics"} that a training state is validated, kept and used with: the averaged ones, BatchNorm's
    statistics averaged alike, where training averages."""
    used = state.get("average", state)
    return {"params": used["params"], "statistics": used["statistics"]}


def init_state(
    config: Config,
    panel: Panel,
    *,
    image_size_px: int,
    mesh: Mesh,
    tiles: TileFacts | None = None,
    abstract: bool = False,
) -> tuple[Any, State]:
    """The model's graph definition and a fresh state, replicated over the mesh; a function of `config.seed` alone.

    Args:
        abstract: return shapes and shardings in place of arrays, as a template to restore a checkpoint into.
    """
    optimizer = make_optimizer(config)
    sharding = parallel.replicated(mesh)

    def fresh() -> tuple[Any, State]:
        rngs = nnx.Rngs(jax.random.key(config.seed))
        model = make_model(config, panel, image_size_px=image_size_px, tiles=tiles, rngs=rngs)
        if config.init_from and not abstract:
            print(f"{config.init_from}: {weights.load(model.backbone, weights.locate(config.init_from))}")
        graphdef, params, statistics = models.split(model)
        state = {"params": params, "statistics": statistics, "opt_state": jax.jit(optimizer.init)(params)}
        if config.ema_decay:
            state["average"] = jax.tree.map(jnp.copy, weights_of(state))  # a step reuses the memory of what it is given
        return graphdef, state

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
    """A jitted `step(state, batch, step, learning_rate) -> state, {"loss", ...}`; the state given is donated."""
    train_step = train_step_of(graphdef, config, panel, protocol, seed=config.seed, aux_weight=config.aux_weight)
    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, split, whole, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def train_step_of(
    graphdef: Any, config: Config, panel: Panel, protocol: Protocol, *, seed: Any, aux_weight: Any
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`step(state, batch, step, learning_rate) -> state, {"loss", ...}`, a pure function.

    All randomness comes from the seed and the step number, so a resumed run repeats an uninterrupted one.

    Args:
        panel: whose statistics may be traced arrays, as `seed` and `aux_weight` may be.
    """
    optimizer, loss_function = make_optimizer(config), loss_of_config(config)
    backbone_scale = config.backbone_learning_rate_scale

    def loss_of(
        params: nnx.State, statistics: nnx.State, batch: Batch, parts: jax.Array | None, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        images = batch["image"] if parts is None else turn(batch["image"], parts)
        outputs, statistics = models.apply(
            graphdef,
            params,
            statistics,
            normalise(images, panel),
            train=True,
            key=key,
            frozen_backbone=backbone_scale == 0,
            **spots_of(batch, parts),
        )
        loss, figures = loss_function(outputs, make_targets(batch, panel, protocol), batch, aux_weight)
        return loss, (figures, statistics)

    gradients_of = jax.grad(loss_of, has_aux=True)

    def train_step(
        state: State, batch: Batch, step: jax.Array, learning_rate: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        params, statistics = state["params"], state["statistics"]
        augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        parts = random_symmetries(len(batch["image"]), augment_key) if config.augment else None
        if config.micro_batch in (0, config.batch_size):
            gradients, (figures, statistics) = gradients_of(params, statistics, batch, parts, model_key)
        else:
            gradients, figures, statistics = accumulated(
                gradients_of, params, statistics, batch, parts, model_key, config.batch_size // config.micro_batch
            )
        updates, opt_state = optimizer.update(gradients, state["opt_state"], params)
        if backbone_scale != 1:
            updates = jax.tree.map(lambda update: update, updates)  # SGD's are its momentum, which is to stay
            updates["backbone"] = jax.tree.map(lambda update: backbone_scale * update, updates["backbone"])
        params = optim.apply_updates(params, updates, learning_rate)
        new = {"params": params, "statistics": statistics, "opt_state": opt_state}
        if config.ema_decay:
            new["average"] = optim.averaged(state["average"], weights_of(new), step, decay=config.ema_decay)
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
    """Gradients and figures of a batch from those of `count` micro-batches, one after another, each weighing as its
    measured spots do.

    BatchNorm normalises each micro-batch by its own statistics, and the running ones move once a micro-batch; a loss
    that correlates over the batch does so over the micro-batch. All else is that of the whole batch.

    Returns:
        Gradients, figures, and the statistics after the last.
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


def forward(graphdef: Any, state: State, batch: Batch, panel: Panel, protocol: Protocol) -> dict[str, jax.Array]:
    """The model's outputs for uint8 images [B, H, H, 3], averaged over the eight symmetries where the protocol says
    so."""

    def outputs(parts: jax.Array | None) -> dict[str, jax.Array]:
        images = batch["image"] if parts is None else turn(batch["image"], parts)
        inputs = spots_of(batch, parts)
        images = normalise(images, panel)
        return models.apply(graphdef, state["params"], state["statistics"], images, train=False, key=None, **inputs)[0]

    return mean_over_symmetries(outputs) if protocol.test_symmetries else outputs(None)


def mean_over_symmetries(outputs: Callable[[jax.Array], Any]) -> Any:
    """The mean of `outputs(parts)`, a tree of arrays, over the eight symmetries, `parts` as `turn` takes them."""
    every = jax.lax.map(lambda which: outputs(symmetry(which)), jnp.arange(NUM_SYMMETRIES))  # one program, run 8 times
    return jax.tree.map(lambda each: jnp.mean(each, axis=0), every)


def to_expression(outputs: dict[str, jax.Array], panel: Panel, protocol: Protocol) -> jax.Array:
    """A model's outputs to [B, S, M] in the protocol's expression units."""
    if "rates" in outputs:
        return losses.additive_expression(
            outputs["rates"], lambda counts, total: protocol.transform(counts, total, panel.num_genes)
        )
    mean = jnp.asarray(panel.target_mean[: panel.num_main], jnp.float32)[None, None, :]
    std = jnp.asarray(panel.target_std[: panel.num_main], jnp.float32)[None, None, :]
    return outputs["main"] * std + mean


def predicted(outputs: dict[str, jax.Array], panel: Panel, protocol: Protocol) -> dict[str, jax.Array]:
    """{"expression": [B, S, M]} and, from a model of rates, {"total": [B, S]}, the expected reads of each spot."""
    result = {"expression": to_expression(outputs, panel, protocol)}
    if "rates" in outputs:
        result["total"] = jnp.sum(outputs["rates"], axis=-1)
    return result


def make_predict_step(
    graphdef: Any, panel: Panel, protocol: Protocol, mesh: Mesh
) -> Callable[[State, Batch], dict[str, jax.Array]]:
    """A jitted `step(state, {"image": uint8 [B, H, H, 3], and "spots" of tiles})`, which gives `predicted`, whole on
    every host."""

    def predict_step(state: State, batch: Batch) -> dict[str, jax.Array]:
        return predicted(forward(graphdef, state, batch, panel, protocol), panel, protocol)

    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    options = {"in_shardings": (whole, split), "compiler_options": compiler_options()}
    return jax.jit(predict_step, out_shardings=whole, **options)


def make_eval_step(
    graphdef: Any, config: Config, panel: Panel, protocol: Protocol, mesh: Mesh
) -> Callable[[State, Batch], tuple[jax.Array, dict[str, jax.Array]]]:
    """A jitted `step(state, batch) -> expression [B, S, M], losses`: the whole batch's on every host, each
    loss as its sum over measured spots."""
    eval_step = eval_step_of(graphdef, config, panel, protocol, aux_weight=config.aux_weight)
    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    options = {"in_shardings": (whole, split), "compiler_options": compiler_options()}
    return jax.jit(eval_step, out_shardings=(whole, whole), **options)


def eval_step_of(
    graphdef: Any, config: Config, panel: Panel, protocol: Protocol, *, aux_weight: Any
) -> Callable[[State, Batch], tuple[jax.Array, dict[str, jax.Array]]]:
    """`make_eval_step`'s as a pure function, of a panel as in `train_step_of`."""
    loss_function = loss_of_config(config)

    def eval_step(state: State, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = forward(graphdef, weights_of(state), batch, panel, protocol)
        wanted = make_targets(batch, panel, protocol)
        _, parts = loss_function(outputs, wanted, batch, aux_weight)
        spots = jnp.sum(batch["mask"])
        return to_expression(outputs, panel, protocol), {name: part * spots for name, part in parts.items()}

    return eval_step
