"""Models of sections: trained, stopped and resumed, scored, predicted from slides, exported."""

import contextlib
import json
from pathlib import Path

import anndata
import jax
import numpy as np
import pytest

from data_prep import build, demo
from data_prep.errors import InputError
from stjax import audit, checkpoint, export, parallel, predict, train, workdir
from stjax.config import built_in
from stjax.data.selection import Selection
from stjax.inference import grid
from stjax.trained import load
from tests.small_encoder import embed

pytestmark = pytest.mark.usefixtures("tiny_sections")
KINDS = {  # needs, and spots of an item
    "whole": ("features+near+grid", 0),
    "images": ("image+grid", 0),
    "some": ("image+features+near+context+bank+genes", 8),
}


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory, small_encoder):
    """Raw sections of four patients, two to train on, and a data set of them with features of nine windows a spot."""
    folder = tmp_path_factory.mktemp("sections")
    source = demo.make_demo(folder / "raw", patients=4, sections_per_patient=1, spots=30)
    build.build(source, folder / "data", patch_size_px=32, image_format="raw", min_counts=0)
    embed(folder / "data", "around", small_encoder, context=3, source=source)
    return source, folder / "data"


def settings(data, weights, variant, per_item, **changed):
    config = built_in("tiny")
    del config.model.options["rematerialise"]
    config.model.update({"module": "tiny_sections", "variant": variant, "aux": False})
    config.update({"data_dir": str(data), "spots_per_item": per_item, "batch_size": 1, "eval_batch_size": 1})
    config.update({"num_epochs": 3, "optimizer": "adamw", "learning_rate": 1e-2})
    if "features" in variant:
        config.update({"features": "around", "encoder_weights": str(weights)})
    config.update(changed)
    return config


@pytest.fixture(scope="module")
def runs(demo_data, small_encoder, tmp_path_factory):
    """Makes, once, the run of each of `KINDS`, on one device."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("runs") / kind
            with devices(1):
                train.train(settings(demo_data[1], small_encoder, *KINDS[kind]), made[kind])
        return made[kind]

    return run


@contextlib.contextmanager
def devices(count):
    """While entered, there are so many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "all_devices", lambda: jax.devices()[:count])
        yield patch


def predicted(folder):
    return {path.stem: anndata.read_h5ad(path) for path in sorted(folder.glob("*.h5ad"))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_scored_beside_the_ridges_and_audited(runs, kind, capsys):
    folder = runs(kind)
    metrics = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())
    assert {"model", "ridge_colour"} <= set(metrics["methods"])
    assert "ridge_features" in metrics["methods"]
    (found,) = predicted(folder / "predictions").values()
    assert np.ptp(found.X, axis=0).max() > 0
    audit.main([f"--workdir={folder}"])
    assert "statistics" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_it_ends_with_the_same_bits(runs, kind, demo_data, small_encoder, tmp_path, capsys):
    save, whole = checkpoint.save, runs(kind)

    def then_stop(*given):
        save(*given)
        raise SystemExit(9)

    config = settings(demo_data[1], small_encoder, *KINDS[kind])
    with devices(1) as patch:
        patch.setattr(checkpoint, "save", then_stop)
        with pytest.raises(SystemExit):
            train.train(config, tmp_path)
    capsys.readouterr()
    with devices(1):
        train.train(config, tmp_path)
        one, other = workdir.Run.load(whole), workdir.Run.load(tmp_path)
    assert "resumes at step" in capsys.readouterr().out
    assert one.model_sha256 == other.model_sha256
    for name, found in predicted(whole / "predictions").items():
        np.testing.assert_array_equal(found.X, predicted(tmp_path / "predictions")[name].X)


