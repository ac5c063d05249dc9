"""What the legacy Spatial Transcriptomics layouts share: spots named `11x17`, discs on a square grid."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from data_prep import unpack
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _array_fit, _count_table, _patients, _sections, _text
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.spots import Spots

PITCH_UM, SPOT_RADIUS_UM = 200.0, 50.0  # of arrays of 1,007 spots
# R's make.names puts an X before a digit, others write an underscore
_SPOT_ID = re.compile(r"^(?P<mangled>X?)(-?\d+)(?:\.0+)?(?P<between>[x_])(-?\d+)(?:\.0+)?$")
_GEO = re.compile(r"^(GSM\d+_.+_stdata|(GSM\d+_)?spot_data-selection-.+)\.tsv(\.gz)?$")
_OTHERS = 0.05  # of the spots: what may lack a partner on both sides before the files are of two sections


class Files(NamedTuple):
    """A section's: its count table (spots x genes), its table of spots, and its slide."""

    counts: Path
    spots: Path
    image: Path


def read_section(
    name: str,
    files: Files,
    spots: dict[str, Any],
    patient: _patients.Patient,
    reading: Reading,
    *,
    layout: str,
    root: Path,
    pitch_um: float = PITCH_UM,
    spot_radius_um: float = SPOT_RADIUS_UM,
    notes: Sequence[str] = (),
) -> Section:
    """A section: its selected spots that were counted, in count-file order; what is left out is noted.

    Args:
        spots: of `files.spots`: `id` [N] str, `grid_xy` [N, 2] in units of the pitch, `pixel_xy` [N, 2], `selected` [N]
            bool, and notes.
        root: the folder all sections lie in.
        pitch_um, spot_radius_um: of the array.

    Raises:
        InputError: a malformed count table, duplicate spots, files of different sections, spots that do not lie as the
            array does, or an unknown scale.
    """
    counted, columns, counts, table_notes = _spots_by_genes(files.counts)
    spot_row = _rows(counted, files.counts)
    place = _rows(spots["id"], files.spots)
    kept = [spot for spot in spot_row if spot in place and spots["selected"][place[spot]]]
    if not kept:
        raise InputError(
            f"Section {name!r}: none of the {len(spot_row)} spots of {files.counts} is selected in {files.spots} "
            f"(e.g. {next(iter(spot_row))} against {next(iter(place), 'nothing')}); the two files belong to "
            "different sections or name spots differently"
        )
    _check_section(name, files, spot_row, place, spots["selected"])
    _array_fit.check(files.spots, spots["id"], spots["grid_xy"], spots["pixel_xy"])
    pitch = _array_fit.pitch_px(spots["grid_xy"], spots["pixel_xy"])
    um_per_px, source, scale_notes = _sections.scale(
        name,
        pitch_um=pitch_um / pitch if pitch else None,
        user_um=reading.um_per_px,
        remedy="too few spots to measure their pitch; give --source-um-per-px",
    )
    named, counts, gene_notes = reading.name_genes(columns, counts[[spot_row[spot] for spot in kept]])
    join_notes = _join_notes(spot_row, place, spots["selected"])
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=files.image,
        genes=named,
        counts=counts,
        spots=Spots.discs(
            spots["pixel_xy"][[place[spot] for spot in kept]], np.float32(spot_radius_um / um_per_px), kept
        ),
        um_per_px=um_per_px,
        um_per_px_source=source,
        layout=layout,
        synthetic=_sections.is_synthetic(root),
        notes=(*patient.notes, *notes, *scale_notes, *spots.get("notes", ()), *table_notes, *join_notes, *gene_notes),
    )


def find_files(
    path: Path, patterns: Mapping[str, re.Pattern[str]], depth: int, *, plain: Callable[[str], str] = str
) -> dict[str, dict[str, Path]]:
    """Kind of file -> section -> file; an image still packed only where there is none unpacked.

    Args:
        patterns: kind -> what its files are called, the section in the first group.
        depth: how many folders deep they may lie.
        plain: of several spellings of a section's name, the one to go by.

    Raises:
        InputError: two files for the same thing.
    """
    found: dict[str, dict[str, Path]] = {kind: {} for kind in patterns}
    for kind, pattern in patterns.items():
        for file in _sections.find(path, pattern, depth):
            name = plain(pattern.sub(r"\1", file.name))
            other = found[kind].get(name)
            if other and kind == "image" and (file.suffix == ".gz") != (other.suffix == ".gz"):
                file = min(file, other, key=lambda image: image.suffix == ".gz")
            elif other:
                raise InputError(f"Section {name!r}: both {other} and {file}; keep one of the two")
            found[kind][name] = file
    return found


def lacking(name: str, files: Mapping[str, Mapping[str, Path]], expected: Mapping[str, str], prefixes: str) -> str:
    """What a section lacks of the files found, "" when complete.

    Args:
        files: kind -> section -> file; expected: kind -> what its files are called; prefixes: what else may stand
            before that.
    """
    lacks = [f"{kind} not found (expected {form.format(name)}, {prefixes})"
             for kind, form in expected.items() if name not in files[kind]]  # fmt: skip
    image = files["image"].get(name)
    if image and image.suffix == ".gz":
        lacks.append(f"image {image.name} is still packed, unpack it: {unpack.remedy(image)}")
    return ", ".join(lacks)


def is_geo(path: Path, depth: int) -> bool:
    """Whether files are named as GEO's cutaneous carcinomas are (layout `cscc`), not as STNet's."""
    return bool(_sections.find(path, _GEO, depth))


