"""A file of patches, as HEST keeps them and those that follow it.

    img [N, P, P, 3] uint8, barcode (or barcodes) [N, 1] or [N], coords [N, 2] in pixels at full resolution

HEST-Benchmark's coords are centres (y, x), HEST-1k's top-left corners (x, y), and no attribute says which: how far they
lie from the spots of their barcodes does.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import InputError
from data_prep.readers import _hdf5_arrays, _matrix

CENTRES, CORNERS = "centres (y, x)", "corners (x, y)"
_NEAR_PX = 2.0  # at full resolution; HEST-Benchmark's own lie within 1 of the spots
_MOST_FAR = 0.05  # share of patches that may lie farther: HEST reports some spots off their places
_PATCH_UM_PER_PX = 0.5  # of HEST-Benchmark's patches; `factor` is how much coarser than the slide they are
_WHAT = "a file of patches (HDF5)"


@dataclasses.dataclass(frozen=True, eq=False)
class PatchFile:
    """What a file of patches says of them, but for the images.

    Attributes:
        barcodes: [N] str.
        coords: [N, 2] float64, as the file has them.
        size_px: P, side of a patch.
        side_px: its side at full resolution; None where it is not said.
        um_per_px: size of a full-resolution pixel; None where it is not said.
    """

    path: Path
    barcodes: np.ndarray
    coords: np.ndarray
    size_px: int
    side_px: float | None
    um_per_px: float | None

    def centres(self, convention: str) -> np.ndarray:
        """[N, 2] float64 (x, y) of the patches' centres, `coords` being CENTRES or CORNERS."""
        if convention == CENTRES:
            return self.coords[:, ::-1]
        assert self.side_px is not None
        return self.coords + self.side_px // 2

    def convention(self, spot_xy: np.ndarray) -> tuple[str, np.ndarray]:
        """What `coords` are, of the forms known the one by which patches lie on their spots; and how far off each is.

        Args:
            spot_xy: [N, 2] where the spots of the patches' barcodes are.

        Raises:
            InputError: patches lie on their spots in neither form.
        """
        known = (CENTRES,) if self.side_px is None else (CENTRES, CORNERS)
        off = {name: np.abs(self.centres(name) - spot_xy).max(axis=1, initial=0) for name in known}
        far = {name: float(np.mean(each > _NEAR_PX)) if len(each) else 0.0 for name, each in off.items()}
        best = min(far, key=far.__getitem__)
        if not far[best] <= _MOST_FAR:
            raise InputError(
                f"{self.path}: coords lie {np.median(off[best]):.0f} px from the spots of their barcodes, as {best}"
                f"{'' if self.side_px else '; the size of the patches is not said'}; not the patches of this table"
            )
        return best, off[best]


def is_far(off: np.ndarray) -> np.ndarray:
    """[N] bool: which patches do not lie on their spots, by how far off they are, [N] px."""
    return off > _NEAR_PX


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[PatchFile, Any]]:
    """What is said of the patches, and the open file, whose "img" has them.

    Raises:
        InputError: no such file, damaged, of another kind, or a barcode twice.
    """
    with _matrix.hdf5(path, _WHAT) as file:
        yield _read(file, path), file


def read(path: Path) -> PatchFile:
    """What is said of the patches of a file; see `opened`."""
    with opened(path) as (found, _):
        return found


def images(path: Path, *, batch: int = 256) -> Iterator[np.ndarray]:
    """The patches of a file, uint8 [B, P, P, 3] at a time; see `opened`."""
    with opened(path) as (_, file):
        for start in range(0, len(file["img"]), batch):
            yield np.asarray(file["img"][start : start + batch])


def _read(file: Any, path: Path) -> PatchFile:
    key = next((name for name in ("barcode", "barcodes") if name in file), None)
    if key is None or not {"img", "coords"} <= set(file):
        raise InputError(f"{path}: expected img, coords and barcode in it; it holds {', '.join(list(file)[:8])}")
    barcodes = _hdf5_arrays.texts(_hdf5_arrays.array(file, key, path), path, key)
    coords = _hdf5_arrays.array(file, "coords", path)
    pixels = file["img"]
    kind = getattr(pixels, "dtype", "a group")
    if kind != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        shape = f" {pixels.shape}" if hasattr(pixels, "shape") else ""
        raise InputError(f"{path}: img is {kind}{shape}, expected uint8 [N, 224, 224, 3]")
    if coords.shape != (len(barcodes), 2) or coords.dtype.kind not in "iuf" or len(pixels) != len(barcodes):
        shapes = f"{len(pixels)} img, {coords.dtype} coords {coords.shape}"
        raise InputError(f"{path}: {shapes} beside {len(barcodes)} barcodes; download it again")
    attributes = {name: value for part in (file, pixels, file["coords"]) for name, value in part.attrs.items()}

    def first(*names: str) -> float | None:
        return next((value for name in names if (value := _hdf5_arrays.number(attributes, name, path))), None)

    factor = first("factor")
    um_per_px = first("pixel_size") if factor is None else _PATCH_UM_PER_PX / factor
    side = first("patch_size_src", "patch_size")
    return PatchFile(path, barcodes, coords.astype(np.float64), int(pixels.shape[1]), side, um_per_px)
