"""Damage to HDF5: data sets of another type, shape or content, odd attributes, links that lead elsewhere."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from tests.fuzz.damage.values import ODD_TEXTS

_NUMBERS = (0, -1, 1, 2, 2**31 - 1, 2**31, -(2**31), 2**63 - 1)
_FLOATS = (0.0, -1.0, 0.5, float("nan"), float("inf"), 1e30, -1e-30)


class _Object(NamedTuple):
    """A data set or group of an open file."""

    file: Any
    name: str
    thing: Any
    rng: random.Random


def damage_hdf5(path: Path, rng: random.Random) -> str:
    """Changes one or two objects of an HDF5 file."""
    done = []
    with h5py.File(path, "r+") as file:
        for _ in range(rng.choice((1, 1, 1, 2))):
            names: list[str] = []
            file.visit(names.append)
            if not names:
                break
            done.append(_change(file, rng.choice(sorted(names)), rng))
    return "; ".join(done)


def _change(file: Any, name: str, rng: random.Random) -> str:
    thing = file[name]
    actions = ("remove", "attribute", "attribute", "link", "group")
    if isinstance(thing, h5py.Dataset):
        actions = ("values",) * 6 + ("type",) * 3 + ("shape",) * 3 + ("declared", "text", *actions)
    action = rng.choice(actions)
    try:
        detail = _ACTIONS[action](_Object(file, name, thing, rng))
    except (TypeError, ValueError, OSError, KeyError, RuntimeError, OverflowError) as error:
        return f"{name}: {action} was not possible ({type(error).__name__})"
    return f"{name}: {action} {detail}"


def _replace(file: Any, name: str, **settings: Any) -> None:
    """Another data set under a name, with the attributes of the one there."""
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, **settings)
    for key, value in attributes.items():
        file[name].attrs[key] = value


def _values(at: _Object) -> str:
    array = at.thing[()]
    if not isinstance(array, np.ndarray) or not array.size:
        value = at.rng.choice((*_NUMBERS, *_FLOATS, *ODD_TEXTS[:6]))
        _replace(at.file, at.name, data=value)
        return "a scalar"
    flat = array.reshape(-1).copy()
    place = at.rng.choice((0, len(flat) - 1, at.rng.randrange(len(flat))))
    kind = flat.dtype.kind
    if kind == "f":
        flat[place] = at.rng.choice(_FLOATS)
    elif kind in "iu":
        info = np.iinfo(flat.dtype)
        choices = (*_NUMBERS, int(flat[place]) + 1, int(flat[place]) - 1, int(flat.max()) + 1, info.max, info.min)
        flat[place] = min(max(at.rng.choice(choices), info.min), info.max)
    elif kind == "b":
        flat[place] = ~flat[place]
    elif kind in "SO":
        odd = at.rng.choice(ODD_TEXTS).replace("\0", "").encode(errors="replace")
        odd = at.rng.choice((odd, flat[0] if isinstance(flat[0], bytes) else odd, b"\xff\xfe", b"ENSG\x00x"))
        flat = flat.astype(object) if kind == "O" else flat.astype(f"S{max(flat.dtype.itemsize, len(odd), 1)}")
        flat[place] = odd
    else:
        return "left alone"
    how = at.rng.random()
    if how < 0.1:
        flat = flat[::-1]
    elif how < 0.15:
        flat[:] = flat[place]
    settings = {"dtype": at.thing.dtype} if kind == "O" else {}
    _replace(at.file, at.name, data=flat.reshape(array.shape), **settings)
    return "one" if how >= 0.15 else "all"


def _type(at: _Object) -> str:
    array = np.asarray(at.thing[()])
    kind = at.rng.choice(
        ("f8", "f4", "f2", "i8", "u8", "i1", "u4", "bool", "S3", "c8", "compound", "text", "object", ">i4")
    )
    if kind == "compound":
        _replace(at.file, at.name, data=np.zeros(array.shape, [("a", "i4"), ("b", "f8")]))
    elif kind == "text":
        texts = np.array([str(value) for value in array.reshape(-1)[:10_000]], dtype=object)
        _replace(at.file, at.name, data=texts, dtype=h5py.string_dtype())
    elif kind == "object":
        rows = np.array([np.arange(3)] * min(100, max(1, array.size)), dtype=object)
        _replace(at.file, at.name, data=rows[:, 0] if rows.ndim > 1 else rows, dtype=h5py.vlen_dtype(np.int32))
    else:
        with np.errstate(all="ignore"):
            _replace(at.file, at.name, data=array.astype(kind))
    return kind


def _shape(at: _Object) -> str:
    array = np.asarray(at.thing[()])
    flat = array.reshape(-1)
    made = {
        "shorter": lambda: array[:-1] if array.ndim else flat,
        "longer": lambda: np.concatenate([flat, flat[-1:]]),
        "empty": lambda: flat[:0],
        "column": lambda: flat[:, None],
        "flat": lambda: flat,
        "scalar": lambda: flat[0],
        "deep": lambda: array[None, ..., None],
        "turned": lambda: array.T,
    }
    kind = at.rng.choice(sorted(made))
    settings = {"dtype": at.thing.dtype} if at.thing.dtype.kind == "O" else {}
    _replace(at.file, at.name, data=made[kind](), **settings)
    return kind


def _declared(at: _Object) -> str:
    """Sizes that nothing is stored for."""
    size = at.rng.choice((10**6, 4 * 10**9, 2**40))
    shape = (size, *at.thing.shape[1:]) if at.rng.random() < 0.7 else (size,)
    kind = at.thing.dtype if at.thing.dtype.kind != "O" else h5py.string_dtype()
    _replace(at.file, at.name, shape=shape, dtype=kind, chunks=(1024, *shape[1:]), compression="gzip")
    return str(shape)


def _text(at: _Object) -> str:
    _replace(at.file, at.name, data=at.rng.choice(ODD_TEXTS).replace("\0", "").encode(errors="replace"))
    return "one"


def _remove(at: _Object) -> str:
    del at.file[at.name]
    return ""


def _group(at: _Object) -> str:
    attributes = dict(at.thing.attrs)
    is_group = isinstance(at.thing, h5py.Group)
    del at.file[at.name]
    made = at.file.create_dataset(at.name, data=np.arange(3)) if is_group else at.file.create_group(at.name)
    for key, value in attributes.items():
        made.attrs[key] = value
    return "for a data set" if not is_group else "becomes a data set"


def _attribute(at: _Object) -> str:
    thing = at.rng.choice((at.thing, at.file))
    keys = sorted(thing.attrs)
    if not keys or at.rng.random() < 0.1:
        thing.attrs["odd"] = at.rng.choice(ODD_TEXTS[:12]).replace("\0", "")
        return "added"
    key = at.rng.choice(keys)
    if at.rng.random() < 0.25:
        del thing.attrs[key]
        return f"{key} removed"
    choices = (0, -1, 2**62, 1.5, "", "x", "csr_matrix", "csc_matrix", "array", "dataframe", "categorical", "dict",
               "string-array", "nullable-integer", "0.0.0", "9.9.9", np.arange(2), np.array([2**40, 2**40]),
               np.array([-1, 5]), np.array(["a", "b"], dtype=object), h5py.Empty("f4"))  # fmt: skip
    value = at.rng.choice(choices)
    del thing.attrs[key]
    if isinstance(value, np.ndarray) and value.dtype == object:
        thing.attrs.create(key, value, dtype=h5py.string_dtype())
    else:
        thing.attrs[key] = value
    return f"{key} is {value!r}"


def _link(at: _Object) -> str:
    kind = at.rng.choice(("external", "soft", "cycle", "hard", "virtual", "raw"))
    names: list[str] = []
    at.file.visit(names.append)
    shape, dtype = getattr(at.thing, "shape", (3,)), getattr(at.thing, "dtype", np.dtype("i4"))
    dtype = np.dtype("u1") if dtype.kind == "O" else dtype
    other = at.rng.choice(sorted(names))
    target = at.file[other]
    del at.file[at.name]
    if kind == "external":
        at.file[at.name] = h5py.ExternalLink(
            at.rng.choice(("/etc/hostname", "elsewhere.h5", Path(at.file.filename).name)), "/" + at.name
        )
    elif kind == "soft":
        at.file[at.name] = h5py.SoftLink("/" + other)
    elif kind == "cycle":
        at.file[at.name] = h5py.SoftLink("/" + at.name)
    elif kind == "hard":
        at.file[at.name] = target
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
        if shape:
            layout[...] = h5py.VirtualSource("elsewhere.h5", at.name, shape=shape)
        at.file.create_virtual_dataset(at.name, layout, fillvalue=1)
    else:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        at.file.create_dataset(at.name, shape=shape, dtype=dtype, external=[("/etc/passwd", 0, max(size, 1))])
    return kind


_ACTIONS = {
    "values": _values,
    "type": _type,
    "shape": _shape,
    "declared": _declared,
    "text": _text,
    "remove": _remove,
    "group": _group,
    "attribute": _attribute,
    "link": _link,
}
