"""Patches that show the same tissue, whatever their order, names and orientation: a slide published twice, or mirrored.

A fingerprint is made of how often each value of each channel occurs, which turning and mirroring leave as it is. Images
that were resampled or compressed anew have others.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

PLAIN = 0  # fingerprint of an image too plain to be distinguished from another: white glass
_LEVELS = 16  # values in use that the plainest channel of another image has at least
LIMIT = 0.01  # share of the smaller sample's patches, of which fewer may be chance


def fingerprints(batches: Iterable[np.ndarray]) -> np.ndarray:
    """[N] uint64 of images that come in batches of [B, H, W, 3] uint8."""
    return np.array([_fingerprint(image) for batch in batches for image in batch], dtype=np.uint64)


def _fingerprint(image: np.ndarray) -> int:
    places = image.reshape(-1, 3).astype(np.int32) + np.array([[0, 256, 512]], np.int32)
    counts = np.bincount(places.ravel(), minlength=768).astype("<i4")
    if np.min(np.sum(counts.reshape(3, 256) > 0, axis=1)) < _LEVELS:
        return PLAIN
    return int.from_bytes(hashlib.blake2b(counts.tobytes(), digest_size=8).digest(), "little") or 1


def shared(one: np.ndarray, other: np.ndarray) -> int:
    """How many different images two samples of fingerprints [N] and [M] have in common; 0 where that may be chance."""
    common = len(np.setdiff1d(np.intersect1d(one, other), [PLAIN]))
    return common if common >= LIMIT * min(len(one), len(other)) else 0
