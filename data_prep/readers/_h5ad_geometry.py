"""What a table of spots, as scanpy keeps it, says of their size and of the slide's scale; of a file, or in memory."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_prep.errors import InputError
from data_prep.readers import _array_fit, _arrays, _legacy, _sections
from data_prep.spots import DISC, SQUARE, Spots

_VISIUM_PITCH_UM, VISIUM_RADIUS_UM = 100.0, 27.5
# Pitch over spot_diameter_fullres: 1.54 of Visium (a theoretical 65 um), 1.8 where a tool wrote 55 um, 1 of bins
_VISIUM_PITCH_PER_DIAMETER, _PITCH_PER_DIAMETER = (1.2, 2.5), (0.8, 2.5)


class Image(NamedTuple):
    """A full-resolution image: its name for messages, (width, height), and the scale it states."""

    name: str
    size: tuple[float, float]
    um_per_px: float | None


class Geometry(NamedTuple):
    """Spots in full-resolution pixels, the scale and where that is from, and what was noted."""

    spots: Spots
    um_per_px: float
    um_per_px_source: str
    notes: tuple[str, ...]


def read(
    name: str,
    path: Path | str,
    obs: pd.DataFrame,
    spot_xy: np.ndarray,
    entry: dict[str, Any],
    image: Image,
    *,
    user_um: float | None,
) -> Geometry:
    """The spots of a section.

    Args:
        path: where they are from, for messages.
        obs: [S rows] annotation, by spot id; its `array_row` and `array_col` tell the array.
        spot_xy: [S, 2] centres in full-resolution pixels.
        entry: of `uns["spatial"]`, see `_h5ad.libraries`; {} where there is none.
        user_um: the scale as the user states it.

    Raises:
        InputError: image, spots and scale factors are not of one another, or no scale is known.
    """
    factors = entry.get("scalefactors", {})
    _check_size(name, image, entry)
    _check_order(name, path, spot_xy, image.size)
    array, array_notes = _arrays.of_table(obs, spot_xy, path)
    stated = user_um or factors.get("microns_per_pixel")
    diameter_notes = _check_diameter(name, path, spot_xy, factors, array, stated=stated is not None)
    value, source, scale_notes = scale(name, array, factors, user_um=user_um, image_um=image.um_per_px)
    kind, size_px, shape_notes = _spot_shape(spot_xy, factors, array, value)
    turn_notes = _array_fit.turn_notes(array.turned_degrees) if array is not None and kind == SQUARE else ()
    spots = Spots.alike(kind, spot_xy, np.float32(size_px), obs.index.astype(str).to_numpy(dtype=str))
    return Geometry(spots, value, source, (*scale_notes, *array_notes, *diameter_notes, *shape_notes, *turn_notes))


def scale(
    name: str,
    array: _arrays.Array | None,
    factors: dict[str, float],
    *,
    user_um: float | None,
    image_um: float | None,
) -> tuple[float, str, tuple[str, ...]]:
    """`_sections.scale` of spots on an array: what the user states, or the scale factors, or Visium's pitch."""
    return _sections.scale(
        name,
        user_um=user_um,
        file_um=factors.get("microns_per_pixel"),
        pitch_um=_pitch_um(array, factors),
        image_um=image_um,
        remedy=_scale_remedy(array),
    )


def _pitch_um(array: _arrays.Array | None, factors: dict[str, float]) -> float | None:
    """um per pixel by the array's pitch: Visium's if it is hexagonal, the bin size if that is stated."""
    if array is None:
        return None
    if array.kind == "square":
        return factors["bin_size_um"] / array.pitch_px if factors.get("bin_size_um") else None
    return _VISIUM_PITCH_UM / array.pitch_px if array.kind == "hexagonal" and "bin_size_um" not in factors else None


def _scale_remedy(array: _arrays.Array | None) -> str:
    lacks = "the file has no microns_per_pixel"
    if array is None:
        return f"{lacks}, nor array_row and array_col that would show its pitch; give --source-um-per-px"
    kind = "no array known" if array.kind == "unknown" else f"a {array.kind} array"
    return (
        f"{lacks}, and array_row and array_col form {kind} (spots {array.pitch_px:.4g} px apart), whose pitch in um is "
        "not stated; give --source-um-per-px"
    )


