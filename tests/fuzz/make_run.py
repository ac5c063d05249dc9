"""Makes data/run.zip: a work directory of the smallest model, which the fuzzer damages. It is kept, as Orbax gives its
files other names each time; made anew when what `Run.load` reads is no longer what this wrote.

usage: JAX_PLATFORMS=cpu python -m tests.fuzz.make_run
"""

import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_prep import json_files
from stjax import checkpoint, log_file, optim, parallel, workdir
from stjax import config as configs
from stjax.data.panel import Panel
from stjax.intervals import LEVEL, Intervals
from stjax.protocols import get_protocol
from stjax.state import init_state
from tests.inference.fake_predictor import made_fold

ARCHIVE = Path(__file__).parent / "data" / "run.zip"
MAIN, GENES = 3, 5


def make(folder: Path) -> None:
    """Writes the run into a folder that is there and empty, as training and evaluation do."""
    config = configs.built_in("tiny")
    config.num_epochs, config.eval_batch_size, config.optimizer, config.ema_decay = 1, 4, "sgd", 0.0
    config = configs.resolve(config, get_protocol("stjax"), demo=True)
    panel = Panel(
        ensembl_id=np.array([f"ENSG{number}" for number in range(GENES)]),
        symbol=np.array([f"GENE{number}" for number in range(GENES)]),
        num_main=MAIN,
        num_genes=GENES,
    )
    fold = made_fold(
        panel=panel,
        synthetic=True,
        target_mean=np.linspace(-1, 1, GENES),
        target_std=np.linspace(0.5, 2, GENES),
        train_mean=np.linspace(0, 1, MAIN),
        image_mean=np.full(3, 180.0),
        image_std=np.full(3, 40.0),
    )
    json_files.write(folder / workdir.CONFIG, json_files.sealed(config.to_dict()))
    json_files.write(folder / workdir.DATA, json_files.sealed(fold.to_json()))
    schedule = optim.Schedule(config.schedule, config.learning_rate, total_steps=1, steps_per_epoch=1)
    mesh = parallel.make_mesh(jax.devices()[:1])
    _, state = init_state(config, fold, mesh=mesh)
    coarse = jax.tree.map(lambda leaf: jnp.round(leaf * 16) / 16, state)  # packs well
    meta = {"step": 1, "best_step": 1, "finished": True, "schedule": schedule.state()}
    checkpoint.save(folder / workdir.CHECKPOINTS, 1, coarse, meta)
    entry = {"kind": "epoch", "epoch": 1, "step": 1, "loss": 1.2, "val_loss": 1.5, "best": True}
    (folder / "logs").mkdir()
    (folder / "logs" / log_file.FILE).write_text(json.dumps(entry) + "\n")
    model = workdir.Run.load(folder).model_sha256
    Intervals(np.full(MAIN, 0.5), LEVEL, 2, False, None, False, model).save(folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        run.mkdir()
        make(run)
        shutil.make_archive(str(ARCHIVE.with_suffix("")), "zip", run)
