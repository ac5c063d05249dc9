"""The order in which windows are read from a slide."""

import numpy as np
import pytest

from data_prep import patches, slide_tiff
from data_prep.slide import open_slide
from tests.data_prep.windows import cut_patches

tifffile = pytest.importorskip("tifffile", reason="the extra wsi is not installed")
SIDE = 3000


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


def decoded(monkeypatch, slide):
    """The segments that are decoded from now on, in order."""
    seen = []
    page = slide._levels[0][0]
    original = page.decode
    monkeypatch.setattr(
        page, "decode", lambda data, index, **options: (seen.append(index), original(data, index, **options))[1]
    )
    return seen


@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 64}])
def test_each_tile_or_strip_is_decoded_about_once(layout, pixels, tmp_path, monkeypatch):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", **layout)
    # A cache that holds a tenth of the slide: what is not read in a good order is decoded again and again.
    monkeypatch.setattr(slide_tiff, "_CACHE_BYTES", pixels.nbytes // 10)
    monkeypatch.setattr(patches, "_CACHE_BYTES", pixels.nbytes // 20)
    grid = np.arange(100, SIDE - 100, 50)
    xy = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2).astype(np.float64)
    times = {}
    for order in ("reading", "shuffled"):
        with open_slide(path) as slide:
            seen = decoded(monkeypatch, slide)
            by = patches.reading_order(slide, xy, window_px=100)
            by = by if order == "reading" else np.random.default_rng(1).permutation(by)
            for _ in cut_patches(slide, xy[by[: len(by) if order == "reading" else 1000]], patch_size_px=100):
                pass
            times[order] = len(seen) / len(set(seen))
    assert times["reading"] < 1.4
    assert times["shuffled"] > 2


def test_reading_order_is_a_permutation_of_any_windows(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "slide.tif", pixels[:500, :700], photometric="rgb", tile=(128, 128))
    xy = np.random.default_rng(0).uniform(0, 500, (97, 2))
    with open_slide(tmp_path / "slide.tif") as slide:
        assert slide.segment_px == (128, 128)
        for window in (1.0, 224.0, 5000.0):
            assert sorted(patches.reading_order(slide, xy, window_px=window)) == list(range(97))
