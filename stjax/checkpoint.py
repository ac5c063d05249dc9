"""Checkpoints that are whole or not there: Orbax writes the arrays, a SHA-256 manifest written last makes them count.

Layout: `checkpoints/<step>/state/` (Orbax) and `checkpoints/<step>/manifest.json`, which names every file with its
hash and carries the plain-number state of the run. A folder without a manifest is a leftover of an interrupted save.

Among several hosts process 0 alone writes, and every process reads for itself: the folder must be one they share. The
arrays are stored whole, so any number of devices and hosts restores them.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_prep.errors import InputError
from stjax import distributed

MANIFEST = "manifest.json"


def save(folder: Path, step: int, state: Any, meta: dict[str, Any]) -> None:
    """Writes one checkpoint and returns when it is on disk. Every process calls it; process 0 writes.

    Args:
        folder: the run's `checkpoints` folder.
        state: pytree of arrays, each whole on every host.
        meta: plain numbers and strings; `meta["best_step"]` says which checkpoint is kept beside this one.
    """
    if distributed.is_writer():
        _write(folder, step, state, meta)
    distributed.barrier(f"checkpoint {step}")


def _write(folder: Path, step: int, state: Any, meta: dict[str, Any]) -> None:
    target = folder / str(step)
    temporary = folder / f"{step}.tmp"
    for leftover in (target, temporary):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    with _checkpointer() as checkpointer:
        checkpointer.save((temporary / "state").absolute(), jax.tree.map(np.asarray, state))
    files = {str(path.relative_to(temporary)): _sha256(path) for path in sorted(temporary.rglob("*")) if path.is_file()}
    content = {"step": step, "meta": meta, "files": files}
    (temporary / MANIFEST).write_text(_dump({"sha256": _json_sha256(content), **content}))
    _sync(temporary)
    os.replace(temporary, target)
    _sync(folder)
    # The one before stays too, and the one it calls best: should this one be damaged, the run goes back to them.
    keep = {str(meta.get("best_step"))}
    for kept in steps(folder)[:2]:
        keep |= {str(kept), str(_best_step(folder / str(kept)))}
    for other in folder.iterdir():
        if other.name not in keep:
            shutil.rmtree(other, ignore_errors=True)


def _best_step(checkpoint: Path) -> int | None:
    """The best step as of a checkpoint; None when its manifest is damaged: nothing is then lost by not keeping it."""
    try:
        return verify(checkpoint, arrays=False)["meta"]["best_step"]
    except (InputError, KeyError):
        return None


def _checkpointer() -> ocp.Checkpointer:
    """An Orbax checkpointer of this process alone: it waits for no other."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )
    return ocp.Checkpointer(ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, newest first, whether sound or not; leftovers are not counted."""
    if not folder.is_dir():
        return []
    found = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit() and (entry / MANIFEST).is_file()]
    return sorted(found, reverse=True)


def newest(folder: Path) -> dict[str, Any] | None:
    """The plain state saved with the newest sound checkpoint; None when the folder has no checkpoint.

    Raises:
        InputError: checkpoints are there but none is sound.
    """
    damage = []
    for step in steps(folder):
        try:
            return verify(folder / str(step))["meta"]
        except InputError as error:
            logging.warning("%s; trying an older checkpoint", error)
            damage.append(str(error))
    if damage:
        raise InputError(f"no sound checkpoint in {folder}: {'; '.join(damage)}; train again in a new work directory")
    return None


def restore(folder: Path, step: int, template: Any) -> Any:
    """The arrays of one checkpoint.

    Args:
        template: a pytree of shapes with shardings (or arrays) like the one saved.

    Raises:
        InputError: it is not there, or not sound.
    """
    verify(folder / str(step))
    on_host = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), template)
    with _checkpointer() as checkpointer:
        arrays = checkpointer.restore((folder / str(step) / "state").absolute(), args=ocp.args.StandardRestore(on_host))
    return jax.tree.map(
        lambda leaf, array: jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda part: array[part]),
        template,
        arrays,
    )


def verify(checkpoint: Path, *, arrays: bool = True) -> dict[str, Any]:
    """Reads a checkpoint's manifest and checks every file against it.

    Args:
        arrays: check the files too, not the manifest alone.

    Raises:
        InputError: a file is missing, added or changed.
    """
    try:
        text = (checkpoint / MANIFEST).read_bytes().decode()
        manifest = json.loads(text)
        intact = text == _dump(manifest)  # the hash is of values: this finds changes that spell the same ones
        digest = manifest.pop("sha256")
        expected = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {checkpoint} has no readable {MANIFEST} ({error})") from None
    if not intact or digest != _json_sha256(manifest):
        raise InputError(f"checkpoint {checkpoint} is damaged: {MANIFEST} has changed since it was written")
    if not arrays:
        return manifest
    found = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()} - {MANIFEST}
    if odd := sorted(found ^ set(expected)):
        raise InputError(f"checkpoint {checkpoint} is damaged: {odd[0]} is missing or does not belong to it")
    for name, digest in expected.items():
        if _sha256(checkpoint / name) != digest:
            raise InputError(f"checkpoint {checkpoint} is damaged: {name} has changed since it was written")
    return manifest


def _dump(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1)


def _json_sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Flushes a folder and its files, so that a rename never outruns what it renames."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
