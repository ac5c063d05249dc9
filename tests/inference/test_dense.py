import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image

from data_prep.errors import InputError
from data_prep.slide import open_slide
from data_prep.spots import Spots
from stjax import models, parallel, views
from stjax.data.panel import Panel
from stjax.inference import dense, dense_map
from stjax.inference.dense_format import CELL_PX
from stjax.inference.dense_map import DenseMap
from stjax.inference.dense_writer import MapWriter
from stjax.models import pixnet, resnet
from stjax.models.expression import to_expression
from stjax.ops.spot_table import spot_table, stack_tables
from stjax.protocols import get_protocol
from stjax.workdir import Run
from tests.inference.fake_predictor import made_fold

GENES, UM = 11, 0.5
WIDTH, HEIGHT = 763, 491  # of the slide, full-resolution px
MARGINS = (192, 64, 32, 8, 0)  # of `make_run`'s model


def make_run(aggregation="mean", *, variant="resnet18", devices=2, seed=0, module="pixnet", **options):
    """A run as training leaves it: random weights, a ResNet of one thin block a stage."""
    rng = np.random.default_rng(seed)
    panel = Panel(
        np.array([f"E{g}" for g in range(GENES)]), np.array([f"G{g}" for g in range(GENES)]), GENES, num_genes=100
    )
    learned = {
        "target_mean": rng.normal(size=GENES),
        "target_std": rng.uniform(0.5, 2, GENES),
        "train_mean": np.zeros(GENES),
        "image_mean": np.full(3, 180.0),
        "image_std": np.full(3, 40.0),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "_WIDTHS", (8, 12, 16, 24))
        patch.setitem(resnet.SPECS, "18", resnet.Spec((1, 1, 1, 1), bottleneck=False))
        options |= {"width": 16, "aggregation": aggregation, "pixels_per_spot": 50.0}
        model = pixnet.build(variant, num_main=GENES, rngs=nnx.Rngs(seed), **options)
    graphdef, params, statistics = models.split(model)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    weights = parallel.put_replicated({"params": params, "statistics": statistics}, mesh)
    protocol = get_protocol("stjax")
    known = {"content_hash": "", "parameters": {}, "image_size_px": 512, "um_per_px": UM, "view": "tiles"}
    fold = made_fold(panel=panel, **known, **learned)
    settings = {"module": module, "variant": variant, "options": {"aggregation": aggregation}}
    config = ConfigDict({"model": settings, "init_from": ""})
    return Run(Path("run"), fold, protocol, mesh, 7, config, graphdef, weights)