def _check_diameter(
    name: str,
    path: Path | str,
    spot_xy: np.ndarray,
    factors: dict[str, float],
    array: _arrays.Array | None,
    *,
    stated: bool,
) -> tuple[str, ...]:
    """Compare the distance between spots with `spot_diameter_fullres`; a note where they do not fit.

    Raises:
        InputError: they fit once a small picture's scale factor is taken off, or (Visium) not at all, and no scale is
            stated.
    """
    diameter = factors.get("spot_diameter_fullres", 0.0)
    visium = array is not None and array.kind == "hexagonal" and "bin_size_um" not in factors
    regular = array is not None or _arrays.is_regular(spot_xy)
    spacing = array.pitch_px if array is not None else _arrays.nearest_px(spot_xy)
    if not (diameter > 0 and spacing > 0 and regular):
        return ()
    low, high = _VISIUM_PITCH_PER_DIAMETER if visium else _PITCH_PER_DIAMETER
    if low <= spacing / diameter <= high:
        return ()
    found = f"spots are {spacing:.4g} px apart, but spot_diameter_fullres is {diameter:.4g} px"
    for key, factor in factors.items():
        if key.startswith("tissue_") and 0 < factor < 1 and low <= spacing / factor / diameter <= high:
            raise InputError(
                f"{path}: section {name!r}: {found}: the coordinates are in pixels of the {key.split('_')[1]} picture; "
                f"expected full-resolution pixels: divide obsm['spatial'] by {key}, {factor:.4g}"
            )
    if visium and not stated:
        raise InputError(
            f"{path}: section {name!r}: {found}; expected about 1.5 times as far, as Visium's: coordinates or scale "
            "factors are of another image; correct them, or give --source-um-per-px"
        )
    return (f"{found}: they may belong to different images",)


def _spot_shape(
    spot_xy: np.ndarray, factors: dict[str, float], array: _arrays.Array | None, um_per_px: float
) -> tuple[int, float, tuple[str, ...]]:
    """Spot kind, its size in pixels (disc radius or square side), and a note where it is a guess."""
    hexagonal = array is not None and array.kind == "hexagonal"
    if factors.get("bin_size_um"):
        note = "array_row and array_col are hexagonal, as Visium's, but bin_size_um is stated: taken as squares"
        return SQUARE, factors["bin_size_um"] / um_per_px, (note,) if hexagonal else ()
    if hexagonal:
        return DISC, VISIUM_RADIUS_UM / um_per_px, ()
    diameter = factors.get("spot_diameter_fullres", 0.0)
    square = array is not None and array.kind == "square"
    pitch = array.pitch_px if array is not None else _arrays.nearest_px(spot_xy)
    if square and abs(diameter / pitch - 1) < 0.05:
        return SQUARE, pitch, ("spots are taken as squares: spot_diameter_fullres is the pitch of a square array",)
    if diameter > 0:
        return DISC, diameter / 2, ("spot size is spot_diameter_fullres, a theoretical value",)
    unstated = "spot size not stated: taken as"
    for known_um, radius_um, whose in (
        (_VISIUM_PITCH_UM, VISIUM_RADIUS_UM, "Visium's 55 um"),
        (_legacy.PITCH_UM, _legacy.SPOT_RADIUS_UM, "legacy ST's 100 um"),
    ):
        if pitch == 0 or abs(pitch * um_per_px / known_um - 1) < 0.1:
            return DISC, radius_um / um_per_px, (f"{unstated} {whose}",)
    note = f"{unstated} the distance between neighbours, {pitch * um_per_px:.4g} um"
    return (SQUARE, pitch, (note,)) if square else (DISC, pitch / 2, (note,))


def _check_size(name: str, image: Image, entry: dict[str, Any]) -> None:
    """Compare the image with the size the file's own small picture and scale factor declare."""
    for which, shape in entry.get("images", {}).items():
        scale = entry.get("scalefactors", {}).get(f"tissue_{which}_scalef", 0.0)
        if not scale > 0 or len(shape) != 2:
            continue
        declared = (shape[1] / scale, shape[0] / scale)
        _sections.check_size(
            name, image.name, image.size, declared, f"the picture {which!r} and its scale factor", 1.5 / scale + 2
        )
        return


def _check_order(name: str, path: Path | str, spot_xy: np.ndarray, size: tuple[float, float]) -> None:
    """Raise `InputError` where the spots leave the image as they are and not once x and y change places."""
    outside, swapped = (
        float(np.mean((order < 0).any(axis=1) | (order >= np.array(size)).any(axis=1)))
        for order in (spot_xy, spot_xy[:, ::-1])
    )
    if outside > 0.05 and swapped < outside / 10:
        raise InputError(
            f"{path}: section {name!r}: {outside:.0%} of the spots lie outside the image ({size[0]:.0f} x "
            f"{size[1]:.0f} px), {swapped:.0%} with x and y swapped: obsm['spatial'] is (row, col), expected (x, y); "
            "swap its columns"
        )
