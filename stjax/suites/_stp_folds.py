"""STP-Bench's folds of a bundle: those it lists, else by case as scikit-learn's GroupKFold, else as its KFold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import files
from data_prep.errors import InputError
from data_prep.hest_bench import count_folds
from data_prep.readers import _text
from data_prep.readers.bundle import IDS, cases

SHUFFLE_SEED = 42
INNER_FOLDS = 5


class Fold(NamedTuple):
    """Sections that are scored, and those of training that the honest runs choose their checkpoint on."""

    test: tuple[str, ...]
    inner: tuple[str, ...]


def folds_of(root: Path, sections: Sequence[str], count: int) -> dict[str, Fold]:
    """The folds of the sections of a bundle, by name.

    Args:
        root: the bundle, with its ids.csv or splits.
        count: of folds, where the bundle does not list them.

    Raises:
        InputError: a fold without a section to test or to train on, or a table that is damaged.
    """
    case_of = {name: case for name, case in cases(root).items() if name in sections}
    names = tuple(case_of) or tuple(sections)
    if others := [name for name in sections if name not in names]:
        raise InputError(f"{root / IDS} does not list {others[0]}, which has patches; add it, or move its files away")
    tested = _listed(root) or _splits(root)
    if not tested:
        tested = [*by_case(names, case_of, count)] if all(case_of.values()) and case_of else [*shuffled(names, count)]
    found = {}
    for place, listed in enumerate(tested):
        test = tuple(name for name in sections if name in listed)
        rest = tuple(name for name in names if name not in test)
        if not test or not rest:
            raise InputError(f"{root}: fold {place} has no sample to {'train on' if test else 'test'}; see its {IDS}")
        found[f"fold_{place}"] = Fold(test, _inner(rest, case_of))
    return found


def by_case(names: Sequence[str], case_of: Mapping[str, str], count: int) -> list[tuple[str, ...]]:
    """`count` groups of samples, none of which shares a case: the largest case first, each to the smallest group."""
    case, which, size = np.unique([case_of[name] for name in names], return_inverse=True, return_counts=True)
    group_of, load = np.zeros(len(case), np.int64), np.zeros(min(count, len(case)), np.int64)
    for each in np.argsort(size, kind="stable")[::-1]:
        group_of[each] = np.argmin(load)
        load[group_of[each]] += size[each]
    return [tuple(np.array(names)[group_of[which] == group].tolist()) for group in range(len(load))]


def shuffled(names: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """`count` groups of samples, as KFold(shuffle=True, random_state=42) deals them."""
    order = np.arange(len(names))
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)  # as published, not a generator
    groups = np.array_split(order, min(count, len(names)))
    return [tuple(np.array(names)[np.sort(group)].tolist()) for group in groups]


def _inner(names: Sequence[str], case_of: Mapping[str, str]) -> tuple[str, ...]:
    """The first of the groups that training samples are dealt to, as the folds are; none of a single sample."""
    if len(names) < 2:
        return ()
    if len({case_of.get(name, "") for name in names}) > 1:
        return by_case(names, case_of, INNER_FOLDS)[0]
    return shuffled(names, INNER_FOLDS)[0]


def _listed(root: Path) -> list[set[str]]:
    """Test samples of each column fold_0, fold_1 ... of ids.csv, whose cells are train or test."""
    file = root / IDS
    if not files.is_there(file):
        return []
    header, *rows = _text.read_rows(file, ",")
    columns = sorted(
        (name.strip() for name in header if name.strip().startswith("fold_")), key=lambda name: (len(name), name)
    )
    names, *folds = _text.columns(file, header, rows, ["sample_id", *columns])
    for column, cells in zip(columns, folds, strict=True):
        if odd := sorted(set(cells) - {"train", "test", ""}):
            raise InputError(f"{file}: column {column} has {odd[0]!r}, expected train or test")
    return [{name for name, cell in zip(names, cells, strict=True) if cell == "test"} for cells in folds]


def _splits(root: Path) -> list[set[str]]:
    """Test samples of each splits/test_0.csv, as HEST-Benchmark's tasks have them."""
    found = []
    for place in range(count_folds(root / "splits", ["test"])):
        file = root / "splits" / f"test_{place}.csv"
        header, *rows = _text.read_rows(file, ",")
        found.append(set(_text.columns(file, header, rows, ["sample_id"])[0]))
    return found
