"""Feature files of other tools: read, one a section, and written in TRIDENT's form.

TRIDENT     features [N, D]; coords [N, 2], the corners (x, y) at full resolution, with patch_size_level0 and more
CLAM        features and coords alone, or a bare tensor (.pt): how large patches are says the coords file next to it
HEST-bench  embeddings [N, D], barcodes [N, 1]; coords are centres (y, x) and not read
STP-Bench   features or embeddings [N, D], or [N, 25, D] with mask_tb; barcodes
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep import files, h5_file
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.readers import _hdf5_arrays, _matrix
from stjax.features.store import Features
from stjax.models import weight_files

STJAX = "stjax_"  # before the names of attributes that stjax adds
_TOLD = ("encoder", "weights_sha256", "pooling", "compute")  # of a key, among them
_WHAT = "a feature file (HDF5)"
_LARGEST = 1 << 20  # number that an attribute may be, all of which are of pixels
_COORDS_NEEDED = (
    "does not say how large its patches are: give --coords=FOLDER, where the coords files lie (patches/ of CLAM or "
    "TRIDENT)"
)


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """What the file of a section holds.

    Attributes:
        vectors: [N, D], or [N, W, D] with mask [N, W] bool.
        barcodes: [N] str, or None.
        corner_xy: [N, 2] float64, top-left corners at full resolution, or None.
        side_px: of the patches at full resolution.
        px: of the patches as the encoder was given them, None where it is not said.
        size_px: width and height of the slide, None where they are not said.
        told: what attributes say: "encoder", and of files that stjax wrote "weights_sha256", "pooling", "compute",
            "patches".
    """

    path: Path
    vectors: np.ndarray
    mask: np.ndarray | None = None
    barcodes: np.ndarray | None = None
    corner_xy: np.ndarray | None = None
    side_px: float = 0.0
    px: int | None = None
    size_px: tuple[int, int] | None = None
    told: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The feature file of a section, or of a slide, of these names, in a folder as one of the tools leaves it."""
    places = [("", ".h5"), ("h5_files", ".h5"), ("", ".pt"), ("pt_files", ".pt")]
    paths = (folder / place / f"{name}{suffix}" for name in names for place, suffix in places)
    return next((path for path in paths if files.is_there(path)), None)


def find_coords(folder: Path, names: tuple[str, ...]) -> Path:
    """The coords file of a section. Raises InputError where there is none."""
    paths = [
        folder / place / f"{name}{end}.h5" for name in names for place in ("", "patches") for end in ("", "_patches")
    ]
    found = next((path for path in paths if files.is_there(path)), None)
    if found is None:
        raise InputError(f"{folder}: no coords file {paths[0].name} nor {paths[1].name}; give the folder that has them")
    return found


# -------------------------------------------------------------------------------------------------------- reading


def read(path: Path, coords: Path | None = None) -> FeatureFile:
    """The feature file of a section.

    Args:
        path: .h5, or .pt of one tensor.
        coords: the file that says where its patches are, for those that do not say it all.

    Raises:
        InputError: damaged, hostile, or of no form that is known.
    """
    if path.suffix == ".pt":
        if coords is None:
            raise InputError(f"{path} {_COORDS_NEEDED}")
        vectors = _checked(weight_files.read_tensor(path), path, "the tensor")
        with _matrix.hdf5(coords, "a coords file (HDF5)") as file:
            found = _placed(file, coords)
        return _consistent(FeatureFile(path, vectors, **found))
    with _matrix.hdf5(path, _WHAT) as file:
        key = next((name for name in ("features", "embeddings") if name in file), None)
        if key is None:
            raise InputError(f"{path}: neither features nor embeddings in it; it holds {_listed(file)}")
        vectors = _checked(_hdf5_arrays.array(file, key, path), path, key)
        told = _told(file, key)
        rest: dict[str, Any] = {"told": told}
        if "mask_tb" in file:
            rest["mask"] = _hdf5_arrays.array(file, "mask_tb", path).astype(bool)
        if barcodes := next((name for name in ("barcodes", "barcode") if name in file), None):
            rest["barcodes"] = _hdf5_arrays.texts(_hdf5_arrays.array(file, barcodes, path), path, barcodes)
        held = _listed(file)
        if "coords" in file and key == "features":
            rest |= _placed(file, path, needed="barcodes" not in rest and coords is None)
    if coords is not None and not rest.get("side_px"):
        with _matrix.hdf5(coords, "a coords file (HDF5)") as file:
            of_coords = _placed(file, coords)
        rest |= {key: value for key, value in of_coords.items() if rest.get(key) is None or key == "side_px"}
    if "barcodes" not in rest and rest.get("corner_xy") is None:
        raise InputError(f"{path}: neither barcodes nor coords in it, by which to find a spot; it holds {held}")
    return _consistent(FeatureFile(path, vectors, **rest))


