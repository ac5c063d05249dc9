"""The spots of tiles, as they come out of a data set's records."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse

from data_prep import records
from data_prep.section_table import SectionTable
from data_prep.spots import Spots
from stjax import protocols
from stjax.data import tile_spots
from stjax.data.selection import Selection

ORIGIN = np.array([100.0, 50.0])


def dataset_of(spots) -> Any:
    """One section of one tile at `ORIGIN`, 64 px a side."""
    nothing = np.zeros(len(spots), np.int64)
    counts = scipy.sparse.csr_array((len(spots), 2), dtype=np.int32)
    table = SectionTable(spots, nothing, nothing, np.zeros(1), np.zeros((1, 3)), np.zeros((1, 3)), counts)
    encoded = records.encode_record(
        {
            "image": b"",
            "image_format": "raw",
            "section": "A1",
            "patient": "A",
            "height": 64,
            "width": 64,
            "origin_xy": ORIGIN,
            "px_scale": 1.0,
            "white_fraction": 0.0,
            "total_counts": nothing,
            **records.spot_arrays(spots.within(ORIGIN, 1.0)),
        }
    )
    entry = {"name": "A1", "patient": "A", "records": 1, "um_per_px": 0.5, "image": {"sha256": "0"}}
    source = SimpleNamespace(record=lambda _, image: records.decode_record(encoded, image=image))
    every = np.arange(len(spots))
    tables = dict.fromkeys(("tables", "spot_tables"), lambda *_, **__: iter([table]))
    return SimpleNamespace(section=lambda _: entry, source=lambda _: source, rows=lambda _: every, **tables)


def test_outlines_with_holes_stay_with_their_spots():
    frame = [np.array([[-9.0, -9], [9, -9], [9, 9], [-9, 9]]) * side + [120, 80] for side in (1, 0.5)]
    triangle = np.array([[140.0, 90], [150, 90], [145, 100]])
    spots = Spots.concatenate([Spots.polygons([frame]), Spots.discs([[130, 70]], 4), Spots.polygons([triangle])])
    ((tiles, (found,), _),) = tile_spots.slides(Selection(dataset_of(spots), ["A1"], protocols.pixnet, train=True))
    within = found.places().within
    np.testing.assert_array_equal(tiles[0].origin_xy, ORIGIN)
    assert found.tile.tolist() == [0, 0, 0]
    assert [len(within.rings(spot)) for spot in range(3)] == [2, 0, 1]
    for spot in range(3):
        for ring, expected in zip(within.rings(spot), spots.rings(spot), strict=True):
            np.testing.assert_array_equal(ring + ORIGIN, expected)
