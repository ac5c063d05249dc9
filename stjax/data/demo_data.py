"""The cache folder: the built-in demo data set, synthetic tissue made once, and compiled programs."""

import functools
import os
import shutil
import tempfile
import time
from pathlib import Path

import jax

from data_prep import build, demo, files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError

ABANDONED_S = 24 * 3600


def cache_folder() -> Path:
    """`$STJAX_CACHE`, or `stjax` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STJAX_CACHE") or Path(base) / "stjax")


def own_folder(path: Path) -> Path | None:
    """A folder of the cache, made for this user alone if it is not there; None, and a note, where another user can
    write: compiled programs are run as they are found, and a data set's hashes vouch for it against damage alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        fault = files.others_can_write(path)
    except OSError as error:
        fault = f"cannot be used ({error.strerror})"
    if fault:
        _note_unused(path, fault)
    return None if fault else path


@functools.cache
def _note_unused(path: Path, fault: str) -> None:
    """Once a folder."""
    print(f"note: the cache {path} {fault}, so it is not used; remove it, or name another with STJAX_CACHE", flush=True)


@functools.cache
def _of_this_process() -> Path:
    return Path(tempfile.mkdtemp(prefix="stjax-cache-"))


def keep_compiled_programs() -> None:
    """Has JAX keep compiled programs in the cache folder, unless the environment names another place for them."""
    if getattr(jax.config, "jax_compilation_cache_dir") is not None:  # noqa: B009 -- made at run time
        return
    if (cache := own_folder(cache_folder())) and (compiled := own_folder(cache / "compiled")):
        jax.config.update("jax_compilation_cache_dir", str(compiled))


def demo_dataset(
    *, layout: str = "her2st", patients: int, spots: int = 104, patch_size_px: int, tile_size_px: int = 0
) -> Path:
    """The folder of the demo data set, made on first use; whole or not there.

    Args:
        layout: of the raw files, see `data_prep.demo`.
        patients: number of synthetic patients, two sections each.
        spots: about how many a section has, or how much tissue: 200 x 200 um each.
        patch_size_px: side of the patches, at the demo slides' own scale.
        tile_size_px: makes tiles of that side instead; 0 makes patches.
    """
    kind = f"{tile_size_px}-px-tiles" if tile_size_px else f"{patch_size_px}-px"
    cache = own_folder(cache_folder()) or _of_this_process()
    target = cache / f"demo-v{demo.VERSION}-{layout}-{patients}-patients-{spots}-spots-{kind}"
    if (target / "manifest.json").is_file():
        try:
            PatchDataset.open(target, verify=True)
        except InputError as error:
            print(f"note: {error}; it is made again")
            shutil.rmtree(target)
        else:
            return target
    print(f"No data set is given: making the SYNTHETIC demo data set, once, in {target}", flush=True)
    remove_abandoned(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as temporary:
        source, prepared = Path(temporary) / "source", Path(temporary) / "prepared"
        demo.make_demo(source, layout=layout, patients=patients, spots=spots)
        min_counts = 0 if layout == "visium_hd" else 1000  # a bin has few reads
        sizes = {"patch_size_px": patch_size_px, "tile_size_px": tile_size_px or None}
        build.build(source, prepared, min_counts=min_counts, **sizes)
        try:
            os.replace(prepared, target)
        except OSError:  # another process was faster: its copy is the same, and may be in use
            if not (target / "manifest.json").is_file():
                raise
    return target


def remove_abandoned(cache: Path) -> None:
    """Removes what killed processes were making: folders in the cache that nothing was written into for a day."""
    for folder in cache.glob("making-*"):
        newest = max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
        if time.time() - newest > ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)
