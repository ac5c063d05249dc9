"""What the two legacy Spatial Transcriptomics layouts share: spots named `11x17`, 100 um discs on a 200 um grid."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import genes
from data_prep.errors import InputError
from data_prep.readers import _sections, _text
from data_prep.section import DISC, Section

PITCH_UM, SPOT_RADIUS_UM = 200.0, 50.0

_SPOT_ID = re.compile(r"^(-?\d+)(?:\.0+)?x(-?\d+)(?:\.0+)?$")


def read_section(
    name: str,
    *,
    patient: str,
    layout: str,
    image_path: Path,
    count_path: Path,
    spot_path: Path,
    spots: dict[str, Any],
    um_per_px: float | None,
    gene_table: Path | None,
    resolve_aliases: bool,
    synthetic: bool,
    notes: Sequence[str] = (),
) -> Section:
    """A section: its selected spots that were counted, in count-file order; what is left out is noted.

    Args:
        name, patient, layout, image_path, synthetic, notes: as in `Section`.
        count_path: spots x genes table.
        spot_path: where `spots` come from, for messages.
        spots: `id` [N] str, `grid_xy` [N, 2] in units of the pitch, `pixel_xy` [N, 2], `selected` [N] bool.
        um_per_px: the user's figure, used when the pitch cannot be measured.
        gene_table, resolve_aliases: see `data_prep.readers`.

    Raises:
        InputError: a malformed count table, duplicate spots, no spot in common, or an unknown scale.
    """
    counted, columns, counts = _text.read_count_table(count_path)
    spot_row = _rows(spot_ids(counted, count_path), count_path)
    place = _rows(spots["id"], spot_path)
    kept = [spot for spot in spot_row if spot in place and spots["selected"][place[spot]]]
    if not kept:
        raise InputError(
            f"Section {name!r}: none of the {len(spot_row)} spots of {count_path} is selected in {spot_path} "
            f"(e.g. {next(iter(spot_row))} against {next(iter(place), 'nothing')}); the two files belong to "
            "different sections or name spots differently"
        )
    pitch = _sections.pitch_px(spots["grid_xy"], spots["pixel_xy"])
    um_per_px, source, scale_notes = _sections.scale(
        name,
        file_um=None,
        pitch_um=PITCH_UM / pitch if pitch else None,
        user_um=um_per_px,
        remedy="too few spots to measure their pitch; give --source-um-per-px",
    )
    named, counts, gene_notes = genes.name_columns(
        columns,
        counts[[spot_row[spot] for spot in kept]],
        gene_table_path=gene_table,
        resolve_aliases=resolve_aliases,
    )
    join_notes = _join_notes(spot_row, place, spots["selected"])
    return Section(
        name=name,
        patient=patient,
        image_path=image_path,
        genes=named,
        counts=counts,
        spot_id=np.array(kept, dtype=str),
        spot_xy=spots["pixel_xy"][[place[spot] for spot in kept]],
        spot_kind=np.full(len(kept), DISC, np.uint8),
        spot_size_px=np.full(len(kept), SPOT_RADIUS_UM / um_per_px, np.float32),
        um_per_px=um_per_px,
        um_per_px_source=source,
        layout=layout,
        synthetic=synthetic,
        notes=(*notes, *scale_notes, *join_notes, *gene_notes),
    )


def spot_ids(names: Sequence[str], path: Path) -> list[str]:
    """`011x017` or `11x17` -> `11x17`.

    Raises:
        InputError: a row name of another form.
    """
    matches = [_SPOT_ID.match(name) for name in names]
    wrong = next((index for index, match in enumerate(matches) if match is None), None)
    if wrong is not None:
        raise InputError(
            f"{path}: line {wrong + 2} is named {names[wrong]!r}, expected a spot such as 11x17; "
            "the table needs one row per spot (is it transposed?)"
        )
    return [f"{int(match[1])}x{int(match[2])}" for match in matches if match]


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
        (uncounted, f"{uncounted} selected spots have no counts"),
        (unplaced, f"{unplaced} counted spots are not in the spot file and were left out"),
        (unselected, f"{unselected} counted spots are not selected and were left out"),
    )
    return [text for number, text in texts if number]
