"""A run that was stopped after epoch 2 of 30: made of one that is finished, without training."""

import json
import shutil

from data_prep import files, json_files
from stjax import manifest

EPOCHS = 30


def make_stopped(finished, folder):
    """Copies the work directory of a finished run of 2 epochs to `folder`, as if 30 had been asked for."""
    shutil.copytree(finished, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_epochs"] == 2
    del config[json_files.SEAL]
    json_files.write(folder / "config.json", json_files.sealed(config | {"num_epochs": EPOCHS}))
    for checkpoint in (folder / "checkpoints").iterdir():
        content = manifest.verify(checkpoint, what="checkpoint")
        (checkpoint / manifest.MANIFEST).unlink()
        content["meta"]["finished"] = False
        content["of"]["config.json"] = files.sha256(folder / "config.json")
        manifest.seal(checkpoint, {name: content[name] for name in ("step", "meta", "of")})
    return folder
