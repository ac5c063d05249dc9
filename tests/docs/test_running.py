"""What the documentation tells a reader to run, run."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_the_tutorial_runs_as_it_stands_in_a_fresh_environment(tmp_path):
    script = [sys.executable, ROOT / "tests" / "docs" / "run_tutorial.py", tmp_path / "clone"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    for path in ("report.html", "predictions/slide.h5ad", "predictions/slide.geojson", "exported/MODEL_CARD.md"):
        assert (tmp_path / "clone" / path).stat().st_size


@pytest.mark.parametrize("name", ["predictions.ipynb", "python.ipynb", "spots.ipynb"])
def test_notebooks_run_again(name, cache):
    pytest.importorskip("nbclient", reason="the extra docs is not installed")
    pytest.importorskip("ipykernel", reason="the extra docs is not installed")
    script = [sys.executable, ROOT / "tests" / "docs" / "run_notebooks.py", name, "--check"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-4000:]
