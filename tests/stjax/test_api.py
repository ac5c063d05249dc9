import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stjax
from data_prep.slide import open_slide
from stjax import export, predict

SPOTS = [[50, 60], [200, 100.4], [2, 2], [300, 250]]  # the third is too near the border


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The trained model, exported."""
    out = tmp_path_factory.mktemp("exported") / "model"
    export.export(trained[0], out)
    return out


@pytest.fixture(scope="module")
def model(folder):
    return stjax.load(folder)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(120, 255, (300, 400, 3)).astype(np.uint8)


def test_importing_stjax_imports_nothing_that_takes_time():
    code = "import sys, stjax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules); print(dir(stjax))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'load'" in printed
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        stjax.lod  # noqa: B018


def test_checkpoint_folder_command_line_and_python_agree(trained, folder, source, tmp_path):
    written = {}
    for name, of in (("checkpoint", trained[0]), ("folder", folder)):
        predict.predict(of, source, tmp_path / name, options=predict.Options(formats=["h5ad"]))
        written[name] = anndata.read_h5ad(next((tmp_path / name).glob("*.h5ad")))
    expected = written["checkpoint"]
    assert expected.X.std() > 0.1
    np.testing.assert_allclose(written["folder"].X, expected.X, atol=1e-5)
    scale = next(iter(expected.uns["spatial"].values()))["scalefactors"]["microns_per_pixel"]
    slide = next(path for path in source.rglob("*") if path.suffix in (".jpg", ".png", ".tif"))
    with open_slide(slide) as opened:
        pixels = opened.read_region(0, 0, opened.width, opened.height)
    for loaded in (stjax.load(trained[0]), stjax.load(folder)):
        for picture in (slide, pixels):
            found = loaded.predict(picture, expected.obsm["spatial"], um_per_px=scale)
            assert list(found.genes) == list(expected.var_names)
            np.testing.assert_allclose(found.expression, expected.X, atol=1e-5)


def test_a_result_has_a_row_for_every_spot_and_opens_as_tables(model, image):
    found = model.predict(image, SPOTS, um_per_px=1.4)
    assert found.expression.shape == (4, 250)
    assert found.predicted.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(np.isnan(found.expression).any(axis=1), ~found.predicted)
    frame = found.to_dataframe()
    assert list(frame.columns) == ["x", "y", *model.genes]
    np.testing.assert_array_equal(frame[["x", "y"]], SPOTS)
    adata = found.to_anndata()
    np.testing.assert_array_equal(adata.X, found.expression[found.predicted])
    np.testing.assert_array_equal(adata.obsm["spatial"], np.array(SPOTS)[found.predicted])
    assert adata.uns["stjax"]["model_sha256"] == model.model.model_sha256
    pd.testing.assert_index_equal(adata.var_names, pd.Index(model.genes, name="gene"))


def test_arrays_pil_images_and_files_are_the_same(model, image, tmp_path):
    path = tmp_path / "slide.png"
    Image.fromarray(image).save(path)
    expected = model.predict(image, SPOTS, um_per_px=1.4).expression
    for same in (Image.fromarray(image), path, str(path)):
        np.testing.assert_array_equal(model.predict(same, SPOTS, um_per_px=1.4).expression, expected)


def test_genes_asked_for_by_symbol_or_ensembl_id_come_alone(model, image):
    every = model.predict(image, SPOTS, um_per_px=1.4)
    some = model.predict(image, SPOTS, um_per_px=1.4, genes=[model.genes[7], model.ensembl_ids[3]])
    assert some.genes == (model.genes[7], model.genes[3])
    np.testing.assert_array_equal(some.expression, every.expression[:, [7, 3]])
    np.testing.assert_array_equal(some[model.ensembl_ids[3]], every[model.genes[3]])
    assert some.to_anndata().shape == (3, 2)
    with pytest.raises(stjax.InputError, match="none of the genes asked for"):
        some[model.genes[0]]


def test_without_spots_a_grid_is_laid_on_the_tissue(model):
    tissue = np.full((800, 900, 3), 245, np.uint8)
    tissue[200:600, 200:700] = np.random.default_rng(1).integers(0, 2, (400, 500, 1)) * 60 + [120, 60, 130]
    found = model.predict(tissue, um_per_px=1.4)
    assert len(found) >= 6
    assert found.predicted.all()
    pitch = 200 / 1.4
    assert np.isclose(np.diff(np.unique(found.spots.xy[:, 0])), pitch).all()
    assert ((found.spots.xy > 150) & (found.spots.xy < [750, 650])).all()
    assert len(model.predict(tissue, um_per_px=1.4, array="visium")) > 2 * len(found)


def test_means_over_symmetries_do_not_know_which_way_up_the_image_is(model, image):
    spots = np.array([[50, 60], [200, 100]])
    turned = image[::-1].copy()
    there = np.stack([spots[:, 0], len(image) - spots[:, 1]], axis=1)
    first, second = (
        model.predict(picture, places, um_per_px=1.4, symmetries=True).expression
        for picture, places in ((image, spots), (turned, there))
    )
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"um_per_px": None}, r"scale of the image is not known; give um_per_px"),
        ({"um_per_px": -1.0}, r"um_per_px is -1\.0"),
        ({"image": np.zeros((30, 40, 3))}, r"shape \(30, 40, 3\) and type float64, expected uint8"),
        ({"image": np.zeros((30, 40), np.uint8)}, r"shape \(30, 40\)"),
        ({"image": "nowhere.svs"}, r"nowhere\.svs: found no such file"),
        ({"spots": [1, 2]}, r"shape \(2,\), expected \[N, 2\]"),
        ({"spots": [[1, np.nan]]}, "finite numbers"),
        ({"spots": [["a", "b"]]}, "no numbers"),
        ({"spots": [[5000, 10]]}, "every spot lies outside the image of 400 x 300 px"),
        ({"genes": ["ACTBB"]}, "nearest names: ACTB"),
        ({"array": "visum"}, "array is 'visum', expected st or visium"),
        ({"spot_um": 0.0}, r"spot_um is 0\.0"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(model, image, change, message):
    given = {"image": image, "spots": SPOTS, "um_per_px": 1.4} | change
    with pytest.raises(stjax.InputError, match=message):
        model.predict(given.pop("image"), given.pop("spots"), **given)


def test_what_notebooks_show(model, image, trained):
    assert "250 genes (stjax: log1p_library) from patches of 32 px at 1.4 um per px" in repr(model)
    assert "SYNTHETIC" in repr(stjax.load(trained[0]))
    found = model.predict(image, SPOTS, um_per_px=1.4)
    assert repr(found) == "<stjax.Prediction: 4 spots (1 not predicted) x 250 genes, stjax: log1p_library, SYNTHETIC>"
    assert "<table" in found._repr_html_()
    assert "&lt;stjax.Prediction" in found._repr_html_()