def read_selection(path: Path) -> dict[str, Any]:
    """A table of spots with x, y (or spot names as row names), pixel_x, pixel_y and perhaps new_x, new_y, selected.

    Returns:
        `id` [N] str, `grid_xy` and `pixel_xy` [N, 2] float64, `selected` [N] bool, and notes.

    Raises:
        InputError: malformed, with its place.
    """
    header, *rows = _text.read_rows(path, "\t", row_names=True)
    has = {name.strip() for name in header}
    notes: tuple[str, ...] = ()
    if not {"x", "y"} <= has and rows and all(_SPOT_ID.match(row[0].strip()) for row in rows):
        ids, notes = spot_ids([row[0].strip() for row in rows], path)
        x, y = ([spot.split("x")[axis] for spot in ids] for axis in (0, 1))
        pixel_x, pixel_y = _text.columns(path, header, rows, ["pixel_x", "pixel_y"])
    else:
        x, y, pixel_x, pixel_y = _text.columns(path, header, rows, ["x", "y", "pixel_x", "pixel_y"])
    new_x, new_y = _text.columns(path, header, rows, ["new_x", "new_y"]) if {"new_x", "new_y"} <= has else (x, y)
    flags = _text.columns(path, header, rows, ["selected"])[0] if "selected" in has else ["1"] * len(rows)

    def stack(**named: Sequence[str]) -> np.ndarray:
        return np.column_stack([_text.numbers(path, column, values) for column, values in named.items()])

    array_xy = stack(x=x, y=y)
    if not np.array_equal(array_xy, np.round(array_xy)):
        raise InputError(f"{path}: columns x and y hold fractions, expected whole array positions; correct the file")
    return {
        "id": [f"{column:.0f}x{row:.0f}" for column, row in array_xy],
        "grid_xy": stack(new_x=new_x, new_y=new_y),
        "pixel_xy": stack(pixel_x=pixel_x, pixel_y=pixel_y),
        "selected": _text.numbers(path, "selected", flags) != 0,
        "notes": notes,
    }


def spot_ids(names: Sequence[str], path: Path) -> tuple[list[str], tuple[str, ...]]:
    """`011x017`, `11_17`, `X11x17` or `11x17` -> `11x17`; and a note where R or an underscore was in between.

    Raises:
        InputError: a row name of another form.
    """
    matches = [_SPOT_ID.match(name) for name in names]
    wrong = next((index for index, match in enumerate(matches) if match is None), None)
    if wrong is not None:
        raise InputError(
            f"{path}: line {wrong + 2} is named {names[wrong]!r}, expected a spot such as 11x17; "
            "the table needs one row or one column per spot"
        )
    ids = [f"{int(match[2])}x{int(match[4])}" for match in matches if match]
    other = next((i for i, match in enumerate(matches) if match and match["mangled"] + match["between"] != "x"), None)
    return ids, () if other is None else (f"{path.name} names spots as {names[other]}, read as {ids[other]}",)


def _spots_by_genes(path: Path) -> tuple[list[str], list[str], scipy.sparse.csr_array, tuple[str, ...]]:
    """Spots, genes and counts [S, G] of a count table, which may have spots as rows or as columns; and notes."""
    rows, columns, counts = _count_table.read(path)
    notes: tuple[str, ...] = ()
    if not any(map(_SPOT_ID.match, rows)) and all(map(_SPOT_ID.match, columns)):
        rows, columns, counts = columns, rows, scipy.sparse.csr_array(counts.T)
        notes = (f"{path.name} has genes as rows and spots as columns: turned",)
    spots, spot_notes = spot_ids(rows, path)
    return spots, columns, counts, notes + spot_notes


def _check_section(
    name: str, files: Files, spot_row: dict[str, int], place: dict[str, int], selected: np.ndarray
) -> None:
    """Refuse counts and spots of two sections: on one kind of array they share most names, but each lacks some."""
    chosen = {spot for spot, index in place.items() if selected[index]}
    strays, uncounted = len(spot_row.keys() - place.keys()), len(chosen - spot_row.keys())
    if strays > max(3, _OTHERS * len(spot_row)) and uncounted > max(3, _OTHERS * len(chosen)):
        raise InputError(
            f"Section {name!r}: {strays} of the {len(spot_row)} spots of {files.counts} are not in {files.spots}, and "
            f"{uncounted} of the {len(chosen)} spots selected there have no counts; the two files belong to different "
            "sections"
        )


def _rows(spots: Sequence[str], path: Path) -> dict[str, int]:
    """Spot id -> its row."""
    rows: dict[str, int] = {}
    for row, spot in enumerate(spots):
        if spot in rows:
            raise InputError(
                f"{path}: spot {spot} appears on lines {rows[spot] + 2} and {row + 2}; remove the duplicate row"
            )
        rows[spot] = row
    return rows


def _join_notes(spot_row: dict[str, int], place: dict[str, int], selected: np.ndarray) -> list[str]:
    unselected = sum(spot in place and not selected[place[spot]] for spot in spot_row)
    unplaced = sum(spot not in place for spot in spot_row)
    uncounted = sum(selected[index] and spot not in spot_row for spot, index in place.items())
    texts = (
        (uncounted, "selected spots have no counts"),
        (unplaced, "counted spots are not in the spot file and were left out"),
        (unselected, "counted spots are not selected and were left out"),
    )
    return [counted(number, text) for number, text in texts if number]
