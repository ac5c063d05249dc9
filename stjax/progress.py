"""How far a model was trained, which stands wherever its results do: a stopped run must not pass for a finished one."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep import json_files
from data_prep.json_files import Maybe
from stjax import log_file

PROGRESS = {  # its plain values
    "epochs": Maybe(json_files.number(0)),
    "planned": Maybe(json_files.COUNT),
    "finished": Maybe(json_files.FLAG),
}


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the training of a model has come. None is what nobody wrote down.

    Attributes:
        epochs: done, with the share of one that was begun.
        planned: asked for by the config.
        finished: whether training came to its end: the planned one, or by early stopping.
    """

    epochs: float | None = None
    planned: int | None = None
    finished: bool | None = None

    @classmethod
    def of(cls, meta: Mapping[str, Any], planned: int | None, folder: Path) -> "Progress":
        """Of a run.

        Args:
            meta: the plain state saved with its newest checkpoint.
            planned: the config's `num_epochs`.
            folder: the work directory, whose log tells the length of an epoch where an older checkpoint does not.
        """
        steps = meta.get("schedule", {}).get("steps_per_epoch") or _logged_steps_per_epoch(folder)
        return cls(meta["step"] / steps if steps else None, planned, meta.get("finished"))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """What `dataclasses.asdict` made of one."""
        return cls(**{name: values[name] for name in PROGRESS})

    def __str__(self) -> str:
        """ "2 of 30 epochs"."""
        if self.epochs is None:
            return "an unknown number of epochs" + ("" if self.planned is None else f", {self.planned} planned")
        tenths = math.floor(self.epochs * 10 + 1e-6) / 10  # never rounded up to an epoch that is not done
        done = f"{tenths:g}" if tenths or not self.epochs else "less than 0.1"
        text = f"{done} of {'an unknown number of' if self.planned is None else self.planned} epochs"
        early = self.finished and self.planned is not None and tenths < self.planned
        return text + ", ended early by its validation loss" * bool(early)

    def facts(self) -> dict[str, Any]:
        """For results files: {"trained": "2 of 30 epochs", "training_finished": bool, left out where not known}."""
        return {"trained": str(self)} | ({} if self.finished is None else {"training_finished": self.finished})

    def warning(self, name: str) -> str:
        """What must be said of a model, called `name`, that is not known to be finished; "" of one that is.

        It is a line for the terminal.
        """
        if self.finished:
            return ""
        if self.finished is None:
            return f"note: {name} does not say whether its training was finished ({self})"
        return (
            f"warning: {name} is trained for {self}: its training was stopped and is NOT FINISHED; the same stjax "
            "train command goes on with it"
        )


UNKNOWN = Progress()


def say(name: str, progress: Progress) -> None:
    """Prints `Progress.warning`, if there is one."""
    if text := progress.warning(name):
        print(text)


def _logged_steps_per_epoch(folder: Path) -> int | None:
    """From the last epoch that logs/train.jsonl has the end of."""
    epochs = [entry for entry in log_file.read(folder / "logs" / log_file.FILE) if entry.get("kind") == "epoch"]
    last = epochs[-1] if epochs else {}
    return last["step"] // last["epoch"] if last.get("epoch") else None
