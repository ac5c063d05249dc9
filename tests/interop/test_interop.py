"""The files are opened by the programs they are for. Needs the extra `interop`; skipped without it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.slide import open_slide
from data_prep.spots import Spots
from stjax import outputs
from stjax.inference import dense
from stjax.inference.dense_map import DenseMap

# These programs warn, on import and in use, of each other's deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")
SCHEMA = Path(__file__).with_name("qupath_geojson.schema.json")


def needs(name):
    """The module, or a skip that says how to get it."""
    return pytest.importorskip(
        name, reason=f"{name} is not installed: pip install 'stjax[interop]'", exc_type=ImportError
    )


def written(form, run, prediction, folder):
    module = outputs.get_formats([form])[form]
    path = folder / f"{prediction.section}{module.SUFFIX}"
    module.write(path, prediction, run, genes=np.arange(run.fold.panel.num_main), shown=2)
    assert [entry.name for entry in folder.iterdir()] == [path.name]  # nothing half-written beside it
    return path


def save(figure, name):
    """Keeps a picture to look at, where INTEROP_PICTURES names a folder."""
    if folder := os.environ.get("INTEROP_PICTURES"):
        figure.savefig(Path(folder) / f"{name}.png", dpi=80)


def spots_drawn(axis):
    """The colour values of the spots, ascending: scanpy draws the highest last."""
    drawn = [np.asarray(each.get_array()) for each in axis.collections if each.get_array() is not None]
    return np.sort(drawn[0])


def test_scanpy_plots_the_h5ad_over_the_slide(run, prediction, tmp_path):
    scanpy = needs("scanpy")
    adata = scanpy.read_h5ad(written("h5ad", run, prediction, tmp_path))
    gene = adata.var_names[2]
    axis = scanpy.pl.spatial(adata, color=gene, img_key="hires", show=False)[0]
    save(axis.figure, "scanpy")
    picture = next(image for image in axis.images).get_array()
    assert picture.shape == prediction.thumbnail.shape
    np.testing.assert_allclose(spots_drawn(axis), np.sort(prediction.expression[:, 2]), rtol=1e-6)
    assert scanpy.pl.spatial(adata, color=gene, img_key="lowres", show=False)[0].images


def test_squidpy_plots_the_h5ad_and_finds_the_neighbours(run, prediction, tmp_path):
    squidpy = needs("squidpy")
    import matplotlib.pyplot as plt
    import scanpy

    adata = scanpy.read_h5ad(written("h5ad", run, prediction, tmp_path))
    figure, axis = plt.subplots()
    squidpy.pl.spatial_scatter(adata, color=adata.var_names[2], ax=axis)
    save(figure, "squidpy")
    np.testing.assert_allclose(spots_drawn(axis), np.sort(prediction.expression[:, 2]), rtol=1e-6)
    squidpy.gr.spatial_neighbors(adata, coord_type="generic", radius=71.0)
    assert adata.obsp["spatial_connectivities"][0].nnz == 2  # a corner of the grid: 70 px right, 50 px down
    container = squidpy.im.ImageContainer(adata.uns["spatial"]["S1"]["images"]["hires"], library_id="S1")
    assert container.shape == prediction.thumbnail.shape[:2]


def test_spatialdata_validates_and_lines_up(run, prediction, tmp_path):
    spatialdata = needs("spatialdata")
    data = spatialdata.read_zarr(written("spatialdata", run, prediction, tmp_path))
    assert set(data.images) == {"S1_image"}
    assert set(data.shapes) == {"S1_spots"}
    table = data.tables["table"]
    spatialdata.models.TableModel().validate(table)
    spatialdata.models.ShapesModel.validate(data.shapes["S1_spots"])
    spatialdata.models.Image2DModel().validate(data.images["S1_image"])
    np.testing.assert_allclose(table.X, prediction.expression)
    np.testing.assert_allclose(table.layers["symmetry_sd"], 0.25)
    extent = spatialdata.get_extent(data.images["S1_image"], coordinate_system="global")
    assert extent == {"x": (0.0, 700.0), "y": (0.0, 500.0)}  # the thumbnail covers the slide
    dark = spatialdata.bounding_box_query(
        data, axes=("x", "y"), min_coordinate=[50, 100], max_coordinate=[350, 400], target_coordinate_system="global"
    )
    left = prediction.spots.xy[:, 0] < 370  # a spot of 20 px whose centre is nearer than that to the box
    assert sorted(dark["table"].obs_names) == sorted(prediction.spots.id[left])
    assert float(np.asarray(dark["S1_image"]).mean()) < 140


def test_spatialdata_keeps_squares_and_polygons(run, prediction, tmp_path):
    import dataclasses

    spatialdata = needs("spatialdata")
    ring = np.array([[100.0, 100.0], [140.0, 100.0], [120.0, 130.0]])
    of_polygon, of_squares = prediction.spots.id[:1], prediction.spots[1:]
    squares = Spots.squares(of_squares.xy, 40.0, of_squares.id)
    other = dataclasses.replace(prediction, spots=Spots.concatenate([Spots.polygons([ring], of_polygon), squares]))
    data = spatialdata.read_zarr(written("spatialdata", run, other, tmp_path))
    areas = data.shapes["S1_spots"].area.to_numpy()
    np.testing.assert_allclose(areas, [600.0] + [40.0**2] * (len(areas) - 1))


def test_geojson_passes_qupaths_schema(run, prediction, tmp_path):
    jsonschema, geojson = needs("jsonschema"), needs("geojson")
    shapely = needs("shapely")
    path = written("geojson", run, prediction, tmp_path)
    found = json.loads(path.read_text())
    jsonschema.validate(found, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)
    assert geojson.loads(path.read_text()).is_valid
    features = found["features"]
    assert len({feature["id"] for feature in features}) == len(features) == len(prediction.spots)
    names = run.fold.panel.labels
    for spot in (0, 13):
        shape = shapely.geometry.shape(features[spot]["geometry"])
        assert shape.centroid.distance(shapely.Point(prediction.spots.xy[spot])) < 0.01
        assert shape.area == pytest.approx(np.pi * 20.0**2, rel=0.01)
        values = [features[spot]["properties"]["measurements"][name] for name in names]
        np.testing.assert_allclose(values, prediction.expression[spot], rtol=1e-6)


@pytest.fixture(scope="module")
def dense_map(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    noise = np.random.default_rng(0).integers(60, 256, (400, 500, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "slide.png")
    with open_slide(folder / "slide.png") as slide:
        return dense.predict_dense(run, slide, folder / "map.ome.zarr", um_per_px=0.5, tile_px=544)


def test_ome_zarr_loads_the_dense_map(dense_map):
    reader, io = needs("ome_zarr.reader"), needs("ome_zarr.io")
    nodes = list(reader.Reader(io.parse_url(dense_map, mode="r"))())
    node = nodes[0]
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]
    np.testing.assert_array_equal(np.asarray(node.data[0]), DenseMap.open(dense_map).array[:])
    transformations = node.metadata["coordinateTransformations"][0]
    assert transformations[0] == {"type": "scale", "scale": [1.0, 2.0, 2.0]}
    assert node.metadata["channel_names"] == list(DenseMap.open(dense_map).genes)


def test_naparis_reader_loads_the_dense_map(dense_map):
    plugin = needs("napari_ome_zarr")
    data, options, kind = plugin.napari_get_reader(str(dense_map))(str(dense_map))[0]
    assert kind == "image"
    level = data[0] if isinstance(data, list) else data
    np.testing.assert_array_equal(np.asarray(level), DenseMap.open(dense_map).array[:])
    assert options["name"] == [f"slide: {gene}" for gene in DenseMap.open(dense_map).genes]
    assert list(options["scale"]) == [2.0, 2.0]
