"""How much wider intervals must be on slides unlike those they were found on, learnt from copies of these: stained and
exposed otherwise, and with fewer counts.

A copy is a validation section each of whose images is changed by the same draw of `stjax.augmentation`, as if the
section had been stained and scanned elsewhere. How far its colours then are from the training images' is known of any
slide (`inference.domain.distance`); how much its errors grow is known of the copy. Counts are thinned by a coin a UMI,
which is what sequencing the same spots less deeply would have measured.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import augmentation
from stjax.data.items import Batch, Items, Windows
from stjax.data.selection import Selection
from stjax.evaluation.noise_ceiling import thinned
from stjax.inference import domain, stream
from stjax.intervals import LEVEL, Widening
from stjax.trained import Trained
from stjax.workdir import Run

COPIES = 8  # of a section
SPOTS = 64  # of a section, about: a copy costs a prediction of each
PATIENTS = 8  # at most, a section of each
SETTINGS = dict.fromkeys(augmentation.STEPS, 0) | {"stain": 0.2, "brightness": 0.35, "gamma": 0.2}  # published ones
LEAST_BEYOND = 0.1  # standard deviations: copies that are nearer say little of what a further one adds
THINNED = (0.5, 0.25)  # of the counts
_SHARE = 0.9  # of the copies for which widths suffice

Change = Callable[[np.ndarray], np.ndarray]


class Shown(NamedTuple):
    """A model on some images of a section.

    Attributes:
        expression: [S, M]; rows: [S] of its items' spots.
        distance: of the images from the training images.
    """

    expression: np.ndarray
    rows: np.ndarray
    distance: float


class _Some(Windows):
    """Some items of others."""

    def __init__(self, of: Windows, chosen: np.ndarray):
        self._of, self.chosen = of, chosen
        super().__init__(np.cumsum([0, *np.diff(of.start)[chosen]]))

    @property
    def most_spots(self) -> int:
        """As of all items: one program serves them."""
        return self._of.most_spots

    def inputs(self, images: np.ndarray, index: Sequence[int] | np.ndarray, size: int) -> Batch:
        """As the others say."""
        return self._of.inputs(images, self.chosen[np.asarray(index)], size)


def usual_distance(dataset: PatchDataset, names: Sequence[str], run: Run) -> float:
    """The largest distance from the training images that some sections have."""
    means = (dataset.image_moments(name)[0].mean(axis=0) for name in names)
    return max(domain.distance(mean, run.fold) for mean in means)


def widening(
    run: Run, dataset: PatchDataset, names: Sequence[str], half_width: np.ndarray, *, sizes_um: Sequence[float]
) -> tuple[Widening | None, str]:
    """From copies of sections, or None and why there is none.

    Args:
        names: sections of patients that the run is not trained on, on which `half_width` [M] was found.
    """
    try:
        model = run.on_slides
    except InputError as error:  # its encoder's weights are not here
        return None, str(error)
    if model.embedder is not None:
        return None, f"a model of {run.view.items} sees a whole slide at once: changed copies of it are not made"
    usual = usual_distance(dataset, [*run.fold.split.train, *names], run)
    growths, thinner, depths = [], [], []
    scale = np.where(np.isfinite(half_width) & (half_width > 0), half_width, np.nan)
    of_patients = {dataset.section(name)["patient"]: name for name in names}  # another of the same says little more
    for name in list(of_patients.values())[:PATIENTS]:
        items = run.view.open(Selection(dataset, (name,), run.protocol, False, sizes_um, SPOTS), run.fold.panel)
        if not len(items):
            continue
        depths.append(items.total)
        truth, own, *copies = _truth(run, items), *_shown(run, model, items)
        needed = _needed(own.expression - truth[own.rows], scale)
        if not needed > 0:
            continue
        growths += [(c.distance, _needed(c.expression - truth[c.rows], scale) / needed) for c in copies]
        thinner += [_needed(own.expression - of[own.rows], scale) / needed for of in _thinned(run, items)]
    if not growths:
        return None, "no spot of the validation sections has an error to learn from"
    powers = np.log(np.maximum(np.reshape(thinner, (-1, len(THINNED))), 1)) / -np.log(THINNED)
    depth, power = float(np.median(np.concatenate(depths))), float(powers.mean(axis=0).max())
    return Widening(usual, _per_distance(np.array(growths), usual), depth, power), ""


def _per_distance(growths: np.ndarray, usual: float) -> float:
    """What a standard deviation beyond the usual distance must add to widths, to suffice for `_SHARE` of the copies.

    Args:
        growths: [N, 2] of each copy its distance and how many times wider its errors are.
    """
    beyond = growths[:, 0] - usual
    far = beyond > LEAST_BEYOND
    if not far.any():
        return 0.0
    return float(np.quantile(np.maximum(growths[far, 1] - 1, 0) / beyond[far], _SHARE))


def _needed(error: np.ndarray, scale: np.ndarray) -> float:
    """By how much the half-widths [M] must be multiplied to hold `LEVEL` of the errors [S, M]."""
    ratio = np.abs(error) / scale
    known = ratio[np.isfinite(ratio)]
    return float(np.quantile(known, LEVEL)) if len(known) else np.nan


def _truth(run: Run, items: Items) -> np.ndarray:
    """[N, M] what was measured, NaN for spots that are predicted in another item."""
    truth = np.asarray(items.main_expression(run.protocol), np.float64)
    return np.where(items.weight[:, None] > 0, truth, np.nan)


def _thinned(run: Run, items: Items) -> Iterator[np.ndarray]:
    """[N, M] what fewer counts would have measured, of each of `THINNED`."""
    for share in THINNED:
        counts, total = thinned(np.random.default_rng(0), items.main_counts(), items.total, share)[0]
        of = run.protocol.transform(counts, total, run.fold.panel.num_genes)
        yield np.where(items.weight[:, None] > 0, of, np.nan)


def _shown(run: Run, model: Trained, items: Items) -> Iterator[Shown]:
    """The model on some of a section's images as they are, then on each of `COPIES`."""
    encoded = run.view.encoded
    images = items.images.patches if encoded else items.images
    windows = Windows(items.windows.start) if encoded else items.windows
    most = max(1, round(SPOTS * len(windows) / max(items.num_spots, 1)))
    chosen = np.sort(np.random.default_rng(0).permutation(len(windows))[:most])
    of = _Some(windows, chosen)
    rows = np.concatenate([np.arange(items.num_spots)[windows.rows(int(item))] for item in chosen])
    drawn = augmentation.draw(SETTINGS, COPIES, jax.random.key(0))
    change = jax.jit(augmentation.changed)
    for copy in range(-1, COPIES):
        one = {name: values[copy : copy + 1] for name, values in drawn.items()}
        colours = domain.Colours()

        def image(item: int, copy: int = copy, one: augmentation.Drawn = one, colours: domain.Colours = colours):
            pixels = np.asarray(images[chosen[item]])
            if copy >= 0:
                flat = pixels.reshape(-1, *pixels.shape[-3:])
                pixels = np.stack([np.asarray(change(each[None], one))[0] for each in flat]).reshape(pixels.shape)
            for each in pixels.reshape(-1, *pixels.shape[-3:]):
                colours.watch(each)
            return pixels

        parts = list(stream.predict(model, of, image, f"copy {copy + 1} of {COPIES}" if copy >= 0 else "as it is"))
        expression = np.concatenate([part["expression"] for part in parts])
        yield Shown(np.asarray(expression, np.float64), rows, domain.distance(colours.mean, run.fold))
