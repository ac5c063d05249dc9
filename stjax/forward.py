"""A model as a pure function of its weights and a batch: turned, normalised, run, averaged over symmetries."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from stjax import models, parallel
from stjax.models.expression import predicted
from stjax.ops.cpu.elementwise import compiler_options
from stjax.protocols import Protocol
from stjax.symmetries import mean_over_symmetries

if TYPE_CHECKING:
    from stjax.data.fold import Fold
    from stjax.views import Batch, Outputs, View

Weights = dict[str, Any]  # {"params", "statistics"}


def forward(
    view: "View", graphdef: Any, weights: Weights, batch: "Batch", fold: "Fold", protocol: Protocol
) -> "Outputs":
    """The model's outputs for a batch, averaged over the eight symmetries where the protocol says so."""

    def outputs(parts: jax.Array | None) -> "Outputs":
        inputs = view.inputs(batch, fold, parts)
        return models.apply(graphdef, weights["params"], weights["statistics"], inputs, train=False, key=None)[0]

    return mean_over_symmetries(outputs) if protocol.test_symmetries else outputs(None)


def make_predict_step(
    view: "View", graphdef: Any, fold: "Fold", protocol: Protocol, mesh: Mesh
) -> Callable[[Weights, "Batch"], "Outputs"]:
    """A jitted `step(weights, batch)`, of what a view's `Windows.inputs` give, to `expression.predicted`, whole on
    every host."""

    def predict_step(weights: Weights, batch: "Batch") -> "Outputs":
        return predicted(forward(view, graphdef, weights, batch, fold, protocol), fold, protocol)

    whole, split = parallel.replicated(mesh), parallel.split_batch(mesh)
    options = {"in_shardings": (whole, split), "compiler_options": compiler_options()}
    return jax.jit(predict_step, out_shardings=whole, **options)
