"""The images that features are made of: records of a data set, or windows around their places, cut from raw slides."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import cli, files, patches, stain
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.slide import open_slide
from data_prep.slide_base import Slide, is_slide
from data_prep.tissue import Transform

MOST_FIELD = 16  # patches along a side of a window, which is seen at so many times a patch's um per px


class Window(NamedTuple):
    """A window around a patch's middle, seen at the size of the patch: its side, and its middle from the patch's, in
    patches."""

    side: float
    x: float
    y: float


PATCH = Window(1.0, 0.0, 0.0)


def windows_of(fields: Sequence[float]) -> tuple[list[Window], np.ndarray]:
    """The windows of some fields, and of which field each is [W]: one of each, or of a field smaller than a patch as
    many as cover it, row by row."""
    found = []
    for place, field in enumerate(fields):
        parts = max(round(1 / field), 1)
        middles = (np.arange(parts) + 0.5) / parts - 0.5
        found += [(place, Window(field, float(x), float(y))) for y in middles for x in middles]
    return [window for _, window in found], np.array([place for place, _ in found])


class Images:
    """The images of a section, W of each record.

    Attributes:
        inside: [N, W] bool: which there are; a window that leaves the slide is none.
        own: which of the W is the patch around the record's place.
    """

    own = 0
    _field: np.ndarray | None = None

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

    def joined(self, values: np.ndarray) -> np.ndarray:
        """What an encoder made of the W windows [n, W, ...] as it is kept: of several fields the mean over the windows
        of each [n, F, ...]."""
        return joined(values, self._field)


def joined(values: np.ndarray, field: np.ndarray | None) -> np.ndarray:
    """[n, W, ...] float32 to [n, F, ...], the means over the windows of each field, [W] which; None: as they are."""
    if field is None or len(set(field)) == len(field):
        return values
    of_field = [values[:, field == each] for each in range(field[-1] + 1)]
    return np.stack([each.mean(axis=1) if each.shape[1] > 1 else each[:, 0] for each in of_field], axis=1)


class SlideWindows:
    """W windows of a slide around each of N places: `context` x `context` side by side, row by row; or of several
    fields, as many times as large as a patch as `fields` say, each resampled to its size (`windows_of`).

    Attributes:
        inside: [N, W] bool: which of them lie in the image; of `fields` all, as beyond the image is white.
        own: which of the W is the patch itself.
    """

    def __init__(
        self,
        slide: Slide,
        xy: np.ndarray,
        *,
        size_px: int,
        px_scale: float,
        transform: Transform | None,
        context: int = 1,
        fields: Sequence[float] = (1,),
    ):
        """
        Args:
            xy: [N, 2] places, full-resolution pixels.
            size_px: side of a window.
            px_scale: full-resolution pixels per pixel of a patch.
            transform: what is done to its colours.
            fields: as `fields_of` gives them; of several, `context` is 1.
        """
        self._slide, self._transform, self._size = slide, transform, size_px
        self.own, self.field = context**2 // 2, None
        if len(fields) > 1:
            windows, self.field = windows_of(fields)
            self.own = windows.index(PATCH)
            self._px_scale = px_scale * np.array([window.side for window in windows])
            self._xy = xy[:, None] + np.array([(w.x, w.y) for w in windows])[None] * (size_px * px_scale)
            self.inside: np.ndarray = np.ones(self._xy.shape[:2], bool)
            return
        self._px_scale = np.full(context**2, px_scale)
        step = np.arange(context) - context // 2
        grid = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)  # [W, 2] x, y; row by row
        self._xy = xy[:, None] + grid[None] * (size_px * px_scale)  # [N, W, 2]
        inside = patches.inside_mask(slide, self._xy.reshape(-1, 2), patch_size_px=size_px, px_scale=px_scale)
        self.inside = inside.reshape(self._xy.shape[:2])

    def image(self, record: int, window: int) -> np.ndarray:
        """uint8 [P, P, 3]."""
        px_scale = float(self._px_scale[window])
        origin = patches.patch_origins(self._xy[record, window], patch_size_px=self._size, px_scale=px_scale)[0]
        options: dict[str, Any] = {"size_px": self._size, "px_scale": px_scale, "transform": self._transform}
        return patches.cut_window(self._slide, origin, **options)[0]

    def joined(self, values: np.ndarray) -> np.ndarray:
        """As `Images.joined`."""
        return joined(values, self.field)


class Windows(Images):
    """Windows around each record's place, one of which is the patch itself as it was before it was stored as JPEG;
    stain-normalised as the data set's patches are."""

    def __init__(self, dataset: PatchDataset, name: str, slide: Path, **layout: Any):
        """
        Args:
            layout: `context` or `fields` of `SlideWindows`.
        """
        super().__init__(dataset, name)
        entry, target = dataset.section(name), dataset.manifest["stain_target"]
        transform = None
        if target is not None:
            transform = stain.Normaliser(stain.profile_from(entry["stain"]), stain.profile_from(target))
        table = dataset.table(name)
        self._xy = np.zeros((entry["records"], 2))
        self._xy[table.record_of_spot] = table.spots.xy
        self._path, self._options = slide, {"size_px": dataset.size_px, "px_scale": entry["px_scale"]}
        self._options |= {"transform": transform, **layout}
        with open_slide(slide) as opened:
            windows = SlideWindows(opened, self._xy, **self._options)
        self.inside, self.own, self._field = windows.inside, windows.own, windows.field
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
    paths = [path for path in files.below(source) if is_slide(path)]
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


def fields_of(text: str, name: str) -> tuple[float, ...]:
    """ "0.5,1,3" to (0.5, 1.0, 3.0): sides of windows around a spot, in patches. Raises InputError, naming the option
    `name`, for what none can have."""
    from stjax.config import numbers  # with ml-collections, which predicting does without

    found = numbers(text, name)
    if list(found) != sorted(set(found)) or 1 not in found or found[-1] > MOST_FIELD or not _cover(found):
        raise InputError(
            f"{name} is {text!r}; expected ascending numbers of patches along a side, of which one is 1 and the last "
            f"at most {MOST_FIELD}, such as 1,3,5; below 1 are 0.25 and 0.5"
        )
    return found


def _cover(fields: Sequence[float]) -> bool:
    """Whether the windows of each field below 1 cover a patch."""
    return all(field in (0.25, 0.5) for field in fields if field < 1)


def items_of(inside: np.ndarray, records: Sequence[int] | range) -> np.ndarray:
    """[n, 2] record and window of the images of some records, in order."""
    rows = np.asarray(records)
    which = np.argwhere(inside[rows])
    return np.stack([rows[which[:, 0]], which[:, 1]], axis=1)
