import numpy as np

from stjax import baselines
from stjax.ops.colour import colour_statistics


def test_statistics_on_the_device_are_those_of_the_baseline():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 33, 33, 3)).astype(np.uint8)
    images[1] = np.clip(images[1] // 2 + np.arange(33)[:, None, None] * 3, 0, 255)  # a gradient
    images[2, ..., 1] = 90  # a channel of one value
    found = np.asarray(colour_statistics(images))
    assert (found.shape, found.dtype) == ((3, 30), np.float32)
    np.testing.assert_allclose(found, baselines.colour_statistics(images), rtol=2e-4, atol=2e-4)


def test_an_image_of_one_colour_has_no_correlations():
    found = np.asarray(colour_statistics(np.full((1, 8, 8, 3), 200, np.uint8)))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0, -3:], 0)
