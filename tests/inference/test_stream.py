import time

import numpy as np
import pytest

from data_prep import patches, slide_tiff
from data_prep.slide import open_slide
from stjax.inference import stream
from tests.inference.fake_predictor import SIZE_PX, MeanColour

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
    monkeypatch.setattr(stream, "_CACHE_BYTES", pixels.nbytes // 20)
    grid = np.arange(100, SIDE - 100, 50)
    xy = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2).astype(np.float64)
    times = {}
    for order in ("reading", "shuffled"):
        with open_slide(path) as slide:
            seen = decoded(monkeypatch, slide)
            by = stream.reading_order(slide, xy, window_px=100)
            by = by if order == "reading" else np.random.default_rng(1).permutation(by)
            for _ in patches.cut_patches(slide, xy[by[: len(by) if order == "reading" else 1000]], patch_size_px=100):
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
            assert sorted(stream.reading_order(slide, xy, window_px=window)) == list(range(97))


def test_results_come_in_order_and_no_further_ahead_than_asked():
    started = []

    def slow(item):
        started.append(item)
        time.sleep(0.002 * (item % 3))
        return item

    results = stream.ahead(slow, range(40), threads=3, most=6)
    assert next(results) == 0
    assert max(started) < 6
    assert list(results) == list(range(1, 40))


def test_what_goes_wrong_in_a_thread_is_raised_and_the_rest_given_up():
    done = []

    def work(item):
        if item == 5:
            raise ValueError("slide")
        time.sleep(0.002)
        done.append(item)

    with pytest.raises(ValueError, match="slide"):
        list(stream.ahead(work, range(1000), threads=2, most=20))
    assert len(done) < 60


@pytest.mark.parametrize("count", [1, 8, 19])
def test_patches_are_predicted_in_order_whatever_the_last_batch_holds(count):
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    found = np.concatenate(list(stream.predict_patches(MeanColour(), iter(images), count)))
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), rtol=1e-6)


def test_the_mean_and_deviation_over_symmetries_are_those_of_the_eight():
    class Corner(MeanColour):
        def predict(self, batch):
            return {"expression": batch["image"][:, :1, 0].astype(np.float32)}

    images = np.zeros((3, SIZE_PX, SIZE_PX, 3), np.uint8)
    images[:, 0, 0], images[:, 0, -1], images[:, -1, 0], images[:, -1, -1] = 10, 20, 30, 80
    (found,) = stream.predict_symmetries(Corner(), images, 3)
    corners = np.array([10, 20, 30, 80])  # each comes to the first place twice
    np.testing.assert_allclose(found["expression"], np.full((3, 3), corners.mean()))
    np.testing.assert_allclose(found["symmetry_sd"], np.full((3, 3), corners.std()))
