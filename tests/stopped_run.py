"""A run that was stopped after epoch 2 of 30: made of one that is finished, without training."""

import json
import shutil
from pathlib import Path
from typing import Any

from data_prep import files, json_files
from stjax import manifest

EPOCHS = 30


def make_stopped(finished, folder):
    """Copies the work directory of a finished run of 2 epochs to `folder`, as if 30 had been asked for."""
    shutil.copytree(finished, folder)
    assert json.loads((folder / "config.json").read_text())["num_epochs"] == 2
    change(folder, "config.json", {"num_epochs": EPOCHS}, meta={"finished": False})
    return folder


def change(run: Path, name: str, values: dict[str, Any], *, meta: dict[str, Any] | None = None) -> None:
    """Changes a file of a run, and what its checkpoints say, as if the run had been so from the start: sealed anew."""
    content = json.loads((run / name).read_text())
    del content[json_files.SEAL]
    json_files.write(run / name, json_files.sealed(content | values))
    for checkpoint in (run / "checkpoints").iterdir():
        found = manifest.verify(checkpoint, what="checkpoint")
        (checkpoint / manifest.MANIFEST).unlink()
        of = found["of"] | {name: files.sha256(run / name)}
        manifest.seal(checkpoint, {"step": found["step"], "meta": found["meta"] | (meta or {}), "of": of})
