from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

from data_prep import tissue
from data_prep.slide_base import Slide


class ArraySlide(Slide):
    """A slide held in memory."""

    def __init__(self, pixels: np.ndarray):
        super().__init__(Path("array"), pixels.shape[1], pixels.shape[0], None, pixels.size)
        self.pixels = pixels
        self.read_pixels = 0

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        assert level == 0
        self.read_pixels += width * height
        return self.pixels[y : y + height, x : x + width]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)


def test_to_grey_is_rounded_luma(pixels):
    exact = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(tissue.to_grey(pixels) - exact).max() <= 0.51
    assert tissue.to_grey(np.full((1, 1, 3), 255, np.uint8)) == 255


def test_blur_is_the_binomial_kernel_at_the_extremes_and_in_between(pixels):
    grey = tissue.to_grey(pixels)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])
    exact = scipy.ndimage.convolve(grey.astype(np.int64), kernel)[2:-2, 2:-2]
    np.testing.assert_array_equal(tissue.blur(grey), (exact + 128) // 256)
    assert np.all(tissue.blur(np.full((9, 9), 255, np.uint8)) == 255)


@pytest.mark.parametrize("strip_pixels", [47 * 7, 47 * 61, 10])
def test_grey_histogram_does_not_depend_on_the_strips(pixels, strip_pixels, monkeypatch):
    monkeypatch.setattr(tissue, "STRIP_PIXELS", strip_pixels)
    whole = tissue.blur(np.pad(tissue.to_grey(pixels), 2, mode="reflect"))
    np.testing.assert_array_equal(tissue.grey_histogram(ArraySlide(pixels)), np.bincount(whole.ravel(), minlength=256))


def test_grey_histogram_of_a_huge_slide_is_sampled(pixels, monkeypatch):
    monkeypatch.setattr(tissue, "STRIP_PIXELS", 47)
    monkeypatch.setattr(tissue, "MAX_HISTOGRAM_PIXELS", 47 * 61 // 4)
    assert tissue.grey_histogram(ArraySlide(pixels)).sum() < 47 * 61 / 3


def test_grey_histogram_applies_the_stain_transform_first(pixels):
    inverted = tissue.grey_histogram(ArraySlide(pixels), transform=lambda region: 255 - region)
    np.testing.assert_array_equal(inverted, tissue.grey_histogram(ArraySlide(255 - pixels)))


def test_otsu_threshold_maximises_the_between_class_variance():
    rng = np.random.default_rng(1)
    values = np.clip(np.concatenate([rng.normal(90, 20, 3000), rng.normal(220, 8, 2000)]), 0, 255).astype(int)
    histogram = np.bincount(values, minlength=256)

    def between(threshold: int) -> float:
        dark, bright = values[values <= threshold], values[values > threshold]
        return len(dark) * len(bright) * (dark.mean() - bright.mean()) ** 2 if len(dark) and len(bright) else 0

    assert tissue.otsu_threshold(histogram) == max(range(256), key=between)


def test_otsu_threshold_of_one_level_is_a_number():
    assert tissue.otsu_threshold(np.bincount([7, 7], minlength=256)) == 0


def test_white_fraction_counts_the_window_without_its_margin():
    window = np.zeros((14, 14, 3), np.uint8)
    window[:, 7:] = 255
    assert tissue.white_fraction(window, 127) == 0.5
    assert tissue.white_fraction(window, 255) == 0


def test_grey_blur_and_otsu_equal_opencv(pixels):
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with the extra `stain`")
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(tissue.to_grey(pixels), grey)
    blurred = cv2.GaussianBlur(grey, (5, 5), 0)
    threshold, binary = cv2.threshold(blurred, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    histogram = tissue.grey_histogram(ArraySlide(pixels))
    np.testing.assert_array_equal(histogram, np.bincount(blurred.ravel(), minlength=256))
    assert tissue.otsu_threshold(histogram) == threshold
    assert tissue.white_fraction(pixels, int(threshold)) == np.mean(binary[2:-2, 2:-2] > 0)
