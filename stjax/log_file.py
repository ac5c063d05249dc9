"""What a run logs, `logs/train.jsonl`, read back: an object a line, of a step or an epoch."""

import contextlib
from pathlib import Path
from typing import Any

from data_prep import json_files
from data_prep.errors import InputError
from data_prep.json_files import Lacking, Maybe

FILE = "train.jsonl"
_NUMBER = json_files.Kind("a number", lambda value: type(value) in (int, float))  # NaN too
_LINE = {
    "step": json_files.COUNT,
    "kind": Lacking(json_files.TEXT),
    "epoch": Lacking(json_files.COUNT),
    "best": Lacking(json_files.FLAG),
    **dict.fromkeys(("loss", "learning_rate", "val_loss", "val_pcc_median"), Lacking(Maybe(_NUMBER))),
}


def read(path: Path) -> list[dict[str, Any]]:
    """The lines, none where there is no file. What is no such line is left out: a kill cuts the last one short."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        with contextlib.suppress(InputError):
            entry = json_files.parse(line, FILE, remedy="", nan=True)
            entries.append(json_files.require(entry, _LINE, FILE, remedy=""))
    return entries
