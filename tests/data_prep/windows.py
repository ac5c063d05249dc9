"""Patches around spots, cut one by one as a build cuts them, and a slide with coarser levels to cut them from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import patches


def cut_patches(
    slide: Any, spot_xy: np.ndarray, *, patch_size_px: int, px_scale: float = 1.0, transform: Any = None
) -> Iterator[np.ndarray]:
    """uint8 [P, P, 3] for each spot of [N, 2], in order."""
    for origin in patches.patch_origins(spot_xy, patch_size_px=patch_size_px, px_scale=px_scale):
        yield patches.cut_window(slide, origin, size_px=patch_size_px, px_scale=px_scale, transform=transform)[0]


def written_pyramid(path: Path, pixels: np.ndarray, *, times: tuple[int, ...]) -> dict[int, np.ndarray]:
    """A tiled TIFF of a slide and of levels so many times coarser, each the mean of its pixels.

    Returns:
        The levels, by how many times coarser they are.
    """
    import tifffile

    levels = {1: pixels}
    for factor in times:
        height, width = (side // factor for side in pixels.shape[:2])  # what is left over is cut off, as scanners do
        blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
        levels[factor] = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for factor, level in levels.items():
            writer.write(level, photometric="rgb", tile=(64, 64), subfiletype=int(factor > 1))
    return levels
