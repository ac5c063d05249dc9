"""Dense maps of models whose encoder looks at whole windows: the same whatever the tiles."""

import numpy as np
import pytest

from data_prep.errors import InputError
from stjax.inference import dense
from tests.inference.test_dense import assert_same, make_run, predict, slide_path, whole
from tests.models.test_pixnet_encoders import TOKENS, WINDOW, small_encoders

__all__ = ["slide_path", "small_encoders"]  # fixtures


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        *((name, {}) for name in (*TOKENS, "swin")),
        ("t14", {"pyramid": "taps"}),
        ("efficientnet_tiny", {"window_px": WINDOW}),
    ],
)
def test_tiles_give_the_map_of_the_whole_image(slide_path, tmp_path, variant, options):
    run = make_run(variant=variant, **options)
    expected, image = whole(run, slide_path)
    assert image.shape == (512, 768, 3)  # whole windows
    found = predict(run, slide_path, tmp_path / "map", tile_px=320)
    plan = dense.Plan.of(run.network(), (512, 768), 320)
    assert all(axis.count > 1 for axis in plan.axes)
    starts = [start for axis in plan.axes for tile in range(axis.count) for start in axis.starts(tile)[:1]]
    assert not np.any(np.array(starts) % WINDOW)
    assert_same(found.array[:], expected)


def test_an_encoder_that_sees_the_whole_tile_is_refused_and_windows_are_named(slide_path, tmp_path):
    with pytest.raises(InputError, match=r"looks at the whole tile .*window_px=256"):
        predict(make_run(variant="efficientnet_b0"), slide_path, tmp_path / "map")
