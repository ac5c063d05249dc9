"""Models are found by module name: `stjax.models.<module>.build(variant, ...)`.

Of a module that names the view its models take, `VIEW = "tiles"`, that is a whole model; of any other a backbone, on
which heads for patches go.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from data_prep.errors import InputError

if TYPE_CHECKING:  # Flax and Optax are imported where a network is built: an exported model runs without
    from flax import nnx

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Model = Any  # an nnx.Module with a `backbone`; called with its view's inputs


def view_of(module: str) -> str:
    """Name of the view that models of `module` take. Raises InputError when there is no such module."""
    return getattr(_module(module), "VIEW", "patches")


def build(
    *,
    module: str,
    variant: str,
    num_main: int,
    num_aux: int,
    dtype: str,
    rngs: "nnx.Rngs",
    options: dict[str, Any] | None = None,
    main_mean: np.ndarray | None = None,
    facts: dict[str, Any] | None = None,
) -> Model:
    """The model that a config names.

    Args:
        module, variant: file in `stjax/models` and what its `build` calls the model, e.g. "efficientnet", "b0".
        num_main, num_aux: genes of the main head, and of AuxNet, which not every model has.
        options: further keywords of that `build`.
        main_mean: [num_main] targets that the main head is to start at; None starts it at random.
        facts: what the training data says, see `views.View.model_options`; `build` gets those it takes.

    Raises:
        InputError: no such module, variant, dtype or option, or AuxNet for a model that has none.
    """
    if dtype not in DTYPES:
        raise InputError(f"config.model.dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    found, options = _module(module), options or {}
    fixed = {"num_main": num_main, "num_aux": num_aux, "main_mean": main_mean, **(facts or {})}
    takes = set(inspect.signature(found.build).parameters)
    known = takes - fixed.keys() - {"variant", "dtype", "rngs"}
    if unknown := sorted(set(options) - known):
        raise InputError(f"config.model.options has {', '.join(unknown)}; {module} takes {', '.join(sorted(known))}")
    whole = hasattr(found, "VIEW")
    if whole and num_aux and "num_aux" not in takes:
        raise InputError(f"{module} has no AuxNet; add --config.model.aux=False")
    given = {name: value for name, value in fixed.items() if name in takes}
    built = found.build(variant, dtype=DTYPES[dtype], rngs=rngs, **given, **options)
    if whole:
        return built
    from stjax.models.heads import PatchModel

    return PatchModel(built, num_main=num_main, num_aux=num_aux, main_mean=main_mean, rngs=rngs)


def _module(name: str) -> Any:
    """A module of this folder that builds models. Raises InputError when there is none of this name."""
    names = [entry.name for entry in pkgutil.iter_modules(__path__)]
    if name in names and hasattr(found := importlib.import_module(f"stjax.models.{name}"), "build"):
        return found
    known = (each for each in names if hasattr(importlib.import_module(f"stjax.models.{each}"), "build"))
    raise InputError(f"config.model.module is {name!r}; choose one of {', '.join(sorted(known))}")


def split(model: "nnx.Module") -> tuple[Any, "nnx.State", "nnx.State"]:
    """Graph definition, parameters, and everything else (BatchNorm statistics)."""
    from flax import nnx

    return nnx.split(model, nnx.Param, ...)  # pyright: ignore[reportReturnType]


def apply(
    graphdef: Any,
    params: "nnx.State",
    statistics: "nnx.State",
    inputs: Mapping[str, Any],
    *,
    train: bool,
    key: jax.Array | None,
    frozen_backbone: bool = False,
) -> tuple[dict[str, jax.Array], "nnx.State"]:
    """Runs a model as a pure function.

    Args:
        inputs: as the model's view gives them: images normalised, ...
        key: source of dropout and stochastic depth, when training.
        frozen_backbone: run the backbone as when predicting, and give it no gradient.

    Returns:
        Its outputs, and the statistics after the call.
    """
    from flax import nnx

    # copy=True: without it the merged model shares the tracers of an outer value_and_grad and cannot be updated.
    model = nnx.merge(graphdef, params, statistics, copy=True)
    outputs = model(**inputs, train=train, key=key, frozen_backbone=frozen_backbone)
    _, _, statistics = split(model)
    return outputs, statistics
