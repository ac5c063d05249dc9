"""Segmentations: GeoJSON as programs write it, and label images traced along their pixels."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from matplotlib.path import Path as Outline
from PIL import Image

from data_prep.errors import InputError
from data_prep.readers import _outlines, _pool
from data_prep.spots import Spots

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
HOLE = [[1, 1], [1, 2], [2, 2], [2, 1]]


def written(folder: Path, features: Any, name: str = "nuclei.geojson") -> Path:
    path = folder / name
    data = json.dumps(features).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def polygon(rings: Any, kind: str = "Polygon", **others: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": rings}, **others}


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a.geojson.gz"])
@pytest.mark.parametrize("listed", [False, True])
def test_collections_and_lists_are_read_packed_or_not(tmp_path: Path, name: str, *, listed: bool) -> None:
    features = [
        polygon([SQUARE, HOLE], id="n7"),
        polygon([[SQUARE], [[[9, 9], [9, 10], [10, 10]]]], "MultiPolygon", id=8),
    ]
    spots, notes = _outlines.read(written(tmp_path, features if listed else {"features": features}, name))
    assert spots.id.tolist() == ["n7", "8"]
    assert [[ring.tolist() for ring in spots.rings(spot)] for spot in (0, 1)] == [
        [SQUARE[:-1], HOLE],
        [SQUARE[:-1], [[9, 9], [9, 10], [10, 10]]],
    ]
    assert not notes


def test_ids_that_are_not_their_own_give_way_to_numbers(tmp_path: Path) -> None:
    for features in ([polygon([SQUARE], id="a")] * 2, [polygon([SQUARE], id="a"), polygon([HOLE])]):
        assert _outlines.read(written(tmp_path, features))[0].id.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"features": []}, "holds 0 features and no polygon"),
        ({"cells": []}, "has no list of features"),
        ([{"type": "Feature"}], "feature 1 is 'None', expected Polygon"),
        ([polygon([1, 2], "Point")], "feature 1 is 'Point', expected Polygon or MultiPolygon"),
        ([polygon("far")], "has no list of rings"),
        ([polygon([SQUARE]), polygon(["far"])], "feature 2 has a ring that is no list of x and y"),
        ([polygon([[[0, 1], [2], [3, 4]]])], "no list of x and y"),
        ([polygon([[["a", "b"]] * 4])], "no list of x and y"),
        ([polygon([SQUARE], id=[1])], "neither text nor a whole number"),
        ([polygon([SQUARE], id="x" * 300)], "longer than 200 bytes"),
    ],
)
def test_what_is_no_outline_is_refused_in_one_line(tmp_path: Path, features: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        _outlines.read(written(tmp_path, features))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".png"), ("I;16", ".png"), ("I;16", ".tif"), ("I", ".tif")])
def test_a_polygon_of_a_label_holds_its_pixels_and_no_others(tmp_path: Path, mode: str, suffix: str) -> None:
    rng = np.random.default_rng(3)
    labels = np.kron(rng.integers(0, 30, (12, 15)), np.ones((3, 2), int))
    labels[rng.random(labels.shape) < 0.1] = 7  # in many pieces, corner to corner, with holes
    types = {"L": np.uint8, "I;16": np.uint16, "I": np.int32}
    Image.fromarray(labels.astype(types[mode])).save(tmp_path / f"nuclei{suffix}")
    spots, _ = _outlines.read(tmp_path / f"nuclei{suffix}")
    assert spots.id.tolist() == [str(label) for label in np.unique(labels[labels > 0])]
    row, column = np.indices(labels.shape)
    centres = np.column_stack([column.ravel(), row.ravel()]) + 0.5
    held, several = _pool.sum_in_polygons(spots, centres, scipy.sparse.csr_array(scipy.sparse.eye_array(labels.size)))
    assert several == 0
    found = np.zeros(labels.size, int)
    spot, pixel = held.tocoo().coords
    found[pixel] = spots.id[spot].astype(int)
    np.testing.assert_array_equal(found, labels.ravel())


@pytest.mark.parametrize("mode", ["RGB", "F", "P"])
def test_images_that_hold_no_labels_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("nuclei.tif" if mode == "F" else "nuclei.png")
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(InputError, match="expected one channel of whole numbers"):
        _outlines.read(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="the image cannot be read"):
        _outlines.read(path)


def test_sums_in_polygons_are_those_of_the_points_in_each() -> None:
    rng = np.random.default_rng(0)
    outlines = []
    for _ in range(80):
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        reach = rng.uniform(3, 40, len(angle))
        outlines.append(rng.uniform(0, 500, 2) + reach[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]))
    xy = rng.uniform(-50, 550, (4000, 2))
    counts = scipy.sparse.csr_array(rng.poisson(1, (4000, 5)).astype(np.int32))
    held = np.stack([Outline(outline).contains_points(xy) for outline in outlines])
    summed, several = _pool.sum_in_polygons(Spots.polygons(outlines), xy, counts)
    np.testing.assert_array_equal(summed.toarray(), held @ counts.toarray())
    assert several == np.sum(held.sum(axis=0) > 1) > 0


def test_neighbours_share_out_the_points_between_them() -> None:
    """Points on borders and corners too."""
    outlines = [[[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]] for x in range(4) for y in range(4)]
    xy = np.stack(np.meshgrid(np.arange(0, 4, 0.5), np.arange(0, 4, 0.5)), axis=-1).reshape(-1, 2)
    summed, several = _pool.sum_in_polygons(
        Spots.polygons([np.array(outline, float) for outline in outlines]), xy,
        scipy.sparse.csr_array(np.ones((len(xy), 1), np.int32)),
    )  # fmt: skip
    assert several == 0
    np.testing.assert_array_equal(summed.toarray(), np.full((16, 1), 4))
