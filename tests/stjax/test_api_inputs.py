"""What `model.predict` takes beside an image and places: AnnData, lists, folders; and its results as files."""

import contextlib
import re
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import stjax
from data_prep import cli
from data_prep.gene_lookup import other_names
from data_prep.spots import Spots
from stjax.api.wording import in_python
from stjax.inference.prediction import gene_columns
from stjax.outputs._map import Picture
from stjax.symmetries import NUM_SYMMETRIES

UM = 0.7  # of full-resolution pixels; the model is of 1.4
FACTOR = 0.5  # pixels of the picture per full-resolution pixel
SPOTS = np.array([[x, y] for y in (100, 200, 300) for x in (120.5, 260, 400)], np.float64)


@pytest.fixture(scope="module")
def model(trained):
    return stjax.load(trained[0])


@pytest.fixture(scope="module")
def exported():
    return stjax.load(Path(__file__).parent / "data" / "exported")


@pytest.fixture(scope="module")
def slide():
    """uint8 [400, 520, 3] at `UM`."""
    coarse = np.random.default_rng(3).integers(60, 200, (100, 130, 3)).astype(np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture(scope="module")
def picture(slide):
    """The slide at half its size."""
    return np.asarray(Image.fromarray(slide).resize((260, 200), Image.Resampling.BOX))


@pytest.fixture
def adata(picture):
    """As scanpy reads Visium: the picture in floats from 0 to 1, places in full-resolution pixels."""
    ids = [f"AAC-{place}" for place in range(len(SPOTS))]
    factors = {"tissue_hires_scalef": FACTOR, "microns_per_pixel": UM, "spot_diameter_fullres": 80.0}
    spatial = {"S1": {"images": {"hires": picture.astype(np.float32) / np.float32(255)}, "scalefactors": factors}}
    made = anndata.AnnData(np.ones((len(SPOTS), 2), np.float32), obs=pd.DataFrame(index=ids), uns={"spatial": spatial})
    made.obsm["spatial"] = SPOTS.copy()
    return made


def test_the_picture_of_an_anndata_is_predicted_at_its_own_scale(model, adata, picture, capsys):
    expected = model.predict(picture, SPOTS * FACTOR, um_per_px=UM / FACTOR)
    found = model.predict(adata)
    assert "the picture 'hires' is predicted, 1.4 um per px" in capsys.readouterr().out
    np.testing.assert_array_equal(found.expression, expected.expression)
    assert np.ptp(expected.expression, axis=0).max() > 1e-3
    np.testing.assert_array_equal(found.spots.xy, SPOTS)  # in full-resolution pixels, as they came
    assert found.spots.id.tolist() == adata.obs_names.tolist()
    again = found.to_anndata()
    np.testing.assert_array_equal(again.obsm["spatial"], SPOTS)
    factors = again.uns["spatial"]["S1"]["scalefactors"]
    assert (factors["tissue_hires_scalef"], factors["microns_per_pixel"]) == (FACTOR, UM)
    np.testing.assert_array_equal(again.uns["spatial"]["S1"]["images"]["hires"], picture)
    assert factors["spot_diameter_fullres"] == pytest.approx(80.0)
    np.testing.assert_array_equal(model.predict(again).expression, found.expression)


def test_with_its_slide_an_anndata_is_predicted_at_full_resolution(model, adata, slide, tmp_path):
    path = tmp_path / "slide.png"
    Image.fromarray(slide).save(path)
    expected = model.predict(path, SPOTS, um_per_px=UM)
    for image in (path, slide, Image.fromarray(slide)):
        found = model.predict(adata, image=image)
        np.testing.assert_array_equal(found.expression, expected.expression)
        np.testing.assert_array_equal(found.spots.xy, SPOTS)


def test_spots_off_tissue_or_without_a_place_are_left_out_and_counted(model, adata, capsys):
    expected = model.predict(adata)
    adata.obs["in_tissue"] = [1, 0, 1, 1, 1, 1, 1, 1, 1]
    adata.obsm["spatial"][4] = np.nan
    found = model.predict(adata)
    said = capsys.readouterr().out
    assert "1 spot without coordinates was left out" in said
    assert "1 spot is not under tissue and was left out" in said
    kept = [0, 2, 3, 5, 6, 7, 8]
    np.testing.assert_array_equal(found.expression, expected.expression[kept])


def visium(adata):
    """The same spots on Visium's array, 100 um apart."""
    del adata.uns["spatial"]["S1"]["scalefactors"]["microns_per_pixel"]
    row, column = np.divmod(np.arange(len(adata)), 3)
    pitch = 100.0
    adata.obs["array_row"], adata.obs["array_col"] = row, 2 * column + row % 2
    adata.obsm["spatial"] = np.stack([100 + pitch * (column + row % 2 / 2), 90 + pitch * row * 3**0.5 / 2], axis=1)
    adata.uns["spatial"]["S1"]["scalefactors"]["spot_diameter_fullres"] = 65.0
    return adata


def test_the_scale_is_the_users_or_the_objects_or_visiums_pitch(model, adata, capsys):
    assert model.predict(visium(adata)).um_per_px == pytest.approx(1.0)
    found = model.predict(adata, um_per_px=0.6)
    assert found.um_per_px == pytest.approx(0.6)
    assert "um_per_px is 0.6 from the user; the spot pitch says 1" in capsys.readouterr().out


def test_notes_name_arguments_of_python(exported, adata, slide, tmp_path, capsys):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, slide, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")  # 1 um per px
    exported.predict(change(adata, "scalefactors", "microns_per_pixel"), image=path)
    assert re.search(r"note: S1: .* is doubtful: .*; state it with um_per_px$", capsys.readouterr().out, re.MULTILINE)
    with in_python(weights="encoder_weights"):
        print("give --weights; or run stjax predict --dense again")
    assert capsys.readouterr().out == "give encoder_weights; or run stjax predict --dense again\n"


def change(adata, *path, to=None):
    """A copy with something of `uns["spatial"]["S1"]` changed, or taken away."""
    made, place = adata.copy(), None
    place = made.uns["spatial"]["S1"]
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return made


def test_an_anndata_that_does_not_say_enough_or_contradicts_itself_is_refused(model, adata, slide):
    def of_two(column):
        made = adata.copy()
        made.uns["spatial"]["S2"] = made.uns["spatial"]["S1"]
        made.obs[["library_id"]] = [[each] for each in column]
        return made

    moved = adata.copy()
    moved.obsm["spatial"] = SPOTS[:, ::-1]
    placeless = adata.copy()
    del placeless.obsm["spatial"]
    strange = change(adata, "images", "hires", to=np.full((200, 260, 3), 400, np.uint16))
    cases = [
        (change(adata, "scalefactors", "microns_per_pixel"), {}, "um_per_px is not known; .* give um_per_px"),
        (change(adata, "scalefactors", "tissue_hires_scalef"), {}, "no tissue_hires_scalef to place spots"),
        (change(adata, "images"), {}, r"no picture .*; give image, the full-resolution slide"),
        (placeless, {}, r"the AnnData: obsm\['spatial'\] not found"),
        (strange, {}, "values of uint16 from 400 to 400, expected uint8"),
        (adata, {"image": slide[:300]}, "is 520 x 300 px, but the picture 'hires' and its scale factor declares"),
        (moved, {"image": slide[:, :410]}, "is 410 x 400 px, but"),
        (of_two(["S1", "S2"] * 4 + ["S1"]), {}, "of several slides .S1, S2., expected one"),
        (of_two(["S3"] * 9), {}, "is 'S3', uns.* has S1, S2; name its entry"),
        (adata, {"um_per_px": -1.0}, r"um_per_px is -1\.0"),
        (adata, {"spots": SPOTS}, "the source is an AnnData, which has its own spots"),
        (adata, {"spot_um": 55.0}, "leave out spot_um"),
        (adata, {"coordinate_system": "global"}, "coordinate_system is for a SpatialData"),
        (slide, {"image": slide}, "the source is an image; leave it out"),
        ("tissue.zarr", {}, r"tissue\.zarr: no such file or folder"),
    ]
    for source, how, message in cases:
        with pytest.raises(stjax.InputError, match=message):
            model.predict(source, **how)
    only = of_two(["S2"] * 9)
    np.testing.assert_array_equal(model.predict(only).expression, model.predict(adata).expression)


def test_lists_and_folders_of_slides_give_lists_and_dictionaries(model, slide, tmp_path):
    for name, pixels in (("b", slide), ("a", slide[::-1].copy())):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    how = {"um_per_px": UM, "min_tissue": 0.0, "array": "visium"}
    listed = model.predict([tmp_path / "b.png", slide[::-1].copy()], **how)
    found = model.predict(tmp_path, **how)
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"].expression, listed[0].expression)
    np.testing.assert_array_equal(found["a"].expression, listed[1].expression)
    assert {"array_row", "array_col"} <= set(found["a"].to_anndata().obs)
    with pytest.raises(stjax.InputError, match="leave out spots"):
        model.predict([slide], SPOTS)


def test_a_folder_of_raw_sections_is_predicted_beside_what_was_measured(model, source, tmp_path):
    found = model.predict(source)
    (name, section), = found.items()  # fmt: skip
    assert name == "A1"
    assert section.section.truth is not None
    drawn = section.plot(section.genes[:2])
    titles = [axis.get_title() for part in drawn.subfigs for axis in part.axes[:3]]
    assert titles[:2] == ["slide (H&E)", "measured"]
    assert titles[2].startswith("predicted (PCC ")
    assert section.write(tmp_path / "maps.png").stat().st_size


def test_tables_of_places_have_names_and_shapes_keep_their_sizes(model, slide):
    expected = model.predict(slide, SPOTS, um_per_px=UM)
    table = pd.DataFrame({"y": SPOTS[:, 1], "x": SPOTS[:, 0]})
    np.testing.assert_array_equal(model.predict(slide, table, um_per_px=UM).expression, expected.expression)
    squares = Spots.squares(SPOTS, 50.0, [f"s{place}" for place in range(len(SPOTS))])
    found = model.predict(slide, squares, um_per_px=UM)
    np.testing.assert_array_equal(found.expression, expected.expression)
    assert found.section.size_um == pytest.approx([35.0] * len(SPOTS))
    assert found.to_dataframe().index[0] == "s0"
    with pytest.raises(stjax.InputError, match=r"no column x and y \(it has row, col\)"):
        model.predict(slide, pd.DataFrame(SPOTS, columns=["row", "col"]), um_per_px=UM)


@pytest.fixture(scope="module")
def called(model):
    """A gene of the model, and another name of it that no other gene has."""
    for gene, names in zip(model.genes, other_names(model.ensembl_ids, model.genes), strict=True):
        for name in names:
            with contextlib.suppress(stjax.InputError):
                if gene_columns(model.model, [name]).tolist() == [model.genes.index(gene)]:
                    return gene, name
    raise AssertionError("no gene has another name")


def test_genes_by_one_name_and_results_of_some_genes(model, slide, called, capsys):
    gene, alias = called
    every = model.predict(slide, SPOTS, um_per_px=UM)
    one = model.predict(slide, SPOTS, um_per_px=UM, genes=alias)
    assert f"gene {alias} is taken as {gene}" in capsys.readouterr().out
    assert one.genes == (gene,)
    np.testing.assert_array_equal(one.expression[:, 0], every[gene])
    np.testing.assert_array_equal(every[alias], every[gene])
    third, fifth = model.genes[3], model.genes[5]
    two = every[[fifth, third.lower()]]
    assert two.genes == (fifth, third)
    np.testing.assert_array_equal(two[third], every[third])
    np.testing.assert_array_equal(two.to_anndata().X, every.expression[:, [5, 3]])
    for wrong, message in (
        ([model.genes[1]], f"none of the genes asked for: {fifth}, {third}"),
        ([], "the list of genes is empty"),
    ):
        with pytest.raises(stjax.InputError, match=message):
            two[wrong]


def test_pictures_show_themselves_in_notebooks(model, slide, called):
    found = model.predict(slide, SPOTS, um_per_px=UM)
    drawn = found.plot([model.genes[0], called[1]])
    assert isinstance(drawn, Picture)
    assert drawn._repr_jpeg_().startswith(b"\xff\xd8\xff")
    first = drawn.subfigs[0].axes
    assert [axis.get_title() for axis in first[:2]] == ["slide (H&E)", "predicted"]
    (bar,), (text,) = first[0].patches, first[0].texts
    thumbnail_um = found.um_per_px / found.section.thumbnail_scale
    number, unit = text.get_text().split()
    assert unit == "µm"
    assert bar.get_width() * thumbnail_um == pytest.approx(float(number))
    assert len(found.plot().axes) == 3  # a gene alone, and the bar of its colours


@pytest.mark.parametrize("ending", ["h5ad", "csv", "parquet", "geojson", "png", "svg"])
def test_results_are_written_by_their_ending(model, slide, tmp_path, ending):
    found = model.predict(slide, SPOTS, um_per_px=UM, genes=model.genes[:2])
    path = found.write(tmp_path / "new" / f"out.{ending}")
    assert path.read_bytes() != b""
    assert found.write(str(path)) == path  # a file is replaced
    if ending == "h5ad":
        np.testing.assert_array_equal(anndata.read_h5ad(path).X, found.expression)
    if ending == "csv":
        np.testing.assert_allclose(pd.read_csv(path)[model.genes[1]], found[model.genes[1]], rtol=1e-6)


def test_results_are_not_written_over_a_folder_or_without_a_format(model, slide, tmp_path):
    found = model.predict(slide, SPOTS, um_per_px=UM)
    (tmp_path / "mine.h5ad").mkdir()
    (tmp_path / "mine.h5ad" / "notes").write_text("mine")
    with pytest.raises(stjax.InputError, match="is a folder that is there already; choose another name"):
        found.write(tmp_path / "mine.h5ad")
    with pytest.raises(stjax.InputError, match=r"the ending '\.xlsx' names no format, expected one of \.csv, "):
        found.write(tmp_path / "out.xlsx")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.h5ad"]


def test_a_missing_package_is_one_line(model, slide, monkeypatch):
    found = model.predict(slide, SPOTS, um_per_px=UM)
    monkeypatch.setitem(sys.modules, "geopandas", None)
    monkeypatch.delitem(sys.modules, "stjax.outputs.spatialdata", raising=False)
    with pytest.raises(stjax.InputError, match=r"^format spatialdata needs packages .*pip install 'stjax\[interop\]'"):
        found.to_spatialdata()


def test_means_over_symmetries_say_how_sure_they_are(model, slide):
    turned = model.predict(slide, SPOTS, um_per_px=UM, symmetries=True)
    assert turned.to_anndata().layers["symmetry_sd"].max() > 0
    assert NUM_SYMMETRIES == 8


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": np.zeros((8, 40, 40, 3), np.uint8)}, r"array \[1, 40, 40, 3\] of uint8, expected \[B, 32, 32, 3\]"),
        ({"image": np.zeros((8, 32, 32, 3), np.float32)}, r"of float32, expected \[B, 32, 32, 3\] of uint8: patches"),
        (
            {"image": np.zeros((7, 32, 32, 3), np.uint8)},
            "the batch holds image 7, expected .* multiple of the 8 devices",
        ),
        ({"images": np.zeros((8, 32, 32, 3), np.uint8)}, "the batch holds images, expected image"),
        ({}, "the batch holds nothing"),
    ],
)
def test_a_batch_of_other_items_is_the_callers_fault_not_the_folders(exported, batch, message):
    with pytest.raises(stjax.InputError, match=message) as caught:
        exported.model.predict(batch)
    assert "make the model folder anew" not in str(caught.value)


def test_bars_show_in_notebooks_and_terminals_alone(monkeypatch):
    class ZMQInteractiveShell:
        pass

    class IPython:
        get_ipython = ZMQInteractiveShell

    assert cli.progress(range(3)).disable
    monkeypatch.setitem(sys.modules, "IPython", IPython)
    with cli.progress(range(3)) as bar:
        assert not bar.disable
