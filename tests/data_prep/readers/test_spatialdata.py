"""spatialdata: shapes are placed in the image by any transformation; of several elements none is taken silently."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from data_prep import build, readers
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.readers import _sdata_shapes, _sdata_store
from data_prep.spots import DISC, POLYGON, SQUARE
from tests.data_prep.readers.conftest import Source

spatialdata = readers.reader("spatialdata")
TURNED = np.array([[0.0, -3.0, 1000.0], [3.0, 0.0, -50.0], [0.0, 0.0, 1.0]])  # by a quarter, 3 units a pixel, and moved

SAME = np.eye(3)


def change(path: Path, edit) -> None:
    """Changes the attributes of a node of a store."""
    meta = json.loads((path / "zarr.json").read_text())
    edit(meta["attributes"])
    (path / "zarr.json").write_text(json.dumps(meta))


def axes(names: str, system: str = "") -> dict:
    return {"name": system or names, "axes": [{"name": axis} for axis in names]}


def step(kind: str, names: str, system: str, **said) -> dict:
    return {"type": kind, "input": axes(names), "output": axes(names, system), **said}


def place(store: Path, image: str, shapes: str, of_image: list, of_shapes: list) -> None:
    change(store / "images" / image,
           lambda at: at["ome"]["multiscales"][0].update(coordinateTransformations=of_image))  # fmt: skip
    change(store / "shapes" / shapes, lambda at: at.update(coordinateTransformations=of_shapes))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (step("identity", "xy", "a"), np.eye(3)),
        (step("scale", "cyx", "a", scale=[1, 2, 3]), np.diag([3.0, 2, 1])),
        (step("translation", "yx", "a", translation=[5, 7]), [[1, 0, 7], [0, 1, 5], [0, 0, 1]]),
        (step("affine", "xy", "a", affine=TURNED[:2].tolist()), TURNED),
        # Rows are axes of the output, columns of the input: here y, x to x, y
        ({"type": "affine", "input": axes("yx"), "output": axes("xy", "a"), "affine": [[1, 2, 3], [4, 5, 6]]},
         [[2, 1, 3], [5, 4, 6], [0, 0, 1]]),
        (step("rotation", "xy", "a", rotation=[[0, -1], [1, 0]]), [[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
        (step("mapAxis", "xy", "a", mapAxis={"x": "y", "y": "x"}), [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
        (step("sequence", "xy", "a", transformations=[{"type": "scale", "scale": [2, 2]},
                                                      {"type": "translation", "translation": [10, 0]}]),
         [[2, 0, 10], [0, 2, 0], [0, 0, 1]]),
    ],
)  # fmt: skip
def test_transformations_mean_what_the_format_says(said, expected):
    (found,) = _sdata_store._systems(Path("s"), [said], ("x", "y")).values()
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("said", [{"type": "byDimension"}, {"type": "scale"}, {"type": "scale", "scale": [0, 1]}])
def test_other_or_damaged_transformations_are_refused(said):
    with pytest.raises(InputError, match="coordinateTransformations"):
        _sdata_store._systems(Path("s"), [step("identity", "xy", "a") | said], ("x", "y"))


def test_spots_are_found_in_the_image_whatever_the_coordinate_systems(source: Source) -> None:
    store = source("spatialdata") / "A1.zarr"
    before = spatialdata.read_section(store, "A1")
    moved = np.eye(4)  # c, y, x
    moved[1:3, 1:3], moved[1:3, 3] = TURNED[[1, 0]][:, [1, 0]], TURNED[[1, 0], 2]
    into = {"transformations": [{"type": "scale", "scale": [0.5, 0.5]}, {"type": "scale", "scale": [2, 2]},
                                {"type": "affine", "affine": TURNED[:2].tolist()}]}  # fmt: skip
    place(store, "A1_full_image", "A1",
          [step("affine", "cyx", "aligned", affine=moved[:3].tolist())],
          [step("sequence", "xy", "aligned", **into)])  # fmt: skip
    found = spatialdata.read_section(store, "A1")
    np.testing.assert_allclose(found.spots.xy, before.spots.xy, atol=1e-6)
    assert found.um_per_px == pytest.approx(before.um_per_px)
    assert abs(found.counts - before.counts).sum() == 0
    place(store, "A1_full_image", "A1", [step("identity", "cyx", "aligned")],
          [step("scale", "xy", "aligned", scale=[1, 1.5])])  # fmt: skip
    with pytest.raises(InputError, match="circles of 'A1' become ellipses"):
        spatialdata.read_section(store, "A1")


def joined(root: Path) -> Path:
    """B1's elements moved into the store of A1."""
    for kind, names in (("images", ("B1_full_image", "B1_hires_image")), ("shapes", ("B1",))):
        for name in names:
            shutil.move(root / "B1.zarr" / kind / name, root / "A1.zarr" / kind / name)
    shutil.move(root / "B1.zarr/tables/table", root / "A1.zarr/tables/table_B")
    shutil.rmtree(root / "B1.zarr")
    return root / "A1.zarr"