@pytest.mark.parametrize("kind", KINDS)
def test_spots_are_predicted_from_their_slide_as_from_the_data_set_by_run_and_export(runs, kind, demo_data, tmp_path):
    folder, (source, _) = runs(kind), demo_data
    ((section, of_data),) = predicted(folder / "predictions").items()
    export.export(folder, tmp_path / "exported")
    for model, out in ((folder, tmp_path / "by_run"), (tmp_path / "exported", tmp_path / "by_export")):
        with devices(1):
            predict.predict(model, source, out, sections=[section], options=with_weights(folder, of=model))
        found = predicted(out)[section][of_data.obs_names]
        np.testing.assert_allclose(found.X, of_data.X, atol=1e-4)


def with_weights(folder, *, of):
    """What an exported model is predicted with: the encoder's weights of the run's training, where it had any."""
    weights = json.loads((folder / "config.json").read_text())["encoder_weights"]
    return predict.Options(weights=Path(weights) if weights and of != folder else None)


def test_an_export_takes_any_number_of_spots_and_has_no_encoder(runs, tmp_path):
    folder = runs("whole")
    with pytest.raises(InputError, match="without an encoder in front; leave out --head-only"):
        export.export(folder, tmp_path / "head", head_only=True)
    export.export(folder, tmp_path / "out")
    exported, run = load(tmp_path / "out"), workdir.Run.load(folder)
    assert exported.model_sha256 == run.model_sha256
    assert "are not in this folder" in (tmp_path / "out" / "LICENSE_NOTE.md").read_text()
    dataset = run.open_dataset()
    items = run.view.open(Selection(dataset, run.fold.split.test, run.protocol, train=False), run.fold.panel)
    size = exported.batch_size
    batch = items.windows.inputs(np.zeros((1, 0), np.uint8), [0], size)
    expected = np.asarray(run.predict(batch)["expression"])[0]
    more = {name: np.pad(each, [(0, 0), (0, 64)] + [(0, 0)] * (each.ndim - 2)) for name, each in batch.items()}
    found = np.asarray(exported.predict(more)["expression"])[0]
    np.testing.assert_allclose(found[:64], expected, atol=1e-5)
    with pytest.raises(InputError, match="--symmetries is for images"):
        exported.over_symmetries()


def test_bare_slides_have_a_lattice_of_their_own_and_need_the_encoder(runs, demo_data, small_encoder, tmp_path):
    scale = load(runs("whole")).fold.um_per_px
    slide = next(path for path in sorted(demo_data[0].rglob("*")) if path.suffix in (".jpg", ".tif", ".png"))
    options = predict.Options(array=grid.PRESETS["visium"])
    with pytest.raises(InputError, match=r"its array has .* places, those of the data set"):
        predict.predict(runs("whole"), slide, tmp_path / "fine", um_per_px=scale, options=options)
    export.export(runs("some"), tmp_path / "exported")
    with pytest.raises(InputError, match="predicts images with that encoder's weights"):
        predict.predict(tmp_path / "exported", slide, tmp_path / "none", um_per_px=scale)
    options = predict.Options(weights=small_encoder)
    with devices(1):
        predict.predict(tmp_path / "exported", slide, tmp_path / "out", um_per_px=scale, options=options)
    (found,) = predicted(tmp_path / "out").values()
    assert {"array_row", "array_col"} <= set(found.obs)
    assert np.ptp(found.X, axis=0).max() > 0


@pytest.mark.parametrize("kind", ["some", pytest.param("images", marks=pytest.mark.slow)])
def test_any_number_of_devices_trains_alike(kind, demo_data, small_encoder, tmp_path):
    variant, per_item = KINDS[kind]
    losses = {}
    for count in (1, 2, 4, 8):
        config = settings(demo_data[1], small_encoder, variant, per_item or 9, batch_size=8, log_every_steps=1)
        with devices(count):
            train.train(config, tmp_path / str(count))
        entries = [
            json.loads(line) for line in (tmp_path / str(count) / "logs" / "train.jsonl").read_text().splitlines()
        ]
        losses[count] = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses[1]) > 3
    for count in (2, 4, 8):
        np.testing.assert_allclose(losses[count], losses[1], rtol=1e-5)
