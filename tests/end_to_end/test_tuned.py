"""A published encoder in the graph, most of it frozen: trained, killed, resumed, exported; all from files on disk."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from data_prep import build, demo, files
from data_prep.slide import open_slide
from stjax import checkpoint, encoders, export, parallel, predict, report, train
from stjax.config import built_in
from stjax.inference.dense import predict_dense
from stjax.inference.dense_map import DenseMap
from stjax.models import weight_files
from stjax.trained import load
from stjax.workdir import Run
from tests.models.test_encoder_weights import FORMS, SMALL, released
from tests.report.html_reading import Page

FORM = "registers c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two patients as patches of 24 px, which the encoder does not take as they are, and weights in float16."""
    folder = tmp_path_factory.mktemp("tuned")
    demo.make_demo(folder / "raw", patients=2, sections_per_patient=1, spots=16)
    build.build(folder / "raw", folder / "data", patch_size_px=24)
    tensors = {name: array.astype(np.float16) for name, array in released("timm", FORM).items()}
    weight_files.write_safetensors(folder / "w.safetensors", tensors, metadata={})
    return folder


@pytest.fixture(scope="module", autouse=True)
def small():
    """Shrunken encoders, of patches of 8 px, and of 14 px where a window is 64 px of a tile; and one device."""
    entry = dataclasses.replace(encoders.ENCODERS["uni"], network=SMALL | FORMS[FORM], px=32)
    network = SMALL | FORMS[FORM] | {"patch_px": 14}
    make_mesh = parallel.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoders.ENCODERS, "small", entry)
        patch.setitem(encoders.ENCODERS, "small_14", dataclasses.replace(entry, network=network, px=56))
        patch.setattr(parallel, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
        yield


def settings(folder, **options):
    config = built_in("encoder_tuned")
    values = {"data_dir": str(folder / "data"), "batch_size": 8, "eval_batch_size": 8, "num_epochs": 2}
    config.update(values | {"ema_decay": 0.9, "optimizer": "adamw", "learning_rate": 0.01, "max_gradient_norm": 1.0})
    config.model.variant, config.init_from = "small", str(folder / "w.safetensors")
    config.model.options.update(options)
    return config


def saved(run):
    """The arrays of the newest checkpoint, by place."""
    files = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))[-1] / "state"
    with checkpoint._checkpointer() as checkpointer:
        tree = checkpointer.restore(files.absolute())
    return {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def run(folder):
    train.train(settings(folder), folder / "run")
    return folder / "run"


def test_frozen_weights_keep_their_bits_and_have_nothing_of_the_optimiser(run, folder):
    arrays = saved(run)
    frozen = {place: array for place, array in arrays.items() if "['statistics']" in place}
    assert len(frozen) > 20
    with weight_files.opened(folder / "w.safetensors") as stored:
        kernel = stored["blocks.1.mlp.fc1.weight"].read().T
    found = next(array for place, array in frozen.items() if "['1']['mlp1']['kernel']" in place)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, kernel)
    of_backbone = {place for place in arrays.keys() - frozen.keys() if "backbone" in place}
    assert of_backbone
    assert all("['update']" in place for place in of_backbone)


def test_results_name_the_encoder_the_weights_it_began_with_and_their_licence(run, folder, tmp_path):
    said = json.loads((run / "evaluation" / "stjax" / "metrics.json").read_text())["encoder"]
    assert said["weights_sha256"] == files.sha256(folder / "w.safetensors")
    report.report([run], tmp_path / "report.html")
    shown = f"EncoderUNI, {said['trained']}, weights SHA-256 {said['weights_sha256'][:12]}. Licence: CC-BY-NC-ND-4.0: "
    assert said["trained"].startswith("low-rank updates (LoRA, rank 8")
    assert shown in Page((tmp_path / "report.html").read_text()).visible


def killed_and_resumed(config, folder, monkeypatch):
    """Trains until the first checkpoint is saved, and again to the end, without the weights file."""
    save, saves = checkpoint.save, []

    def stop_after_one(*arguments):
        save(*arguments)
        saves.append(arguments[1])
        if len(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop_after_one)
    weights = Path(config.init_from)
    with pytest.raises(KeyboardInterrupt):
        train.train(config, folder)
    moved = weights.rename(weights.with_name("elsewhere.safetensors"))
    try:
        train.train(config, folder)
    finally:
        moved.rename(weights)
    assert len(saves) == 2