def _checked(vectors: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Features in the dtype that they are kept in, float16 or float32."""
    if vectors.ndim == 3 and len(vectors) == 1:
        vectors = vectors[0]  # of a batch of one slide
    if vectors.dtype.kind != "f" or vectors.ndim not in (2, 3) or not 0 < vectors.shape[-1] <= _LARGEST:
        raise InputError(f"{path}: {name} is {vectors.dtype} {vectors.shape}, expected numbers [N, D] or [N, 25, D]")
    with np.errstate(over="ignore"):
        kept = vectors if vectors.dtype in ("float16", "float32") else vectors.astype(np.float32)
    if not np.isfinite(kept).all():
        raise InputError(f"{path}: {name} holds NaN or infinity; make the features again")
    return kept


def _attributes(file: Any, *names: str) -> dict[str, Any]:
    """The attributes of the file and of some of its data sets; of the same name the last counts."""
    found: dict[str, Any] = {}
    for thing in (file, *(file[name] for name in names if name in file)):
        found |= {name: thing.attrs[name] for name in thing.attrs}
    return found


def _told(file: Any, key: str) -> dict[str, str]:
    """What the attributes of features say of how they were made."""
    attributes = _attributes(file, "coords", key)
    names = {STJAX + name: name for name in (*_TOLD, "patches")}
    texts = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in attributes.items()
        if name in names or name == "encoder"
    }
    texts = {name: value for name, value in texts.items() if isinstance(value, str)}
    plain = {"encoder": texts["encoder"]} if "encoder" in texts else {}
    return plain | {names[name]: value for name, value in texts.items() if name in names}


def _placed(file: Any, path: Path, *, needed: bool = True) -> dict[str, Any]:
    """Where patches lie: "corner_xy", and as far as attributes say "side_px", "px" and "size_px".

    Raises:
        InputError: no such coordinates; or, where it is `needed`, no size.
    """
    if "coords" not in file:
        raise InputError(f"{path}: no coords in it; it holds {_listed(file)}")
    corners = _hdf5_arrays.array(file, "coords", path)
    if corners.ndim != 2 or corners.shape[1] != 2 or corners.dtype.kind not in "iuf":
        raise InputError(f"{path}: coords is {corners.dtype} {corners.shape}, expected numbers [N, 2]")
    corners = corners.astype(np.float64)
    if not np.isfinite(corners).all():
        raise InputError(f"{path}: coords holds what is no number")
    attributes = _attributes(file, "coords")
    px, side = (_hdf5_arrays.number(attributes, name, path) for name in ("patch_size", "patch_size_level0"))
    if side is None and px is not None and (factor := _hdf5_arrays.number(attributes, "downsample", path)) is not None:
        side = px * factor  # CLAM: patch_size is of the level that was read
    if side is None and needed:
        raise InputError(f"{path} {_COORDS_NEEDED}")
    width, height = (_hdf5_arrays.number(attributes, f"level0_{name}", path) for name in ("width", "height"))
    return {
        "corner_xy": corners,
        "side_px": side or 0.0,
        "px": None if px is None else round(px),
        "size_px": None if width is None or height is None else (round(width), round(height)),
    }


def _consistent(found: FeatureFile) -> FeatureFile:
    """The file, if its parts are of as many patches."""
    count = len(found.vectors)
    for name, values in (("barcodes", found.barcodes), ("coords", found.corner_xy), ("mask_tb", found.mask)):
        if values is not None and values.shape[:1] != (count,):
            raise InputError(f"{found.path}: {count} rows of features for {name} of shape {values.shape}")
    windows = found.vectors.shape[1:-1]
    if windows and (found.mask is None or round(windows[0] ** 0.5) ** 2 != windows[0] or windows[0] % 2 == 0):
        raise InputError(f"{found.path}: features {found.vectors.shape}, expected [N, D], or [N, 25, D] with mask_tb")
    if windows and found.mask is not None and found.mask.shape != (count, *windows):
        raise InputError(f"{found.path}: mask_tb is {found.mask.shape}, expected {(count, *windows)}")
    return found if windows else dataclasses.replace(found, mask=None)


def _listed(file: Any) -> str:
    return ", ".join(str(name)[:40] for name in list(file)[:8]) or "nothing"


# -------------------------------------------------------------------------------------------------------- writing


def write_trident(features: Features, dataset: PatchDataset, out: Path) -> list[Path]:
    """Writes a file a section in TRIDENT's form, with what stjax adds: barcodes, and attributes `stjax_*`.

    Records without features are left out.

    Args:
        out: the folder; files lie in features_<encoder>/ of it.

    Raises:
        InputError: features of windows, for which TRIDENT has no form.
    """
    if features.context > 1:
        raise InputError(f"{features.path}: windows around each spot have no place in TRIDENT's files; embed without")
    folder = out / f"features_{files.check_name(features.encoder, 'Encoder')}"
    written = []
    for section in dataset.sections:
        name = section["name"]
        rows = np.flatnonzero(features.known(name))
        source = dataset.source((name,))
        records = [source.record(int(row), image=False) for row in rows]
        corners = np.array([record["origin_xy"] for record in records], np.float64).reshape(-1, 2)
        path = folder / f"{name}.h5"
        with files.whole(path) as made, h5_file.create(made) as file:
            vectors = file.create_dataset("features", data=np.asarray(features.sections[name][rows]))
            coords = file.create_dataset("coords", data=np.round(corners).astype(np.int64))
            coords.attrs.update(_of_coords(section, dataset.size_px, str(folder)))
            vectors.attrs.update({"name": name, "savetodir": str(folder), "encoder": features.encoder})
            vectors.attrs.update({STJAX + key: str(features.key[key]) for key in _TOLD})
            vectors.attrs[STJAX + "patches"] = features.key["patches"][name]
            if dataset.kind == "patches":
                barcodes = np.array([record["spot_id"][0] for record in records], dtype=object)
                file.create_dataset("barcodes", data=barcodes, dtype=h5py.string_dtype())
        written.append(path)
    return written


def _of_coords(section: Mapping[str, Any], size_px: int, folder: str) -> dict[str, Any]:
    """The attributes of TRIDENT's coordinates."""
    scale = section["um_per_px"]
    return {
        "patch_size": size_px,
        "patch_size_level0": round(size_px * section["px_scale"]),
        "level0_magnification": max(1, round(10 / scale)),
        "target_magnification": max(1, round(10 / (scale * section["px_scale"]))),
        "overlap": 0,
        "name": section["name"],
        "savetodir": folder,
        "level0_width": section["image"]["width"],
        "level0_height": section["image"]["height"],
    }
