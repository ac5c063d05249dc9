import numpy as np
import pytest
from PIL import Image

from data_prep import patches, slide_base
from data_prep.slide import open_slide
from tests.data_prep.test_tissue import ArraySlide
from tests.data_prep.windows import cut_patches, written_pyramid

pytest.importorskip("tifffile", reason="the extra wsi is not installed")


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


@pytest.mark.parametrize(("px_scale", "times"), [(1.0, 1), (1.9, 1), (2.0, 2), (3.7, 2), (4.0, 4), (9.0, 4)])
def test_coarse_windows_are_cut_from_the_coarsest_level_that_is_fine_enough(px_scale, times, tmp_path, monkeypatch):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 43, 3)).astype(np.uint8))
    pixels = np.asarray(smooth.resize((613, 451), Image.Resampling.BICUBIC))  # multiples of nothing
    levels = written_pyramid(tmp_path / "slide.tif", pixels, times=(2, 4))
    xy = np.array([[300.3, 200.8], [600.0, 5.5]])  # the second reaches beyond two borders
    with open_slide(tmp_path / "slide.tif") as slide:
        read = []
        original = slide._read_level
        monkeypatch.setattr(
            slide, "_read_level", lambda level, *place: (read.append(level), original(level, *place))[1]
        )
        found = list(cut_patches(slide, xy, patch_size_px=48, px_scale=px_scale))
    assert set(read) == {(1, 2, 4).index(times)}
    found = np.array(found, np.int16)
    if px_scale / times > 1:  # as from a slide that is the level
        flat = cut_patches(ArraySlide(levels[times]), xy / times, patch_size_px=48, px_scale=px_scale / times)
        assert np.abs(found - list(flat)).max() <= 1
    whole = np.array(list(cut_patches(ArraySlide(pixels), xy, patch_size_px=48, px_scale=px_scale)), np.int16)
    inside = np.s_[0] if times > 1 else np.s_[:]  # averaged over the border, a level's last pixels are the tissue's
    assert np.abs(found[inside] - whole[inside]).mean() < 1.5  # grey levels: in place to a fraction of a pixel
    if px_scale == 2:
        off = list(cut_patches(ArraySlide(pixels), xy + 1, patch_size_px=48, px_scale=px_scale))
        assert np.abs(found[0] - whole[0]).mean() < np.abs(off[0] - whole[0]).mean() / 4


@pytest.mark.parametrize(
    ("whole", "level", "times"),
    [((613, 451), (306, 225), 2.0), ((613, 451), (307, 226), 2.0), ((100_001, 80_003), (25_000, 20_001), 4.0),
     ((1000, 800), (700, 560), 1000 / 700), ((1000, 800), (500, 560), None)],
)  # fmt: skip
def test_a_levels_scale_is_a_whole_number_where_its_size_allows(whole, level, times):
    assert slide_base._times_coarser(whole, level) == (None if times is None else pytest.approx(times, rel=1e-12))
