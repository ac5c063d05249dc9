"""Arrays from .npz files, whose headers are looked at before anything is allocated; no objects, no pickles."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from data_prep import budgets
from data_prep.errors import InputError

_MOST_HEADER = 10_000  # characters, NumPy's own limit


def read(
    path: Path,
    expected: Mapping[str, tuple[str, int]],
    *,
    optional: Mapping[str, tuple[str, int]] | None = None,
    remedy: str,
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Args:
        expected: {name: (kinds of its type, as `dtype.kind` calls them, and how many dimensions)}; others may be there
            and are not read.
        optional: the same of arrays that need not be there.
        remedy: what to do when the file is damaged, for messages.

    Raises:
        InputError: not readable, damaged, an array missing or of another kind, or one over the budget
            (`data_prep.budgets`).
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist()]
            if len(set(members)) != len(members):
                raise ValueError("a name appears twice in it")
            found = {}
            for name, (kinds, sides) in {**expected, **(optional or {})}.items():
                if f"{name}.npy" not in members:
                    if name not in expected:
                        continue
                    raise ValueError(f"it has no array {name}")
                info = archive.getinfo(f"{name}.npy")
                budgets.NPZ_ARRAY.check(path, info.file_size, file_bytes=size)
                with archive.open(info) as stream:
                    found[name] = _array(stream, info.file_size)
                if found[name].dtype.kind not in kinds or found[name].ndim != sides:
                    kind = f"{found[name].ndim}-dimensional array of {found[name].dtype}"
                    raise ValueError(f"{name} is a {kind}, expected {sides} dimensions of kind {kinds}")
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of zipfile and NumPy's headers, it is a damaged file
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise InputError(f"{path}: damaged table ({reason}); {remedy}") from None
    return found


def _array(stream: IO[bytes], size: int) -> np.ndarray:
    """The one array of a member of `size` bytes. Raises ValueError where it says another size than it has."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of arrays is not read")
    shape, by_column, dtype = readers[version](stream, max_header_size=_MOST_HEADER)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"an array of {dtype}, expected numbers or text")
    if any(side < 0 for side in shape):
        raise ValueError(f"an array has the shape {shape}")
    needed = math.prod(shape) * dtype.itemsize
    if needed > size:
        raise ValueError(f"an array of shape {shape} has {size} bytes")
    data = stream.read(needed)
    if len(data) != needed or stream.read(1):
        raise ValueError(f"an array of shape {shape} has another length than it says")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
