"""A section's spots drawn on its slide, coloured by depth: the picture that shows at once whether the two fit."""

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from data_prep.section import Section
from data_prep.spots import DISC, POLYGON

MAX_OUTLINES = 20_000  # more spots than this are filled as pixels


def draw(section: Section, thumbnail: np.ndarray, scale: float) -> Image.Image:
    """The overlay.

    Args:
        section: its spots.
        thumbnail: uint8 [h, w, 3], the small slide.
        scale: thumbnail pixels per full-resolution pixel.
    """
    image = Image.fromarray(thumbnail).convert("RGB")
    colours = _colours(np.asarray(section.counts.sum(axis=1), dtype=np.float64))
    if len(section.spots) > MAX_OUTLINES:
        pixels = np.array(image)
        column, row = (np.floor(section.spots.xy * scale)).astype(int).T
        inside = (column >= 0) & (column < pixels.shape[1]) & (row >= 0) & (row < pixels.shape[0])
        pixels[row[inside], column[inside]] = (pixels[row[inside], column[inside]] // 2 + colours[inside] // 2).clip(0)
        image = Image.fromarray(pixels)
    else:
        _outlines(section, image, colours, scale)
    text = f"{section.name}: {len(section.spots)} spots, {section.um_per_px:.3g} um/px; colour: counts, log scale"
    pen = ImageDraw.Draw(image)
    pen.text((8, 6), text + ("; SYNTHETIC" if section.synthetic else ""), fill=(0, 0, 0))
    return image


def _outlines(section: Section, image: Image.Image, colours: np.ndarray, scale: float) -> None:
    pen, spots = ImageDraw.Draw(image), section.spots
    for index, (x, y) in enumerate(spots.xy * scale):
        colour = tuple(int(value) for value in colours[index])
        kind, size = spots.kind[index], float(spots.size_px[index])
        for ring in spots.rings(index):
            pen.polygon([(float(u), float(v)) for u, v in ring * scale], outline=colour)
        if kind == POLYGON:
            continue
        half = max(1.0, size * scale * (1.0 if kind == DISC else 0.5))
        box = (x - half, y - half, x + half, y + half)
        (pen.ellipse if kind == DISC else pen.rectangle)(box, outline=colour, width=2 if half > 4 else 1)


def _colours(total: np.ndarray) -> np.ndarray:
    """[S, 3] uint8: viridis over log counts, from the 2nd to the 98th percentile."""
    level = np.log1p(total)
    low, high = np.percentile(level, [2, 98])
    return (colormaps["viridis"]((level - low) / max(high - low, 1e-9))[:, :3] * 255).astype(np.uint8)
