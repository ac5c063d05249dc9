"""SpatialData from the library itself, in spatialdata-io's shape: read as a layout, trained on, predicted, plotted."""

import anndata
import numpy as np
import pandas as pd
import pytest

import stjax
from data_prep import demo, demo_layouts, demo_tissue, readers
from tests.interop.test_interop import needs, save

spatialdata = pytest.importorskip("spatialdata", reason="pip install 'stjax[interop]'", exc_type=ImportError)

from spatialdata._io.format import SpatialDataContainerFormatV01  # noqa: E402
from spatialdata.models import Image2DModel, ShapesModel, TableModel  # noqa: E402
from spatialdata.transformations import Identity, Scale  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
AXES = ("x", "y")
UM = 1.4
SETTINGS = {"batch_size": 8, "num_epochs": 1, "model": {"variant": "tiny", "aux": False}, "warmup_steps": 0}


@pytest.fixture(scope="module")
def sections():
    """Of three patients."""
    recipe, life = demo.Recipe("visium", 3, 1, 12, UM, seed=2), demo_tissue.biology()
    return [demo.make_section(recipe, life, patient, 0) for patient in range(3)]


def image(pixels, system, **how):
    return Image2DModel.parse(
        np.moveaxis(pixels, -1, 0), dims=("c", "y", "x"), c_coords=["r", "g", "b"],
        transformations={system: Identity()}, **how,
    )  # fmt: skip


def visium(section):
    """What spatialdata-io makes of Visium: slide, small picture, circles in the pixels of both, a table by number."""
    name, on = section.name, section.in_tissue
    hires = f"{name}_downscaled_hires"
    small, scale = demo_layouts.reduced(section.image, 600)
    numbers = np.arange(int(on.sum()))
    circles = ShapesModel.parse(
        section.spot_xy[on], geometry=0, radius=65 / 2 / section.um_per_px, index=pd.Index(numbers, name="spot_id"),
        transformations={name: Identity(), hires: Scale([scale, scale], AXES)},
    )  # fmt: skip
    table = demo_layouts.spot_table(section, name, demo_layouts.barcodes(np.random.default_rng(1), len(numbers)))
    del table.uns["spatial"]
    table.obs["spot_id"], table.obs["region"] = numbers, pd.Categorical([name] * len(numbers))
    table = TableModel.parse(table, region=name, region_key="region", instance_key="spot_id")
    images = {
        f"{name}_full_image": image(section.image, name, scale_factors=[2, 2]),
        f"{name}_hires_image": image(small, hires),
    }
    return spatialdata.SpatialData(images=images, shapes={name: circles}, tables={"table": table})


@pytest.mark.parametrize("formats", [None, SpatialDataContainerFormatV01()])
def test_stores_of_both_formats_hold_what_was_written(sections, tmp_path, formats):
    made = sections[0]
    visium(made).write(tmp_path / "A1.zarr", **({"sdata_formats": formats} if formats else {}))
    reader, _ = readers.find_layout(tmp_path / "A1.zarr")
    section = reader.read_section(tmp_path / "A1.zarr", "A1")
    assert section.layout == "spatialdata"
    np.testing.assert_allclose(section.spots.xy, made.spot_xy[made.in_tissue])
    assert (section.counts.toarray() == made.counts[:, made.counts.sum(axis=0) >= 0]).all()
    assert section.um_per_px == pytest.approx(UM)


def test_the_demos_stores_are_read_by_the_library_and_say_the_same(tmp_path):
    root = demo.make_demo(
        tmp_path / "raw", layout="spatialdata", patients=1, sections_per_patient=1, spots=4, um_per_px=4.0
    )
    section = readers.reader("spatialdata").read_section(root, "A1")
    data = spatialdata.read_zarr(root / "A1.zarr")
    spatialdata.models.TableModel().validate(data.tables["table"])
    circles = spatialdata.transform(data.shapes["A1"], to_coordinate_system="A1")
    circles = circles.loc[data.tables["table"].obs["spot_id"]]
    np.testing.assert_allclose(section.spots.xy, np.stack([circles.geometry.x, circles.geometry.y], axis=1))
    extent = spatialdata.get_extent(data.images["A1_full_image"], coordinate_system="A1")
    picture = data.images["A1_full_image"]["scale0"]["image"]
    assert (extent["x"][1], extent["y"][1]) == picture.shape[:0:-1]


@pytest.mark.slow
def test_from_a_store_to_a_model_to_a_store_that_is_plotted(sections, tmp_path):
    for section in sections:
        visium(section).write(tmp_path / "raw" / f"{section.name}.zarr")
    data = stjax.prepare(tmp_path / "raw", tmp_path / "data", patch_size_px=32, min_counts=100)
    model = stjax.fit("tiny", data, workdir=tmp_path / "run", **SETTINGS)
    source = spatialdata.read_zarr(tmp_path / "raw" / "C1.zarr")
    found = model.predict(source, coordinate_system="C1")
    by_path = model.predict(tmp_path / "raw" / "C1.zarr")["C1"]
    np.testing.assert_allclose(found.expression, by_path.expression, atol=1e-5)
    out = tmp_path / "C1_predicted.zarr"
    found.to_spatialdata().write(out)
    written = spatialdata.read_zarr(out)
    elements = [source.images, source.shapes, written.shapes, written.tables]
    joined = spatialdata.SpatialData.init_from_elements(
        {name: each for kind in elements for name, each in kind.items()}
    )
    (shapes,) = written.shapes
    gene = model.genes[int(np.nanstd(found.expression, axis=0).argmax())]  # one that varies
    _plot(joined, shapes, gene, written.tables["table"])


def _plot(data, shapes, gene, table):
    import matplotlib.pyplot as plt

    needs("spatialdata_plot")
    squidpy = needs("squidpy")
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    shown = data.pl.render_images("C1_full_image")
    shown.pl.render_shapes(shapes, color=gene).pl.show(
        coordinate_systems="C1", ax=axes[0], title=f"{gene} (spatialdata-plot)"
    )
    assert axes[0].images
    plain = anndata.AnnData(table.X, obs=table.obs, var=table.var, obsm={"spatial": _centres(data, shapes)})
    squidpy.pl.spatial_scatter(plain, color=gene, shape=None, ax=axes[1], title=f"{gene} (squidpy)")
    assert axes[1].collections
    save(figure, "spatialdata_layout")


def _centres(data, shapes):
    geometry = data.shapes[shapes].geometry
    return np.stack([geometry.x, geometry.y], axis=1)
