"""HDF5 files of others: looked over before anything is read, as they may lead elsewhere or declare what they lack."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from data_prep import budgets
from data_prep.errors import InputError

_MOST_OBJECTS = 200_000


def walk(file: Any, path: Path) -> Iterator[Any]:
    """Every group and data set of an open file, itself first, each once it has been looked at; nothing is read.

    Args:
        file: an open `h5py.File`.
        path: for messages.

    Raises:
        InputError: a link or data set that lies in another file, a data set or attribute over the budget
            (`data_prep.budgets`), or links that lead in circles, or to the same things more often than can be followed.
    """
    size = path.stat().st_size
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", file)]
    _check_attributes(file, path, size)
    yield file
    while waiting:
        place, group = waiting.pop()
        for name in group:
            where = f"{place}/{name}".lstrip("/")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise InputError(_elsewhere(path, where, "a link to another file"))
            if isinstance(link, h5py.SoftLink):
                continue  # what it leads to is in this file, where it is met by itself
            thing = group[name]
            address = h5py.h5o.get_info(thing.id).addr  # pyright: ignore[reportAttributeAccessIssue]
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                raise InputError(f"{path}: more than {_MOST_OBJECTS:,} groups and data sets; it is damaged or hostile")
            _check_attributes(thing, path, size)
            if isinstance(thing, h5py.Dataset):
                _check_dataset(thing, where, path, size)
            elif isinstance(thing, h5py.Group):
                waiting.append((where, thing))
            yield thing
    if (ways := _ways(file, path, {})) > _MOST_OBJECTS:
        raise InputError(
            f"{path}: {ways:,} ways to its groups and data sets, by links to the same ones over and over; it is "
            "damaged or hostile"
        )


def _ways(group: Any, path: Path, known: dict[int, int]) -> int:
    """How often anything is met by who follows all links out of a group, which must not lead back to it.

    Args:
        known: by address; 0 of those that are on the way here.
    """
    address = h5py.h5o.get_info(group.id).addr  # pyright: ignore[reportAttributeAccessIssue]
    if address not in known:
        known[address] = 0
        things = [group.get(name) for name in group]  # None where a soft link leads nowhere
        known[address] = 1 + sum(_ways(thing, path, known) if isinstance(thing, h5py.Group) else 1 for thing in things)
    elif not known[address]:
        raise InputError(f"{path}: {group.name[:100]!r} contains itself, by a link; it is damaged or hostile")
    return known[address]


def _check_dataset(thing: Any, where: str, path: Path, size: int) -> None:
    settings = thing.id.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL:
        raise InputError(_elsewhere(path, where, "a virtual data set"))
    if settings.get_external_count():
        raise InputError(_elsewhere(path, where, "kept in a file of its own"))
    width = thing.id.get_type().get_size()
    declared = math.prod(thing.shape or ()) * width
    if settings.get_layout() == h5py.h5d.CHUNKED:
        declared = max(declared, math.prod(settings.get_chunk()) * width)
    budgets.HDF5_DATASET.check(path, declared, file_bytes=size)


def _check_attributes(thing: Any, path: Path, size: int) -> None:
    h5a: Any = h5py.h5a
    for index in range(h5a.get_num_attrs(thing.id)):
        attribute = h5a.open(thing.id, index=index)
        declared = attribute.get_space().get_simple_extent_npoints() * attribute.get_type().get_size()
        budgets.HDF5_ATTRIBUTE.check(path, declared, file_bytes=size)


def _elsewhere(path: Path, where: str, what: str) -> str:
    return (
        f"{path}: {where[:100]!r} is {what}; only what is in the file itself is read: write one that holds all of it "
        "(h5repack, or read it and write it again)"
    )
