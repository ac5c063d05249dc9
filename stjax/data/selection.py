"""Which spots of a data set are meant."""

import dataclasses
from collections.abc import Sequence

from data_prep.dataset import PatchDataset
from stjax.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Selection:
    """The spots of some sections that a protocol uses.

    Attributes:
        dataset, sections: where they are.
        protocol: whose rules they follow.
        train: whether they are to be trained on, for which a protocol may leave more out.
        sizes_um: the sizes of spots wanted, where the view's spots are of any size; default all there are.
        max_spots: of a section, where spots are of any size, drawn at random with a fixed seed; 0 takes all.
    """

    dataset: PatchDataset
    sections: Sequence[str]
    protocol: Protocol
    train: bool
    sizes_um: Sequence[float] = ()
    max_spots: int = 0
