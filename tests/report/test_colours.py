"""Contrast by WCAG 2.2, and colour scales that people who confuse colours can read."""

import itertools
import re
from importlib import resources

import matplotlib
import numpy as np
import pytest

CSS = resources.files("stjax.reporting").joinpath("assets/report.css").read_text()
SCALES = resources.files("stjax.reporting").joinpath("assets/scales.js").read_text()
TEXT = [  # foreground, background
    *itertools.product(("ink", "muted", "accent"), ("paper", "card")),
    *itertools.product(("ink",), ("sunk", "accent-soft", "note-soft", "danger-soft", "warn-soft", "good-soft")),
    *((kind, f"{kind}-soft") for kind in ("danger", "warn", "good")),
    *((f"on-band-{band}", f"band-{band}") for band in (0, 1, 2, 3, 4, "none")),
    *(("on-stripe", f"stripe-{stripe}") for stripe in "ab"),
    ("on-accent", "accent"),
    ("paper", "ink"),
    ("muted", "card"),
]
GRAPHICS = [*itertools.product(("accent", "baseline", "reference", "control", "focus"), ("paper", "card"))]


def linear(colour):
    value = np.array([int(colour[place : place + 2], 16) for place in (0, 2, 4)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def theme(selector):
    block = CSS[CSS.index(selector) :].split("}", 1)[0]
    return dict(re.findall(r"--([\w-]+): #([0-9a-f]{6})", block))


def stops(name):
    return re.findall(r'"([0-9a-f]{6})"', re.search(rf"const {name} = \[(.*?)\]", SCALES).group(1))


@pytest.mark.parametrize("selector", [":root {", ':root[data-theme="dark"] {'])
def test_contrast_is_enough(selector):
    colours = theme(selector)
    assert contrast("000000", "ffffff") == pytest.approx(21)
    for pairs, least in ((TEXT, 4.5), (GRAPHICS, 3.0)):
        low = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
        assert min(low.values()) >= least, {pair: value for pair, value in low.items() if value < least}


def test_values_are_drawn_in_viridis():
    viridis = matplotlib.colormaps["viridis"]
    expected = [matplotlib.colors.to_hex(viridis(place / 15))[1:] for place in range(16)]
    assert stops("VIRIDIS") == expected


def test_differences_are_as_dark_on_one_side_as_on_the_other():
    light = np.array([luminance(colour) for colour in stops("DIVERGING")])
    np.testing.assert_allclose(light, light[::-1], atol=0.005)
    assert np.all(np.diff(light[:6]) > 0)


@pytest.mark.parametrize(
    "confusion",
    [  # Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
)
def test_signs_of_differences_are_told_apart_with_colour_blindness(confusion):
    seen = [lab(np.clip(np.array(confusion) @ linear(colour), 0, 1)) for colour in stops("DIVERGING")]
    for place in range(4):  # mirrored stops, from the ends to a small difference
        assert np.linalg.norm(seen[place] - seen[-1 - place]) > 20


def lab(rgb):
    """CIE L*a*b* (D65) of linear sRGB."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(matrix @ rgb / [0.9505, 1, 1.089] + 1e-6)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
