import time

import numpy as np
import pytest

from stjax.inference import stream
from stjax.views import Windows
from tests.inference.fake_predictor import SIZE_PX, MeanColour


def test_results_come_in_order_and_no_further_ahead_than_asked():
    started = []

    def slow(item):
        started.append(item)
        time.sleep(0.002 * (item % 3))
        return item

    results = stream.ahead(slow, range(40), most=6)
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
        list(stream.ahead(work, range(1000), most=20))
    assert len(done) < 60


@pytest.mark.parametrize("count", [1, 8, 19])
def test_patches_are_predicted_in_order_whatever_the_last_batch_holds(count):
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    windows, asked = Windows(np.arange(count + 1)), []

    def image(item):
        asked.append(item)
        return images[item]

    found = np.concatenate([part["expression"] for part in stream.predict(MeanColour(), windows, image, "patches")])
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), rtol=1e-6)
    assert asked == list(range(count))


def test_the_mean_and_deviation_over_symmetries_are_those_of_the_eight():
    class Corner(MeanColour):
        def predict(self, batch):
            return {"expression": batch["image"][:, :1, 0].astype(np.float32)}

    images = np.zeros((3, SIZE_PX, SIZE_PX, 3), np.uint8)
    images[:, 0, 0], images[:, 0, -1], images[:, -1, 0], images[:, -1, -1] = 10, 20, 30, 80
    found = list(stream.predict_symmetries(Corner(), Windows(np.arange(4)), images.__getitem__, "patches"))
    assert len(found) == 3
    corners = np.array([10, 20, 30, 80])  # each comes to the first place twice
    for part in found:
        np.testing.assert_allclose(part["expression"], np.full((1, 3), corners.mean()))
        np.testing.assert_allclose(part["symmetry_sd"], np.full((1, 3), corners.std()))