def test_samples_in_one_store_are_sections_of_their_own_and_train_like_any(source: Source, tmp_path: Path) -> None:
    root = source("spatialdata")
    apart = {section.name: section for section in spatialdata.read_sections(root)}
    store = joined(root)
    together = list(spatialdata.read_sections(store))
    assert [section.name for section in together] == ["A1", "B1"]
    for section in together:
        assert (section.patient, section.patient_source) == (section.name[0], "user")
        assert abs(section.counts - apart[section.name].counts).sum() == 0
    out = tmp_path / "data"
    build.build(store, out, min_counts=0, patch_size_px=32, min_spot_fraction=0.0)
    dataset = PatchDataset.open(out)
    assert [section["spots"] for section in dataset.sections] == [len(section.spots) for section in together]


def test_of_several_elements_the_user_chooses(source: Source) -> None:
    store = source("spatialdata") / "A1.zarr"
    shutil.copytree(store / "tables/table", store / "tables/square_008um")
    with pytest.raises(InputError, match=r"tables .*square_008um.* are of the same image 'A1_full_image'; choose"):
        spatialdata.find_sections(store)
    assert spatialdata.find_sections(store, elements="table=table") == {"A1": ""}
    shutil.copytree(store / "images/A1_full_image", store / "images/other")
    chosen = "table=table,image=other"
    with pytest.raises(InputError, match="images A1_full_image, other lie with shapes 'A1'"):
        spatialdata.find_sections(store, elements="table=table")
    assert spatialdata.read_section(store, "A1", elements=chosen).image_path.name == "other"
    place(store, "other", "A1", [step("identity", "cyx", "a"), step("scale", "cyx", "b", scale=[1, 2, 2])],
          [step("identity", "xy", "a"), step("identity", "xy", "b")])  # fmt: skip
    with pytest.raises(InputError, match="by coordinate system a, b; choose one with --elements system=NAME"):
        spatialdata.find_sections(store, elements=chosen)
    half = spatialdata.read_section(store, "A1", elements=f"{chosen},system=b")
    whole = spatialdata.read_section(store, "A1", elements=f"{chosen},system=a")
    np.testing.assert_allclose(half.spots.xy * 2, whole.spots.xy)
    assert half.um_per_px == pytest.approx(2 * whole.um_per_px)


@pytest.mark.parametrize("text", ["", "table", "table=", "slide=a", "table=a,table=b", "image=nowhere"])
def test_elements_that_name_nothing_are_refused(originals: Source, text: str) -> None:
    with pytest.raises(InputError, match="--elements"):
        spatialdata.find_sections(originals("spatialdata"), elements=text)


