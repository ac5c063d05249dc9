"""What is measured, where a layout offers a choice: cells, nuclei, bins, or areas that counts are pooled to."""

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.errors import InputError

BINS, CELLS, NUCLEI, SQUARES, DISCS = "bins", "cells", "nuclei", "squares", "discs"
FORMS = {
    BINS: "bins",
    CELLS: "cells",
    NUCLEI: "nuclei",
    SQUARES: "squares:SIDE_UM",
    DISCS: "discs:DIAMETER_UM:PITCH_UM",
}  # as --areas takes them
_LEAST_UM, _MOST_UM = 1.0, 1000.0


class Areas(NamedTuple):
    """What is measured: one of `FORMS`; the side or diameter; and the distance between neighbours. In um, 0 where
    files say."""

    kind: str
    size_um: float = 0.0
    pitch_um: float = 0.0


def parse(text: str | None, offered: Sequence[str]) -> Areas:
    """The areas that `--areas` names; the first that is offered where it names none.

    Args:
        offered: kinds that the layout has.

    Raises:
        InputError: another kind, or no sensible size.
    """
    kind, *sizes = (text or offered[0]).split(":")
    forms = ", ".join(FORMS[each] for each in offered)
    if kind not in offered or len(sizes) != FORMS[kind].count(":"):
        raise InputError(f"--areas is {text!r}, expected one of {forms}")
    if not sizes:
        return Areas(kind)
    try:
        found = [float(size) for size in sizes]
    except ValueError:
        raise InputError(f"--areas is {text!r}, expected numbers of um, as in squares:100 or discs:55:100") from None
    if not all(_LEAST_UM <= size <= _MOST_UM for size in found):
        raise InputError(f"--areas is {text!r}, expected sizes from {_LEAST_UM:g} to {_MOST_UM:g} um")
    areas = Areas(kind, found[0], found[-1])
    if areas.size_um > areas.pitch_um:
        raise InputError(
            f"--areas is {text!r}: discs {areas.size_um:g} um wide overlap {areas.pitch_um:g} um apart; expected a "
            "pitch of at least the diameter"
        )
    return areas