@pytest.fixture(scope="module")
def run():
    return make_run()


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """A slide whose sides are no multiples of the stride."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(60, 256, (16, 25, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
    image = np.clip(image + rng.integers(-30, 30, image.shape), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "slide.png"
    Image.fromarray(image).save(path)
    return path


def predict(run, slide_path, out, um_per_px=UM, **options):
    with open_slide(slide_path) as slide:
        return DenseMap.open(dense.predict_dense(run, slide, f"{out}", um_per_px=um_per_px, **options))


def whole(run, slide_path, *, px_scale=1.0):
    """The head's map of the whole padded slide in one pass, [channels, rows, columns], and the padded image."""
    model = nnx.merge(run.graphdef, run.weights["params"], run.weights["statistics"])
    with open_slide(slide_path) as slide:
        source = dense.ScaledSlide(slide, px_scale, None, multiple=32)
        image = source.read(0, 0, source.width, source.height)
    values = jax.jit(lambda x: model.gene_map(views.normalise(x, run.fold)))(image[None])
    return np.moveaxis(np.asarray(values[0]), -1, 0), image


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def digests(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def known_halo(monkeypatch):
    """What `test_halo_covers_the_gradients_support` finds, without finding it again."""
    monkeypatch.setattr(dense, "halo", lambda _: MARGINS)


# ---------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("tile_px", [480, 544, 4096])
@pytest.mark.usefixtures("known_halo")
def test_tiles_of_any_size_give_the_map_of_the_whole_image(run, slide_path, tmp_path, tile_px):
    found = predict(run, slide_path, tmp_path / "map", tile_px=tile_px)
    expected, image = whole(run, slide_path)
    assert image.shape == (512, 768, 3)
    assert (image[HEIGHT:] == 255).all()
    assert found.array.shape == (GENES, 128, 192)
    assert_same(found.array[:], expected)


@pytest.mark.usefixtures("known_halo")
def test_resampled_tiles_give_the_map_of_the_whole_resampled_image(run, slide_path, tmp_path):
    found = predict(run, slide_path, tmp_path / "map", um_per_px=0.37, tile_px=480)
    expected, image = whole(run, slide_path, px_scale=UM / 0.37)
    assert image.shape == (384, 576, 3)  # 491 and 763 px of 0.37 um at 0.5 um, up to multiples of 32
    assert_same(found.array[:], expected)


def test_halo_covers_the_gradients_support(run):
    model = nnx.merge(run.graphdef, run.weights["params"], run.weights["statistics"])
    assert dense.halo(model) == MARGINS
    first, side = 320, 672  # a core of 32 px in the middle
    cells = slice(first // CELL_PX, first // CELL_PX + 8)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(model.gene_map(x)[:, cells, cells] ** 2)))
    image = jax.random.normal(jax.random.key(0), (1, side, side, 3))
    magnitude = np.abs(gradient(image)).max(axis=(0, 3))
    for axis in (0, 1):
        support = np.flatnonzero(magnitude.max(axis=axis))
        reach = max(first - support[0], support[-1] - (first + 31))
        assert MARGINS[0] - 32 < reach <= MARGINS[0]


def test_halo_of_the_papers_network():
    model = pixnet.build("resnet18", num_main=1, width=8, rngs=nnx.Rngs(0))
    assert dense.halo(model) == (288, 64, 32, 8, 0)


def test_encoders_that_see_the_whole_tile_are_refused(slide_path, tmp_path):
    with pytest.raises(InputError, match=r"looks at the whole tile.*resnet18"):
        predict(make_run(variant="efficientnet_tiny"), slide_path, tmp_path / "map")


@pytest.mark.usefixtures("known_halo")
def test_too_small_tiles_and_models_of_patches_are_refused(run, slide_path, tmp_path):
    with pytest.raises(InputError, match="at least 416 px"):
        predict(run, slide_path, tmp_path / "map", tile_px=384)
    patches = models.build(module="resnet", variant="18", num_main=3, num_aux=0, dtype="float32", rngs=nnx.Rngs(0))
    graphdef, params, statistics = models.split(patches)
    of_patches = {"fold": dataclasses.replace(run.fold, view="patches"), "graphdef": graphdef}
    other = dataclasses.replace(run, **of_patches, weights={"params": params, "statistics": statistics})
    with pytest.raises(InputError, match="holds a model of patches"):
        predict(other, slide_path, tmp_path / "map")
    assert not (tmp_path / "map").exists()


@pytest.mark.usefixtures("known_halo")
def test_values_that_are_not_finite_are_no_map(run, slide_path, tmp_path):
    weights = jax.tree.map(lambda leaf: leaf * np.nan, run.weights)
    with pytest.raises(FloatingPointError, match="not finite"):
        predict(dataclasses.replace(run, weights=weights), slide_path, tmp_path / "map")


# --------------------------------------------------------------------------------------------------------- queries

HOLED = [np.array([[300.0, 200], [600, 210], [500, 400], [280, 300]]), np.array([[400, 250], [450, 250], [420, 290]])]
SPOTS = Spots.concatenate(
    [
        Spots.discs([[400.0, 300.0], [256.3, 415.8], [760.5, 488.2]], [60, 2.5, 12]),
        Spots.squares([[256.5, 256.0], [17.25, 30.0]], [16.0, 111.0]),
        Spots.polygons([HOLED, np.array([[700.2, 100.1], [730, 95], [720, 140]])]),
    ]
)


def of_model(run, image, spots):
    """The model's own expression of spots of the slide, on the whole image as one tile."""
    table = spot_table(spots, image_hw=image.shape[:2], grid_hw=(image.shape[0] // 4, image.shape[1] // 4))
    model = nnx.merge(run.graphdef, run.weights["params"], run.weights["statistics"])

    @jax.jit
    def program(image, spots):
        return model(views.normalise(image, run.fold), spots, train=False, key=None)

    found = program(image[None], stack_tables([table]))
    return np.asarray(to_expression(found, run.fold, run.protocol))[0]


@pytest.mark.parametrize("aggregation", ["mean", "sum", "additive"])
@pytest.mark.usefixtures("known_halo")
def test_query_gives_what_the_model_predicts_for_the_spots(slide_path, tmp_path, aggregation):
    run = make_run(aggregation)
    found = predict(run, slide_path, tmp_path / "map", tile_px=544, genes=[4, 1, 0, 2, 3, 10, 9, 8, 7])
    with open_slide(slide_path) as slide:
        image = dense.ScaledSlide(slide, 1.0, None, multiple=32).read(0, 0, 768, 512)
    expected = of_model(run, image, SPOTS)
    assert found.genes == ("G4", "G1", "G0", "G2", "G3", "G10", "G9", "G8", "G7")
    assert_same(found.query(SPOTS), expected[:, [4, 1, 0, 2, 3, 10, 9, 8, 7]])
    assert_same(found.query(SPOTS[3:5], ["G9", "E2"]), expected[3:5, [9, 2]])


def ramps(path, *, px_scale=1.0, aggregation="mean", stop=None, **about):
    """A map of 30 x 50 cells in tiles of 8 x 16; its genes are its own coordinates, in model pixels from the corner."""
    centre = (np.arange(50, dtype=np.float32) + 0.5) * CELL_PX
    values = np.stack(np.broadcast_arrays(centre[None, :], centre[:30, None]))
    about = {
        "format": dense.FORMAT,
        "version": dense.VERSION,
        "genes": ["x", "y"],
        "ensembl_id": ["", "E1"],
        "aggregation": aggregation,
        "target_mean": [0.0, 0.0],
        "target_std": [1.0, 1.0],
        "slide": "ramp.png",
        "width": int(198 * px_scale),
        "height": int(119 * px_scale),
        "px_scale": px_scale,
        **about,
    }
    with MapWriter(path, about, shape=values.shape, core=(8, 16)) as target:
        for tile in range(target.done, target.tiles if stop is None else stop):
            y, x = tile // 4 * 8, tile % 4 * 16
            target.write(values[:, y : y + 8, x : x + 16])
        if stop is None:
            target.finish(name="ramp", channels=["x", "y"], um_per_cell=2.0, um_offset=0.75)
    return path


@pytest.mark.parametrize("px_scale", [1.0, 1.25])
def test_a_spots_mean_on_a_ramp_is_its_centre(tmp_path, px_scale):
    """Wherever a spot's pixels lie evenly around its centre: coordinates count from the image's corner."""
    found = DenseMap.open(ramps(tmp_path / "map", px_scale=px_scale))
    xy = np.array([[64.0, 32.0], [63.5, 77.5], [120.5, 24.5], [35.0, 90.0]])
    parts = [Spots.discs(xy[:3] * px_scale, 11.2 * px_scale), Spots.squares(xy[3:] * px_scale, 20 * px_scale)]
    np.testing.assert_allclose(found.query(Spots.concatenate(parts)), xy, rtol=1e-6)
    outline = np.array([[40, 20], [60, 20], [60, 40], [40, 40]]) * px_scale
    np.testing.assert_allclose(found.query(Spots.polygons([outline]), ["E1", "x"]), [[30, 50]], rtol=1e-6)


def test_many_spots_are_worked_on_in_portions_with_the_same_result(tmp_path, monkeypatch):
    found = DenseMap.open(ramps(tmp_path / "map"))
    rng = np.random.default_rng(0)
    many = Spots.discs(rng.uniform(0, [198, 119], (300, 2)), rng.uniform(0.8, 30, 300))
    spots = Spots.concatenate([many, Spots.discs([[99, 60]], 500)])
    expected = found.query(spots)
    monkeypatch.setattr(dense_map, "_PORTION_CELLS", 50)
    np.testing.assert_allclose(found.query(spots), expected, rtol=1e-6)
    np.testing.assert_allclose(expected[-1], [100, 60], rtol=1e-6)  # it covers the whole padded image


def test_spots_without_a_pixel_are_nan_and_no_spots_are_fine(tmp_path):
    for aggregation in ("mean", "sum"):
        found = DenseMap.open(ramps(tmp_path / aggregation, aggregation=aggregation))
        values = found.query(Spots.discs([[20.5, 20.5], [20.0, 20.0]], 0.2))
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()
        assert found.query(Spots.discs(np.zeros((0, 2)), 1.0)).shape == (0, 2)


def test_spots_beside_the_slide_and_unknown_genes_are_refused(tmp_path):
    found = DenseMap.open(ramps(tmp_path / "map"))
    with pytest.raises(InputError, match=r"outside its slide ramp.png of 198 x 119 px: spot '1' of 2"):
        found.query(Spots.discs([[10.0, 10], [250, 10]], 20))
    with pytest.raises(InputError, match=r"no gene 'xx'; nearest names: x"):
        found.query(SPOTS[:1], ["xx"])


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.usefixtures("known_halo")
def test_killed_and_restarted_prediction_ends_with_the_same_bytes(run, slide_path, tmp_path, monkeypatch):
    expected = predict(run, slide_path, tmp_path / "whole", tile_px=608).path
    out, read, left = tmp_path / "killed", dense.ScaledSlide.read, iter(range(9))

    def killed(self, *window):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(self, *window)

    with monkeypatch.context() as patch:
        patch.setattr(dense.ScaledSlide, "read", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(run, slide_path, out, tile_px=608)
    assert json.loads((out / "progress.json").read_text())["tiles"] == 6
    with pytest.raises(InputError, match=r"is an interrupted map, 6 tiles"):
        DenseMap.open(out)
    predict(run, slide_path, out, tile_px=608)
    assert digests(out) == digests(expected)
    monkeypatch.setattr(dense.ScaledSlide, "read", None)  # a finished map is not computed again
    predict(run, slide_path, out, tile_px=608)
    assert digests(out) == digests(expected)


def test_what_a_kill_left_half_done_is_done_again(tmp_path):
    expected = digests(ramps(tmp_path / "whole"))
    path = ramps(tmp_path / "map", stop=6)
    (path / "0/c/0/1/1").write_bytes((path / "0/c/0/1/1").read_bytes()[:100])  # being written when it was killed
    (path / "0/c/0/1/2").write_bytes(b"")
    (path / "0/c/0/1/2.5c.partial").write_bytes(b"half")
    progress = json.loads((path / "progress.json").read_text())
    (path / "progress.json").write_text(json.dumps(progress | {"tiles": 5}))
    assert digests(ramps(path)) == expected
    # Killed before the first tile, and between the last two steps.
    assert digests(ramps(ramps(tmp_path / "none", stop=0))) == expected
    (path / "progress.json").write_text("{}")
    assert digests(ramps(path)) == expected


@pytest.mark.parametrize("stop", [3, None])
def test_maps_of_something_else_are_not_gone_on_with(tmp_path, stop):
    path = ramps(tmp_path / "map", stop=stop)
    with pytest.raises(InputError, match=r"of something else: aggregation, width differ"):
        ramps(path, aggregation="sum", width=200)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        ramps(tmp_path / "other")
    with pytest.raises(InputError, match="is no dense map"):
        ramps(tmp_path / "other" / "notes.txt")


def test_a_map_larger_than_the_disk_is_warned_of(tmp_path, monkeypatch, capsys):
    with MapWriter(tmp_path / "map", {}, shape=(GENES, 40, 60), core=(20, 30)) as writer:
        writer.check_space()
        assert capsys.readouterr().out == ""
        usage = type("Usage", (), {"free": 4 * GENES * 40 * 60 - 1})
        monkeypatch.setattr("stjax.inference.dense_writer.shutil.disk_usage", lambda _: usage)
        writer.check_space()
        assert "the map of 11 channels may take up to 0.000106 GB" in capsys.readouterr().out
        writer.write(np.ones((GENES, 20, 30), np.float32))
        writer.check_space()
        assert capsys.readouterr().out == ""


def test_one_process_at_a_time_writes_a_map(tmp_path):
    path = ramps(tmp_path / "map", stop=3)
    of = json.loads((path / "progress.json").read_text())["of"]
    with MapWriter(path, of, shape=(2, 30, 50), core=(8, 16)), pytest.raises(InputError, match="another process"):
        ramps(path)
    DenseMap.open(ramps(path))


@pytest.mark.usefixtures("known_halo")
def test_identity_tells_models_slides_and_genes_apart(run, slide_path, tmp_path):
    predict(run, slide_path, tmp_path / "map")
    with pytest.raises(InputError, match=r"else: ensembl_id, genes, target_mean, target_std differ"):
        predict(run, slide_path, tmp_path / "map", genes=[1, 2])
    changed = dataclasses.replace(run, weights=jax.tree.map(lambda leaf: leaf + 1e-6, run.weights))
    with pytest.raises(InputError, match=r"else: model_sha256"):
        predict(changed, slide_path, tmp_path / "map")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "slide.png")
    with pytest.raises(InputError, match="else: data_sha256 differ"):
        predict(run, tmp_path / "slide.png", tmp_path / "map")


def test_damaged_maps_are_refused(tmp_path):
    path = ramps(tmp_path / "map")
    shard = path / "0/c/0/1/2"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    found = DenseMap.open(path)
    assert np.isfinite(found.query(Spots.discs([[10.0, 10]], 5))).all()
    with pytest.raises(InputError, match="the tile at 8, 32 is damaged"):
        found.query(Spots.discs([[150.0, 50]], 5))
    shard.unlink()
    with pytest.raises(InputError, match="1 of 16 parts are missing"):
        DenseMap.open(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"zarr.json is damaged"):
        DenseMap.open(path)
    with pytest.raises(InputError, match="is no dense map"):
        DenseMap.open(tmp_path)


@pytest.mark.usefixtures("known_halo")
def test_map_is_an_ome_zarr_with_scale_names_and_origin(slide_path, tmp_path):
    run = make_run("additive")
    found = predict(run, slide_path, tmp_path / "map", genes=[3, 1], um_per_px=0.4, synthetic=True)
    group: Any = zarr.open_group(tmp_path / "map", mode="r")
    ome, about = group.attrs["ome"], group.attrs["stjax"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "y", "x"]
    assert {axis.get("unit") for axis in ome["multiscales"][0]["axes"][1:]} == {"micrometer"}
    scale, translation = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    np.testing.assert_allclose(scale["scale"], [1, 2.0, 2.0])  # 4 px of 0.5 um
    np.testing.assert_allclose(translation["translation"], [0, 0.8, 0.8])  # of centres: 2 px of 0.5, half of one of 0.4
    values = group["0"][:]
    assert group["0"].dtype == np.float32
    assert [channel["label"] for channel in ome["omero"]["channels"]] == ["G3", "G1", "total of all genes"]
    for channel, plane in zip(ome["omero"]["channels"], values, strict=True):
        assert (channel["window"]["min"], channel["window"]["max"]) == (plane.min(), plane.max())
    assert values.min() > 0
    assert about["synthetic"] is True
    assert (about["checkpoint_step"], about["px_scale"], about["protocol"]) == (7, 1.25, "stjax")
    assert about["data_sha256"] == hashlib.sha256(slide_path.read_bytes()).hexdigest()
    assert len(about["model_sha256"]) == len(about["protocol_sha256"]) == 64
    assert found.about == about


def test_channels_that_do_not_vary_are_known_and_shown_in_one_grey(tmp_path):
    rng = np.random.default_rng(0)
    block = rng.normal(size=(3, 8, 8)).astype(np.float32)
    block[1] = 0.3 + rng.normal(scale=1e-8, size=(8, 8))
    block[2] = 0
    with MapWriter(tmp_path / "map", {"of": "x"}, shape=block.shape, core=(8, 8)) as writer:
        writer.write(block)
        np.testing.assert_array_equal(writer.constant(), [False, True, True])
        writer.finish(name="x", channels=["A", "B", "C"], um_per_cell=1.0, um_offset=0.0)
    ome = json.loads((tmp_path / "map" / "zarr.json").read_text())["attributes"]["ome"]
    varies, same, zero = (channel["window"] for channel in ome["omero"]["channels"])
    assert (varies["start"], varies["end"]) == (varies["min"], varies["max"]) == (block[0].min(), block[0].max())
    for window, value in ((same, 0.3), (zero, 0.0)):
        assert window["start"] < value - 0.1 < value + 0.1 < window["end"]  # rounding errors are no pattern
