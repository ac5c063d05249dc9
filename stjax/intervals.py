"""Intervals that go where a model goes: how far its predictions were off on its validation patients, for slides whose
expression nobody has measured.

`stjax.evaluate` finds them (`stjax.evaluation.conformal`) and leaves them in the work directory, from where they pass
into the exported folder.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import files, json_files
from data_prep.errors import InputError
from data_prep.json_files import Lacking, Maybe
from stjax.data.tile_spots import same_size

FILE = "intervals.json"
LEVEL = 0.9  # of all intervals: of single values, and of metrics


_REMEDY = "remove it, and score the run again with stjax.evaluate"
WIDENING = {
    **dict.fromkeys(("usual", "per_distance"), json_files.number(0, 1e6)),
    "depth_power": json_files.number(0, 4),
    "depth": json_files.POSITIVE,
}
INTERVALS = {  # their plain values
    "half_width": [Maybe(json_files.number(0))],
    "level": json_files.number(0, 1),
    "patients": json_files.COUNT,
    "guaranteed": json_files.FLAG,
    "spot_size_um": Maybe(json_files.POSITIVE),
    "symmetries": json_files.FLAG,
    "model_sha256": json_files.TEXT,
    "widening": Lacking(Maybe(WIDENING)),  # older versions have none
}


def guaranteed_level(level: float, patients: int, *, reached: bool) -> float:
    """How often intervals from so many patients hold, at least, the measurements of another patient like them.

    The patient to come may err by more than all others, which has a probability of 1 / (patients + 1): what holds a
    share `level` of the errors seen, each patient weighing the same, holds `level * patients / (patients + 1)` of those
    to come (Lee, Barber and Willett 2023, arXiv 2306.06342, theorem 1); `level` itself can be reached from
    level / (1 - level) patients on, and was where `reached`.
    """
    return level if reached else level * patients / (patients + 1)


@dataclasses.dataclass(frozen=True)
class Widening:
    """How much wider intervals are on sections that are unlike those they were found on.

    Attributes:
        usual: distance from the training images (`inference.domain.distance`) that training and validation sections
            have themselves: up to it nothing is widened.
        per_distance: what a further standard deviation adds, as a share of the width.
        depth: counts of a spot, the median of the spots that intervals were found on.
        depth_power: of how many times fewer counts there are; 0.5 where errors are counting noise alone.
    """

    usual: float
    per_distance: float
    depth: float
    depth_power: float

    def factor(self, distance: float, depth: float) -> float:
        """At least 1, by which half-widths are multiplied.

        Args:
            distance: of the section.
            depth: median counts of its spots; NaN where nothing was measured: the intervals are then those of a
                measurement as deep as `depth`.
        """
        of_colour = 1 + self.per_distance * max(0.0, distance - self.usual)
        fewer = self.depth / depth if depth > 0 else 1.0  # NaN is not above 0
        return of_colour * max(1.0, fewer) ** self.depth_power


@dataclasses.dataclass(frozen=True, eq=False)
class Intervals:
    """Half-widths of the intervals of single values.

    Attributes:
        half_width: [M] in expression units; NaN for a gene without one.
        level: how often they are to hold a measurement.
        patients: how many they were found on.
        guaranteed: whether those are enough for the level to be promised.
        spot_size_um: of the spots they were found on, None of several sizes.
        symmetries: whether predictions were means over the symmetries.
        model_sha256: of the model.
        widening: on sections unlike those; None where that was not found.
    """

    half_width: np.ndarray
    level: float
    patients: int
    guaranteed: bool
    spot_size_um: float | None
    symmetries: bool
    model_sha256: str
    widening: Widening | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact."""
        half_width = [float(width) if np.isfinite(width) else None for width in self.half_width]
        return dataclasses.asdict(self) | {"half_width": half_width}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Intervals":
        """What `to_json` returned, as intervals again. Raises InputError when it is none."""
        json_files.require(values, INTERVALS, "intervals", remedy=_REMEDY)
        fields: dict[str, Any] = {key: values.get(key) for key in INTERVALS}
        fields["half_width"] = np.array(values["half_width"], np.float64)
        fields["widening"] = None if fields["widening"] is None else Widening(**fields["widening"])
        return cls(**fields)

    @classmethod
    def load(cls, folder: Path) -> "Intervals | None":
        """Those in a folder; None where there are none. Raises InputError when they are damaged or were changed."""
        path = folder / FILE
        if not files.is_there(path):
            return None
        content = json_files.read_sealed(path, remedy=_REMEDY)
        json_files.require(content, INTERVALS, str(path), remedy=_REMEDY)
        return cls.from_json(content)

    def save(self, folder: Path) -> None:
        """Leaves them in a work directory."""
        json_files.write(folder / FILE, json_files.sealed(self.to_json()))

    def check_genes(self, count: int, name: str, *, remedy: str = _REMEDY) -> None:
        """Raises InputError, which begins with `name`, unless there is one for each of `count` genes."""
        if len(self.half_width) != count:
            raise InputError(
                f"{name}: {len(self.half_width)} intervals, expected one for each of {count} genes; {remedy}"
            )

    def of(self, model_sha256: str, *, symmetries: bool) -> "Intervals | None":
        """These, if they are of this model's predictions; else None."""
        return self if self.model_sha256 == model_sha256 and self.symmetries == symmetries else None

    @property
    def guaranteed_level(self) -> float:
        """See the function of this name."""
        return guaranteed_level(self.level, self.patients, reached=self.guaranteed)

    def factor(self, distance: float, depth: float) -> float:
        """As `Widening.factor`; 1 where no widening was found."""
        return 1.0 if self.widening is None else self.widening.factor(distance, depth)

    def layers(self, expression: np.ndarray, sizes_um: np.ndarray | None, factor: float = 1.0) -> dict[str, np.ndarray]:
        """{"lower", "upper"} [S, M] around predictions [S, M].

        Args:
            factor: the half-widths' in this section.
            sizes_um: [S] of the spots, where the model predicts spots of any size: errors hang on it, so there are none
                for other sizes than they were found on. None: the model predicts spots of its training's size.
        """
        if sizes_um is not None and (self.spot_size_um is None or not same_size(sizes_um, self.spot_size_um).all()):
            return {}
        return around(expression, (factor * self.half_width).astype(np.float32))


def around(expression: np.ndarray, half_width: np.ndarray) -> dict[str, np.ndarray]:
    """{"lower", "upper"} [S, M]: the ends of intervals of half-widths [M] around predictions [S, M]."""
    return {"lower": expression - half_width, "upper": expression + half_width}
