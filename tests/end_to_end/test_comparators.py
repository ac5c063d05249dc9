"""Each published model of sections: trained by its config, scored, predicted from a slide by run and by export."""

import json

import anndata
import jax
import numpy as np
import pytest

from data_prep import build, demo
from stjax import export, parallel, predict, train
from stjax.config import built_in
from stjax.models import weight_files
from tests.small_encoder import embed

CONFIGS = {  # what makes them small; which keep training expression
    "histogene": ({"variant": "pixels_tiny", "options": {"crop_px": 0}}, False),
    "triplex": ({"variant": "tiny", "options": {"backbone": "efficientnet_tiny"}}, False),
    "egn": ({"variant": "tiny"}, True),
    "eggn": ({"variant": "tiny"}, True),
    "sgn": ({"variant": "tiny"}, False),
    "sgn_zero_shot": ({"variant": "tiny", "options": {"drawn": 16}}, False),
    "bleep": ({"options": {"k": 5}}, True),
    "bleep_trained": ({"options": {"k": 5, "backbone": "resnet18"}}, True),
}
OF_IMAGES = ("histogene", "bleep_trained")  # alone
SPOTS = 30


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory, small_encoder):
    """Raw sections of four patients, two to train on, and a data set of them with features of nine windows a spot."""
    folder = tmp_path_factory.mktemp("comparators")
    source = demo.make_demo(folder / "raw", patients=4, sections_per_patient=1, spots=SPOTS)
    build.build(source, folder / "data", patch_size_px=32, image_format="raw", min_counts=0)
    embed(folder / "data", "around", small_encoder, context=3, source=source)
    return source, folder / "data"


def settings(name, data, weights):
    config, (model, _) = built_in(name), CONFIGS[name]
    config.model.update(model)
    size = 8 if config.spots_per_item == 1 else 1
    config.update({"data_dir": str(data), "batch_size": size, "eval_batch_size": size, "num_epochs": 2})
    if name not in OF_IMAGES:
        config.update({"features": "around", "encoder_weights": str(weights)})
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_trained_scored_exported_and_predicts_a_slide(name, demo_data, small_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "all_devices", lambda: jax.devices()[:1])
    source, data = demo_data
    train.train(settings(name, data, small_encoder), tmp_path / "run")
    assert (tmp_path / "run" / "evaluation" / "stjax" / "metrics.json").is_file()
    (of_data,) = (tmp_path / "run" / "predictions").glob("*.h5ad")
    wanted = anndata.read_h5ad(of_data)
    assert np.isfinite(wanted.X).all()
    assert np.std(wanted.X, axis=0).max() > 0
    export.export(tmp_path / "run", tmp_path / "exported")
    options = predict.Options(weights=None if name in OF_IMAGES else small_encoder)
    for model, given in ((tmp_path / "run", predict.Options()), (tmp_path / "exported", options)):
        out = tmp_path / f"by_{model.name}"
        predict.predict(model, source, out, sections=[of_data.stem], options=given)
        found = anndata.read_h5ad(out / of_data.name)[wanted.obs_names]
        np.testing.assert_allclose(found.X, wanted.X, rtol=1e-3, atol=1e-4)
    card = " ".join((tmp_path / "exported" / "MODEL_CARD.md").read_text().split())
    kept = weight_files.read(tmp_path / "exported" / "weights.safetensors").get("params.bank.targets")
    assert (kept is not None) == CONFIGS[name][1] == ("Measured expression travels with the weights" in card)
    assert kept is None or f"the targets of {len(kept)} training spots" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "bleep_trained"])  # its ResNet takes minutes
def test_any_number_of_devices_trains_it_alike(name, demo_data, small_encoder, tmp_path, monkeypatch):
    losses = {}
    for count in (1, 2, 4, 8):
        monkeypatch.setattr(parallel, "all_devices", lambda of=count: jax.devices()[:of])
        config = settings(name, demo_data[1], small_encoder)
        config.update({"batch_size": 8, "eval_batch_size": 8, "optimizer": "sgd", "log_every_steps": 1})
        train.train(config, tmp_path / str(count))
        log = (tmp_path / str(count) / "logs" / "train.jsonl").read_text().splitlines()
        losses[count] = [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]
    assert len(losses[1]) >= 2
    for count in (2, 4, 8):
        np.testing.assert_allclose(losses[count], losses[1], rtol=1e-4)
