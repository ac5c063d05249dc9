"""Genes asked for by any name: symbol, Ensembl id, or what laboratories call them (HER2, CD20, Ki-67)."""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data_prep.errors import InputError
from data_prep.gene_reference import find_species, is_ensembl, shipped_reference, strip_version


def _bare(name: str) -> str:
    return re.sub(r"[-_ ./]", "", name.casefold())


_SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.casefold, _bare)  # how alike two names must be, in turn


class GeneLookup:
    """The genes of a model or a map, found by any of their names.

    A name is looked for among these genes' own names, then among symbols, then among other names of genes: first as it
    is written, then in any case, then without dashes, dots, slashes and spaces.
    """

    def __init__(
        self, ensembl_id: Sequence[str], symbol: Sequence[str], *, labels: Sequence[str], what: str,
        beside: Sequence[str] = (),
    ):  # fmt: skip
        """
        Args:
            ensembl_id, symbol: [G], "" where there is none.
            labels: [G] unique names, as they are shown.
            what: whose genes they are and what it does with them, for messages, as "the model does not predict gene".
            beside: symbols of genes that were learnt in addition and are not given.
        """
        self.labels, self._what, self._beside = list(labels), what, frozenset(beside)
        self.species = find_species(ensembl_id, symbol)[0]
        self._place = {name: place for place, name in enumerate(ensembl_id) if name}
        self._place |= {label: place for place, label in enumerate(labels)}
        self._places: dict[str, list[int]] = {}  # of each symbol, and of the official one of an outdated symbol
        known = shipped_reference(self.species)
        for place, (ensembl, name) in enumerate(zip(ensembl_id, symbol, strict=True)):
            for each in {name, known.symbol_of.get(ensembl) or known.symbol_of_alias.get(name, name)} - {""}:
                self._places.setdefault(each, []).append(place)

    def find(self, name: str, *, hint: bool = True) -> tuple[int, str]:
        """Place of a gene, and what to say where it is not called as it was asked for, else "".

        Args:
            hint: look for the nearest names of one that is not here, which takes milliseconds.

        Raises:
            InputError: none of these genes, or one of several; what it may mean, or the nearest names.
        """
        asked = strip_version(name.strip())
        ensembl_id = strip_version(asked.upper())
        for exact in (asked, ensembl_id):
            if (place := self._place.get(exact)) is not None:
                return place, ""
        known = shipped_reference(self.species)
        if is_ensembl(ensembl_id):
            if (symbol := known.symbol_of.get(ensembl_id)) is None:
                raise InputError(f"{self._what} {name!r}, an id that no table here has")
            return self._only(name, {symbol})
        for level, spelt in enumerate(_SPELLINGS):
            own = {symbol for symbol in self._places if spelt(symbol) == spelt(asked)}
            if symbols := own or _meant(self.species, level).get(spelt(asked), set()):
                return self._only(name, symbols)
        near = self._nearest(asked) if hint else []
        raise InputError(f"{self._what} {name!r}; nearest names: {', '.join(near) or 'none'}")

    def where(self, name: str) -> int | None:
        """Place of a gene by any of its names; None of one that is none of these genes, or may be several."""
        try:
            return self.find(name, hint=False)[0]
        except InputError:
            return None

    def _nearest(self, asked: str) -> list[str]:
        capitals = {label.upper(): label for label in self.labels}
        return [capitals[each] for each in difflib.get_close_matches(asked.upper(), list(capitals), n=3, cutoff=0.4)]

    def places(self, names: Iterable[str]) -> tuple[np.ndarray, list[str]]:
        """Places of genes, each once, in the order asked for, and what to say of their names; see `find`."""
        found = [self.find(name) for name in names]
        return np.array(list(dict.fromkeys(place for place, _ in found)), np.int64), [note for _, note in found if note]

    def _only(self, name: str, symbols: set[str]) -> tuple[int, str]:
        """The gene that `name` means, which may be any of `symbols`."""
        if len(symbols) > 1:
            which = [
                f"{symbol} (one of these genes)" * (symbol in self._places) or symbol for symbol in sorted(symbols)
            ]
            raise InputError(f"gene {name!r} may mean {', '.join(which)}; name the one you mean")
        (symbol,) = symbols
        places = self._places.get(symbol, [])
        if len(places) > 1:
            which = ", ".join(self.labels[place] for place in places)
            raise InputError(f"gene {name!r} may mean {which}; name the one you mean")
        if places:
            label = self.labels[places[0]]
            return places[0], "" if label == name else f"{name} is taken as {label}"
        called = "" if symbol == name else f", which is {symbol}"
        where = (
            "AuxNet learnt it in addition to the main genes, and predictions are of these only"
            if symbol in self._beside
            else f"it is none of the {len(self.labels)} genes; train on data whose main genes have it"
        )
        raise InputError(f"{self._what} {name!r}{called}: {where}")


def other_names(ensembl_id: Sequence[str], symbol: Sequence[str]) -> list[list[str]]:
    """[G] of each gene its other names, in lower case and without dashes, dots, slashes and spaces.

    Args:
        ensembl_id, symbol: [G], "" where there is none.
    """
    found: dict[str, set[str]] = {name: set() for name in symbol}
    for name, symbols in _meant(find_species(ensembl_id, symbol)[0], len(_SPELLINGS) - 1).items():
        for each in symbols & found.keys():
            found[each].add(name)
    return [sorted(found[name] - {_bare(name)}) for name in symbol]


@functools.cache
def _meant(species: str, level: int) -> dict[str, set[str]]:
    """What a name may mean, spelt in one of `_SPELLINGS`: the symbol of that name, else those it is an alias of."""
    known, spelt = shipped_reference(species), _SPELLINGS[level]
    symbols: dict[str, set[str]] = {}
    for symbol in set(known.symbol_of.values()):
        symbols.setdefault(spelt(symbol), set()).add(symbol)
    aliases: dict[str, set[str]] = {}
    for alias, meant in known.meanings.items():
        aliases.setdefault(spelt(alias), set()).update(meant)
    return aliases | symbols
