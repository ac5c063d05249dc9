"""Another kind of model, by one file in `views`, one in `models` and a config: it trains, resumes, is scored, predicts
bare slides and is exported."""

import os
import shutil
import subprocess
import sys

import anndata
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.views import third_view


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree with three files more."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("stjax", "data_prep", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "stjax" / "views" / "wholes.py").write_text(third_view.VIEW)
    (copy / "stjax" / "models" / "neighbour_mean.py").write_text(third_view.MODEL)
    (copy / "configs" / "neighbour_mean.py").write_text(third_view.CONFIG)
    return copy


def run(tree, cache, module, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def predicted(folder):
    return anndata.read_h5ad(next(folder.glob("*.h5ad")))


@pytest.mark.slow
def test_a_third_kind_of_model_takes_three_files(tree, cache, tmp_path):
    train = ("stjax.train", "--config=configs/neighbour_mean.py", "--config.learning_rate=0.05")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    out = run(tree, cache, *train, f"--workdir={whole}")
    assert "2 sections of patient B, 201 spots in 2 sections" in out
    assert "held-out" in out
    model = (whole / "evaluation" / "stjax" / "metrics.json").read_text()
    assert '"model"' in model
    assert '"ridge_colour"' in model

    # Stopped after two of its steps, and resumed: the same bits.
    kill = "import sys; from stjax import checkpoint, train; from stjax.training import loop\n"
    kill += "save = checkpoint.save\n"
    kill += "def then_die(*given):\n    save(*given)\n    raise SystemExit(9)\n"
    kill += "checkpoint.save = then_die\ntrain.main(sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tree)}
    arguments = [*train[1:], f"--workdir={stopped}"]
    killed = subprocess.run([sys.executable, "-c", kill, *arguments], cwd=tree, env=environment, check=False)
    assert killed.returncode == 9
    assert "resumes at step" in run(tree, cache, *train, f"--workdir={stopped}")
    one, other = (predicted(folder / "predictions") for folder in (whole, stopped))
    np.testing.assert_array_equal(one.X, other.X)

    run(tree, cache, "stjax.evaluate", f"--workdir={whole}")
    slide = tmp_path / "slide.png"
    pixels = np.full((900, 900, 3), 235, np.uint8)
    pixels[200:700, 200:700] = np.random.default_rng(0).integers([140, 60, 120], [200, 120, 180], (500, 500, 3))
    Image.fromarray(pixels).save(slide)
    options = (f"--source={slide}", "--source-um-per-px=1.4")
    run(tree, cache, "stjax.predict", f"--workdir={whole}", *options, f"--out={tmp_path / 'by_run'}")
    run(tree, cache, "stjax.export", f"--workdir={whole}", f"--out={tmp_path / 'exported'}")
    run(tree, cache, "stjax.predict", f"--model={tmp_path / 'exported'}", *options, f"--out={tmp_path / 'by_export'}")
    by_run, by_export = predicted(tmp_path / "by_run"), predicted(tmp_path / "by_export")
    assert by_run.n_obs > 5
    assert {"array_row", "array_col"} <= set(by_run.obs)
    np.testing.assert_allclose(by_run.X, by_export.X, atol=1e-5)
    assert np.ptp(by_run.X, axis=0).max() > 0
