"""Feature files of other tools, and features as stjax keeps them."""

import json
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep import json_files
from data_prep.dataset import PatchDataset
from data_prep.spots import Spots
from stjax.features import exchange, importing
from stjax.features.store import META, VECTORS, Features, Writer, patches_sha256
from tests.fuzz import damage
from tests.fuzz.damage import values
from tests.fuzz.damage.hdf5_structure import damage_structure
from tests.fuzz.targets import Facts, Target, facts
from tests.fuzz.targets.dataset import Dataset, with_hashes

_SPOTS = Spots.discs([[20, 20], [60, 20], [20, 60], [300, 300]], 5.0, [f"spot{number}" for number in range(4)])


class FeatureFiles(Target):
    """One of TRIDENT, one of CLAM with its coords file, one of STP-Bench."""

    def make(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(4, 6)).astype(np.float32)
        corners = np.array([[0, 0], [40, 0], [0, 40], [40, 40]])
        with h5py.File(folder / "trident.h5", "w") as file:
            file["features"], file["coords"] = vectors, corners
            file["features"].attrs["encoder"] = "uni_v1"
            sizes = {"patch_size": 256, "patch_size_level0": 40, "level0_width": 400, "level0_height": 300}
            file["coords"].attrs.update(sizes)
        with h5py.File(folder / "clam.h5", "w") as file:
            file["features"], file["coords"] = vectors.astype(np.float16), corners.astype(np.int32)
        (folder / "coords").mkdir()
        with h5py.File(folder / "coords" / "clam.h5", "w") as file:
            file["coords"] = corners
            file["coords"].attrs.update({"patch_size": 20, "patch_level": 1, "downsample": [2.0, 2.0]})
        with h5py.File(folder / "stp.h5", "w") as file:
            file["embeddings"] = np.repeat(vectors[:, None], 9, axis=1)
            file["mask_tb"] = rng.random((4, 9)) < 0.5
            file["barcodes"] = np.array([[spot.encode()] for spot in _SPOTS.id])

    def use(self, folder: Path) -> Facts:
        found: dict[str, Any] = {}
        for name, coords in (("trident", None), ("clam", folder / "coords" / "clam.h5"), ("stp", None)):
            file = exchange.read(folder / f"{name}.h5", coords)
            found |= {f"{name} {key}": value for key, value in vars(file).items() if key != "path"}
            found[f"{name} rows"] = importing.rows_of(file, _SPOTS)
        return facts(found)


class FeatureFilesStructure(FeatureFiles):
    """The same, damaged in what the library keeps for itself."""

    only = ("*.h5",)

    def damage(self, folder: Path, rng: random.Random) -> str:
        file = rng.choice(sorted(folder.glob("*.h5")))
        return f"{file.name}: {damage_structure(file, rng)}"


class Stored(Target):
    """Features of a data set: hashes are compared, and nothing that has changed is accepted."""

    only = ("data/features/mine/*",)
    sealed = True

    def make(self, folder: Path) -> None:
        Dataset().make(folder)
        dataset = PatchDataset.open(folder / "data")
        key = {
            "encoder": "uni", "weights_sha256": "0" * 64, "pooling": "class", "width": 5, "dtype": "float32",
            "compute": "float32", "px": 224, "um_per_px": {}, "mean": [0.5] * 3, "std": [0.5] * 3, "context": 1,
            "maps": False, "patches": patches_sha256(dataset),
        }  # fmt: skip
        with Writer(dataset.path / "features" / "mine", key) as writer:
            for section in dataset.sections:
                writer.begin(section, {VECTORS: ((5,), "float32")}, block=section["records"])
                vectors = np.random.default_rng(0).normal(size=(section["records"], 5))
                writer.write({VECTORS: vectors.astype(np.float32)})
            writer.finish()

    def use(self, folder: Path) -> Facts:
        features = Features.open(PatchDataset.open(folder / "data"), "mine")
        return facts({"key": features.key} | {name: np.asarray(each) for name, each in features.sections.items()})


class Resealed(Stored):
    """Made by somebody else: its hashes are right, whatever else it says."""

    sealed = False

    def damage(self, folder: Path, rng: random.Random) -> str:
        features = folder / "data" / "features" / "mine"
        content = json_files.unsealed(json.loads((features / META).read_text()), "", remedy="")
        if rng.random() < 0.5:
            content, what = values.damage_content(content, rng)
        else:
            what = damage.damage_file(rng.choice(sorted(features.glob("*.npy"))), rng)
        if isinstance(content, dict):
            values.write_sealed(features / META, with_hashes(content, features))
        else:
            (features / META).write_text(json.dumps(content))
        return f"resealed: {what}"