def test_a_store_without_its_slide_is_incomplete_and_small_pictures_are_taken_on_request(source: Source) -> None:
    store = source("spatialdata") / "A1.zarr"
    fine = spatialdata.read_section(store, "A1")
    shutil.rmtree(store / "images/A1_full_image")
    (lack,) = spatialdata.find_sections(store).values()
    assert "RGB image not found" in lack
    assert "A1_hires_image: --elements image=NAME takes one" in lack
    coarse = spatialdata.read_section(store, "A1", elements="image=A1_hires_image")
    ratio = coarse.um_per_px / fine.um_per_px
    np.testing.assert_allclose(coarse.spots.xy * ratio, fine.spots.xy, rtol=1e-6)


def test_shapes_in_place_of_those_that_the_table_names(source: Source) -> None:
    store = source("spatialdata") / "A1.zarr"
    before = spatialdata.read_section(store, "A1")
    shutil.move(store / "shapes/A1", store / "shapes/outlines")
    (lack,) = spatialdata.find_sections(store).values()
    assert "annotates 'A1', which is no shapes; name shapes with the same ids by --elements shapes=NAME" in lack
    found = spatialdata.read_section(store, "A1", elements="shapes=outlines")
    np.testing.assert_allclose(found.spots.xy, before.spots.xy)


def test_codecs_that_run_code_are_refused(source: Source) -> None:
    store = source("spatialdata") / "A1.zarr"
    meta = json.loads((file := store / "tables/table/X/data/zarr.json").read_text())
    meta["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    file.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"codec 'numcodecs\.pickle' is not read"):
        spatialdata.read_section(store, "A1")


# ---------------------------------------------------------------------------------------------------------- shapes


def polygon(*rings: list) -> bytes:
    parts = [struct.pack("<I", len(ring)) + np.array(ring, "<f8").tobytes() for ring in rings]
    return struct.pack("<BII", 1, 3, len(rings)) + b"".join(parts)


def closed(corners: list) -> list:
    return [*corners, corners[0]]


UPRIGHT = closed([(10, 10), (30, 10), (30, 30), (10, 30)])
HOLE = closed([(15, 15), (20, 15), (20, 20)])


def shapes(blobs: list[bytes], affine: np.ndarray = SAME, radius=None):
    ids = np.arange(len(blobs)).astype(str)
    return _sdata_shapes.spots("store", "s", blobs, radius, affine, ids)


def test_squares_are_squares_while_they_stand_upright_and_others_keep_their_rings():
    found = shapes([polygon(UPRIGHT)] * 2)
    assert (set(found.kind), found.size_px.tolist(), found.xy.tolist()) == ({SQUARE}, [20, 20], [[20, 20]] * 2)
    assert set(shapes([polygon(UPRIGHT)], TURNED).kind) == {SQUARE}
    leaning = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    assert set(shapes([polygon(UPRIGHT)], leaning).kind) == {POLYGON}
    assert set(shapes([polygon(UPRIGHT)], np.diag([2.0, 1, 1])).kind) == {POLYGON}
    both = struct.pack("<BII", 1, 6, 2) + polygon(UPRIGHT, HOLE) + polygon(closed([(50, 50), (60, 50), (60, 60)]))
    found = shapes([both, polygon(UPRIGHT)])
    assert [len(found.rings(spot)) for spot in (0, 1)] == [3, 1]
    assert len(found.rings(1)[0]) == 4  # no longer closed


def test_circles_grow_with_the_image():
    point = struct.pack("<BIdd", 1, 1, 2.0, 3.0)
    found = shapes([point], TURNED, np.array([5.0]))
    assert (set(found.kind), found.size_px.tolist(), found.xy.tolist()) == ({DISC}, [pytest.approx(15)], [[991, -44]])


@pytest.mark.parametrize(
    "blob",
    [b"", polygon(UPRIGHT)[:-1], struct.pack("<BII", 1, 3, 1 << 31), struct.pack("<BIdd", 1, 2, 0, 0),
     struct.pack(">BIdd", 0, 1, 0, 0)],
)  # fmt: skip
def test_damaged_geometries_are_refused(blob):
    with pytest.raises(InputError, match="shapes 's' hold"):
        shapes([polygon(UPRIGHT), blob])
