"""What is finished: a file beside a section's results says what they are of, so that nothing stale passes for new.

<out>/<section>.prediction.json   written last: {"of": model, slide and options, "files": {format: {name: SHA-256}}}
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import files
from data_prep.errors import InputError
from data_prep.section import Section
from stjax.workdir import write_json

FORMAT, VERSION = "stjax-prediction", 1


class Record:
    """One section's results in a folder.

    Attributes:
        path: its file.
        files: of each format the results' names in the folder, with the SHA-256 of each.
    """

    def __init__(self, out: Path, name: str, of: dict[str, Any], *, overwrite: bool):
        """
        Args:
            of: what the results are of, plain values.
            overwrite: take results of something else for not there.

        Raises:
            InputError: the folder has results of something else under this name.
        """
        self.path, self.of = out / f"{name}.prediction.json", json.loads(json.dumps(of, allow_nan=False))
        self.files: dict[str, dict[str, str]] = {}
        if not self.path.exists():
            return
        try:
            saved = json.loads(self.path.read_text())
            before, files = saved["of"], {form: dict(of_form) for form, of_form in saved["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            before, files = {}, {}  # of no use, and nothing is lost by predicting again
        differing = [key for key in sorted(self.of | before) if self.of.get(key) != before.get(key)]
        if not differing:
            self.files = files
        elif overwrite:
            for file, digest in ((file, digest) for of_form in files.values() for file, digest in of_form.items()):
                if _digest(out / file) == digest:  # as it was written: not the user's by now
                    _remove(out / file)
            self.path.unlink()
        elif before:
            raise InputError(
                f"{out} has results of another prediction of {name}: {', '.join(differing)} differ; choose another "
                "--out, or replace them with --overwrite"
            )

    def lacks(self, formats: Iterable[str]) -> list[str]:
        """Those of some formats whose results are not there as they were written."""
        return [form for form in formats if not self._holds(self.files.get(form, {}))]

    def _holds(self, files: dict[str, str]) -> bool:
        return bool(files) and all(_digest(self.path.parent / file) == digest for file, digest in files.items())

    def add(self, form: str, files: Iterable[str]) -> None:
        """Records a format's results, now on disk."""
        self.files[form] = {file: _digest(self.path.parent / file) for file in files}
        write_json(self.path, {"format": FORMAT, "version": VERSION, "of": self.of, "files": self.files})


def spots_sha256(section: Section) -> str:
    """SHA-256 of a section's spots and what was measured there."""
    digest = hashlib.sha256("\n".join(map(str, section.spot_id)).encode())
    counts = section.counts
    arrays = [section.spot_xy, section.spot_kind, section.spot_size_px, counts.indptr, counts.indices, counts.data]
    for array in (*arrays, *section.polygons):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of all names and files in a folder; "" where there is none."""
    if path.is_file():
        return files.sha256(path)
    if not path.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{file.relative_to(path)} {files.sha256(file)}\n".encode())
    return digest.hexdigest()
