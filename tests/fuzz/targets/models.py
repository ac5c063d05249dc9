"""Trained models as they are opened to predict: work directories, their checkpoints, exported folders."""

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

import stjax
from data_prep import files, json_files
from stjax import checkpoint, manifest, workdir
from stjax.inference.model_folder import CONFIG, FUNCTION, WEIGHTS
from stjax.intervals import FILE as INTERVALS
from tests.fuzz import damage
from tests.fuzz.damage import values
from tests.fuzz.make_run import ARCHIVE
from tests.fuzz.targets import Facts, Target, facts
from tests.stjax.make_exported import FOLDER as EXPORTED

_SOUND_FUNCTION = files.sha256(EXPORTED / FUNCTION)


class WorkDirectory(Target):
    """A run, as it is: hashes are compared, and nothing that has changed is accepted."""

    sealed = True
    only = ("config.json", "data.json", "intervals.json", "*")

    def make(self, folder: Path) -> None:
        shutil.unpack_archive(ARCHIVE, folder / "model")

    def damage(self, folder: Path, rng: random.Random) -> str:
        file = folder / "model" / INTERVALS
        before = file.read_bytes() if file.exists() else None
        what = super().damage(folder, rng)
        if before is not None and not file.exists():  # a run that was never scored has none: nothing can tell
            file.unlink(missing_ok=True)
            file.write_bytes(before)
        return what

    def use(self, folder: Path) -> Facts:
        with warnings.catch_warnings(action="ignore"):
            model = stjax.load(folder / "model")
        found = model.model
        said = {"fold": found.fold.to_json(), "protocol": found.protocol, "step": found.step, "genes": model.genes}
        said |= {"model": found.model_name, "sha256": found.model_sha256, "intervals": found.intervals}
        known = facts(said | {"finished": found.progress.finished, "batch": found.batch_size})
        if self.predicts(folder, known):
            known |= facts(_predicted(model))
        return known

    def predicts(self, folder: Path, known: Facts) -> bool:
        """Whether this case predicts too, which takes a second."""
        del folder
        return random.Random(repr(known)).random() < 0.1


def _predicted(model: stjax.Model) -> dict[str, Any]:
    image = np.random.default_rng(0).integers(120, 255, (96, 96, 3)).astype(np.uint8)
    result = model.predict(image, [[48, 48]], um_per_px=model.model.fold.um_per_px)
    jax.clear_caches()  # of programs that no other case will call
    return {"predicted": result.expression}


class WorkDirectoryResealed(WorkDirectory):
    """Made by somebody else: its hashes are right, whatever else it says."""

    sealed = False

    def damage(self, folder: Path, rng: random.Random) -> str:
        run, done = folder / "model", []
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice((workdir.CONFIG, workdir.DATA, workdir.DATA, INTERVALS, checkpoint.MANIFEST))
            file = run / name if (run / name).exists() else run / "checkpoints" / "1" / name
            content = json_files.unsealed(json.loads(file.read_text()), "", remedy="")
            content, what = values.damage_content(content, rng)
            done.append(f"{name}: {what}")
            if isinstance(content, dict):
                values.write_sealed(file, content)
        of = {name: files.sha256(run / name) for name in checkpoint.RUN_FILES}
        sealed = run / "checkpoints" / "1" / checkpoint.MANIFEST
        content = json_files.unsealed(json.loads(sealed.read_text()), "", remedy="")
        values.write_sealed(sealed, content | ({"of": of} if "of" in content else {}))
        return f"resealed: {'; '.join(done)}"


class Checkpoint(WorkDirectory):
    """The files of a checkpoint."""

    only = ("manifest.json", "_METADATA", "*.ocdbt", "d/*", "d/*")


class CheckpointResealed(Checkpoint):
    """The same, with right hashes."""

    sealed = False

    def damage(self, folder: Path, rng: random.Random) -> str:
        saved = folder / "model" / "checkpoints" / "1"
        what = damage.damage_folder(saved / "state", rng, only=("_METADATA", "*.ocdbt", "d/*", "d/*"))
        content = json.loads((saved / checkpoint.MANIFEST).read_text())
        manifest.seal(saved, {key: content[key] for key in ("step", "meta", "of")})
        return f"resealed: {what}"


class ExportedModel(WorkDirectory):
    """An exported folder, as it is."""

    only = (CONFIG, FUNCTION, WEIGHTS, "manifest.json", "*")

    def make(self, folder: Path) -> None:
        shutil.copytree(EXPORTED, folder / "model")


class ExportedModelResealed(ExportedModel):
    """Made by somebody else."""

    sealed = False

    def damage(self, folder: Path, rng: random.Random) -> str:
        model = folder / "model"
        content = json.loads((model / "manifest.json").read_text())
        if rng.random() < 0.5:
            config, what = values.damage_content(json.loads((model / CONFIG).read_text()), rng)
            (model / CONFIG).write_text(json.dumps(config))
        elif rng.random() < 0.5:
            what = damage.damage_file(model / WEIGHTS, rng)
        else:
            what = damage.damage_file(model / FUNCTION, rng)
        manifest.seal(model, {key: content[key] for key in ("format", "version")})
        return f"resealed: {what}"

    def predicts(self, folder: Path, known: Facts) -> bool:
        """Where the program itself has changed, always."""
        return super().predicts(folder, known) or files.sha256(folder / "model" / FUNCTION) != _SOUND_FUNCTION
