"""The cache folder: where the demo data set and compiled programs are kept."""

import functools
import os
import tempfile
from pathlib import Path

from data_prep import files


def cache_folder() -> Path:
    """`$STJAX_CACHE`, or `stjax` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STJAX_CACHE") or Path(base) / "stjax")


def own_folder(path: Path) -> Path | None:
    """A folder of the cache, made for this user alone if it is not there; None, and a note, where another user can
    write: compiled programs are run as they are found, and a data set's hashes protect it against damage alone."""
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
def of_this_process() -> Path:
    """A folder that this process alone uses."""
    return Path(tempfile.mkdtemp(prefix="stjax-cache-"))


def keep_compiled_programs() -> None:
    """Has JAX keep compiled programs in the cache folder, unless the environment names another place for them."""
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir") is not None:  # noqa: B009 -- made at run time
        return
    if (cache := own_folder(cache_folder())) and (compiled := own_folder(cache / "compiled")):
        jax.config.update("jax_compilation_cache_dir", str(compiled))
