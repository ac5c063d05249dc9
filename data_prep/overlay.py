"""A section's spots drawn on its slide, coloured by depth: the picture that shows at once whether the two fit."""

import math

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from data_prep.counted import counted
from data_prep.counts import row_totals
from data_prep.section import Section
from data_prep.spots import DISC, POLYGON

MAX_OUTLINES = 20_000  # more spots than this are filled as pixels
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def draw(section: Section, thumbnail: np.ndarray, scale: float) -> Image.Image:
    """The overlay, with what it is of, a scale bar, and what the colours mean.

    Args:
        section: its spots.
        thumbnail: uint8 [h, w, 3], the small slide.
        scale: thumbnail pixels per full-resolution pixel.
    """
    image = Image.fromarray(thumbnail).convert("RGB")
    total = row_totals(section.counts).astype(np.float64)
    low, high = np.percentile(total, [2, 98])
    colours = _colours(total, low, high)
    if len(section.spots) > MAX_OUTLINES:
        pixels = np.array(image)
        column, row = (np.floor(section.spots.xy * scale)).astype(int).T
        inside = (column >= 0) & (column < pixels.shape[1]) & (row >= 0) & (row < pixels.shape[0])
        pixels[row[inside], column[inside]] = (pixels[row[inside], column[inside]] // 2 + colours[inside] // 2).clip(0)
        image = Image.fromarray(pixels)
    else:
        _outlines(section, image, colours, scale)
    _caption(image, section, section.um_per_px / scale, low, high)
    return image


def scale_bar(most_um: float) -> tuple[float, str]:
    """A round number of micrometres, `most_um` at most, and how it is written."""
    power = 10.0 ** math.floor(math.log10(most_um))
    length = max(step * power for step in (1, 2, 5) if step * power <= most_um)
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"


def _caption(image: Image.Image, section: Section, um_per_px: float, low: float, high: float) -> None:
    """Writes above what is shown, and below, from left to right, the scale bar and the colours of counts."""
    letter = max(11, round(max(image.size) / 60))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(letter)

    def say(x: float, y: float, text: str, anchor: str) -> None:
        pen.text((x, y), text, _BLACK, font, anchor, stroke_width=2, stroke_fill=_WHITE)

    title = f"{section.name}: {counted(len(section.spots), 'spots')}, {section.um_per_px:.3g} um/px"
    title += "; SYNTHETIC" * section.synthetic
    say(letter / 2, letter / 2, title, "la")
    length, text = scale_bar(image.width / 5 * um_per_px)
    text = text.replace("µ", "u")  # which Pillow's own letters lack
    left, low_y = letter, image.height - letter
    bar = (left, low_y - letter / 3, left + length / um_per_px, low_y)
    pen.rectangle(bar, fill=_BLACK, outline=_WHITE)
    say(left, bar[1] - 3, text, "ls")
    width = 8 * letter
    counts = np.expm1(np.linspace(np.log1p(low), np.log1p(high), width))
    strip = Image.fromarray(np.tile(_colours(counts, low, high), (letter // 2, 1, 1)))
    right = image.width - letter
    image.paste(strip, (right - width, low_y - letter // 2))
    say(right, low_y - letter / 2 - 3, f"counts of a spot: {low:,.0f} to {high:,.0f}", "rs")


def _outlines(section: Section, image: Image.Image, colours: np.ndarray, scale: float) -> None:
    pen, spots, thick = ImageDraw.Draw(image), section.spots, max(2, round(max(image.size) / 450))
    for index, (x, y) in enumerate(spots.xy * scale):
        colour = tuple(int(value) for value in colours[index])
        kind, size = spots.kind[index], float(spots.size_px[index])
        for ring in spots.rings(index):
            pen.polygon([(float(u), float(v)) for u, v in ring * scale], outline=colour)
        if kind == POLYGON:
            continue
        half = max(1.0, size * scale * (1.0 if kind == DISC else 0.5))
        box = (x - half, y - half, x + half, y + half)
        drawn = pen.ellipse if kind == DISC else pen.rectangle
        if half > 2 * thick:  # a pale rim, as the tissue may have the ring's colour
            drawn((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=_WHITE, width=thick + 2)
        drawn(box, outline=colour, width=thick if half > 2 * thick else 1)


def _colours(total: np.ndarray, low: float, high: float) -> np.ndarray:
    """[S, 3] uint8: viridis over log counts, from `low` to `high`."""
    level, least, most = np.log1p(total), np.log1p(low), np.log1p(high)
    return (colormaps["viridis"]((level - least) / max(most - least, 1e-9))[:, :3] * 255).astype(np.uint8)
