"""Predictions of features that somebody else's program made: no slide is read, no encoder is run."""

from collections.abc import Iterator

import numpy as np

from data_prep import cli
from data_prep.errors import InputError
from stjax.data.items import filled
from stjax.inference import stream
from stjax.trained import Trained


def predict_vectors(model: Trained, vectors: np.ndarray) -> np.ndarray:
    """[N, M] float32 expression, in the protocol's units, of features [N, D] of the patches around N spots.

    Args:
        model: as it is loaded, without its encoder in front.

    Raises:
        InputError: the model does not take features of single spots, or others than these.
    """
    if not model.takes_features:
        takes = "images, with its encoder in it" if model.view.encoded else model.view.items
        raise InputError(f"{model.folder} takes {takes}, not features; give it the slide and its spots")
    width, encoder = model.fold.facts["width"], model.view.encoder
    if vectors.shape[1] != width or not len(vectors):
        raise InputError(
            f"the features have shape {vectors.shape}, expected [N, {width}]: those of {encoder}, pooled as "
            f"{model.fold.facts['pooling']!r}, of a patch around each spot"
        )
    vectors = np.asarray(vectors, np.float32)
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    if not finite.all():
        raise InputError(
            f"the features of {int((~finite).sum())} of {len(finite)} spots are not finite; leave them out"
        )
    vectors, size = model.view.standardised(vectors, "these features"), stream.batch_size(model)

    def batches() -> Iterator[tuple[dict[str, np.ndarray], int]]:
        for start in range(0, len(vectors), size):
            part = vectors[start : start + size]
            yield {"features": filled(part, size)}, len(part)

    found = []
    with cli.progress(total=len(vectors), description=f"features of {encoder}", unit="spot") as bar:
        for outputs, count in stream.in_turn(model, batches()):
            found.append(outputs["expression"][:count, 0])
            bar.update(count)
    return np.concatenate(found)
