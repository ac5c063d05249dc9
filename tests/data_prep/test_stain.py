"""Stain normalisation: exact against definitions, the same bytes whatever the region, staintools as the oracle."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from PIL import Image

from data_prep import stain
from data_prep.colour import colour_counts, lab_from_rgb, pack, percentile, rgb_from_lab, unpack
from data_prep.errors import InputError
from data_prep.slide import open_slide
from data_prep.stain_vectors import concentrations, dictionary_cost, macenko_stains, vahadane_stains

HER2ST = Path(__file__).resolve().parents[2] / "../shared/data/her2st/ST-imgs/C"
METHODS = ("vahadane", "macenko", "reinhard")
STAINS = np.array([[0.65, 0.70, 0.29], [0.27, 0.89, 0.36]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


def tissue(seed: int, *, strength: tuple[float, float] = (1.6, 0.9), light: float = 245, side: int = 160) -> np.ndarray:
    """uint8 [side, side, 3]: eosin everywhere, nuclei of haematoxylin, a third of bare glass."""
    random = np.random.default_rng(seed)
    amount = np.zeros((side, side, 2))
    amount[..., 1] = strength[1] * random.uniform(0.2, 1.0, (side, side))
    nuclei = random.random((side, side)) < 0.3
    amount[..., 0] = nuclei * strength[0] * random.uniform(0.4, 1.0, (side, side))
    amount[nuclei, 1] *= random.random(nuclei.sum()) < 0.5
    amount[: side // 3] = 0
    return np.clip(light * np.exp(-amount @ STAINS) + random.normal(0, 1, (side, side, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("slides")
    images = {"source": tissue(1, strength=(0.8, 0.4), light=225), "target": tissue(2)}
    for name, pixels in images.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in images}


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def normaliser(slides, method: str = "vahadane", **options) -> stain.Normaliser:
    fitted = stain.fit_transform_for(method, slides["source"], slides["target"], **options)
    assert fitted is not None
    return fitted


# The parts


def test_colour_counts_are_those_of_the_pixels(slides):
    with open_slide(slides["source"]) as slide:
        colours, counts = colour_counts(slide)
    expected, times = np.unique(pixels_of(slides["source"]).reshape(-1, 3), axis=0, return_counts=True)
    np.testing.assert_array_equal(colours, expected)
    np.testing.assert_array_equal(counts, times)


def test_colour_counts_of_a_huge_slide_come_from_spread_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.colour._BLOCK_PX", 10)
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[..., 0] = np.arange(100)[:, None]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        colours, counts = colour_counts(slide, max_pixels=1500)
    assert counts.sum() == 1500
    assert colours[:, 0].min() < 10
    assert colours[:, 0].max() >= 90


@pytest.mark.parametrize("q", [0, 1, 50, 95, 99, 99.9, 100])
def test_percentile_equals_numpys_on_repeated_values(q):
    random = np.random.default_rng(0)
    values, weight = random.normal(size=200), random.integers(1, 50, 200)
    assert percentile(values, weight, q) == pytest.approx(np.percentile(np.repeat(values, weight), q), abs=1e-12)
    assert percentile(np.array([3.0]), np.array([1]), q) == 3.0


def test_pack_and_unpack_are_inverse():
    colours = np.random.default_rng(0).integers(0, 256, (1000, 3), np.uint8)
    np.testing.assert_array_equal(unpack(pack(colours)), colours)


def test_lab_of_known_colours():
    rgb = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255], [128, 128, 128]], np.uint8)
    # L*, a*, b* of the sRGB primaries under D65: (100, 0, 0), (0, 0, 0), (53.2, 80.1, 67.2), (32.3, 79.2, -107.9), 53.6
    expected = [[255, 128, 128], [0, 128, 128], [136, 208, 195], [82, 207, 20], [137, 128, 128]]
    np.testing.assert_allclose(lab_from_rgb(rgb), expected, atol=1)
    np.testing.assert_allclose(rgb_from_lab(lab_from_rgb(rgb)), rgb, atol=3)


@pytest.mark.parametrize("penalty", [0.0, 0.01, 0.1, 1.0])
def test_concentrations_equal_non_negative_least_squares_with_a_penalty(penalty):
    random = np.random.default_rng(3)
    density = random.uniform(0, 2, (300, 3))
    found = np.stack(concentrations(density, STAINS, penalty), axis=1)
    # |x - c D|^2 / 2 + penalty sum(c) is least squares after completing the square along D's rows.
    shift = penalty * np.linalg.solve(STAINS @ STAINS.T, np.ones(2)) @ STAINS
    expected = np.stack([scipy.optimize.nnls(STAINS.T, x - shift)[0] for x in density])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (found == 0).any()


def densities(seed: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    amount = random.gamma(2, 0.5, (3000, 2)) * (random.random((3000, 2)) < [0.5, 0.7])
    density = amount @ STAINS + random.normal(0, noise, (3000, 3))
    kept = density.sum(axis=1) > 0.3
    return np.maximum(density[kept], 1e-6), random.integers(1, 9, kept.sum()).astype(float)


@pytest.mark.parametrize("method", [vahadane_stains, macenko_stains])
def test_known_stains_are_recovered(method):
    found = method(*densities(noise=0.005))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    angles = np.degrees(np.arccos(np.clip((found * STAINS).sum(axis=1), -1, 1)))
    assert angles.max() < 3


def test_vahadane_reaches_a_minimum_whatever_the_perturbation():
    density, weight = densities(noise=0.05)
    found = vahadane_stains(density, weight)
    lowest = dictionary_cost(density, weight, found)
    random = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1, 0.5):
        for _ in range(20):
            other = np.maximum(found + random.normal(0, size, (2, 3)), 0)
            other /= np.linalg.norm(other, axis=1, keepdims=True)
            assert dictionary_cost(density, weight, other) >= lowest - 1e-12


def test_weights_stand_for_repeated_pixels():
    density, weight = densities(noise=0.02)
    repeated = np.repeat(density, weight.astype(int), axis=0)
    for method in (vahadane_stains, macenko_stains):
        np.testing.assert_allclose(method(density, weight), method(repeated, np.ones(len(repeated))), atol=1e-5)


# A slide


@pytest.mark.parametrize("method", METHODS)
def test_normalised_slide_has_the_colours_of_the_target(slides, method):
    tissue_rows = slice(160 // 3 + 1, None)
    source, target = pixels_of(slides["source"])[tissue_rows], pixels_of(slides["target"])[tissue_rows]
    luminosity = stain.fit_profile(slides["target"], method).luminosity
    goal = stain.standardise_luminosity(target.reshape(-1, 3), luminosity).mean(axis=0)
    after = normaliser(slides, method)(source).reshape(-1, 3).mean(axis=0)
    assert np.abs(after - goal).max() < 6
    assert np.abs(source.reshape(-1, 3).mean(axis=0) - goal).max() > 15


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_normalised_to_itself_hardly_changes(slides, method):
    same = stain.fit_transform_for(method, slides["target"], slides["target"], standardise="none")
    before = pixels_of(slides["target"])
    difference = np.abs(same(before).astype(int) - before)
    assert difference.mean() < 2.5


@pytest.mark.parametrize("method", METHODS)
def test_any_region_gives_the_bytes_of_the_whole(slides, method):
    pixels = pixels_of(slides["source"])
    whole = normaliser(slides, method)(pixels)
    fresh = normaliser(slides, method)
    for y, x, h, w in ((0, 0, 1, 1), (100, 30, 37, 53), (159, 0, 1, 160), (17, 90, 64, 64)):
        np.testing.assert_array_equal(fresh(pixels[y : y + h, x : x + w]), whole[y : y + h, x : x + w])
    np.testing.assert_array_equal(np.concatenate([fresh(pixels[y : y + 7]) for y in range(0, 160, 7)]), whole)


def test_table_equals_the_computation_for_any_colour(slides):
    fitted = normaliser(slides)
    colours = np.random.default_rng(5).integers(0, 256, (5000, 3), np.uint8)
    colours[:3] = [[0, 0, 0], [255, 255, 255], [0, 255, 0]]
    np.testing.assert_array_equal(fitted(colours), fitted.map_colours(colours))
    np.testing.assert_array_equal(fitted(colours), fitted(colours))


def test_input_is_left_alone_and_may_be_a_view(slides):
    pixels = pixels_of(slides["source"]).copy()
    pixels[0] = 0
    before = pixels.copy()
    fitted = normaliser(slides)
    flipped = fitted(pixels[::-1, ::2])
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(flipped, fitted(pixels)[::-1, ::2])
    with pytest.raises(ValueError, match="uint8"):
        fitted(pixels.astype(np.float32))


def test_fit_and_bytes_repeat_in_other_processes_and_thread_counts(slides):
    program = (
        "import sys, hashlib; from data_prep import stain; from data_prep.slide import open_slide;"
        "n = stain.fit_transform_for('vahadane', *sys.argv[1:3]);"
        "print(n.digest, hashlib.sha256(n(open_slide(sys.argv[1]).read_region(0, 0, 160, 160))).hexdigest())"
    )
    paths = [str(slides["source"]), str(slides["target"])]
    printed = {
        subprocess.run(
            [sys.executable, "-c", program, *paths],
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(printed) == 1
    assert printed.pop().startswith(normaliser(slides).digest)


def test_saved_normaliser_is_the_same_data(slides, tmp_path):
    fitted = normaliser(slides)
    fitted.save(tmp_path / "stain.json")
    loaded = stain.load_normaliser(tmp_path / "stain.json")
    assert (loaded.source, loaded.target, loaded.digest) == (fitted.source, fitted.target, fitted.digest)
    assert json.loads((tmp_path / "stain.json").read_text())["source"]["image"] == "source.png"
    pixels = pixels_of(slides["source"])
    np.testing.assert_array_equal(loaded(pixels), fitted(pixels))
    sent = pickle.dumps(fitted)  # to a worker process: the numbers, not the table
    assert len(sent) < 4000
    np.testing.assert_array_equal(pickle.loads(sent)(pixels), fitted(pixels))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "stjax-stain", "format_version": 2}', "\x00\x01"])
def test_loading_anything_else_is_refused(tmp_path, text):
    (tmp_path / "stain.json").write_text(text)
    with pytest.raises(InputError, match="not a saved stain normaliser"):
        stain.load_normaliser(tmp_path / "stain.json")
    with pytest.raises(InputError, match="not a saved stain normaliser"):
        stain.load_normaliser(tmp_path / "absent.json")


def test_luminosity_standardisation_makes_the_background_white(slides):
    pixels = pixels_of(slides["source"])
    profile = stain.fit_profile(slides["source"], "vahadane")
    white = stain.standardise_luminosity(pixels.reshape(-1, 3), profile.luminosity).reshape(pixels.shape)
    assert pixels[:40].mean() < 226
    assert white[:40].mean() > 250
    assert stain.fit_profile(slides["source"], "vahadane", standardise=False).luminosity is None


def test_standardise_chooses_the_slides(slides):
    for choice, source, target in (("both", True, True), ("target", False, True), ("none", False, False)):
        fitted = normaliser(slides, standardise=choice)
        assert (fitted.source.luminosity is not None, fitted.target.luminosity is not None) == (source, target)


def test_target_may_be_a_fitted_profile_or_an_open_slide(slides):
    expected = normaliser(slides).digest
    profile = stain.fit_profile(slides["target"], "vahadane")
    with open_slide(slides["source"]) as source, open_slide(slides["target"]) as target:
        assert stain.fit_transform_for("vahadane", source, profile).digest == expected
        assert stain.fit_transform_for("vahadane", source, target).digest == expected


def test_before_after_puts_both_side_by_side(slides):
    fitted = normaliser(slides)
    with open_slide(slides["source"]) as slide:
        panel = stain.before_after(slide, fitted, max_side_px=80)
        before = slide.thumbnail(80)
    assert panel.shape[0] == 80
    np.testing.assert_array_equal(panel[:, :80], before)
    np.testing.assert_array_equal(panel[:, -80:], fitted(before))


# What a user may get wrong


def test_none_needs_nothing():
    assert stain.fit_transform_for("none", "absent.png", None) is None


def test_unknown_names_are_refused(slides):
    with pytest.raises(InputError, match="vahadane, macenko"):
        stain.fit_transform_for("vahadan", slides["source"], slides["target"])
    with pytest.raises(InputError, match="needs a target"):
        stain.fit_transform_for("vahadane", slides["source"], None)
    with pytest.raises(InputError, match="expected both, target or none"):
        stain.fit_transform_for("vahadane", slides["source"], slides["target"], standardise="all")
    with pytest.raises(InputError, match="no such file"):
        stain.fit_transform_for("vahadane", slides["source"], "absent.png")


def test_profiles_of_two_methods_do_not_mix(slides):
    profiles = [stain.fit_profile(slides["target"], m) for m in ("vahadane", "reinhard")]
    with pytest.raises(InputError, match="same method"):
        stain.Normaliser(*profiles)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((100, 100, 3), 255, np.uint8), "0 tissue pixels"),
        (np.zeros((100, 100, 3), np.uint8), "black"),
        (np.full((100, 100, 3), (230, 228, 231), np.uint8), "0 tissue pixels"),
        (tissue(0)[:1, :1], "tissue pixels"),
        (tissue(0)[100:110, :20], "tissue pixels"),
        (np.repeat(np.linspace(40, 255, 100).astype(np.uint8)[:, None, None], 100, 1).repeat(3, 2), "two stains"),
    ],
    ids=["white", "black", "glass", "one pixel", "tiny", "grey"],
)
def test_degenerate_slide_is_refused_with_its_name(tmp_path, method, pixels, message):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(InputError) as caught:
        stain.fit_profile(tmp_path / "a.png", method)
    assert str(tmp_path / "a.png") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("method", ["vahadane", "macenko"])  # Reinhard needs spread, which one colour and white have
def test_one_colour_does_not_tell_two_stains_apart(tmp_path, method):
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[50:] = (120, 60, 160)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="two stains"):
        stain.fit_profile(tmp_path / "a.png", method)


def test_staintools_method_without_the_package_names_the_extra(slides, monkeypatch):
    monkeypatch.setitem(sys.modules, "staintools", None)
    with pytest.raises(InputError, match=r"stjax\[stain\]"):
        stain.fit_profile(slides["source"], "staintools")


# staintools as the oracle


@pytest.fixture(scope="module")
def staintools():
    pytest.importorskip("spams", reason="the extra stain is not installed")
    return pytest.importorskip("staintools", reason="the extra stain is not installed")


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> dict[str, Path]:
    """1000 x 1000 px of real tissue with some background: C2 and C3."""
    places = {"source": ("C2", 4300, 6800), "target": ("C3", 2700, 4100)}
    folder, found = tmp_path_factory.mktemp("crops"), {}
    for name, (section, x, y) in places.items():
        images = sorted((HER2ST / section).glob("*.jpg"))
        if not images:
            pytest.skip("../shared/data/her2st is absent")
        with open_slide(images[0]) as slide:
            Image.fromarray(slide.read_region(x, y, 1000, 1000)).save(folder / f"{name}.png")
        found[name] = folder / f"{name}.png"
    return found


def standardised(staintools, path: Path) -> np.ndarray:
    return staintools.LuminosityStandardizer.standardize(pixels_of(path).copy())


def mean_difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second).mean())


def test_lab_equals_opencvs_eight_bits():
    cv2 = pytest.importorskip("cv2", reason="the extra stain is not installed")
    colours = np.random.default_rng(0).integers(0, 256, (200_000, 3), np.uint8)
    expected = cv2.cvtColor(colours[None], cv2.COLOR_RGB2LAB)[0]
    difference = np.abs(lab_from_rgb(colours) - expected)
    np.testing.assert_array_equal(difference[:, 0], 0)
    assert difference.mean() < 1e-3
    back = cv2.cvtColor(expected[None], cv2.COLOR_LAB2RGB)[0]
    assert mean_difference(rgb_from_lab(expected.astype(float)), back) < 0.1


def test_luminosity_standardisation_equals_staintools(staintools, crops):
    ours = stain.standardise_luminosity(
        pixels_of(crops["source"]).reshape(-1, 3), stain.fit_profile(crops["source"], "reinhard").luminosity
    )
    assert mean_difference(ours, standardised(staintools, crops["source"]).reshape(-1, 3)) < 0.1


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_deterministic_methods_equal_staintools(staintools, crops, method):
    oracle = staintools.ReinhardColorNormalizer() if method == "reinhard" else staintools.StainNormalizer(method)
    oracle.fit(standardised(staintools, crops["target"]))
    expected = oracle.transform(standardised(staintools, crops["source"]))
    ours = stain.fit_transform_for(method, crops["source"], crops["target"])(pixels_of(crops["source"]))
    assert mean_difference(ours, expected) < 0.3


def test_given_the_same_stains_the_output_equals_staintools(staintools, crops):
    from staintools.miscellaneous.get_concentrations import get_concentrations

    fitted = stain.fit_transform_for("staintools", crops["source"], crops["target"])
    source, target = fitted.source, fitted.target
    amounts = {
        name: get_concentrations(standardised(staintools, crops[name]), np.array(profile.stains))
        for name, profile in (("source", source), ("target", target))
    }
    for name, profile in (("source", source), ("target", target)):
        np.testing.assert_allclose(np.percentile(amounts[name], 99, axis=0), profile.strength, rtol=0.03)
    scaled = amounts["source"] * np.array(target.strength) / np.array(source.strength)
    pixels = pixels_of(crops["source"])
    expected = (255 * np.exp(-scaled @ np.array(target.stains))).astype(np.uint8).reshape(pixels.shape)
    assert mean_difference(fitted(pixels), expected) < 0.2


def test_vahadane_minimises_what_staintools_only_approaches(staintools, crops):
    """staintools stops after a second of wall clock; the longer it may run, the nearer it comes to ours."""
    import spams
    from staintools.stain_extraction.vahadane_stain_extractor import VahadaneStainExtractor

    target = standardised(staintools, crops["target"])
    pixels = target.reshape(-1, 3)[lab_from_rgb(target.reshape(-1, 3))[:, 0] < 204]
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    density, weight = -np.log(np.maximum(colours, 1) / 255), counts.astype(float)
    ours = vahadane_stains(density, weight)
    theirs = VahadaneStainExtractor.get_stain_matrix(target.copy())
    longer = spams.trainDL(
        X=np.asfortranarray(-np.log(np.maximum(pixels, 1) / 255).T),
        K=2,
        lambda1=0.1,
        mode=2,
        modeD=0,
        posAlpha=True,
        posD=True,
        verbose=False,
        iter=1000,
        batchsize=8192,
    ).T
    longer = longer[np.argsort(-longer[:, 0])]
    costs = [dictionary_cost(density, weight, stains) for stains in (ours, longer, theirs)]
    assert costs == sorted(costs)
    assert np.abs(longer - ours).max() < np.abs(theirs - ours).max()
    assert np.abs(longer - ours).max() < 0.005


# A whole slide: minutes of nothing but reading, so only on request


@pytest.mark.slow
def test_full_slide_is_fast_small_and_repeatable():
    slides = [next(iter(sorted((HER2ST / s).glob("*.jpg"))), None) for s in ("C2", "C3")]
    if None in slides:
        pytest.skip("../shared/data/her2st is absent")
    command = [sys.executable, "-m", "stjax.benchmarks.stain", "--source", slides[0], "--target", slides[1]]
    done = subprocess.run([*command, "--staintools-runs", "0"], capture_output=True, text=True, check=True)
    runs = [line.split() for line in done.stdout.splitlines() if line.startswith("stjax")]
    assert len(runs) == 2
    assert runs[0][-1] == runs[1][-1]  # the same bytes
    assert max(float(run[6]) for run in runs) < 1.0  # GB
