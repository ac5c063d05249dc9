"""Patches around spots, cut one by one as a build cuts them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep import patches


def cut_patches(
    slide: Any, spot_xy: np.ndarray, *, patch_size_px: int, px_scale: float = 1.0, transform: Any = None
) -> Iterator[np.ndarray]:
    """uint8 [P, P, 3] for each spot of [N, 2], in order."""
    for origin in patches.patch_origins(spot_xy, patch_size_px=patch_size_px, px_scale=px_scale):
        yield patches.cut_window(slide, origin, size_px=patch_size_px, px_scale=px_scale, transform=transform)[0]
