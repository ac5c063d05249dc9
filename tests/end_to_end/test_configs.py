"""Every shipped config of a model of patches trains two steps, saves, resumes, evaluates and predicts.

Those of tiles (PixNet) have `test_tiles.py`, those of features `test_probe.py`.
"""

import gc
import json
from pathlib import Path

import anndata
import jax
import numpy as np
import pytest

from data_prep import build, demo
from stjax import checkpoint, models, parallel, predict, train
from stjax.config import built_in
from stjax.models import weights

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "default"))
OF_PATCHES = [name for name in CONFIGS if models.view_of(built_in(name).model.module) == "patches"]


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Two patients, one section of a few spots each, patches of 96 px; and the raw sections."""
    folder = tmp_path_factory.mktemp("patches")
    source = demo.make_demo(folder / "source", patients=2, sections_per_patient=1, spots=12)
    build.build(source, folder / "data", patch_size_px=96)
    return source, folder / "data"


def test_there_is_a_config_for_each_model_of_the_papers():
    backbones = {"resnet101", "inception_v3", "vit_b16", "vit_b32", *(f"enet_b{i}" for i in range(6))}
    assert {f"{name}_aux" for name in backbones} | {"stnet_densenet121", "enet_lite0_pretrained"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_differs_from_the_default_only_in_keys_it_knows(name):
    config = built_in(name)
    assert set(config.to_dict()) == set(built_in("default").to_dict())


def small_run(name, data):
    config = built_in(name)
    config.update({"data_dir": str(data), "batch_size": 8, "eval_batch_size": 8, "num_epochs": 2})
    return config


@pytest.fixture
def one_device(monkeypatch):
    """Eight replicas of a ViT and its optimiser are 8 GB, and thirteen models' compiled programs as much again."""
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
    yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", OF_PATCHES)
def test_config_trains_saves_resumes_evaluates_and_predicts(name, patches, tmp_path, monkeypatch):
    source, data = patches
    if "pretrained" in name:
        try:
            weights.locate("efficientnet-lite0")
        except Exception as error:
            pytest.skip(str(error))
    saves = []

    def stop_after_one(*arguments):
        saves.append(arguments[1])
        original(*arguments)
        if len(saves) == 1:
            raise KeyboardInterrupt

    original = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        train.train(small_run(name, data), tmp_path / "run")
    gc.collect()  # the interrupted run's frames hold its arrays
    assert saves == [1]
    train.train(small_run(name, data), tmp_path / "run")
    assert saves == [1, 2]  # resumed after the first step, not from the start
    predict.predict(tmp_path / "run", source, tmp_path / "out", sections=["B1"])

    protocol = json.loads((tmp_path / "run" / "data.json").read_text())["protocol"]
    result = json.loads((tmp_path / "run" / "evaluation" / protocol / "metrics.json").read_text())
    assert result["spots"] > 0
    raw, prepared = (
        anndata.read_h5ad(folder / "B1.h5ad") for folder in (tmp_path / "out", tmp_path / "run/predictions")
    )
    assert np.isfinite(raw.X).all()
    assert raw[prepared.obs_names].shape == prepared.shape
