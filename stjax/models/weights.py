"""Moves weights between a backbone and the files of torchvision, timm and others, by name, all or nothing."""

import dataclasses
import hashlib
import importlib
import importlib.util
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep import files
from data_prep.errors import InputError
from stjax import encoders
from stjax.models import tuning, weight_files
from stjax.models.positions import resize_positions
from stjax.models.weight_files import Stored

# Names of arrays in a layer, here and in torch.
_ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_COUNTER = "num_batches_tracked"
_RECOMPUTED = (_COUNTER, "relative_position_index", "attn_mask")  # no weights; in released files of Swin transformers
# Layers of released files that no backbone has: classifiers of other classes, and Inception's auxiliary one.
_HEADS = ("fc.", "_fc.", "classifier.", "head.", "heads.", "AuxLogits.")
# What wraps a network in its training, or in a larger model: before every name alike.
_WRAPPERS = re.compile(r"(?:(?:module|model|backbone|trunk|resnet|vit|dinov2)\.)+")
_HALF = (jnp.float16, jnp.bfloat16)
_ROWS = ("token", "positions", "registers")  # of tokens: with two or one more sides in torch
Names = dict[str, tuple[str, ...]]  # {path here: names in a file, joined along the outputs where there are several}


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
    """The file that `config.init_from` means: a path, or a key of `encoders.PACKAGES` for the one in that PyPI package.

    Raises:
        InputError: the package is not installed, or its files are not those published.
    """
    if name not in encoders.PACKAGES:
        return Path(name)
    package = encoders.PACKAGES[name]
    spec = importlib.util.find_spec(package.module)  # finds the folder; runs none of its code
    if spec is None or spec.origin is None:
        raise InputError(f"the weights {name!r} are not installed: {package.install}")
    paths = {Path(spec.origin).parent / file: digest for file, digest in package.files.items()}
    for path, digest in paths.items():
        if not path.is_file():
            raise InputError(f"{path} is not there: {package.install}")
        if files.sha256(path) != digest:
            raise InputError(f"{path} is not the published file: {package.install}, again")
    return next(iter(paths))


def sha256(path: Path) -> str:
    """Of a weights file and, of an ONNX model, of the files next to it that it has tensors in. Raises InputError where
    one cannot be read, or the model is damaged."""
    parts = [files.sha256(part) for part in (path, *weight_files.beside(path))]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def load(backbone: Any, path: Path, *, keep_half: bool = False) -> Report:
    """Replaces all parameters and BatchNorm statistics of a backbone by those of a file; on an error, none.

    Args:
        backbone: a network, or what `nnx.eval_shape` makes of one: then nothing but the file's numbers is ever held.
        path: `.safetensors` or a file of PyTorch's, with the names of torchvision, timm or another source the
            backbone's file knows.
        keep_half: leave float16 and bfloat16 as they are, rather than as float32; matrices that are not trained always
            are.

    Raises:
        InputError: the file is damaged or refused, lacks a layer, has one that fits nowhere, or shapes differ.
    """
    leaves, rules = _leaves(backbone), _rules(backbone)
    with weight_files.opened(path) as stored:
        plain = getattr(rules, "unchunked", str)
        given = {plain(name): tensor for name, tensor in stored.items() if not name.endswith(_RECOMPUTED)}
        source, prefix, names = _recognised(_names(backbone, leaves), given)
        if all(name not in given for each in names.values() for name in each):
            raise InputError(
                f"weights file {path} is of another model: it has {_some(list(given))}; "
                f"expected {_some([name for each in names.values() for name in each])}"
            )
        if hasattr(rules, "folded"):
            given = rules.folded(backbone, names, given)
        unused, problems = _misfits(names, given, leaves, prefix=prefix, backbone=backbone)
        if problems:
            raise InputError(f"weights file {path} does not fit ({source}'s names): {_some(problems, separator='; ')}")
        arrays, notes = {}, _quarantined(stored.foreign)
        for place, of in names.items():
            leaf = leaves[place]
            half = keep_half or (isinstance(leaf, tuning.Frozen) and len(leaf.shape) > 1)
            fault, note, array = _fitted(place, of, given, leaf.shape, backbone=backbone, keep_half=half)
            arrays[place] = array
            problems += [fault] if fault else []
            notes += [note] if note else []
    if problems:
        raise InputError(f"weights file {path} does not fit ({source}'s names): {_some(problems, separator='; ')}")
    for place, array in arrays.items():
        leaves[place].set_value(array)
    kept = sorted({str(array.dtype) for array in arrays.values()} - {"float32"})
    notes += [f"kept in {', '.join(kept)}"] if kept else []
    return Report(source, len(arrays), tuple(unused), tuple(notes))


