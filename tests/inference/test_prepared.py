"""What evaluation says of the spots of a prepared section: each has its own size."""

import types

import numpy as np
import pytest

from data_prep import build, demo, records
from data_prep.dataset import PatchDataset
from data_prep.section import DISC, POLYGON, SQUARE
from stjax.inference import prepared


def test_bins_cut_as_patches_are_squares_of_their_own_side(tmp_path):
    demo.make_demo(tmp_path / "raw", layout="visium_hd", patients=1, sections_per_patient=1, spots=2)
    build.build(tmp_path / "raw", tmp_path / "data", patch_size_px=32, min_counts=0, bin_um=[8, 16])
    dataset = PatchDataset.open(tmp_path / "data")
    for section in dataset.sections:
        across = prepared.spots_across_px(dataset, section["name"])
        size = float(section["name"].rpartition("_")[2].removesuffix("um"))
        np.testing.assert_allclose(across * section["um_per_px"], size, rtol=1e-5)


def test_discs_squares_and_polygons_each_have_their_size():
    kind = np.array([DISC, SQUARE, POLYGON, DISC], np.uint8)
    table = types.SimpleNamespace(
        spot_kind=kind, spot_size_px=np.array([5, 8, 0, 7], np.float32), record_of_spot=np.arange(4, dtype=np.int32)
    )
    ring = np.array([[0, 0], [6, 0], [6, 4], [0, 4]], np.float64)  # pixels of a record of two slide pixels each

    def record(index, *, image):
        assert index == 2
        nothing = np.zeros(0)
        encoded = records.encode_record({
            "image": b"", "image_format": "jpeg", "height": 8, "width": 8, "section": "A", "patient": "A",
            "origin_xy": np.zeros(2), "px_scale": 2.0, "white_fraction": 0.0, "spot_xy": np.array([[3.0, 2.0]]),
            "spot_id": ["c"], "total_counts": np.array([1]), "count_indptr": np.array([0, 0]), "count_indices": nothing,
            "count_values": nothing, "spot_kind": kind[[2]], "spot_size_px": np.zeros(1),
            "polygon_indptr": np.array([0, 4]), "polygon_xy": ring,
        })  # fmt: skip
        return records.decode_record(encoded, image=image)

    dataset = types.SimpleNamespace(table=lambda _: table, source=lambda _: types.SimpleNamespace(record=record))
    across = prepared.spots_across_px(dataset, "A")
    assert across == pytest.approx([10, 8, 2 * 2 * np.sqrt(24 / np.pi), 14])
