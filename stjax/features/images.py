"""The images that features are made of: records of a data set, or windows around their places, cut from raw slides."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import cli, files, patches, stain
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.slide import open_slide
from data_prep.slide_base import SLIDE_SUFFIXES, Slide


class Images:
    """The images of a section, W of each record.

    Attributes:
        inside: [N, W] bool: which there are; a window that leaves the slide is none.
    """

    def __init__(self, dataset: PatchDataset, name: str):
        self._source = dataset.source((name,))
        self.inside = np.ones((len(self._source), 1), bool)

    def image(self, record: int, window: int) -> np.ndarray:
        """uint8 [P, P, 3]."""
        del window
        return self._source[record]["image"]

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Within it `image` may be called, by several threads."""
        yield


class Windows(Images):
    """Side by side windows of a patch's size, `context` x `context` around each record's place, the middle one being
    the patch itself as it was before it was stored as JPEG; row by row."""

    def __init__(self, dataset: PatchDataset, name: str, slide: Path, *, context: int):
        super().__init__(dataset, name)
        entry, target = dataset.section(name), dataset.manifest["stain_target"]
        self._path, self._size, self._px_scale = slide, dataset.size_px, entry["px_scale"]
        self._transform = None
        if target is not None:
            self._transform = stain.Normaliser(stain.profile_from(entry["stain"]), stain.profile_from(target))
        table, step = dataset.table(name), np.arange(context) - context // 2
        centre = np.zeros((entry["records"], 2))
        centre[table.record_of_spot] = table.spots.xy
        grid = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)  # [W, 2] x, y; row by row
        self._xy = centre[:, None] + grid[None] * (self._size * self._px_scale)  # [N, W, 2]
        with open_slide(slide) as opened:
            options = {"patch_size_px": self._size, "px_scale": self._px_scale}
            inside = patches.inside_mask(opened, self._xy.reshape(-1, 2), **options)
        self.inside = inside.reshape(self._xy.shape[:2])
        self._slide: Slide | None = None

    def image(self, record: int, window: int) -> np.ndarray:
        """uint8 [P, P, 3], stain-normalised as the data set's patches are."""
        assert self._slide is not None
        origin = patches.patch_origins(
            self._xy[record, window], patch_size_px=self._size, px_scale=self._px_scale
        )[0]  # fmt: skip
        options: dict[str, Any] = {"size_px": self._size, "px_scale": self._px_scale, "transform": self._transform}
        return patches.cut_window(self._slide, origin, **options)[0]

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Keeps the slide open."""
        if self._transform is not None:
            self._transform(np.zeros((1, 1, 3), np.uint8))  # makes its table before threads share it
        with open_slide(self._path) as self._slide:
            yield


def find_slides(source: Path, dataset: PatchDataset) -> dict[str, Path]:
    """{section: the raw image it was cut from}, told by SHA-256, anywhere below a folder.

    Raises:
        InputError: an image of the data set is not there, or is another.
    """
    wanted = {section["name"]: section["image"]["sha256"] for section in dataset.sections}
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SLIDE_SUFFIXES and p.is_file())
    names = {section["image"].get("file") for section in dataset.sections}
    paths.sort(key=lambda path: path.name not in names)  # most likely ones first
    found: dict[str, Path] = {}
    for path in cli.progress(paths, description="hashes of images", unit="image"):
        if len(found) == len(set(wanted.values())):
            break
        if (digest := files.sha256(path)) in wanted.values():
            found.setdefault(digest, path)
    if lacking := [name for name, digest in wanted.items() if digest not in found]:
        raise InputError(
            f"{source}: of the {len(paths)} images there none is that of section {', '.join(lacking[:3])} (by its "
            "SHA-256); give as --source the raw data that the data set was built from"
        )
    return {name: found[digest] for name, digest in wanted.items()}


def items_of(inside: np.ndarray, records: Sequence[int] | range) -> np.ndarray:
    """[n, 2] record and window of the images of some records, in order."""
    rows = np.asarray(records)
    which = np.argwhere(inside[rows])
    return np.stack([rows[which[:, 0]], which[:, 1]], axis=1)
