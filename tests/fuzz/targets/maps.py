"""Dense maps: a finished one asked for shapes, an unfinished one gone on with."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from data_prep.spots import Spots
from stjax.inference.dense_map import DenseMap
from tests.fuzz.targets import Facts, Target, facts
from tests.inference.test_dense import ramps

_OUTLINE = np.array([[40.0, 20.0], [60.0, 20.0], [60.0, 40.0], [40.0, 40.0]])


class DenseMaps(Target):
    """A map of two channels in sixteen tiles."""

    stop: ClassVar[int | None] = None
    only = ("*.json", "*.json", "*")

    def make(self, folder: Path) -> None:
        ramps(folder / "map.ome.zarr", stop=self.stop)

    def use(self, folder: Path) -> Facts:
        found = DenseMap.open(folder / "map.ome.zarr")
        centres = np.array([(x, y) for x in (16.0, 80.0, 144.0, 190.0) for y in (16.0, 48.0, 80.0, 112.0)])
        shapes = Spots.concatenate(
            [Spots.discs(centres, 30.0), Spots.squares(np.array([[35.0, 90.0]]), 20.0), Spots.polygons([_OUTLINE])]
        )
        return facts({"genes": found.genes, "all": found.query(shapes), "x": found.query(shapes, ["x"])})


class Unfinished(DenseMaps):
    """The same, stopped after five tiles."""

    stop = 5

    def use(self, folder: Path) -> Facts:
        ramps(folder / "map.ome.zarr")  # as the command given again
        return super().use(folder)
