"""Features of HEST-Benchmark's patches: made by an encoder, kept as HEST keeps them, read back joined by barcode.

FOLDER/TASK/ENCODER/ID.h5    embeddings [N, D], barcodes [N, 1], coords [N, 2] as the patches have them
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from jax.sharding import Mesh

from data_prep import cli, files, h5_file, hest_bench, json_files, patch_file, repeats
from data_prep.errors import InputError
from data_prep.hest_bench import Task
from stjax import encoders
from stjax.data.items import filled
from stjax.features import exchange
from stjax.features.embedder import Embedder, check_scale, find_weights, seen_px
from stjax.features.store import RANDOM, VECTORS
from stjax.inference import stream
from stjax.inference.embedding import Program, as_kept
from stjax.models.weights import sha256

PATCH_UM = 112.0  # side of the benchmark's patches
_AGAIN = "remove it, and it is made again"


@dataclasses.dataclass(frozen=True)
class Options:
    """Which encoder makes features.

    Attributes:
        weights, seed, compute: see `Embedder.open`.
    """

    encoder: str
    weights: Path | None = None
    seed: int | None = None
    compute: str = "float32"

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """What features are tied to but their patches. Raises InputError without weights or for another encoder."""
        weights = find_weights(self.encoder, self.weights, self.seed)
        digest = f"{RANDOM}{self.seed}" if weights is None else sha256(weights)
        pooling = encoders.find(self.encoder).pooling
        return {"encoder": self.encoder, "weights_sha256": digest, "pooling": pooling, "compute": self.compute}


def path_of(folder: Path, task: Task, encoder: str, sample: str) -> Path:
    """The file of a sample's features; the task's folder may be called as in the bundle."""
    called = task.folder.name if (folder / task.folder.name).is_dir() else task.name
    return folder / called / encoder / f"{sample}.h5"


# --------------------------------------------------------------------------------------------------------- making


class Maker:
    """Makes the features that are not there yet. The encoder is opened once some are to be made.

    Args:
        folder: of all features.
    """

    def __init__(self, options: Options, folder: Path, mesh: Mesh):
        self._options, self._folder, self._mesh = options, folder, mesh

    @functools.cached_property
    def _embedder(self) -> Embedder:
        given = self._options
        return Embedder.open(given.encoder, given.weights, dtype=given.compute, mesh=self._mesh, seed=given.seed)

    def make(self, task: Task, fingerprints: Mapping[str, np.ndarray]) -> int:
        """Makes the features of a task's samples, each of which is on disk before the next.

        Args:
            fingerprints: {sample: [N] uint64} of its patches.

        Returns:
            Of how many samples they were made now.

        Raises:
            InputError: what is there was made with other weights or of other patches; weights that do not fit.
        """
        facts, made = self._options.facts, 0
        for sample, patches in cli.progress(task.patches.items(), description=task.name, unit="sample"):
            path = path_of(self._folder, task, self._options.encoder, sample)
            wanted = facts | {"patches": json_files.digest({sample: fingerprints[sample].tolist()})}
            if files.is_there(path):
                told = exchange.read(path).told
                if differing := [name for name, value in wanted.items() if told.get(name) != value]:
                    raise InputError(
                        f"{path}: made with another {' and '.join(differing)} than asked for; choose another --out, or "
                        f"remove the features in {path.parent}"
                    )
                continue
            _write(path, self._embed(patches, sample), patches, wanted)
            made += 1
        return made

    def _embed(self, patches: Path, sample: str) -> np.ndarray:
        """[N, D] float32 of the patches of a file."""
        embedder = self._embedder
        program, size = Program(embedder.mesh, embedder.of_patches), embedder.batch_size
        parts = []
        batches = ((filled(batch, size), batch) for batch in patch_file.images(patches, batch=size))
        for outputs, batch in stream.in_turn(program, batches):
            if not parts:
                um_per_px = PATCH_UM / seen_px(embedder.encoder, batch.shape[1], tiles=False)
                _say_scale(embedder.name, um_per_px)
            parts.append(as_kept(outputs[VECTORS][: len(batch)], "float32", sample))
        return np.concatenate([np.zeros((0, embedder.width), np.float32), *parts])


@functools.cache
def _say_scale(encoder: str, um_per_px: float) -> None:
    check_scale(encoder, {"of every task": um_per_px}, any_scale=True, remedy="")


def _write(path: Path, vectors: np.ndarray, patches: Path, facts: Mapping[str, str]) -> None:
    said = patch_file.read(patches)
    with files.whole(path) as made, h5_file.create(made) as file:
        embeddings = file.create_dataset("embeddings", data=vectors)
        embeddings.attrs.update({exchange.STJAX + name: value for name, value in facts.items()})
        embeddings.attrs["encoder"] = facts["encoder"]
        file.create_dataset("barcodes", data=said.barcodes.astype(object)[:, None], dtype=h5py.string_dtype())
        file.create_dataset("coords", data=said.coords.astype(np.int64))


# -------------------------------------------------------------------------------------------------------- reading


def read(path: Path, barcodes: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Features [N, D] of patches, in the order of their barcodes [N], and what the file says of how they were made.

    Raises:
        InputError: not there, damaged, not one vector a patch, or none of some patch.
    """
    if not files.is_there(path):
        raise InputError(f"{path}: not found; features lie in TASK/ENCODER/ID.h5 of --features")
    found = exchange.read(path)
    if found.barcodes is None or found.vectors.ndim != 2:
        raise InputError(f"{path}: expected embeddings [N, D] with barcodes, as HEST-Benchmark writes them")
    row_of = {barcode: row for row, barcode in enumerate(found.barcodes.tolist())}
    if lost := [barcode for barcode in barcodes.tolist() if barcode not in row_of]:
        raise InputError(
            f"{path}: {len(lost)} of {len(barcodes)} patches have no features (e.g. barcode {lost[0]}); make the "
            "features of the same patches"
        )
    return found.vectors[[row_of[barcode] for barcode in barcodes.tolist()]], dict(found.told)


# --------------------------------------------------------------------------------------------------- same tissue


def fingerprints(task: Task, folder: Path) -> dict[str, np.ndarray]:
    """{sample: [N] uint64} of the images of a task, kept in a folder, as they take all of them to be read.

    Raises:
        InputError: images of a fold's test samples are among those that it trains on.
    """
    found = {}
    for sample, patches in cli.progress(task.patches.items(), description=f"{task.name}: images", unit="sample"):
        path, file = folder / task.name / f"{sample}.json", stamp(patches)
        kept = json_files.read_sealed(path, remedy=_AGAIN) if files.is_there(path) else {}
        if kept.get("file") != file:
            prints = repeats.fingerprints(patch_file.images(patches))
            kept = {"file": file, "fingerprints": [f"{each:016x}" for each in prints.tolist()]}
            json_files.write(path, json_files.sealed(kept))
        found[sample] = np.array([int(each, 16) for each in kept["fingerprints"]], np.uint64)
    hest_bench.check_apart(task, found)
    return found


def stamp(path: Path) -> list[int]:
    """By which a file is known to be the same as before: its size and when it was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
