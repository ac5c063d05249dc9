"""Vectors of a data set's records, on disk: written block by block so that a killed run goes on, read memory-mapped.

features/<name>/features.json   written last: what the vectors are of, and the SHA-256 of every file
                <split>.npy     [N, D], or [N, W, D] of W windows around each record's place, in record order
                <split>.mask.npy, <split>.maps.npy    [N, W] bool, which windows lie in the image; [N, h, w, C] of tiles
"""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from data_prep import files, json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Each, Lacking, Maybe
from stjax import encoders

FOLDER, META, PROGRESS = "features", "features.json", "progress.json"
FORMAT_VERSION = 1
RANDOM = "random:"  # and a seed: what stands for the hash of weights that are in no file
DTYPES = ("float16", "float32")
VECTORS, MASK, MAPS = "vectors", "mask", "maps"
_SUFFIXES = {VECTORS: ".npy", MASK: ".mask.npy", MAPS: ".maps.npy"}
_REMEDY = "remove the folder, and embed the data set again"

KEY = {  # all that changes the vectors, as far as anything reads it
    "encoder": json_files.TEXT,
    "weights_sha256": json_files.TEXT,
    "pooling": json_files.TEXT,
    "width": json_files.SIZE_PX,
    "dtype": json_files.one_of(*DTYPES),
    "compute": json_files.TEXT,
    "px": Maybe(json_files.SIZE_PX),
    "um_per_px": Each(json_files.POSITIVE),
    "mean": json_files.numbers(),
    "std": json_files.numbers(),
    "context": json_files.whole_number(1, 99),
    "fields": Lacking(json_files.numbers(0.25)),
    "parts": Lacking(json_files.numbers(1, whole=True)),
    "maps": json_files.FLAG,
    "patches": Each(json_files.SHA256),
}
_FILE = {"file": json_files.NAME, "bytes": json_files.COUNT, "sha256": json_files.SHA256}
_META = {
    "format_version": json_files.one_of(FORMAT_VERSION),
    "key": KEY,
    "sections": Each({VECTORS: _FILE, MASK: Lacking(_FILE), MAPS: Lacking(_FILE), "missing": json_files.COUNT}),
}
_PROGRESS = {"key": KEY, "run": Maybe(json_files.OBJECT)}


def names(folder: Path) -> list[str]:
    """Of the finished features of the data set in a folder."""
    return sorted(path.parent.name for path in (folder / FOLDER).glob(f"*/{META}"))


