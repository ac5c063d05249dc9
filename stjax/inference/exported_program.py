"""The StableHLO function of a model folder: read, looked over, and taken through everything but the compiler before it
is believed. It is a program of somebody's: it may compute what it likes, but reaches nothing outside of itself."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax import export

from data_prep.errors import InputError
from data_prep.files import shown
from stjax import views
from stjax.data.fold import Fold
from stjax.inference import program_trial

# What jax.export itself puts into a function of several devices or of any batch size: names that become operations of
# StableHLO once sizes are known. All else would be calls into libraries or back into Python, with addresses that the
# file names.
_KNOWN_CALLS = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "shape_assertion"}
_KNOWN_CALLS |= {"stablehlo.dynamic_top_k", "stablehlo.dynamic_reduce_window"}
_CALL = re.compile(r'custom_call @(?:"([^"]*)"|([\w.$-]+))|call_target_name = "([^"]*)"')
_OUTSIDE = re.compile(r"\b(?:stablehlo|mhlo|vhlo)\.(infeed|outfeed|send|recv)\b")


def read(path: Path, *, origin: str) -> export.Exported:
    """The function.

    Args:
        origin: the folder, and the versions that wrote it, for messages.

    Raises:
        InputError: it cannot be read, is for other platforms than this one, or reaches out of itself.
    """
    data = path.read_bytes()
    program_trial.check(path, data)
    try:
        exported = export.deserialize(bytearray(data))
        outside = calls_outside(exported)
    except ImportError as error:
        raise InputError(f"exported models need flatbuffers ({error}); pip install flatbuffers") from None
    except Exception as error:  # the bytes are another's: what reads them raises all kinds
        raise InputError(f"{origin}, which this version cannot read ({error!r}); use those versions") from None
    if (platform := export.default_export_platform()) not in exported.platforms:
        known = ", ".join(map(str, exported.platforms))
        raise InputError(f"{path.parent} runs on {known}, this is {platform}; set JAX_PLATFORMS=cpu")
    if outside:
        name = shown(outside[0])
        raise InputError(f"{path}: calls {name}, outside of itself, as no exported model does; do not use it")
    return exported


def calls_outside(exported: export.Exported) -> list[str]:
    """Names of what a function calls or waits for beyond itself."""
    text = exported.mlir_module()
    calls = {"".join(names) for names in _CALL.findall(text)} | set(_OUTSIDE.findall(text))
    return sorted(calls - _KNOWN_CALLS)


def check_takes(
    exported: export.Exported, arrays: Mapping[str, Any], fold: Fold, kind: str, name: str, *, remedy: str
) -> None:
    """Raises InputError unless the function takes these weights and its view's items, and gives what it says.

    Args:
        kind: what it gives, see `View.kinds`.
    """
    view = views.of(fold)
    with running(name, remedy=remedy):
        shapes = {key: jax.ShapeDtypeStruct(array.shape, array.dtype) for key, array in arrays.items()}
        found: Any = jax.jit(exported.call).lower(shapes, *view.signature(fold, kind, 1)).out_info
        shape = tuple(found.shape)
    if shape != (expected := (1, *view.given(fold, kind))):
        raise InputError(f"{name}: gives {shape}, expected {expected}; {remedy}")


@contextlib.contextmanager
def running(name: str, *, remedy: str) -> Iterator[None]:
    """Within it the function is traced, refined for a batch, compiled or called: whatever jax, MLIR and XLA raise of
    it, of all kinds as it is another's, becomes one `InputError`, which begins with `name`."""
    try:
        yield
    except InputError:  # of the batch, which is the caller's
        raise
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:160] or type(error).__name__
        remedy = "give it more memory" if "RESOURCE_EXHAUSTED" in reason else remedy
        raise InputError(f"{name}: does not run on the folder's weights and images ({reason}); {remedy}") from error
