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

    from stjax.encoders import Encoder

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Model = Any  # an nnx.Module with a `backbone`; called with its view's inputs


def view_of(module: str) -> str:
    """Name of the view that models of `module` take. Raises InputError when there is no such module."""
    return getattr(_module(module), "VIEW", "patches")


def needs(module: str, variant: str) -> tuple[str, ...]:
    """What a model of sections needs to know, of `stjax.data.sections.NEEDS`. Raises InputError for no such variant."""
    return tuple(_module(module).needs(variant))


def sees_targets(module: str) -> bool:
    """Whether models of `module` are called with the targets too, in training."""
    return getattr(_module(module), "SEES_TARGETS", False)


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
    blank: bool = False,
) -> Model:
    """The model that a config names.

    Args:
        module, variant: file in `stjax/models` and what its `build` calls the model, e.g. "efficientnet", "b0".
        num_main, num_aux: genes of the main head, and of AuxNet, which not every model has.
        options: further keywords of that `build`, and `tuning.OPTIONS` for the backbone.
        main_mean: [num_main] targets that the main head is to start at; None starts it at random.
        facts: what the training data says, see `views.View.model_options`; `build` gets those it takes.
        blank: where `build` takes it, of published encoders: make no weights, as those of a file follow.

    Raises:
        InputError: no such module, variant, dtype or option, or AuxNet or tuning for a model that has none.
    """
    from stjax.models import tuning

    if dtype not in DTYPES:
        raise InputError(f"config.model.dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    found, options = _module(module), dict(options or {})
    fixed = {"num_main": num_main, "num_aux": num_aux, "main_mean": main_mean, "blank": blank, **(facts or {})}
    takes = set(inspect.signature(found.build).parameters)
    tuned = {name: options.pop(name) for name in tuning.OPTIONS if name in options}
    known = takes - fixed.keys() - {"variant", "dtype", "rngs"} | set(tuning.OPTIONS)
    if unknown := sorted(set(options) - known):
        raise InputError(f"config.model.options has {', '.join(unknown)}; {module} takes {', '.join(sorted(known))}")
    whole = hasattr(found, "VIEW")
    if whole and num_aux and "num_aux" not in takes:
        raise InputError(f"{module} has no AuxNet; add --config.model.aux=False")
    given = {name: value for name, value in fixed.items() if name in takes}
    built = found.build(variant, dtype=DTYPES[dtype], rngs=rngs, **given, **options)
    if not whole:
        from stjax.models.heads import PatchModel

        seen_by = variant if published(module, variant) else ""
        built = PatchModel(built, num_main=num_main, num_aux=num_aux, main_mean=main_mean, encoder=seen_by, rngs=rngs)
    if tuned and not hasattr(built, "backbone"):
        raise InputError(f"config.model.options has {', '.join(sorted(tuned))}; {module} has no backbone to tune")
    if tuned:
        tuning.tune(built.backbone, tuned.pop("tune", "all"), **tuned, rngs=rngs)
    return built


def published(module: str, variant: str) -> "Encoder | None":
    """The published encoder in the models that a config names so; None where there is none."""
    found = _module(module)
    return found.published(variant) if hasattr(found, "published") else None


def normalisation(
    module: str, variant: str, options: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation, [3] each of 0 to 255, by which these models want images in place of the training images' own;
    None where they do not.

    Args:
        options: of the config's model.
    """
    if hasattr(found := _module(module), "normalisation"):
        return found.normalisation(options)
    if (encoder := published(module, variant)) is None:
        return None
    return tuple(255 * value for value in encoder.mean), tuple(255 * value for value in encoder.std)


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
