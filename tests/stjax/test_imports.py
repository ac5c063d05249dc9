"""What is imported when: a mistake on the command line is answered at once, and an exported model needs little."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep.extras import EXTRAS
from tests.conftest import ROOT

SLOW = {"jax", "flax", "optax", "orbax", "scipy", "pandas", "anndata", "tensorflow_datasets", "matplotlib", "grain"}


def run(code):
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--help"], "--config.KEY=VALUE"),
        (["train", "--config=configs/tiny.py", "--config.lerning_rate=1"], "did you mean 'learning_rate'?"),
        (["report", "--help"], "--max-mb"),
    ],
)
def test_help_and_mistakes_are_answered_before_anything_heavy_is_imported(arguments, says):
    out = run(f"""
import sys
from data_prep.errors import InputError
from stjax import cli
try:
    cli.dispatch({arguments!r})
except SystemExit as stop:
    print(stop)
except InputError as error:
    print(error)
print({SLOW!r} & set(sys.modules))
""")
    assert says in out
    assert out.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("stjax.training.loop", ("torch", "tensorflow", "matplotlib", "anndata", "scipy.stats", "zarr")),
        ("stjax.predict", ("torch", "tensorflow", "flax", "matplotlib", "anndata", "scipy.stats", "zarr")),
        ("data_prep.build", ("torch", "tensorflow", "jax", "matplotlib", "scipy.stats")),
    ],
)
def test_a_command_begins_without_what_it_needs_later_or_not_at_all(module, others):
    assert run(f"import sys, {module}; print([name for name in {others} if name in sys.modules])") == "[]\n"


def test_an_exported_model_predicts_without_what_trains_it():
    found = run(f"""
import json, sys
import numpy as np
import stjax
model = stjax.load({str(ROOT / "tests/stjax/data/exported")!r})
image = np.random.default_rng(0).integers(60, 200, (300, 300, 3)).astype(np.uint8)
model.predict(image, [[150, 150]], um_per_px=model.um_per_px)
names = ("tensorflow_datasets", "optax", "orbax", "flax", "matplotlib", "grain", "anndata", "zarr")
print(json.dumps([name for name in names if name in sys.modules]))
""")
    assert json.loads(found.splitlines()[-1]) == []


def test_the_command_predicts_with_an_exported_model_where_no_extra_is_installed(tmp_path):
    image = np.random.default_rng(0).integers(60, 200, (300, 300, 3)).astype(np.uint8)
    (tmp_path / "slides").mkdir()  # which no reader of a layout knows, so that all of them are asked
    Image.fromarray(image).save(tmp_path / "slides/slide.png")
    out = run(f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRAS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from stjax import cli
cli.dispatch(["predict", "--model=tests/stjax/data/exported", "--source={tmp_path / "slides"}",
              "--source-um-per-px=0.5", "--min-tissue=0", "--out={tmp_path / "out"}"])
""")
    assert "note: left out: format png needs packages that are not here: matplotlib is not installed: pip" in out
    assert [path.name for path in (tmp_path / "out").glob("*.h5ad")] == ["slide.h5ad"]