def patches_sha256(dataset: PatchDataset) -> dict[str, str]:
    """{section: hash of its records}, which tells the patches that features are of."""
    return {
        section["name"]: hashlib.sha256("".join(shard["sha256"] for shard in section["shards"]).encode()).hexdigest()
        for section in dataset.sections
    }


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a data set that lie in one folder.

    Attributes:
        path: the folder.
        key: all that changes them: "encoder", "weights_sha256" ("random:SEED" of random weights, "" where another tool
            made them), "pooling", "width", "fields" and "parts" (not there where there is but one), "px" of the
            encoder's images, "um_per_px" {section: of these}, "mean", "std", "dtype" as they are kept and "compute" as
            they were made, "context", "patches" {section: hash}.
        sections: {name: [N, D] float16 or float32, memory-mapped, in record order; [N, context^2, D] with context}.
            Rows of NaN are of records that imported features lack.
        masks: {name: [N, context^2] bool}, which windows lie in the image; empty without context.
        maps: {name: [N, h, w, C]} of tiles; empty where none were made.
    """

    path: Path
    key: dict[str, Any]
    sections: Mapping[str, np.memmap]
    masks: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray]

    @property
    def encoder(self) -> str:
        """Its name."""
        return self.key["encoder"]

    @property
    def width(self) -> int:
        """D."""
        return self.key["width"]

    @property
    def context(self) -> int:
        """Windows along a side of the square of them around each record's place; 1 without context."""
        return self.key["context"]

    @property
    def fields(self) -> list[float]:
        """Sides of the windows whose vectors, one after the other, are a record's, in patches."""
        return self.key.get("fields", [1])

    @property
    def parts(self) -> list[int]:
        """How many of the D are of each kind; see `embedder.Embedder`."""
        return self.key.get("parts", [self.width // len(self.fields)]) * len(self.fields)

    def known(self, name: str) -> np.ndarray:
        """[N] bool: which records of a section have features."""
        return ~np.isnan(self.sections[name].reshape(len(self.sections[name]), -1)[:, 0])

    @classmethod
    def open(cls, dataset: PatchDataset, name: str) -> "Features":
        """The features `name` of a data set; parts of a section have those of all its records.

        Raises:
            InputError: none there, unfinished, damaged, or of other patches than the data set's.
        """
        path = dataset.path / FOLDER / files.check_name(name, "Features")
        meta = _read_meta(path)
        key, ours = meta["key"], patches_sha256(dataset.whole)
        check_patches(path, key["patches"], ours)
        if set(meta["sections"]) != set(ours):
            raise InputError(f"{path / META}: its sections are not those of the data set; {_REMEDY}")
        found: dict[str, dict[str, np.memmap]] = {VECTORS: {}, MASK: {}, MAPS: {}}
        for section in dataset.whole.sections:
            entry = meta["sections"][section["name"]]
            for kind, arrays in found.items():
                if kind in entry:
                    array = _mapped(path, entry[kind], verify=kind != MAPS)
                    _check_array(path / entry[kind]["file"], kind, array, key, section["records"])
                    arrays[section["name"]] = array
        if key["context"] > 1 and set(found[MASK]) != set(ours):
            raise InputError(f"{path / META}: masks of its windows are missing; {_REMEDY}")
        if not key["weights_sha256"].startswith(RANDOM):
            encoders.say_terms(key["encoder"])
        parts = {section["name"]: dataset.of_whole(section["name"]) for section in dataset.sections}
        of_parts = ({name: of[whole] for name, whole in parts.items() if whole in of} for of in found.values())
        return cls(path, key, *of_parts)


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / META).is_file():
        if (path / PROGRESS).is_file():
            raise InputError(f"{path}: these features are not finished; the stjax embed command that made them goes on")
        others = names(path.parent.parent)
        known = f"there are {', '.join(others[:5])}" if others else "make them with stjax embed"
        raise InputError(f"{path}: no features there; {known}")
    meta = json_files.read_sealed(path / META, remedy=_REMEDY)
    return json_files.require(meta, _META, str(path / META), remedy=_REMEDY)


def check_patches(origin: Path, theirs: Mapping[str, str], ours: Mapping[str, str], *, remedy: str = _REMEDY) -> None:
    """Raises InputError, with what to do, where features are of other patches than those of a data set."""
    if changed := [name for name in ours if theirs.get(name, "") != ours[name]]:
        which = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise InputError(
            f"{origin}: features of other patches than the data set's (of {which}): it was built anew since, or they "
            f"are another's; {remedy}"
        )


def _mapped(path: Path, entry: dict[str, Any], *, verify: bool) -> np.memmap:
    file = path / entry["file"]
    if not file.is_file() or file.stat().st_size != entry["bytes"]:
        found = f"{file.stat().st_size} bytes, expected {entry['bytes']}" if file.is_file() else "missing"
        raise InputError(f"{file}: {found}; {_REMEDY}")
    if verify and files.sha256(file) != entry["sha256"]:
        raise InputError(f"{file}: differs from its SHA-256; {_REMEDY}")
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever a damaged header makes of NumPy's parsers
        raise InputError(f"{file}: no readable array ({str(error)[:100]}); {_REMEDY}") from None


def _check_array(file: Path, kind: str, array: np.ndarray, key: Mapping[str, Any], records: int) -> None:
    windows = (key["context"] ** 2,) if key["context"] > 1 else ()
    shapes = {VECTORS: (records, *windows, key["width"]), MASK: (records, *windows)}
    fits = array.shape == shapes[kind] if kind in shapes else array.ndim == 4 and len(array) == records
    dtype = "bool" if kind == MASK else key["dtype"]
    if not fits or array.dtype != dtype:
        raise InputError(
            f"{file}: {array.dtype} {array.shape}, expected {dtype} {shapes.get(kind, '[N, h, w, C]')}; {_REMEDY}"
        )


class Writer:
    """Features on their way to disk. Use as a context manager: until its end no other process may write the folder.

    For each section call `begin`, then `write` its records in order, from the first that is not yet there; at last
    `finish`.

    Attributes:
        finished: whether all is there already.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], run: Mapping[str, Any] | None = None):
        """
        Args:
            path: the folder.
            key: see `KEY`; features of another key are not gone on with.
            run: what else may change the last bits: an unfinished run of another is not gone on with.

        Raises:
            InputError: the folder holds something else, or another process writes it.
        """
        self.path, self._key, self._run = path, _plain(key), _plain(run)
        self._files: dict[str, BinaryIO] = {}
        self._sections: dict[str, dict[str, Any]] = {}
        self._held = contextlib.ExitStack()
        busy = f"another process is writing {path}; wait for it, or choose another --name"
        self._held.enter_context(files.lock(path.with_name(f".{path.name}.lock"), busy=busy))
        try:
            self.finished = self._claim()
        except BaseException:
            self._held.close()
            raise

    def _claim(self) -> bool:
        """Whether the features are there; else makes the folder this run's."""
        if (self.path / META).is_file():
            self._check_same(_read_meta(self.path)["key"], self._key)
            (self.path / PROGRESS).unlink(missing_ok=True)
            return True
        if (self.path / PROGRESS).is_file():
            content = json_files.read(self.path / PROGRESS, remedy=_REMEDY)
            begun = json_files.require(content, _PROGRESS, str(self.path / PROGRESS), remedy=_REMEDY)
            self._check_same(begun["key"], self._key)
            self._check_same(begun["run"] or {}, self._run or {})
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"{self.path} holds something else than features; choose another --name, or remove it")
        else:
            json_files.write(self.path / PROGRESS, {"key": self._key, "run": self._run}, sync=True)
        return False

    def _check_same(self, there: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        if differing := [key for key in sorted({*there, *ours}) if there.get(key) != ours.get(key)]:
            raise InputError(
                f"{self.path} holds features of something else: {', '.join(differing)} differ; choose another --name, "
                "or remove the folder"
            )

    def begin(
        self, section: Mapping[str, Any], arrays: Mapping[str, tuple[tuple[int, ...], Any]], *, block: int
    ) -> int:
        """Opens a section.

        Args:
            section: its entry in the data set's manifest.
            arrays: {kind: shape of one record, dtype}.
            block: records that `write` is given at a time; the last may be fewer.

        Returns:
            How many records are there already, whole blocks.
        """
        self._close()
        records, done = section["records"], section["records"]
        names = {kind: f"{section['split']}{_SUFFIXES[kind]}" for kind in arrays}
        self._sections[section["name"]] = {"files": names, "missing": 0}
        sizes = {}
        for kind, (shape, dtype) in arrays.items():
            file = (self.path / names[kind]).open("r+b" if (self.path / names[kind]).exists() else "w+b")
            self._files[kind] = file
            row = int(np.prod(shape)) * np.dtype(dtype).itemsize
            header = _header((records, *shape), np.dtype(dtype))
            if file.read(len(header)) != header:
                file.truncate(0)
                file.seek(0)
                file.write(header)
            there = (file.seek(0, 2) - len(header)) // row
            done = min(done, there if there >= records else there // block * block)
            sizes[kind] = (len(header), row)
        for kind, (first, row) in sizes.items():
            self._files[kind].truncate(first + done * row)
            self._files[kind].seek(0, 2)
        return done

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the next block of records, {kind: [n, ...]}; returns when it is on disk."""
        for kind, values in arrays.items():
            self._files[kind].write(np.ascontiguousarray(values).tobytes())
            self._files[kind].flush()
            files.flush(Path(self._files[kind].name))

    def missing(self, name: str, count: int) -> None:
        """Says how many records of a section have no features."""
        self._sections[name]["missing"] = count

    def finish(self) -> None:
        """Makes the folder features: without its description nothing takes it for such."""
        self._close()
        sections = {}
        for name, entry in self._sections.items():
            sections[name] = {"missing": entry["missing"]}
            for kind, file in entry["files"].items():
                path = self.path / file
                sections[name][kind] = {"file": file, "bytes": path.stat().st_size, "sha256": files.sha256(path)}
        meta = {"format_version": FORMAT_VERSION, "key": self._key, "run": self._run, "sections": sections}
        json_files.write(self.path / META, json_files.sealed(meta), lines=True, sync=True)
        (self.path / PROGRESS).unlink()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._held.close()


def _plain(values: Mapping[str, Any] | None) -> Any:
    return json.loads(json.dumps(values, allow_nan=False))


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """How an .npy file of such an array begins."""
    buffer = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()
