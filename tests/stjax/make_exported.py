"""Makes data/exported: a model folder of the oldest jax that stjax supports, which every later one has to run.

usage: JAX_PLATFORMS=cpu python -m tests.stjax.make_exported       (in an environment with that jax)
"""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from stjax import export, manifest, models, trained
from stjax.inference import model_folder
from stjax.models import efficientnet
from stjax.models.heads import PatchModel
from tests.inference.test_dense import GENES, make_run

FOLDER = Path(__file__).parent / "data" / "exported"
EXPECTED = FOLDER.with_name("exported_expected.npy")
SIDE = 32


def images():
    """uint8 [5, 32, 32, 3]."""
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)


def make():
    """Writes the folder, without what only other programs read, and what it predicts."""
    rngs = nnx.Rngs(0)
    model = PatchModel(efficientnet.build("tiny", rngs=rngs), num_main=GENES, num_aux=0, rngs=rngs)
    graphdef, params, statistics = models.split(model)
    run = make_run(devices=1)
    settings = {"module": "efficientnet", "variant": "tiny", "dtype": "float32", "options": {}}
    run = dataclasses.replace(
        run,
        config=ConfigDict({"model": settings, "eval_batch_size": 8, "init_from": ""}),
        fold=dataclasses.replace(
            run.fold, view="patches", image_size_px=SIDE, parameters={"stain": "none"}, synthetic=True
        ),
        graphdef=graphdef,
        weights={"params": params, "statistics": statistics},
    )
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    export.write(run, FOLDER)
    shutil.rmtree(FOLDER / "orbax")
    for name in ("backbone.safetensors", "heads.safetensors"):
        (FOLDER / name).unlink()
    manifest.seal(FOLDER, {"format": model_folder.FORMAT, "version": model_folder.VERSION})
    found = trained.load(FOLDER).predict({"image": images()})
    np.save(EXPECTED, np.asarray(found["expression"])[:, 0])


if __name__ == "__main__":
    make()
