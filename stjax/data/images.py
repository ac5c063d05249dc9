"""Images of records, by position: all that decoding processes need to know of a data set."""

import numpy as np

from data_prep.dataset import RecordSource


class Images:
    """Images [H, W, 3] uint8 of some records, in an order of one's own.

    It holds a number an image, and pickles so: counts and tables stay with whoever owns it.
    """

    def __init__(self, source: RecordSource, record: np.ndarray):
        """
        Args:
            record: [N] place in the source of each image.
        """
        self._source, self._record = source, np.asarray(record, np.int64)

    def __len__(self) -> int:
        return len(self._record)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._source[int(self._record[index])]["image"]