def assert_same_bits(run, other):
    expected, found = saved(run), saved(other)
    assert expected.keys() == found.keys()
    for place, array in expected.items():
        assert array.dtype == found[place].dtype, place
        np.testing.assert_array_equal(found[place], array, err_msg=place)


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not_and_needs_the_weights_no_more(
    run, folder, tmp_path, monkeypatch
):
    killed_and_resumed(settings(folder), tmp_path / "run", monkeypatch)
    assert_same_bits(run, tmp_path / "run")


def test_the_images_are_normalised_as_the_encoder_was_and_not_as_the_data_is(run):
    data = json.loads((run / "data.json").read_text())
    np.testing.assert_allclose(data["normalisation"]["mean"], 255 * np.array(encoders.IMAGENET[0]))
    np.testing.assert_allclose(data["normalisation"]["std"], 255 * np.array(encoders.IMAGENET[1]))
    assert np.abs(np.array(data["panel"]["image_mean"]) - data["normalisation"]["mean"]).max() > 10


def test_the_export_holds_merged_weights_and_says_how_the_encoder_was_trained(run, folder, tmp_path):
    export.export(run, tmp_path / "model")
    ours, exported = Run.load(run), load(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3)).astype(np.uint8)
    expected = np.asarray(ours.predict({"image": images})["expression"])
    np.testing.assert_allclose(exported.predict({"image": images})["expression"], expected, rtol=1e-5, atol=1e-5)
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(exported.network(), nnx.Param))}
    assert "backbone.blocks.1.attention.qkv.kernel" in paths
    assert not any("update" in path for path in paths)
    with weight_files.opened(tmp_path / "model" / "backbone.safetensors") as stored:
        assert "blocks.1.attn.qkv.weight" in stored
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "tune" not in config["model"]["options"]
    assert config["training"]["tuning"]["rank"] == 8
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert (
        "* Encoder: UNI, low-rank updates (LoRA, rank 8, alpha 8) of attention.qkv,attention.out in all blocks" in card
    )
    for name in ("MODEL_CARD.md", "LICENSE_NOTE.md"):
        assert "CC-BY-NC-ND-4.0: research alone" in (tmp_path / "model" / name).read_text()
    predict.predict(tmp_path / "model", folder / "raw", tmp_path / "out", sections=["B1"])
    assert (tmp_path / "out" / "B1.h5ad").exists()


def test_pixnet_over_an_encoder_is_trained_killed_resumed_exported_and_gives_maps(tmp_path, monkeypatch):
    demo.make_demo(tmp_path / "raw", layout="visium_hd", patients=2, sections_per_patient=1, spots=3)
    build.build(tmp_path / "raw", tmp_path / "data", tile_size_px=128, context_px=32, min_counts=0, image_format="raw")
    tensors = {name: array.astype(np.float16) for name, array in released("timm", FORM, patch=14).items()}
    weight_files.write_safetensors(tmp_path / "w.safetensors", tensors, metadata={})
    config = built_in("pixnet_encoder")
    values = {"data_dir": str(tmp_path / "data"), "batch_size": 4, "eval_batch_size": 4, "num_epochs": 2}
    config.update(values | {"learning_rate": 1e-3, "spot_sizes_um": "40", "init_from": str(tmp_path / "w.safetensors")})
    config.model.variant = "small_14"
    config.model.options.update({"width": 8, "tune": "lora", "rank": 2})
    train.train(config, tmp_path / "whole")
    killed_and_resumed(config, tmp_path / "run", monkeypatch)
    assert_same_bits(tmp_path / "whole", tmp_path / "run")

    export.export(tmp_path / "run", tmp_path / "model")
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "* Encoder: UNI, low-rank updates (LoRA, rank 2" in card
    sha256 = files.sha256(tmp_path / "w.safetensors")
    assert f"SHA-256 of its weights file `{sha256}`" in card
    report.report([tmp_path / "run"], tmp_path / "report.html")
    assert f"weights SHA-256 {sha256[:12]}. Licence: CC-BY" in Page((tmp_path / "report.html").read_text()).visible
    path = next(path for path in (tmp_path / "raw").rglob("*") if path.suffix in (".png", ".jpg", ".tif"))
    maps = []
    for name, tile_px in (("run", 320), ("model", 1536)):
        trained = load(tmp_path / name)
        with open_slide(path) as slide:
            out = tmp_path / f"{name}.ome.zarr"
            predict_dense(trained, slide, out, um_per_px=trained.fold.um_per_px, tile_px=tile_px)
        maps.append(DenseMap.open(out).array[:])
    scale = np.abs(maps[0]).max()
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5 * scale)
    predict.predict(tmp_path / "model", tmp_path / "raw", tmp_path / "out", sections=["B1_016um"])
    assert (tmp_path / "out" / "B1_016um.h5ad").exists()
