"""Which spots of an .h5ad file are one section: samples that were joined are separated, or the file is refused."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.errors import InputError
from data_prep.patients import USER
from data_prep.readers import _arrays, _h5ad, _matrix, _patients
from data_prep.readers._h5ad_file import as_text, opened, table
from data_prep.readers._h5ad_places import letters

# What tools and people call the column that names a spot's sample, the likelier first; letters alone are compared
_THINGS = (
    *("library", "sample", "section", "slide", "slice", "image", "capturearea", "puck", "chip", "array", "batch"),
    *("origident", "dataset", "specimen", "gsm", "geoaccession", "replicate"),
)
_COLUMN = re.compile(
    rf"^(?:visium|spatial|tissue|brain|st|10x)?({'|'.join(_THINGS)})s?(?:id|name|label|key|number|no|index|idx)?$"
)
# What stands around a barcode, a bin or an array position in a spot's id: "-1-0", "_A1", "s_008um_"
_AROUND = r"^(.*?)(?:[ACGTN]{10,}|\d{5}_\d{5}|\d+x\d+)(.*)$"
_REMEDY = "name each spot's sample in obs['library_id'], or write an .h5ad file for each"
SPOT_IDS = "the spot ids"
_PATIENT_COLUMN = re.compile(r"^(patient|donor|subject|individual|participant|animal|mouse(?=id))(id|name|no|number)?$")
_NO_PATIENT = ("unknown", "pooled", "")  # as CELLxGENE writes where there is none to name
_FEW = 0.02  # of the spots: a slip, and not another sample


@dataclasses.dataclass(frozen=True)
class Samples:
    """How a file is divided.

    Attributes:
        by: the column of `obs` that divides it, `SPOT_IDS`, or None where it is one section.
        names: section -> the value in that column; a file of one section has its name -> "".
        entry: section -> its key in `uns["spatial"]`; those without one are left out.
        slide: section -> the file name of its slide, where its entry says so.
    """

    by: str | None
    names: dict[str, str]
    entry: dict[str, str]
    slide: dict[str, str]

    def rows(self, obs: pd.DataFrame, name: str, path: Path) -> np.ndarray:
        """[S] bool: the rows of the file's `obs` that are the section's."""
        if self.by is None:
            return np.ones(len(obs), bool)
        labels = _id_labels(obs.index) if self.by == SPOT_IDS else as_text(obs[self.by], path)
        return labels == self.names[name]

    def describe(self) -> str:
        """ "obs['sample']" or "the spot ids"."""
        return SPOT_IDS if self.by == SPOT_IDS else f"obs[{self.by!r}]"


def find(path: Path, has_images: Callable[[Iterable[str]], bool]) -> Samples:
    """Tell the samples of a file apart, by columns of `obs`, the keys of `uns["spatial"]` and the spot ids.

    Args:
        path: the file.
        has_images: whether there is a slide for each of some sections.

    Raises:
        InputError: nothing says which spots are whose: the file has several libraries, or the column has gaps.
    """
    status = path.stat()
    libraries, columns, gaps, labels = _facts(path, (status.st_mtime_ns, status.st_size))
    if gaps and gaps.keys() == columns.keys():
        name, missing = next(iter(gaps.items()))
        raise InputError(f"{path}: obs[{name!r}] is missing for {missing} spots: whose are they? {_REMEDY}")
    columns = {name: values for name, values in columns.items() if name not in gaps}
    dividing = {name: values for name, values in columns.items() if len(values) > 1}
    if dividing:
        by = _choose(dividing, libraries, lambda values: has_images(_section_names(path, values).values()))
        return _divided(path, by, dividing[by], libraries)
    if len(libraries) > 1:
        stated = [values[0] for values in columns.values() if values[0] in libraries]
        if stated or path.stem in libraries:  # cut out of a joined file, whose uns it kept
            return _undivided(path, stated[0] if stated else path.stem, libraries)
    if len(labels) > 1:
        return _divided(path, SPOT_IDS, labels, libraries)
    if len(libraries) > 1:
        raise InputError(
            f"{path}: uns['spatial'] holds {', '.join(libraries)}, but no column of obs says which spots are whose; "
            f"{_REMEDY}"
        )
    return _undivided(path, next(iter(libraries), None), libraries)


def patient(root: Path, file: Path, name: str, obs: pd.DataFrame) -> _patients.Patient:
    """Whose a section is: by patients.csv, else by a column of `obs` that is the same for every spot.

    Args:
        root: the source, where patients.csv may be.
        file: what `obs` is of, for messages.

    Raises:
        InputError: a column names several patients, and patients.csv none.
    """
    for column in (column for column in obs if _PATIENT_COLUMN.match(re.sub(r"[^a-z]", "", str(column).lower()))):
        texts = dict.fromkeys(as_text(obs[column], file).tolist())
        values = [value for value in texts if value.lower() not in _NO_PATIENT]
        listed = _patients.find(root, name)
        if len(values) > 1 and listed.source != USER:
            raise InputError(
                f"{file}: section {name!r}: obs[{column!r}] names {len(values)} patients ({', '.join(values[:4])}), "
                "expected one: name each spot's section in obs['library_id'], or list section,patient in patients.csv"
            )
        if values:
            return listed if len(values) > 1 else _patients.find(root, name, stated=values[0])
    return _patients.find(root, name)


def check_one(path: Path, name: str, obs: pd.DataFrame, spot_xy: np.ndarray, spot_z: np.ndarray) -> None:
    """Raise `InputError` where spots of a section lie on one another or share an id, as those of two samples do.

    Args:
        obs: [S rows] the section's.
        spot_xy, spot_z: [S, 2] and [S] their coordinates.
    """
    found, ids = "", obs.index.to_numpy(dtype=str)
    labels = sorted(set(_id_labels(obs.index).tolist()))
    levels = len(np.unique(spot_z[np.isfinite(spot_z)]))
    if (repeated := len(ids) - len(np.unique(ids))) > max(1, _FEW * len(ids)):
        found = f"{repeated} spot ids appear again"
    elif len(labels) > 1:
        found = f"spot ids differ around their barcodes ({', '.join(map(repr, labels[:4]))})"
    elif 1 < levels <= len(spot_z) / 4:
        found = f"the third coordinate has {levels} values, as slices have"
    elif {"array_row", "array_col"} <= set(obs.columns):
        places = obs[["array_row", "array_col"]].dropna()
        twice = places.to_numpy()[places.duplicated().to_numpy()]
        if len(twice):
            row, column = twice[0]
            found = f"{len(twice)} array positions are taken twice (e.g. array_row {row}, array_col {column})"
    if not found and _arrays.overlap(spot_xy):
        found = "one half of the spots lies on the other"
    if found:
        raise InputError(f"{path}: section {name!r} holds spots of several samples: {found}; {_REMEDY}")
    _matrix.check_unique(ids, path, "spot")


@functools.lru_cache(maxsize=256)
def _facts(
    path: Path, version: tuple[int, int]
) -> tuple[dict[str, str], dict[str, list[str]], dict[str, int], list[str]]:
    """Keys of `uns["spatial"]` -> file name of the slide, "" where not said; columns of `obs` that may name samples ->
    their values; such columns that many spots lack -> how many; labels in the spot ids.

    Args:
        path: the file.
        version: what changes when it is written again; a source is asked for its sections time and again.
    """
    del version
    with opened(path) as file:
        entries = _h5ad.libraries(file, path)
        obs = table(file, "obs", path)
    things = {name: match[1] for name in obs if (match := _COLUMN.match(letters(name)))}
    known = sorted(things, key=lambda name: _THINGS.index(things[name]))
    others = [name for name in obs if name not in known and len(entries) > 1 and obs[name].dtype.kind == "O"]
    libraries = {name: re.split(r"[/\\]", entry["slide"])[-1] for name, entry in entries.items()}
    columns, gaps = {}, {}
    for name in known + others:
        column = as_text(obs[name], path)
        values = [value for value in dict.fromkeys(column.tolist()) if value]
        if values and (name in known or set(values) <= set(entries)) and len(values) <= max(2, len(obs) / 2):
            columns[name] = values
            missing = int(np.sum(column == ""))
            gaps |= {name: missing} if missing > max(1, _FEW * len(obs)) else {}
    return libraries, columns, gaps, sorted(set(_id_labels(obs.index).tolist()))


def _choose(
    dividing: dict[str, list[str]], libraries: Iterable[str], has_images: Callable[[Sequence[str]], bool]
) -> str:
    """The column whose values are libraries, else have slides, else are most."""
    for fits in (lambda values: set(values) <= set(libraries), has_images):
        fitting = [name for name, values in dividing.items() if fits(values)]
        if fitting:
            return fitting[0]
    return max(dividing, key=lambda name: len(dividing[name]))


def _divided(path: Path, by: str, values: Sequence[str], libraries: dict[str, str]) -> Samples:
    names = {name: value for value, name in _section_names(path, values).items()}
    entry = {name: value for name, value in names.items() if value in libraries}
    return Samples(by, names, entry, {name: libraries[key] for name, key in entry.items() if libraries[key]})


def _undivided(path: Path, library: str | None, libraries: dict[str, str]) -> Samples:
    if library is None:
        return Samples(None, {path.stem: ""}, {}, {})
    slide = {path.stem: libraries[library]} if libraries[library] else {}
    return Samples(None, {path.stem: ""}, {path.stem: library}, slide)


def _section_names(path: Path, values: Iterable[str]) -> dict[str, str]:
    """Value -> section: the value itself, after the file's name where it is a mere number."""
    return {value: f"{path.stem}_{value}" if re.fullmatch(r"[\d.]*", value) else value for value in values}