def _quarantined(names: tuple[str, ...]) -> list[str]:
    return [f"it also names {_some(names)}: neither imported nor called"] if names else []


def _recognised(by_source: Mapping[str, Names], given: Mapping[str, Any]) -> tuple[str, str, Names]:
    """Whose names a file has most of, and behind which wrappers: the source, the prefix, and the names with it."""
    found = (_WRAPPERS.match(name) for name in given)
    prefixes = ["", *sorted({match.group() for match in found if match})]

    def known(source: str, prefix: str) -> int:
        return sum(prefix + name in given for each in by_source[source].values() for name in each)

    source, prefix = max(itertools.product(by_source, prefixes), key=lambda pair: known(*pair))
    return source, prefix, {path: tuple(prefix + n for n in each) for path, each in by_source[source].items()}


def _misfits(
    names: Names, given: Mapping[str, Stored], leaves: Mapping[str, Any], *, prefix: str, backbone: Any
) -> tuple[list[str], list[str]]:
    """What of a file is not used, and in what it differs from the backbone, as far as its list of tensors tells."""
    wanted = [name for each in names.values() for name in each]
    unused = [name for name in given if name not in set(wanted)]
    passed_over = (*_HEADS, *getattr(_rules(backbone), "DROPPED", ()))
    unexpected = [name for name in unused if not name.removeprefix(prefix).startswith(passed_over)]
    problems = []
    for path, each in names.items():
        if any(name not in given for name in each):
            continue
        expected = _expected(path, leaves[path].shape, len(each))
        for name in each:
            tensor = given[name]
            as_here = tensor.shape == expected or (_is_rows(path) and tensor.shape == leaves[path].shape)
            if not as_here and not _may_move(backbone, path, tensor.shape, expected):
                problems.append(f"{name} has shape {_shape(tensor.shape)}, expected {_shape(expected)}")
            elif not jnp.issubdtype(tensor.dtype, jnp.floating):
                problems.append(
                    f"{name} holds {tensor.dtype}, expected numbers with a fraction (quantised weights are not read)"
                )
    for what, listed in (
        ("lacks", [name for name in wanted if name not in given]),
        ("also has", unexpected),
    ):
        if listed:
            problems.append(f"it {what} {_some(listed)}")
    return unused, problems


