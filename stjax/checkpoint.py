"""Checkpoints that are whole or not there: Orbax writes the arrays, a SHA-256 manifest written last makes them count.

Layout: `checkpoints/<step>/state/` (Orbax) and `checkpoints/<step>/manifest.json`, which names every file with its
hash and carries the plain-number state of the run. A folder without a manifest is a leftover of an interrupted save.

Among several hosts process 0 alone writes, and every process reads for itself: the folder must be one they share. The
arrays are stored whole, so any number of devices and hosts restores them.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from data_prep import files, json_files
from data_prep.errors import InputError
from data_prep.json_files import Lacking, Maybe
from stjax import distributed, manifest
from stjax.manifest import MANIFEST

_HALF = (jnp.float16, jnp.bfloat16)
_ROOM = 1 << 20  # bytes of a checkpoint besides its arrays, at most
RUN_FILES = ("config.json", "data.json")
META = {  # the plain state of a checkpoint ...
    "step": json_files.COUNT,
    "best_step": json_files.COUNT,
    "epoch_losses": Lacking(json_files.numbers()),
}
OF_RUN = {  # ... and of a run's
    "finished": json_files.FLAG,
    "schedule": {
        "steps_per_epoch": Lacking(json_files.whole_number(1)),
        "scale": json_files.number(0),
        "best_loss": Maybe(json_files.number()),
        "epochs_without_gain": json_files.COUNT,
        "epochs_at_scale": json_files.COUNT,
    },
}
_REMEDY = "restore it, or train in a new work directory"


def save(folder: Path, step: int, state: Any, meta: dict[str, Any]) -> None:
    """Writes one checkpoint and returns when it is on disk. Every process calls it; process 0 writes.

    Args:
        folder: the run's `checkpoints` folder.
        state: pytree of arrays, each whole on every host.
        meta: plain numbers and strings; `meta["best_step"]` says which checkpoint is kept next to this one.
    """
    if distributed.is_writer():
        _write(folder, step, state, meta)
    distributed.barrier(f"checkpoint {step}")


def _write(folder: Path, step: int, state: Any, meta: dict[str, Any]) -> None:
    with files.whole(folder / str(step), sync=True) as temporary:
        temporary.mkdir()
        arrays = jax.tree.map(np.asarray, state)
        _check_room(folder, sum(array.nbytes for array in jax.tree.leaves(arrays)))
        with _checkpointer() as checkpointer, _without_logs():
            checkpointer.save((temporary / "state").absolute(), arrays)
        manifest.seal(temporary, {"step": step, "meta": meta, "of": _run_files(folder)})
    prune(folder)


def _run_files(folder: Path) -> dict[str, str]:
    """SHA-256 of what the checkpoints in a folder mean nothing without: settings and data of the run."""
    return {name: files.sha256(folder.parent / name) for name in RUN_FILES if (folder.parent / name).is_file()}


def check_of(folder: Path, step: int) -> None:
    """Raises InputError when a checkpoint is none of a run, or of other settings or data than are there now."""
    content, there = verify(folder / str(step), arrays=False), _run_files(folder)
    json_files.require(content["meta"], OF_RUN, f"{folder / str(step)}: meta", remedy=_REMEDY)
    for name, digest in content.get("of", {}).items():  # older ones do not say
        if there.get(name) != digest:
            raise InputError(
                f"{folder.parent / name} is not the one that {folder / str(step)} was trained with; {_REMEDY}"
            )


def _check_room(folder: Path, wanted: int) -> None:
    """Raises OSError where the disk has no room for so many bytes and what goes with them. Orbax meets a full disk in
    its threads, which go on for a while, each with a traceback."""
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < wanted + _ROOM:  # some network folders do not tell
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Without what Orbax logs of an error: it raises it too."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def prune(folder: Path) -> None:
    """Removes what no run goes back to: all but the newest checkpoint, the one before, should that be damaged, and
    those that each of them calls best. A save does so, and a run that goes on, for a save killed before it could."""
    keep = set()
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
    path = folder / str(step) / "state"
    with _checkpointer() as checkpointer:
        try:
            on_host = _as_saved(template, checkpointer, path)
            arrays = checkpointer.restore(path.absolute(), args=ocp.args.StandardRestore(on_host))
        except Exception as error:  # Orbax and what it stands on raise all kinds
            raise InputError(
                f"{path} does not hold the arrays of this run ({type(error).__name__}: {error}); {_REMEDY}"
            ) from None
    return jax.tree.map(
        lambda leaf, array: jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda part: array[part]),
        template,
        arrays,
    )


def _as_saved(template: Any, checkpointer: ocp.Checkpointer, path: Path) -> Any:
    """Arrays like the template's that take no memory, but of half precision where the saved ones are: frozen weights
    stay of the dtype of the file they came from."""
    saved: Any = checkpointer.metadata(path.absolute()).item_metadata
    dtypes = {leaf.name: leaf.dtype for leaf in jax.tree.leaves(saved.tree)}

    def like(place: Any, leaf: Any) -> np.ndarray:
        found = dtypes.get(jax.tree_util.keystr(place, simple=True, separator="."))
        return np.broadcast_to(np.zeros((), found if found in _HALF else leaf.dtype), leaf.shape)

    return jax.tree_util.tree_map_with_path(like, template)


def verify(checkpoint: Path, *, arrays: bool = True) -> dict[str, Any]:
    """Reads a checkpoint's manifest and checks every file against it.

    Args:
        arrays: check the files too, not the manifest alone.

    Raises:
        InputError: a file is missing, added or changed.
    """
    content = manifest.verify(checkpoint, what="checkpoint", files=arrays)
    expected = {"step": json_files.COUNT, "meta": META, "of": Lacking(json_files.Each(json_files.SHA256))}
    return json_files.require(content, expected, str(checkpoint), remedy=_REMEDY)
