"""`model.predict` of a SpatialData, and its result as one. Needs the extra `interop`; skipped without it."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import stjax

spatialdata = pytest.importorskip("spatialdata", reason="pip install 'stjax[interop]'", exc_type=ImportError)
shapely = pytest.importorskip("shapely")
geopandas = pytest.importorskip("geopandas")

from spatialdata.models import Image2DModel, ShapesModel, TableModel  # noqa: E402
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation, set_transformation  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
UM = 0.5
AXES = ("x", "y")
SPOTS = np.array([[x, y] for y in (60, 150, 240) for x in (50.3, 170, 300)], np.float64)  # pixels of the image
IDS = [f"AAC-{place}" for place in range(len(SPOTS))]
# From pixels of the image into the coordinate system: turned by a quarter, 3 units a pixel, and moved
TURNED = np.array([[0.0, -3.0, 1000.0], [3.0, 0.0, -50.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def model():
    return stjax.load(Path(__file__).parents[1] / "stjax" / "data" / "exported")


@pytest.fixture(scope="module")
def pixels():
    coarse = np.random.default_rng(3).integers(30, 220, (20, 26, 3)).astype(np.uint8)
    return coarse.repeat(15, axis=0).repeat(15, axis=1)  # [300, 390, 3]


@pytest.fixture(scope="module")
def expected(model, pixels):
    return model.predict(pixels, SPOTS, um_per_px=UM).expression


def image_of(pixels, transformations, **how):
    colours = ["r", "g", "b"][: pixels.shape[2]]
    return Image2DModel.parse(
        np.moveaxis(pixels, -1, 0), dims=("c", "y", "x"), c_coords=colours, transformations=transformations, **how
    )


def into(affine, xy):
    return xy @ affine[:2, :2].T + affine[:2, 2]


def circles(xy, transformation, system="aligned"):
    return ShapesModel.parse(xy, geometry=0, radius=60.0, index=IDS, transformations={system: transformation})


def table_of(rows, **obs):
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * len(rows)), "spot": [IDS[row] for row in rows], **obs})
    obs.index = [f"cell-{row}" for row in rows]
    adata = anndata.AnnData(np.zeros((len(rows), 1), np.float32), obs=obs)
    return TableModel.parse(adata, region="spots", region_key="region", instance_key="spot")


@pytest.fixture
def sdata(pixels):
    """The image turned, scaled and moved into "aligned"; the spots in another frame of their own, twice as coarse."""
    image = image_of(pixels, {"aligned": Affine(TURNED, AXES, AXES)})
    spots = circles(into(TURNED, SPOTS) / 2, Scale([2, 2], AXES))
    return spatialdata.SpatialData(images={"slide": image}, shapes={"spots": spots})


def test_spots_are_found_in_the_image_whatever_the_transformations(model, sdata, expected):
    found = model.predict(sdata, um_per_px=UM)
    np.testing.assert_allclose(found.spots.xy, SPOTS, atol=1e-9)
    np.testing.assert_array_equal(found.expression, expected)
    assert found.spots.id.tolist() == IDS
    np.testing.assert_allclose(found.spots.across_px(), 2 * 60.0 * 2 / 3)  # diameters of 240 units


def test_the_result_lies_where_the_spots_did(model, sdata):
    made = model.predict(sdata, um_per_px=UM).to_spatialdata()
    assert made.coordinate_systems == ["aligned"]
    (shapes,), (image,) = made.shapes, made.images
    moved = spatialdata.transform(made.shapes[shapes], to_coordinate_system="aligned")
    before = spatialdata.transform(sdata.shapes["spots"], to_coordinate_system="aligned")
    for axis in ("x", "y"):
        np.testing.assert_allclose(getattr(moved.geometry, axis), getattr(before.geometry, axis), atol=1e-9)
    np.testing.assert_allclose(moved["radius"], before["radius"])
    extent = spatialdata.get_extent(made.images[image], coordinate_system="aligned")
    other = spatialdata.get_extent(sdata.images["slide"], coordinate_system="aligned")
    for axis in AXES:
        np.testing.assert_allclose(extent[axis], other[axis])


def test_the_table_names_and_orders_the_spots(model, sdata, expected, capsys):
    order = [4, 0, 8]
    sdata.tables["table"] = table_of(order)
    found = model.predict(sdata, um_per_px=UM)
    assert found.spots.id.tolist() == ["cell-4", "cell-0", "cell-8"]
    np.testing.assert_array_equal(found.expression, expected[order])
    assert "6 of 9 shapes of 'spots' are not in the table and are left out" in capsys.readouterr().out


def test_visiums_array_tells_the_scale(model, pixels):
    row, column = np.divmod(np.arange(9), 3)
    xy = np.stack([60 + 100 * (column + row % 2 / 2), 60 + 100 * row * 3**0.5 / 2], axis=1)
    shapes = circles(xy, Identity())
    table = table_of(range(9), array_row=row, array_col=2 * column + row % 2)
    image = image_of(pixels, {"aligned": Identity()})
    sdata = spatialdata.SpatialData(images={"slide": image}, shapes={"spots": shapes}, tables={"table": table})
    assert model.predict(sdata).um_per_px == pytest.approx(1.0)
    halved = image_of(pixels[::2, ::2], {"aligned": Scale([2, 2], AXES)})
    coarse = spatialdata.SpatialData(images={"slide": halved}, shapes={"spots": shapes}, tables={"table": table})
    assert model.predict(coarse).um_per_px == pytest.approx(2.0)


def test_pyramids_are_read_at_full_resolution_and_elements_are_chosen_by_name(model, sdata, pixels, expected):
    many = image_of(pixels, {"aligned": Affine(TURNED, AXES, AXES), "other": Identity()}, scale_factors=[2])
    sdata.images["pyramid"] = many
    sdata.shapes["nuclei"] = circles(SPOTS + 1, Identity(), "other")
    how = {"image": "pyramid", "um_per_px": UM}
    found = model.predict(sdata, coordinate_system="aligned", **how)
    np.testing.assert_array_equal(found.expression, expected)
    np.testing.assert_allclose(model.predict(sdata, "nuclei", coordinate_system="other", **how).spots.xy, SPOTS + 1)
    for source_how, message in (
        ({"coordinate_system": "aligned"}, "several image elements .* slide, pyramid; name one with image"),
        ({"coordinate_system": "nowhere"}, "no image in coordinate system 'nowhere'; choose of aligned, other"),
        ({}, "has images in aligned, other; choose one with coordinate_system"),
        ({"coordinate_system": "other", "spots": "spots"}, "no shapes 'spots' in coordinate system 'other'"),
        ({"spots": SPOTS}, "spots and image are names of its elements"),
    ):
        with pytest.raises(stjax.InputError, match=message):
            model.predict(sdata, um_per_px=UM, **source_how)


def test_polygons_keep_their_holes_under_any_transformation(model, pixels):
    outlines = [
        shapely.Polygon([(x - 20, y - 20), (x + 20, y - 20), (x + 20, y + 20), (x - 20, y + 20)],
                        [[(x - 5, y - 5), (x + 5, y - 5), (x, y + 5)]])
        for x, y in SPOTS
    ]  # fmt: skip
    shapes = ShapesModel.parse(
        geopandas.GeoDataFrame({"geometry": outlines}, index=IDS), transformations={"global": Scale([0.5, 1], AXES)}
    )
    moved = Sequence([Scale([0.5, 0.5], AXES), Translation([0, 7], AXES)])
    sdata = spatialdata.SpatialData(images={"slide": image_of(pixels, {"global": moved})}, shapes={"cells": shapes})
    found = model.predict(sdata, um_per_px=UM)
    np.testing.assert_allclose(
        found.spots.xy, np.stack([SPOTS[:, 0], (SPOTS[:, 1] - 7) * 2], axis=1)[found_rows(found)]
    )
    assert all(len(found.spots.rings(spot)) == 2 for spot in range(len(found)))
    area = 2 * (1600 - 50)  # twice as high, as wide as before
    np.testing.assert_allclose(found.spots.across_px(), 2 * np.sqrt(area / np.pi))


def found_rows(found):
    return [IDS.index(name) for name in found.spots.id]


def test_what_cannot_be_honoured_is_refused(model, sdata, pixels):
    def changed(element, transformation):
        set_transformation(element, transformation, "aligned")
        return sdata

    cases = [
        (lambda: sdata, {}, "um_per_px is not known; .* give um_per_px"),
        (lambda: changed(sdata.shapes["spots"], Scale([2, 3], AXES)), {"um_per_px": UM}, "circles of 'spots' become"),
        (
            lambda: changed(sdata.images["slide"], Scale([2, 3], AXES)),
            {"um_per_px": UM},
            "are not square in coordinate",
        ),
    ]
    for make, how, message in cases:
        with pytest.raises(stjax.InputError, match=message):
            model.predict(make(), **how)
    stained = Image2DModel.parse(np.zeros((3, 60, 60), np.uint8), dims=("c", "y", "x"), c_coords=["DAPI", "CD3", "CD8"])
    deep = image_of(np.full((60, 60, 3), 4000, np.uint16), {"global": Identity()})
    for image, message in ((stained, "has channels dapi, cd3, cd8, expected r, g, b"), (deep, "uint16 from 4000")):
        with pytest.raises(stjax.InputError, match=message):
            model.predict(spatialdata.SpatialData(images={"slide": image}), um_per_px=UM)
    with pytest.raises(stjax.InputError, match="has no image; add one"):
        model.predict(spatialdata.SpatialData(shapes={"spots": sdata.shapes["spots"]}), um_per_px=UM)
    lost = table_of([0, 1])
    lost.obs["spot"] = ["AAC-0", "nobody"]
    fresh = spatialdata.SpatialData(
        images={"slide": image_of(pixels, {"aligned": Identity()})}, shapes={"spots": circles(SPOTS, Identity())}
    )
    fresh.tables["table"] = lost
    with pytest.raises(stjax.InputError, match="names 1 spot that shapes 'spots' lacks, 'nobody' for instance"):
        model.predict(fresh, um_per_px=UM)
