"""The built-in demo data set: synthetic tissue, made once and kept in the cache folder."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax.cache import cache_folder, of_this_process, own_folder

ABANDONED_S = 24 * 3600


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
    cache = own_folder(cache_folder()) or of_this_process()
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
        min_counts = 0 if layout == "visium_hd" else 1000  # a bin has few counts
        sizes = {"patch_size_px": patch_size_px, "tile_size_px": tile_size_px or None}
        build.build(source, prepared, min_counts=min_counts, **sizes)
        try:
            os.replace(prepared, target)
        except OSError:  # another process was faster: its copy is the same, and may be in use
            if not (target / "manifest.json").is_file():
                raise
    return target


@contextlib.contextmanager
def raw(*, layout: str, patients: int, spots: int) -> Iterator[Path]:
    """The raw files that `demo_dataset` of these builds from, in a folder that is there for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="stjax-demo-") as temporary:
        yield demo.make_demo(Path(temporary) / "source", layout=layout, patients=patients, spots=spots)


def remove_abandoned(cache: Path) -> None:
    """Removes what killed processes were making: folders in the cache that nothing was written into for a day."""
    for folder in cache.glob("making-*"):
        newest = max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
        if time.time() - newest > ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)
