"""What is finished: a file next to a section's results says what they are of, so that nothing stale passes for new.

<out>/<section>.prediction.json   written last: {"of": model, slide and options, "files": {format: {name: SHA-256}}}
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import files, json_files
from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.stored import StoredCounts

FORMAT, VERSION = "stjax-prediction", 1


RECORD = {  # what its file holds: the names are those of files next to it
    "of": json_files.OBJECT,
    "files": json_files.Each(json_files.Each(json_files.SHA256, json_files.NAME)),
}


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
            InputError: the folder has results of something else under this name, or no place for the record.
        """
        self.path, self.of = out / f"{name}.prediction.json", json.loads(json.dumps(of, allow_nan=False))
        self.files: dict[str, dict[str, str]] = {}
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder, expected the record of what is predicted; remove it")
        if not self.path.exists():
            return
        try:
            saved = json_files.require(json_files.read(self.path, remedy=""), RECORD, str(self.path), remedy="")
            before, written = saved["of"], saved["files"]
        except InputError:
            before, written = {}, {}  # of no use, and nothing is lost by predicting again
        differing = [key for key in sorted(self.of | before) if self.of.get(key) != before.get(key)]
        if not differing:
            self.files = written
        elif overwrite:
            for file, digest in ((file, digest) for of_form in written.values() for file, digest in of_form.items()):
                # Only what bears the section's name, and is as it was written: the user's own stay.
                if file.startswith(name) and digest and _digest(out / file) == digest:
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
        json_files.write(self.path, {"format": FORMAT, "version": VERSION, "of": self.of, "files": self.files})


def spots_sha256(section: Section) -> str:
    """SHA-256 of a section's spots and what was measured there."""
    spots, counts = section.spots, section.counts
    digest = hashlib.sha256("\n".join(map(str, spots.id)).encode())
    assert not isinstance(counts, StoredCounts)  # which are made where a folder is given for them
    of_counts = [counts.indptr, counts.indices, counts.data]
    for array in (spots.xy, spots.kind, spots.size_px, *of_counts, spots.ring_xy):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of all names and files in a folder; "" where there is none, or a link."""
    there = (path.is_file() or path.is_dir()) and not path.is_symlink()
    return files.sha256(path) if there else ""
