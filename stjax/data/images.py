"""Images of records, by position: all that decoding processes need to know of a data set."""

from typing import Any

import numpy as np

from data_prep.dataset import RecordSource


class Images:
    """Images [H, W, 3] uint8 of some records, in an order of one's own.

    It holds a number an image, and pickles so: counts and tables stay with whoever owns it.

    Attributes:
        record: [N] place in the source of each image.
    """

    def __init__(self, source: RecordSource, record: np.ndarray):
        self._source, self.record = source, np.asarray(record, np.int64)

    def __len__(self) -> int:
        return len(self.record)

    def whole(self, index: int, *, image: bool = True) -> dict[str, Any]:
        """The record that holds an image: its section and place besides the image, which may be left out."""
        return self._source.record(int(self.record[index]), image=image)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._source[int(self.record[index])]["image"]
