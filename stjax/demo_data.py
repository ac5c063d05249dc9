"""The built-in demo data set: synthetic tissue, generated and prepared once into a cache folder."""

import os
import tempfile
from pathlib import Path

from data_prep import build, demo


def cache_folder() -> Path:
    """`$STJAX_CACHE`, or `stjax` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STJAX_CACHE") or Path(base) / "stjax")


def demo_dataset(*, patients: int, patch_size_px: int) -> Path:
    """The folder of the demo data set, made on first use; whole or not there.

    Args:
        patients: number of synthetic patients, two sections each.
        patch_size_px: side of the patches, at the demo slides' own scale.
    """
    target = cache_folder() / f"demo-v{demo.VERSION}-{patients}-patients-{patch_size_px}-px"
    if (target / "manifest.json").is_file():
        return target
    print(f"No data set is given: making the SYNTHETIC demo data set, once, in {target}", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as temporary:
        source, prepared = Path(temporary) / "source", Path(temporary) / "prepared"
        demo.make_demo(source, patients=patients)
        build.build(source, prepared, patch_size_px=patch_size_px)
        try:
            os.replace(prepared, target)
        except OSError:  # another process was faster: its copy is the same, and may be in use
            if not (target / "manifest.json").is_file():
                raise
    return target