def _expected(path: str, shape: tuple[int, ...], parts: int) -> tuple[int, ...]:
    """Shape of each of the arrays of a file that make one here."""
    if path.endswith("kernel"):
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
    elif _is_rows(path):
        shape = (1,) * (3 - len(shape)) + shape
    return (shape[0] // parts, *shape[1:])


def _may_move(backbone: Any, path: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Positions that only differ in their grid, of a network whose grid is that of the images."""
    return path == "positions" and backbone.spec.grid is None and len(shape) == 3 and shape[2] == expected[2]


def _fitted(
    path: str,
    names: tuple[str, ...],
    given: Mapping[str, Stored],
    expected: tuple[int, ...],
    *,
    backbone: Any,
    keep_half: bool,
) -> tuple[str, str, jax.Array]:
    """What is wrong with a file's numbers, what was changed, "" for nothing, and the array as it is kept here."""
    parts = [given[name].read() for name in names]
    found = _from_torch(path, parts[0] if len(parts) == 1 else np.concatenate(parts))
    if not (keep_half and found.dtype in _HALF):
        with np.errstate(over="ignore"):  # then it is not finite, which is said
            found = found.astype(np.float32, copy=False)
    fault, note = "", ""
    if not np.all(np.isfinite(found)):
        fault = f"{names[0]} holds numbers that are not finite"
    elif names[0].endswith(_ARRAYS["var"]) and (found < 0).any():
        fault = f"{names[0]} holds a negative variance"
    elif path == "positions" and found.shape != expected:
        found, note = _fit_positions(found, expected[0], backbone.spec)
        if found.shape != expected:
            fault = f"{names[0]} has shape {_shape(given[names[0]].shape)}, whose {note}"
    return fault, note, jax.device_put(_aligned(found))


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes: on a CPU, JAX takes that as it is and any other once more."""
    memory = np.empty(array.nbytes + 63, np.uint8)
    first = -memory.ctypes.data % 64
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def tensors(backbone: Any) -> weight_files.Tensors:
    """All arrays of a backbone in torch's shapes, under torchvision's names; where it has no such model, under
    those of EfficientNet-Lite0's package or of timm."""
    leaves = _leaves(backbone)
    found = {}
    for path, (name,) in _names(backbone, leaves)[_source(backbone)].items():
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
    if getattr(backbone, "lite", False):
        return "efficientnet_pytorch"
    return next(iter(_rules(backbone).weight_names(backbone)))


def _leaves(backbone: Any) -> dict[str, Any]:
    """Every parameter and statistic by its dotted path, as the variables that hold them; without low-rank updates."""
    leaves = nnx.to_flat_state(nnx.state(backbone))
    return {".".join(map(str, path)): leaf for path, leaf in leaves if not isinstance(leaf, tuning.Update)}


def _rules(backbone: Any) -> Any:
    """The module with `weight_names` of a backbone: its own, or that next to it called `<module>_names`."""
    name = type(backbone).__module__
    module = importlib.import_module(name)
    return module if hasattr(module, "weight_names") else importlib.import_module(f"{name}_names")


def _names(backbone: Any, leaves: Iterable[str]) -> dict[str, Names]:
    """{source: {path here: names in the source's files}} for every array of a backbone."""
    found = {}
    for source, layers in _rules(backbone).weight_names(backbone).items():
        names = {}
        for path in leaves:
            layer, _, array = path.rpartition(".")
            of = layers[path if path in layers else layer]  # an array that is no part of a layer, or one that is
            each = of if isinstance(of, tuple) else (of,)
            if path not in layers:
                each = tuple(_joined(name, _ARRAYS[array]) for name in each)
            names[path] = each
        found[source] = names
    return found


def _joined(layer: str, array: str) -> str:
    return (
        f"{layer}_{array}" if layer.endswith("in_proj") else f"{layer}.{array}"
    )  # torch's attention has no layer there


def _to_torch(path: str, array: np.ndarray) -> np.ndarray:
    if path.endswith("kernel"):
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)
    if _is_rows(path):
        return array.reshape((1,) * (3 - array.ndim) + array.shape)
    return array


def _from_torch(path: str, array: np.ndarray) -> np.ndarray:
    if path.endswith("kernel"):
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    if _is_rows(path) and array.ndim == 3 and array.shape[0] == 1:
        return array[0, 0] if path.endswith("token") else array[0]
    return array


def _fit_positions(positions: np.ndarray, rows: int, spec: Any) -> tuple[np.ndarray, str]:
    """A vision transformer's positions on another square grid."""
    old, new = (math.isqrt(max(count - spec.prefix, 0)) for count in (positions.shape[0], rows))
    if old * old + spec.prefix != positions.shape[0]:
        return positions, "positions are on no square grid"
    fitted = np.asarray(resize_positions(jnp.asarray(positions), (new, new), prefix=spec.prefix, rule=spec.rule))
    return fitted, f"positions interpolated from {old} x {old} to {new} x {new}"


def _is_rows(path: str) -> bool:
    return path.rpartition(".")[2] in _ROWS


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"


def _some(names: Iterable[str], *, separator: str = ", ", most: int = 4) -> str:
    names = list(names)
    more = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
