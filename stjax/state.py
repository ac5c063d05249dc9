"""The state of a run: parameters and statistics, what its optimiser keeps, and their averages."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from data_prep.errors import InputError
from stjax import models, optim, parallel, views
from stjax.config import Config
from stjax.data.fold import Fold
from stjax.models import tuning, weights
from stjax.protocols import get_protocol

# {"params", "statistics", "opt_state"} and, with config.ema_decay, "average" of the former two less frozen weights.
State = dict[str, Any]


def make_model(
    config: Config,
    fold: Fold,
    *,
    rngs: nnx.Rngs,
    blank: bool = False,
    start: Mapping[str, Any] = MappingProxyType({}),
) -> models.Model:
    """The model a config names, with heads as wide as the panel; see `models.build`, and `init_state` of `start`."""
    panel, main = fold.panel, fold.main
    return models.build(
        module=config.model.module,
        variant=config.model.variant,
        dtype=config.model.dtype,
        options=config.model.options.to_dict(),
        num_main=panel.num_main,
        num_aux=panel.num_aux if config.model.aux else 0,
        facts=views.of(fold).model_options(fold) | dict(start),
        main_mean=(fold.train_mean - main.target_mean) / main.target_std
        if get_protocol(config.protocol).head_at_mean
        else None,
        blank=blank,
        rngs=rngs,
    )


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
    if "average" not in state:
        return {"params": state["params"], "statistics": state["statistics"]}
    frozen, _ = tuning.separated(state["statistics"])
    statistics = nnx.merge_state(frozen, state["average"]["statistics"])
    return {"params": state["average"]["params"], "statistics": statistics}


def moving(state: State) -> State:
    """{"params", "statistics"} of a training state that training changes: without frozen weights."""
    return {"params": state["params"], "statistics": tuning.separated(state["statistics"])[1]}


def init_state(
    config: Config,
    fold: Fold,
    *,
    mesh: Mesh,
    abstract: bool = False,
    start: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, State]:
    """The model's graph definition and a fresh state, replicated over the mesh; a function of `config.seed`, and of
    what it starts from.

    Args:
        abstract: return shapes and shardings in place of arrays, as a template to restore a checkpoint into.
        start: what the view says of the training data where a run begins, see `views.View.start`.
    """
    optimizer = make_optimizer(config)
    sharding = parallel.replicated(mesh)

    def fresh() -> tuple[Any, State]:
        rngs = nnx.Rngs(jax.random.key(config.seed))
        loads = bool(config.init_from) and not abstract
        model = make_model(config, fold, rngs=rngs, blank=loads, start=start)
        if (encoder := models.published(config.model.module, config.model.variant)) and not abstract:
            starts = "" if loads else "; no --config.init_from is given, so that its weights are random"
            print(f"{encoder.terms}{starts}")
        if loads and not hasattr(model, "backbone"):
            raise InputError(
                f"config.init_from is {config.init_from!r}, but {config.model.module} has no backbone; leave it empty"
            )
        if loads:
            print(f"{config.init_from}: {weights.load(model.backbone, weights.locate(config.init_from))}")
        graphdef, params, statistics = models.split(model)
        state = {"params": params, "statistics": statistics, "opt_state": jax.jit(optimizer.init)(params)}
        if config.ema_decay:
            state["average"] = jax.tree.map(jnp.copy, moving(state))  # a step reuses the memory of what it is given
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
