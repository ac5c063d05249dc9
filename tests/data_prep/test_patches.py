import numpy as np
import pytest

from data_prep import patches
from tests.data_prep.test_tissue import ArraySlide
from tests.data_prep.windows import cut_patches


@pytest.fixture
def slide() -> ArraySlide:
    return ArraySlide(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))


def test_cut_patches_are_the_slides_own_pixels(slide):
    spots = np.array([[20.0, 30.0], [100.4, 71.6]])
    first, second = cut_patches(slide, spots, patch_size_px=16)
    np.testing.assert_array_equal(first, slide.pixels[22:38, 12:28])
    np.testing.assert_array_equal(second, slide.pixels[64:80, 92:108])


def test_cut_patches_of_odd_size_have_the_spot_in_the_middle_pixel(slide):
    (patch,) = cut_patches(slide, np.array([[20.5, 30.5]]), patch_size_px=5)
    np.testing.assert_array_equal(patch[2, 2], slide.pixels[30, 20])


def test_inside_mask_wants_the_whole_window(slide):
    spots = np.array([[8, 8], [7, 8], [112, 82], [113, 82], [112, 83], [60, 45]], float)
    inside = patches.inside_mask(slide, spots, patch_size_px=16)
    assert inside.tolist() == [True, False, True, False, False, True]


def test_cut_patches_outside_the_image_are_white(slide):
    (patch,) = cut_patches(slide, np.array([[0.0, 0.0]]), patch_size_px=16)
    assert np.all(patch[:8] == 255)
    np.testing.assert_array_equal(patch[8:, 8:], slide.pixels[:8, :8])


@pytest.mark.parametrize("px_scale", [0.5, 1.37, 2.0, 3.0])
def test_cut_patches_resampled_keep_positions_to_a_subpixel(px_scale):
    ramp = np.zeros((200, 300, 3), np.uint8)
    ramp[..., 0] = np.clip(np.arange(300) * 0.8, 0, 255)[None, :]
    ramp[..., 1] = np.arange(200)[:, None]
    spot = np.array([[131.3, 96.8]])
    (patch,) = cut_patches(ArraySlide(ramp), spot, patch_size_px=32, px_scale=px_scale)
    centres = (np.arange(32) + 0.5 - 16) * px_scale
    expected_x = (spot[0, 0] + centres - 0.5) * 0.8
    expected_y = spot[0, 1] + centres - 0.5
    assert patch.shape == (32, 32, 3)
    assert np.abs(patch[..., 0] - expected_x[None, :] + 0.4).max() < 1.1  # the ramp itself is rounded down
    assert np.abs(patch[..., 1] - expected_y[:, None]).max() < 0.8


def test_cut_patches_apply_the_transform_before_resampling(slide):
    spot = np.array([[60.0, 45.0]])
    (plain,) = cut_patches(ArraySlide(255 - slide.pixels), spot, patch_size_px=16, px_scale=2.0)
    (turned,) = cut_patches(slide, spot, patch_size_px=16, px_scale=2.0, transform=lambda region: 255 - region)
    np.testing.assert_array_equal(plain, turned)


def test_cut_window_gives_the_full_resolution_region_with_the_margin_of_the_blur(slide):
    window, region = patches.cut_window(slide, np.array([30.0, 20.0]), size_px=16)
    np.testing.assert_array_equal(region, slide.pixels[18:38, 28:48])
    np.testing.assert_array_equal(window, region[2:-2, 2:-2])
    _, region = patches.cut_window(slide, np.array([30.3, 20.3]), size_px=16, px_scale=2.0)
    assert region.shape == (33 + 4, 33 + 4, 3)
