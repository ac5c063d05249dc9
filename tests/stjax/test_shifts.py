import io

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from stjax import shifts
from stjax.shifts import STAINS, Seen, Shift

OWN = np.array([[0.55, 0.75, 0.37], [0.15, 0.93, 0.33]])
OWN /= np.linalg.norm(OWN, axis=1, keepdims=True)
SEEN = Seen(um_per_px=0.5, stains=OWN)


@pytest.fixture(scope="module")
def images():
    """uint8 [2, 40, 33, 3], smooth, of the colours of tissue."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2, 40, 33, 2)), (0, 2, 2, 0))
    amounts = np.clip(0.5 + 0.25 * noise / noise.std(), 0.05, 1.2)
    return (255 * np.exp(-amounts @ OWN)).astype(np.uint8)


def rows(pair):
    """[3, 3] unit rows: a pair of stains and what is orthogonal to both."""
    three = np.stack([*np.asarray(pair, np.float64), np.cross(*np.asarray(pair, np.float64))])
    return three / np.sqrt(np.square(three).sum(axis=1, keepdims=True))


FORMULAS = {
    "stain": lambda x, pair: 255 * np.exp(np.log(x / 255) @ np.linalg.inv(rows(OWN)) @ rows(pair)),
    "intensity": lambda x, factor: 255 * (x / 255) ** factor,
    "brightness": lambda x, factor: x * factor,
    "gamma": lambda x, power: 255 * (x / 255) ** power,
    "blur": lambda x, um: scipy.ndimage.gaussian_filter(
        x, (0, um / 0.5, um / 0.5, 0), mode="nearest", radius=(0, int(np.ceil(6 * um)), int(np.ceil(6 * um)), 0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("shift", shifts.every({}), ids=lambda shift: shift.title)
def test_each_shift_is_its_formula(shift, images):
    found = shift.apply(images, SEEN)
    assert found.dtype == np.uint8
    assert found.shape == images.shape
    if shift.kind not in FORMULAS:
        return  # of scale and JPEG: below
    expected = np.clip(np.round(FORMULAS[shift.kind](images.astype(np.float64), shift.value)), 0, 255)
    assert np.abs(found - expected).max() <= 1  # float32 rounds otherwise at the last bit
    assert np.mean(found != expected) < 0.1
    assert np.mean(found != images) > 0.5


@pytest.mark.parametrize("name", STAINS)
def test_other_stains_and_back_are_the_image_again(name, images):
    there = Shift("stain", name, STAINS[name]).apply(images, SEEN)
    back = Shift("stain", "own", OWN).apply(there, Seen(0.5, rows(STAINS[name])[:2]))
    inside = np.all((there > 20) & (there < 255), axis=-1)  # neither cut off nor so dark that a grey level is much
    assert inside.mean() > 0.9
    assert np.abs(back[inside].astype(int) - images[inside]).max() <= 8
    assert np.abs(back[inside].astype(int) - images[inside]).mean() < 1


def test_at_least_twelve_pairs_of_stains_are_published_and_no_two_the_same():
    pairs = np.stack([rows(pair)[:2] for pair in STAINS.values()])
    assert len(pairs) >= 12
    assert (pairs[:, 0, 0] > pairs[:, 1, 0]).all()  # haematoxylin absorbs more of the red
    apart = np.abs(pairs[:, None] - pairs[None]).max(axis=(2, 3))
    assert apart[~np.eye(len(pairs), dtype=bool)].min() > 0.005
    assert all(name in shifts.__doc__ or name.rsplit(" ", 1)[1] in shifts.__doc__ for name in STAINS)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("", None), ("stain", OWN), ("intensity", 1), ("brightness", 1), ("gamma", 1), ("blur", 0), ("scale", 1)],
)
def test_the_middle_of_each_kind_leaves_every_bit(kind, value, images):
    np.testing.assert_array_equal(Shift(kind, "none", value).apply(images, SEEN), images)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_enlarging_keeps_the_middle_and_mirrors_at_the_edge(factor, images):
    found = Shift("scale", "", factor).apply(images, SEEN)
    places = [(np.arange(size) - (size - 1) / 2) / factor + (size - 1) / 2 for size in images.shape[1:3]]
    grid = np.meshgrid(*places, indexing="ij")
    for image, result in zip(images, found, strict=True):
        for channel in range(3):
            expected = scipy.ndimage.map_coordinates(image[..., channel].astype(float), grid, order=1, mode="mirror")
            assert np.abs(result[..., channel] - expected).max() <= 1


def test_compression_is_what_a_file_leaves_and_less_of_it_the_lower_the_quality(images):
    errors = []
    for quality, name in shifts.STRENGTHS["jpeg"]:
        found = Shift("jpeg", name, quality).apply(images, SEEN)
        file = io.BytesIO()
        Image.fromarray(images[1]).save(file, "JPEG", quality=quality)  # Pillow's default halves colours too
        np.testing.assert_array_equal(found[1], np.asarray(Image.open(file)))
        errors.append(np.square(found.astype(float) - images).mean())
    assert 0 < errors[0] < errors[1] < errors[2]
