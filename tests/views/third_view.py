"""A third kind of model, as one would add it: an item is a whole section, and a spot's genes a linear map of the mean
colour of its patch and of its neighbours'. `test_third_view.py` copies each part to its place in a copy of the tree."""

VIEW = '''
"""Sections: an item is a whole section, its patches with their neighbours in the array."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.spatial import KDTree

from data_prep import patches
from stjax import baselines, forward, views
from stjax.models import expression
from stjax.views.patches import View as Patches

SPOTS, NEIGHBOURS = 512, 4


class Windows(views.Windows):
    """Sections with the neighbours of each of their spots."""

    most_spots = SPOTS

    def __init__(self, start: np.ndarray, xy: np.ndarray):
        super().__init__(start)
        self._neighbours = [self._near(xy[self.rows(item)]) for item in range(len(self))]

    @staticmethod
    def _near(xy: np.ndarray) -> np.ndarray:
        near = np.zeros((SPOTS, NEIGHBOURS), np.int32)
        near[: len(xy)] = KDTree(xy).query(xy, k=NEIGHBOURS + 1)[1][:, 1:]
        return near

    def inputs(self, images: np.ndarray, index: Any, size: int) -> views.Batch:
        image = np.zeros((size, SPOTS, *images.shape[2:]), np.uint8)
        image[: len(images), : images.shape[1]] = images
        near = np.zeros((size, SPOTS, NEIGHBOURS), np.int32)
        near[: len(images)] = np.stack([self._neighbours[item] for item in index]) if len(images) else 0
        return {"image": image, "near": near}


class Stacks:
    """The patches of each section, as one image [SPOTS, H, W, 3]."""

    def __init__(self, images: Any, start: np.ndarray):
        self._images, self._start = images, start

    def __len__(self) -> int:
        return len(self._start) - 1

    def __getitem__(self, item: int) -> np.ndarray:
        rows = range(self._start[item], self._start[item + 1])
        found = np.stack([self._images[row] for row in rows])
        return np.concatenate([found, np.zeros((SPOTS - len(found), *found.shape[1:]), np.uint8)])


class View(Patches):
    """Whole sections of patches."""

    item, items = "section", "sections"
    what = "whole sections, a patch around each spot,"
    any_size, one_spot, stacks = False, False, False
    kinds = {"expression": "expression of each spot of a section"}

    def open(self, chosen: Any, panel: Any) -> views.Items:
        every = super().open(chosen, panel)
        first = np.unique(every.section, return_index=True)[1]
        start = np.append(np.sort(first), every.num_spots)
        every.windows, every.images = Windows(start, every.spots.xy), Stacks(every.images, start)
        every.describe = lambda item: str(every.section[start[item]])
        return every

    def colours(self, items: views.Items, item: int, image: np.ndarray) -> np.ndarray:
        rows = items.windows.rows(item)
        return baselines.colour_statistics(image[: rows.stop - rows.start])

    def cut(self, fold: Any, section: Any, slide: Any, px_scale: float) -> views.Cut:
        found = super().cut(fold, section, slide, px_scale)
        windows = Windows(np.array([0, len(found.spots)]), section.spots.xy[found.spots])
        return found._replace(windows=windows, stacked=True)

    def inputs(self, batch: views.Batch, fold: Any, parts: jax.Array | None) -> dict[str, Any]:
        shape = batch["image"].shape
        images = views.normalise(batch["image"].reshape(-1, *shape[2:]), fold)
        return {"images": images.reshape(shape), "near": batch["near"]}

    def exported(self, graphdef: Any, fold: Any, protocol: Any) -> Callable[..., jax.Array]:
        def function(state: Any, images: jax.Array, near: jax.Array) -> jax.Array:
            found = forward.forward(self, graphdef, state, {"image": images, "near": near}, fold, protocol)
            return expression.to_expression(found, fold, protocol)

        return function

    def signature(self, fold: Any, kind: str, items: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        side = fold.image_size_px
        images = jax.ShapeDtypeStruct((items, SPOTS, side, side, 3), np.uint8)
        return images, jax.ShapeDtypeStruct((items, SPOTS, NEIGHBOURS), np.int32)

    def given(self, fold: Any, kind: str) -> tuple[int, ...]:
        return (SPOTS, fold.panel.num_main)

    def predicted(self, call: Any, batch: Any, fold: Any, protocol: Any, kind: str, *, turned: bool) -> views.Outputs:
        return {"expression": call(batch["image"], batch["near"])}
'''

MODEL = '''
"""A linear map of each spot's mean colour and of its neighbours'."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stjax.models.heads import linear

VIEW = "wholes"


class NeighbourMean(nnx.Module):
    """One linear layer."""

    def __init__(self, num_main: int, *, rngs: nnx.Rngs):
        self.main = linear(6, num_main, rngs=rngs)

    def __call__(self, images: jax.Array, near: jax.Array, **_: Any) -> dict[str, jax.Array]:
        own = jnp.mean(images, axis=(2, 3))  # [B, S, 3]
        around = jnp.mean(jax.vmap(lambda colours, of: colours[of])(own, near), axis=2)
        return {"main": self.main(jnp.concatenate([own, around], axis=-1))}


def build(variant: str, *, num_main: int, dtype: Any, rngs: nnx.Rngs) -> NeighbourMean:
    return NeighbourMean(num_main, rngs=rngs)
'''

CONFIG = """
from stjax.config import built_in


def get_config():
    config = built_in("tiny")
    config.model.module, config.model.variant, config.model.aux = "neighbour_mean", "linear", False
    del config.model.options["rematerialise"]
    config.demo.batch_size, config.demo.num_epochs = 2, 3
    config.augment = False
    return config
"""