def _id_labels(index: Any) -> np.ndarray:
    """[S] str: what tells samples apart in spot ids; "" for all where ids are no barcodes, bins or array positions."""
    import pyarrow
    import pyarrow.compute

    ids = pyarrow.array(np.asarray(index, dtype=str))
    around = pyarrow.compute.call_function(
        "replace_substring_regex", [ids], pyarrow.compute.ReplaceSubstringOptions(_AROUND, "\\1\t\\2")
    )
    encoded = around.dictionary_encode()
    labels = encoded.dictionary.to_pylist()
    if not all("\t" in label for label in labels) or len(labels) < 2:
        return np.full(len(ids), "", dtype=object).astype(str)
    parts = [[part.strip(" -_.:#") for part in label.split("\t")] for label in labels]
    bare = ["_".join(filter(None, (before, re.sub(r"^1($|[-_.:#]+)", "", after)))) for before, after in parts]
    # "-1-A" is Cell Ranger's own suffix, then the sample; where that is all there is, it stays
    distinct = bare if len(set(bare)) == len(labels) and "" not in bare else ["_".join(filter(None, p)) for p in parts]
    distinct = distinct if len(set(distinct)) == len(labels) else labels
    return np.array(distinct, dtype=str)[encoded.indices.to_numpy()]
