"""A model of tiles from the command lines: trained at one size of spot, scored at others, applied to raw slides."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from data_prep import build, demo
from data_prep.errors import InputError
from stjax import train
from tests.conftest import command

SMALL = (
    "--config=configs/pixnet_tiny.py",
    "--config.batch_size=4",
    "--config.num_epochs=2",
    "--config.learning_rate=1e-3",
    "--config.schedule=constant",
)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Visium HD sections of two patients, raw; as tiles that hold a patch of 32 px around every bin; and as patches."""
    folder = tmp_path_factory.mktemp("slides")
    demo.make_demo(folder / "raw", layout="visium_hd", patients=2, sections_per_patient=1, spots=3)
    build.build(folder / "raw", folder / "tiles", tile_size_px=128, context_px=32, min_counts=0, image_format="raw")
    build.build(folder / "raw", folder / "patches", patch_size_px=32, min_counts=0, bin_um=[16])
    return folder


@pytest.fixture(scope="module")
def run(slides, cache):
    """A run trained on spots of 40 um, which the data does not have."""
    folder = slides / "run"
    arguments = (*SMALL, f"--config.data_dir={slides / 'tiles'}", "--config.spot_sizes_um=40", f"--workdir={folder}")
    result = command("stjax.train", *arguments, cache=cache)
    return folder, result.stdout


METHODS = {"model", "ridge_colour", "total_counts", "mean", "nearest_measured"}


def test_training_on_made_spots_scores_the_held_out_slide(run):
    folder, printed = run
    assert "spots of 40 um (trained on)" in printed
    data = json.loads((folder / "data.json").read_text())
    assert (data["view"], data["facts"]["sizes_um"]) == ("tiles", [40.0])
    scores = json.loads((folder / "evaluation" / "pixnet" / "metrics.json").read_text())
    assert scores["sections"] == ["B1_040um"]
    assert set(scores["methods"]) == METHODS
    raw = scores["targets"]["raw"]["methods"]["model"]
    assert raw["amae"] > 0  # a model of rates predicts counts, so its prediction has raw units too


@pytest.mark.slow
def test_evaluation_at_every_size_beside_the_nearest_spot_and_a_model_of_patches(run, slides, cache):
    folder, _ = run
    patch_run = slides / "patch_run"
    small = ("--config.batch_size=16", "--config.num_epochs=1", "--config.model.aux=False", "--config.protocol=pixnet")
    patches = f"--config.data_dir={slides / 'patches'}"
    command("stjax.train", "--config=configs/tiny.py", patches, *small, f"--workdir={patch_run}", cache=cache)
    sizes = (
        "--spot-size-um=2,8,16,40",
        "--max-spots=60",
        f"--beside={patch_run}",
        "--symmetries",
        f"--demo-truth={slides / 'raw'}",
    )
    result = command("stjax.evaluate", f"--workdir={folder}", *sizes, cache=cache)
    path = next(line for line in result.stdout.splitlines() if line.endswith("metrics.json"))
    scores = json.loads(Path(path).read_text())
    assert scores["mean_over_symmetries"]
    assert scores["truth"] == "demo_cells"
    by_size = scores["sizes_um"]
    assert set(by_size) == {"2", "8", "16", "40"}
    for size, figures in by_size.items():
        assert figures["trained_on"] == (size == "40")
        assert 0.01 < figures["total_ratio"] < 100
        beside = {"patch_model"} if size == "40" else {"patch_model", "nearest_spot"}
        assert set(figures["methods"]) == METHODS | beside
        assert figures["methods"]["model"]["mse"] > 0


def test_evaluation_of_some_spots_leaves_the_runs_own_results_alone(run, cache):
    folder, _ = run
    own = [folder / "evaluation/pixnet/metrics.json", folder / "evaluation/pixnet/per_gene.csv"]
    own += sorted((folder / "predictions").iterdir()) + sorted(folder.glob("intervals.json"))
    before = {path: path.read_bytes() for path in own}
    result = command("stjax.evaluate", f"--workdir={folder}", "--max-spots=15", cache=cache)
    assert {path: path.read_bytes() for path in own} == before
    path = Path(next(line for line in result.stdout.splitlines() if line.endswith("metrics.json")))
    assert f"Not the run's own evaluation (--max-spots): kept apart, in {path.parent}" in result.stdout
    assert json.loads(path.read_text())["spots"] == 15


