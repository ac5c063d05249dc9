import numpy as np
import pytest
from PIL import Image

from data_prep.errors import InputError
from data_prep.slide import open_slide
from stjax.inference import grid

GLASS, PINK, VIOLET = (242, 240, 244), (225, 150, 190), (120, 70, 150)


def slide_of(pixels, path):
    noise = np.random.default_rng(0).integers(-4, 5, pixels.shape)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path)
    return open_slide(path)


def glass(width, height):
    return np.broadcast_to(np.array(GLASS), (height, width, 3)).copy()


@pytest.fixture
def slide(tmp_path):
    """900 x 700 px, tissue in a rectangle whose left half is the paler."""
    pixels = glass(900, 700)
    pixels[200:520, 300:500] = PINK
    pixels[200:520, 500:740] = VIOLET
    with slide_of(pixels, tmp_path / "slide.png") as opened:
        yield opened


def lay(slide, *, spot_um=40.0, pitch_um=80.0, pattern="square", um_per_px=2.0, **options):
    return grid.lay_grid(slide, grid.Array(spot_um, pitch_um, pattern), um_per_px=um_per_px, **options)


def test_spots_lie_on_tissue_and_only_there(slide):
    spots = lay(slide, pitch_um=30.0, min_tissue=0.5)
    x, y = spots.xy.T
    # Half of a disc is inside when its centre is; the mask's pixels are 5 um, 2.5 px, and blurred over five of them.
    assert ((x > 292) & (x < 748) & (y > 192) & (y < 528)).all()
    every = lay(slide, pitch_um=30.0, min_tissue=0.0).xy
    within = (np.abs(every - [520, 360]) < [212, 152]).all(axis=1)
    assert set(map(tuple, every[within])) <= set(map(tuple, spots.xy))
    assert len(spots) < len(every)


def test_a_higher_share_of_tissue_keeps_spots_off_the_edge(slide):
    inner = lay(slide, pitch_um=10.0, min_tissue=1.0).xy
    assert (inner >= [300 + 10 - 3, 200 + 10 - 3]).all()
    assert (inner <= [740 - 10 + 3, 520 - 10 + 3]).all()


def test_square_grid_has_the_pitch_asked_for_and_is_centred(slide):
    spots = lay(slide, pitch_um=100.0, min_tissue=0.0)
    assert np.array_equal(np.unique(np.diff(np.unique(spots.xy[:, 0]))), [50.0])
    assert len(spots) == 18 * 14
    np.testing.assert_allclose((spots.xy.min(axis=0) + spots.xy.max(axis=0)) / 2, [450, 350])
    assert spots.id[0] == "0x0"
    assert spots.id[-1] == "17x13"
    assert len(set(spots.id)) == len(spots)


@pytest.mark.parametrize("name", ["visium", "st"])
def test_presets_have_the_published_pitch_and_neighbours(slide, name):
    array = grid.PRESETS[name]
    spots = grid.lay_grid(slide, array, um_per_px=2.0, min_tissue=0.0)
    apart = np.linalg.norm(spots.xy[:, None] - spots.xy[None], axis=2) * 2.0
    middle = np.argmin(np.linalg.norm(spots.xy - [450, 350], axis=1))
    assert np.isclose(apart[middle], array.pitch_um, rtol=1e-9).sum() == {"visium": 6, "st": 4}[name]
    assert np.sort(apart[middle])[1] == pytest.approx(array.pitch_um)


def test_whole_windows_lie_inside_the_image(slide):
    spots = lay(slide, pitch_um=20.0, min_tissue=0.0, window_px=224.0)
    assert (spots.xy >= 112).all()
    assert (spots.xy <= [900 - 112, 700 - 112]).all()
    assert spots.xy[:, 0].min() < 112 + 10  # and the grid reaches as far as they allow


def test_tissue_that_fills_the_image_is_all_tissue(tmp_path):
    pixels = np.broadcast_to(np.array(PINK), (300, 300, 3)).copy()
    pixels[100:160] = VIOLET
    with slide_of(pixels, tmp_path / "crop.png") as crop:
        assert len(lay(crop)) == len(lay(crop, min_tissue=0.0))


@pytest.mark.parametrize("kind", ["blank", "vignetted", "black"])
def test_a_slide_without_tissue_is_refused(tmp_path, kind):
    pixels = glass(300, 300) if kind != "black" else np.zeros((300, 300, 3), int)
    if kind == "vignetted":
        pixels[:, :150] -= 60
    with slide_of(pixels, tmp_path / "empty.png") as empty, pytest.raises(InputError, match="no spot on tissue"):
        lay(empty)


def test_what_a_scanner_left_black_is_no_tissue(tmp_path):
    pixels = glass(600, 300)
    pixels[:, :200] = 0
    pixels[100:200, 400:500] = PINK
    with slide_of(pixels, tmp_path / "padded.png") as padded:
        x, y = lay(padded).xy.T
    assert ((x > 390) & (x < 510) & (y > 90) & (y < 210)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pitch_um": 0.0}, "pitch_um is 0.0, expected a positive number"),
        ({"spot_um": float("nan")}, "spot_um is nan"),
        ({"pattern": "round"}, "pattern is 'round'"),
        ({"min_tissue": 1.5}, "min_tissue is 1.5"),
        ({"window_px": 701.0}, "a window of 701 px does not fit"),
        ({"spot_um": 1500.0}, "a window of 750 px does not fit"),
        ({"pitch_um": 0.01}, "expected at most 10,000,000"),
    ],
)
def test_sizes_that_cannot_be_are_refused(slide, options, message):
    with pytest.raises(InputError, match=message):
        lay(slide, **options)
