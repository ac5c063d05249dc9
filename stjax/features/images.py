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
from data_prep.slide_base import Slide, is_slide
from data_prep.tissue import Transform


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


class SlideWindows:
    """Side by side windows of a slide, `context` x `context` around each of N places, row by row.

    Attributes:
        inside: [N, W] bool: which of them lie in the image.
    """

    def __init__(
        self,
        slide: Slide,
        xy: np.ndarray,
        *,
        size_px: int,
        px_scale: float,
        transform: Transform | None,
        context: int,
    ):
        """
        Args:
            xy: [N, 2] places, full-resolution pixels.
            size_px: side of a window.
            px_scale: full-resolution pixels per pixel of a window.
            transform: what is done to its colours.
        """
        self._slide, self._transform, self._size, self._px_scale = slide, transform, size_px, px_scale
        step = np.arange(context) - context // 2
        grid = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)  # [W, 2] x, y; row by row
        self._xy = xy[:, None] + grid[None] * (size_px * px_scale)  # [N, W, 2]
        inside = patches.inside_mask(slide, self._xy.reshape(-1, 2), patch_size_px=size_px, px_scale=px_scale)
        self.inside: np.ndarray = inside.reshape(self._xy.shape[:2])

    def image(self, record: int, window: int) -> np.ndarray:
        """uint8 [P, P, 3]."""
        origin = patches.patch_origins(
            self._xy[record, window], patch_size_px=self._size, px_scale=self._px_scale
        )[0]  # fmt: skip
        options: dict[str, Any] = {"size_px": self._size, "px_scale": self._px_scale, "transform": self._transform}
        return patches.cut_window(self._slide, origin, **options)[0]


class Windows(Images):
    """Windows around each record's place, the middle one being the patch itself as it was before it was stored as JPEG;
    stain-normalised as the data set's patches are."""

    def __init__(self, dataset: PatchDataset, name: str, slide: Path, *, context: int):
        super().__init__(dataset, name)
        entry, target = dataset.section(name), dataset.manifest["stain_target"]
        transform = None
        if target is not None:
            transform = stain.Normaliser(stain.profile_from(entry["stain"]), stain.profile_from(target))
        table = dataset.table(name)
        self._xy = np.zeros((entry["records"], 2))
        self._xy[table.record_of_spot] = table.spots.xy
        self._path, self._options = slide, {"size_px": dataset.size_px, "px_scale": entry["px_scale"]}
        self._options |= {"transform": transform, "context": context}
        with open_slide(slide) as opened:
            self.inside = SlideWindows(opened, self._xy, **self._options).inside
        self._windows: SlideWindows | None = None

    def image(self, record: int, window: int) -> np.ndarray:
        """uint8 [P, P, 3]."""
        assert self._windows is not None
        return self._windows.image(record, window)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Keeps the slide open."""
        if (transform := self._options["transform"]) is not None:
            transform(np.zeros((1, 1, 3), np.uint8))  # makes its table before threads share it
        with open_slide(self._path) as slide:
            self._windows = SlideWindows(slide, self._xy, **self._options)
            yield


def find_slides(source: Path, dataset: PatchDataset) -> dict[str, Path]:
    """{section: the raw image it was cut from}, told by SHA-256, anywhere below a folder.

    Raises:
        InputError: an image of the data set is not there, or is another.
    """
    if any(section["image"].get("patches") for section in dataset.sections):
        raise InputError(
            f"{dataset.path} is of patches as they are stored, and windows around them are not: import their features "
            "(stjax embed --import), or build the data set from slides, with --layout=hest"
        )
    wanted = {section["name"]: section["image"]["sha256"] for section in dataset.sections}
    paths = sorted(p for p in source.rglob("*") if is_slide(p))
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
