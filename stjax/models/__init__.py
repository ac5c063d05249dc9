"""Models are found by module name: `stjax.models.<module>.build(variant, ...)` is a backbone, on which heads for
patches go; `build_tile_model(variant, ...)` is a whole model of tiles."""

import importlib
import inspect
import pkgutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.heads import PatchModel

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Model = Any  # an nnx.Module with a `backbone`; called with images, and spots where it is of tiles


def build(
    *,
    module: str,
    variant: str,
    num_main: int,
    num_aux: int,
    image_size_px: int,
    dtype: str,
    rngs: nnx.Rngs,
    options: dict[str, Any] | None = None,
    main_mean: np.ndarray | None = None,
    tiles: dict[str, Any] | None = None,
) -> Model:
    """A backbone with the main head and, when `num_aux` is not 0, AuxNet; or a model of tiles.

    Args:
        module, variant: file in `stjax/models` and what its `build` calls the model, e.g. "efficientnet", "b0".
        options: further keywords of that `build`.
        main_mean: [num_main] targets that the main head is to start at; None starts it at random.
        tiles: keywords that a model of tiles takes from its training data; None for patches.

    Raises:
        InputError: no such module, variant, dtype or option, or a model of patches for tiles or the other way round.
    """
    if dtype not in DTYPES:
        raise InputError(f"config.model.dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    try:
        found = importlib.import_module(f"stjax.models.{module}")
    except ModuleNotFoundError:
        found = None
    build_model = getattr(found, "build", None) or getattr(found, "build_tile_model", None)
    if build_model is None:
        raise InputError(f"config.model.module is {module!r}; choose one of {', '.join(_known())}")
    of_tiles = build_model.__name__ == "build_tile_model"
    if of_tiles != (tiles is not None):
        wanted, flag = ("tiles", "--tile-size-px") if of_tiles else ("patches", "--patch-size-px")
        raise InputError(f"config.model.module {module} is a model of {wanted}; build the data set with {flag}")
    if of_tiles and num_aux:
        raise InputError(f"{module} has no AuxNet; add --config.model.aux=False")
    options = options or {}
    given = {"variant", "dtype", "rngs", "image_size_px", "num_main", "pixels_per_spot", "base_rates"}
    known = set(inspect.signature(build_model).parameters) - given
    if unknown := sorted(set(options) - known):
        raise InputError(f"config.model.options has {', '.join(unknown)}; {module} takes {', '.join(sorted(known))}")
    keywords = {"dtype": DTYPES[dtype], "rngs": rngs, "image_size_px": image_size_px, **options}
    if of_tiles:
        return build_model(variant, num_main=num_main, **keywords, **(tiles or {}))
    return PatchModel(
        build_model(variant, **keywords), num_main=num_main, num_aux=num_aux, main_mean=main_mean, rngs=rngs
    )


def _known() -> list[str]:
    """Modules in this folder that build a model."""
    names = [entry.name for entry in pkgutil.iter_modules(__path__)]
    parts = {name: importlib.import_module(f"stjax.models.{name}") for name in names}
    return sorted(name for name, part in parts.items() if hasattr(part, "build") or hasattr(part, "build_tile_model"))


def split(model: nnx.Module) -> tuple[Any, nnx.State, nnx.State]:
    """Graph definition, parameters, and everything else (BatchNorm statistics)."""
    return nnx.split(model, nnx.Param, ...)  # pyright: ignore[reportReturnType]


def apply(
    graphdef: Any,
    params: nnx.State,
    statistics: nnx.State,
    images: jax.Array,
    *,
    train: bool,
    key: jax.Array | None,
    frozen_backbone: bool = False,
    **inputs: Any,
) -> tuple[dict[str, jax.Array], nnx.State]:
    """Runs a model as a pure function.

    Args:
        images: [B, H, W, 3] normalised.
        key: source of dropout and stochastic depth, when training.
        frozen_backbone: run the backbone as when predicting, and give it no gradient.
        inputs: what models of tiles take besides.

    Returns:
        Its outputs, and the statistics after the call.
    """
    # copy=True: without it the merged model shares the tracers of an outer value_and_grad and cannot be updated.
    model = nnx.merge(graphdef, params, statistics, copy=True)
    outputs = model(images, train=train, key=key, frozen_backbone=frozen_backbone, **inputs)
    _, _, statistics = split(model)
    return outputs, statistics