@pytest.mark.slow
def test_prediction_of_the_raw_slide_equals_that_of_its_tiles(run, slides, cache, tmp_path):
    folder, _ = run
    result = command("stjax.evaluate", f"--workdir={folder}", "--spot-size-um=16", "--max-spots=0", cache=cache)
    arguments = (f"--source={slides / 'raw'}", f"--out={tmp_path}", "--sections=B1_016um")
    command("stjax.predict", f"--workdir={folder}", *arguments, cache=cache)
    raw = anndata.read_h5ad(tmp_path / "B1_016um.h5ad")
    prepared = anndata.read_h5ad(next(line for line in result.stdout.splitlines() if line.endswith("B1_016um.h5ad")))
    assert sorted(raw.obs_names) == sorted(prepared.obs_names)
    prepared = prepared[raw.obs_names]
    np.testing.assert_allclose(raw.X, prepared.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(raw.layers["truth"], prepared.layers["truth"], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "data", "arguments", "message"),
    [
        ("pixnet_tiny", "patches", (), "is a model of tiles, .* holds patches; build the data set with --tile-size-px"),
        (
            "tiny",
            "tiles",
            ("--config.protocol=pixnet",),
            "of patches, .* holds tiles; build .* with --patch-size-px",
        ),
        ("pixnet_tiny", "tiles", ("--config.model.aux=True",), "pixnet has no AuxNet"),
        ("pixnet_tiny", "tiles", ("--config.spot_sizes_um=3",), "no spot of 3 um in section"),
        ("pixnet_tiny", "tiles", ("--config.spot_sizes_um=-3",), "config.spot_sizes_um is '-3'"),
        ("pixnet_tiny", "tiles", ("--config.loss=mse",), "config.loss is 'mse'; choose additive_nll"),
        ("pixnet_tiny", "tiles", ("--config.model.options.aggregation=max",), "choose sum, mean, additive"),
        ("tiny", "patches", ("--config.protocol=pixnet", "--config.spot_sizes_um=8"), "spot_sizes_um is for tiles"),
    ],
)
def test_what_does_not_fit_is_refused(slides, tmp_path, config, data, arguments, message):
    flags = [f"--config=configs/{config}.py", f"--config.data_dir={slides / data}", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(InputError, match=message):
        train.main([*flags, *arguments])
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_dense_map_of_an_encoder_that_sees_the_whole_tile_is_refused(run, slides, cache, tmp_path):
    arguments = (f"--workdir={run[0]}", f"--source={slides / 'raw'}", f"--out={tmp_path}", "--sections=B1_016um")
    result = command("stjax.predict", *arguments, "--dense", cache=cache, check=False)
    assert result.returncode == 2
    assert "encoder looks at the whole tile" in result.stderr
    assert not list(tmp_path.glob("*.zarr"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spots"), [("pixnet", 6), ("pixnet_hd", 1)])
def test_shipped_config_trains_scores_and_finds_itself_finished(name, spots, cache, tmp_path):
    """The models as they are, ResNet18 and a decoder of width 512, on a few tiles."""
    arguments = (
        f"--config=configs/{name}.py", "--config.demo.patients=3", f"--config.demo.spots={spots}",
        "--config.num_epochs=1", "--config.batch_size=2", f"--workdir={tmp_path / name}",
    )  # fmt: skip
    first = command("stjax.train", *arguments, cache=cache).stdout
    scores = json.loads((tmp_path / name / "evaluation" / "pixnet" / "metrics.json").read_text())
    assert scores["methods"]["model"]["pcc_median"] is not None
    assert set(scores["sizes_um"]) == ({"2", "8", "16"} if name == "pixnet_hd" else {"100"})
    assert "is finished" in command("stjax.train", *arguments, cache=cache).stdout
    assert "spots of" in first
