"""Reads the arrays of Keras' `.weights.h5`, under names and in the layout of torch, which all else here expects.

`block1/layers/conv2d/vars/0` is `block1/layers/conv2d.weight`, [H, W, I, O] turned to [O, I, H, W]; `vars/1` its bias.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep import budgets
from data_prep.readers import _matrix

_PARTS = {"0": "weight", "1": "bias"}
_TURNED = {4: (3, 2, 0, 1), 2: (1, 0)}  # from Keras' layout to torch's, by the number of sides


@contextlib.contextmanager
def listed(path: Path) -> Iterator[dict[str, tuple[np.dtype, tuple[int, ...], Callable[[], np.ndarray]]]]:
    """The arrays of layers by torch's names: each its dtype, its shape, and what reads it within the context.

    Raises:
        InputError: the file is damaged, leads elsewhere, or declares more than a file of its size should.
    """
    with _matrix.hdf5(path, "a Keras .weights.h5") as file:
        found, size = {}, 0

        def visit(name: str, thing: Any) -> None:
            nonlocal size
            layer, _, part = name.rpartition("/vars/")
            if isinstance(thing, h5py.Dataset) and part in _PARTS:
                sides = tuple(int(side) for side in thing.shape or ())
                turned = _TURNED.get(len(sides), tuple(range(len(sides))))
                shape = tuple(sides[axis] for axis in turned)
                found[f"{layer}.{_PARTS[part]}"] = (thing.dtype, shape, functools.partial(_read, thing, turned))
                size += thing.nbytes

        file.visititems(visit)
        budgets.TENSORS.check(path, size)
        yield found


def _read(thing: h5py.Dataset, turned: tuple[int, ...]) -> np.ndarray:
    return np.asarray(thing[()]).transpose(turned)
