"""Models are found by module name: `stjax.models.<module>.build(variant, ...)` is a backbone; a head goes on top."""

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
) -> PatchModel:
    """A backbone with the main head and, when `num_aux` is not 0, AuxNet.

    Args:
        module, variant: file in `stjax/models` and what its `build` calls the model, e.g. "efficientnet", "b0".
        options: further keywords of that `build`.
        main_mean: [num_main] targets that the main head is to start at; None starts it at random.

    Raises:
        InputError: no such module, variant, dtype or option.
    """
    if dtype not in DTYPES:
        raise InputError(f"config.model.dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    try:
        backbones = importlib.import_module(f"stjax.models.{module}")
        build_backbone = backbones.build
    except (ModuleNotFoundError, AttributeError):
        known = [entry.name for entry in pkgutil.iter_modules(__path__)]
        known = [name for name in known if hasattr(importlib.import_module(f"stjax.models.{name}"), "build")]
        raise InputError(f"config.model.module is {module!r}; choose one of {', '.join(sorted(known))}") from None
    options = options or {}
    known = set(inspect.signature(build_backbone).parameters) - {"variant", "dtype", "rngs", "image_size_px"}
    if unknown := sorted(set(options) - known):
        raise InputError(f"config.model.options has {', '.join(unknown)}; {module} takes {', '.join(sorted(known))}")
    backbone = build_backbone(variant, dtype=DTYPES[dtype], rngs=rngs, image_size_px=image_size_px, **options)
    return PatchModel(backbone, num_main=num_main, num_aux=num_aux, main_mean=main_mean, rngs=rngs)


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
) -> tuple[dict[str, jax.Array], nnx.State]:
    """Runs a model as a pure function.

    Args:
        images: [B, H, W, 3] normalised.
        key: source of dropout and stochastic depth, when training.
        frozen_backbone: run the backbone as when predicting, and give it no gradient.

    Returns:
        Its outputs, and the statistics after the call.
    """
    # copy=True: without it the merged model shares the tracers of an outer value_and_grad and cannot be updated.
    model = nnx.merge(graphdef, params, statistics, copy=True)
    outputs = model(images, train=train, key=key, frozen_backbone=frozen_backbone)
    _, _, statistics = split(model)
    return outputs, statistics
