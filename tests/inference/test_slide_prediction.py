"""Bare slides: what is predicted where, what is left alone when called again, and what is refused."""

import dataclasses
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import readers, stain
from data_prep.build import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import GeneTable
from data_prep.slide import open_slide
from stjax import outputs, predict, trained
from stjax.inference import domain
from stjax.inference.slide_prediction import about_image
from stjax.inference.sources import open_source
from stjax.outputs import _map
from stjax.progress import Progress
from tests.data_prep.tiny_source import write_source
from tests.data_prep.windows import cut_patches, written_pyramid
from tests.inference.fake_predictor import GENES, SIZE_PX, UM, MeanColour, made_fold

her2st = readers.reader("her2st")

tifffile = pytest.importorskip("tifffile", reason="the extra wsi is not installed")
WIDTH, HEIGHT = 900, 700


def picture(width=WIDTH, height=HEIGHT):
    """Tissue of changing colour on glass."""
    rows, columns = np.mgrid[:height, :width]
    tissue = np.stack([190 + 40 * np.sin(columns / 40), 110 + 40 * np.cos(rows / 50), 165 + columns / 40], axis=2)
    inside = (np.abs(columns - width / 2) < width / 3) & (np.abs(rows - height / 2) < height / 3)
    return np.where(inside[..., None], tissue, 242).astype(np.uint8)


def save_tiff(path, pixels, um_per_px=UM):
    density = (1e4 / um_per_px, 1e4 / um_per_px) if um_per_px else None
    options = {"resolution": density, "resolutionunit": "CENTIMETER"} if density else {}
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), **options)
    return path


@pytest.fixture
def slide_path(tmp_path):
    return save_tiff(tmp_path / "S1.tif", picture())


@pytest.fixture
def model(monkeypatch):
    """What `trained.load` gives; set `model.run` to another."""

    class Loaded:
        run = MeanColour()

    monkeypatch.setattr(trained, "load", lambda *_, **__: Loaded.run)
    return Loaded


def run(*arguments):
    predict.main(["--workdir=fake", *map(str, arguments)])


def unless(given, *usual):
    """The usual options, but those given, and these."""
    names = {argument.split("=")[0] for argument in given}
    return [*(argument for argument in usual if argument.split("=")[0] not in names), *given]


# ------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.usefixtures("model")
def test_each_spot_gets_the_prediction_of_the_patch_around_it(slide_path, tmp_path):
    out = tmp_path / "out"
    run(f"--source={slide_path}", f"--out={out}", "--spot-um=20", "--pitch-um=40")
    adata = anndata.read_h5ad(out / "S1.h5ad")
    xy = adata.obsm["spatial"]
    with open_slide(slide_path) as slide:
        expected = np.stack([patch.mean(axis=(0, 1)) for patch in cut_patches(slide, xy, patch_size_px=SIZE_PX)])
    np.testing.assert_allclose(adata.X, expected, rtol=1e-5)
    assert list(adata.var_names) == list(GENES)
    assert len(adata) > 100
    assert (np.abs(xy - [WIDTH / 2, HEIGHT / 2]) < [WIDTH / 3 + 10, HEIGHT / 3 + 10]).all()
    apart = np.unique(np.diff(np.unique(xy[:, 0])))
    np.testing.assert_allclose(apart, 40)
    assert list(adata.obs_names[:1]) == [f"{adata.obs['array_col'].iloc[0]}x{adata.obs['array_row'].iloc[0]}"]
    about = adata.uns["stjax"]
    assert about["model_sha256"] == "m" * 64
    assert about["units"] == "stjax: log1p_library"
    assert "truth" not in adata.layers
    scale = adata.uns["spatial"]["S1"]["scalefactors"]
    assert scale["spot_diameter_fullres"] == pytest.approx(20 / UM)
    hires, lowres = (adata.uns["spatial"]["S1"]["images"][name] for name in ("hires", "lowres"))
    assert hires.shape == (HEIGHT, WIDTH, 3)
    assert lowres.shape[1] == 600
    assert scale["tissue_hires_scalef"] == 1
    assert scale["tissue_lowres_scalef"] == pytest.approx(600 / WIDTH)


def test_a_finer_slide_is_resampled_to_the_scale_of_training(model, tmp_path):
    coarse, fine = picture(), picture(2 * WIDTH, 2 * HEIGHT)
    fine[:] = np.asarray(Image.fromarray(coarse).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC))
    (tmp_path / "slides").mkdir()
    save_tiff(tmp_path / "slides" / "coarse.tif", coarse)
    save_tiff(tmp_path / "slides" / "fine.tif", fine, um_per_px=UM / 2)
    model.run = MeanColour(fold=made_fold(parameters=made_fold().parameters | {"um_per_px": UM}))
    run(
        f"--source={tmp_path / 'slides'}",
        f"--out={tmp_path / 'out'}",
        "--spot-um=20",
        "--pitch-um=60",
        "--min-tissue=0",
    )
    found = [anndata.read_h5ad(tmp_path / "out" / f"{name}.h5ad") for name in ("coarse", "fine")]
    np.testing.assert_allclose(found[1].obsm["spatial"] / 2, found[0].obsm["spatial"])
    assert np.abs(found[1].X - found[0].X).max() < 2  # grey levels; resampling rounds


def test_preparation_and_prediction_cut_the_same_pixels_from_a_coarser_level(model, tmp_path):
    source = write_source(tmp_path / "source", sections=("A1",))
    image = next(source.rglob("slide.png"))
    written_pyramid(image.with_suffix(".tif"), np.asarray(Image.open(image)), times=(2,))
    image.unlink()
    options = {"um_per_px": UM, "source_um_per_px": UM / 2, "min_counts": 0, "image_format": "raw"}
    build(source, tmp_path / "data", patch_size_px=SIZE_PX, **options)
    data = PatchDataset.open(tmp_path / "data")
    images = [data.source(["A1"]).record(row)["image"] for row in range(data.section("A1")["records"])]
    model.run = MeanColour(fold=made_fold(parameters=made_fold().parameters | {"um_per_px": UM}))
    run(f"--source={source}", f"--out={tmp_path / 'out'}", f"--source-um-per-px={UM / 2}")
    adata = anndata.read_h5ad(tmp_path / "out" / "A1.h5ad")
    adata = adata[data.table("A1").spots.id.astype(str).tolist()]
    np.testing.assert_allclose(adata.X, np.mean(images, axis=(1, 2)), rtol=1e-6)
    with open_slide(image.with_suffix(".tif")) as slide:
        level = slide.read_region(0, 0, 200, 200, level=1)
    column, row = (adata.obsm["spatial"][0] / 2).astype(int)
    half = SIZE_PX // 2
    np.testing.assert_array_equal(images[0], level[row - half : row + half, column - half : column + half])


def test_the_slide_is_normalised_to_the_training_target(model, slide_path, tmp_path):
    target = save_tiff(tmp_path / "target.tif", np.clip(picture().astype(int) - 30, 0, 255).astype(np.uint8))
    profile = stain.fit_profile(target, "macenko")
    parameters = made_fold().parameters | {"stain": "macenko"}
    saved = json.loads(json.dumps(dataclasses.asdict(profile)))
    model.run = MeanColour(fold=made_fold(parameters=parameters, stain_target=saved))
    run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--spot-um=20", "--pitch-um=60")
    adata = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
    with open_slide(slide_path) as slide:
        transform = stain.fit_transform_for("macenko", slide, profile)
        cut = cut_patches(slide, adata.obsm["spatial"], patch_size_px=SIZE_PX, transform=transform)
        expected = np.stack([patch.mean(axis=(0, 1)) for patch in cut])
    np.testing.assert_allclose(adata.X, expected, rtol=1e-5)


@pytest.mark.usefixtures("model")
def test_symmetries_add_the_predictions_deviation(slide_path, tmp_path):
    run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--spot-um=20", "--pitch-um=80", "--symmetries")
    adata = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
    assert adata.uns["stjax"]["mean_over_symmetries"]
    np.testing.assert_allclose(adata.layers["symmetry_sd"], 0, atol=1e-4)  # a mean colour does not turn


@pytest.mark.usefixtures("model")
def test_every_format_says_the_same(slide_path, tmp_path):
    out = tmp_path / "out"
    run(
        f"--source={slide_path}", f"--out={out}", "--spots=visium", "--genes=BLUE,RED",
        "--formats=h5ad,csv,parquet,geojson,png,svg",
    )  # fmt: skip
    adata = anndata.read_h5ad(out / "S1.h5ad")
    assert list(adata.var_names) == ["BLUE", "RED"]
    for table in (pd.read_csv(out / "S1.csv"), pd.read_parquet(out / "S1.parquet")):
        np.testing.assert_allclose(table[["BLUE", "RED"]], adata.X, rtol=1e-6)
        np.testing.assert_allclose(table[["x_px", "y_px"]], adata.obsm["spatial"], rtol=1e-6)
        np.testing.assert_allclose(table["x_um"], table["x_px"] * UM, rtol=1e-6)
        assert list(table["spot_id"]) == list(adata.obs_names)
    features = json.loads((out / "S1.geojson").read_text())["features"]
    values = [[feature["properties"]["measurements"][gene] for gene in ("BLUE", "RED")] for feature in features]
    np.testing.assert_allclose(values, adata.X, rtol=1e-6)
    ring = np.array(features[0]["geometry"]["coordinates"][0])
    assert (ring[0] == ring[-1]).all()
    np.testing.assert_allclose(np.ptp(ring, axis=0), 55 / UM, rtol=0.01)
    for gene in ("BLUE", "RED"):
        drawn = np.asarray(Image.open(out / f"S1_{gene}.png").convert("RGB"))
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 1000
        assert "<svg" in (out / f"S1_{gene}.svg").read_text()[:1000]
    assert {path.name for path in out.iterdir()} == {
        "S1.h5ad", "S1.csv", "S1.parquet", "S1.geojson", "S1_BLUE.png", "S1_RED.png", "S1_BLUE.svg", "S1_RED.svg",
        "S1.prediction.json",
    }  # fmt: skip


@pytest.mark.usefixtures("model")
def test_shards_share_the_slides_between_them(tmp_path):
    (tmp_path / "slides").mkdir()
    for number in range(5):
        save_tiff(tmp_path / "slides" / f"S{number}.tif", picture(300, 300))
    (tmp_path / "slides" / "notes.txt").write_text("no slide")
    for part in (1, 2):
        run(
            f"--source={tmp_path / 'slides'}", f"--out={tmp_path / str(part)}", f"--shard={part}/2", "--formats=csv",
            "--spot-um=20", "--pitch-um=50",
        )  # fmt: skip
    names = [sorted(path.stem for path in (tmp_path / str(part)).glob("*.csv")) for part in (1, 2)]
    assert names == [["S0", "S2", "S4"], ["S1", "S3"]]


# ------------------------------------------------------------------------------------------------------ called again


@pytest.fixture
def again(model, slide_path, tmp_path, capsys):
    """Calls predict on the same slide and folder; returns what it printed."""

    def call(*arguments):
        capsys.readouterr()
        run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", *unless(arguments, "--spot-um=20", "--pitch-um=80"))
        return capsys.readouterr().out

    call.model, call.out = model, tmp_path / "out"
    return call


def test_what_is_finished_is_not_predicted_again(again, monkeypatch):
    assert "S1: written h5ad, png" in again()
    before = (again.out / "S1.h5ad").read_bytes()
    monkeypatch.setattr(MeanColour, "predict", lambda *_: pytest.fail("predicted again"))
    printed = again()
    assert "S1: there already" in printed
    assert printed.splitlines()[-2] == str(again.out / "S1.h5ad")
    assert (again.out / "S1.h5ad").read_bytes() == before


def test_what_is_lacking_or_damaged_is_written_anew(again):
    again("--formats=h5ad,csv")
    whole = (again.out / "S1.csv").read_bytes()
    (again.out / "S1.csv").write_bytes(whole[:100])
    assert "S1: written csv" in again("--formats=h5ad,csv")
    assert (again.out / "S1.csv").read_bytes() == whole
    assert "S1: written parquet" in again("--formats=h5ad,csv,parquet")
    (again.out / "S1.prediction.json").write_text("{")
    assert "S1: written h5ad, csv" in again("--formats=h5ad,csv")


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"model_sha256": "n" * 64}, "model_sha256"),
        ({"fold": made_fold(um_per_px=1.2)}, "training_sha256"),
        ({"averaging": True}, "mean_over_symmetries"),
    ],
)
def test_results_of_another_model_are_never_taken_for_its_own(again, change, differing):
    again("--formats=h5ad,csv")
    again.model.run = dataclasses.replace(MeanColour(), **change)
    with pytest.raises(InputError, match=f"{differing} differ; choose another --out, or replace them with --overwrite"):
        again()
    assert "S1: written h5ad" in again("--formats=h5ad", "--overwrite")
    assert not (again.out / "S1.csv").exists()  # the other model's
    assert "there already" in again("--formats=h5ad")


@pytest.mark.parametrize("option", ["--pitch-um=90", "--min-tissue=0.9", "--genes=RED"])
def test_results_of_other_options_are_never_taken_for_these(again, option):
    again()
    with pytest.raises(InputError, match=r"(spots|genes) differ"):
        again(option)


def test_a_changed_slide_is_noticed(again, slide_path):
    again()
    save_tiff(slide_path, picture()[::-1])
    with pytest.raises(InputError, match="slide_sha256 differ"):
        again()


# ------------------------------------------------------------------------------------------------- far from training


def warnings_of(slide_path, tmp_path, capsys, *arguments):
    run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--spot-um=20", "--pitch-um=80", *arguments)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]


@pytest.mark.usefixtures("model")
def test_a_slide_like_those_of_training_gives_no_warning(slide_path, tmp_path, capsys):
    assert not warnings_of(slide_path, tmp_path, capsys)


@pytest.mark.usefixtures("model")
def test_a_slide_of_other_colours_gives_a_warning(tmp_path, capsys):
    pixels = picture().astype(int)
    pixels[(pixels != 242).any(axis=2)] -= [0, 30, 0]
    path = save_tiff(tmp_path / "S1.tif", pixels.astype(np.uint8))
    (warning,) = warnings_of(path, tmp_path, capsys)
    assert "its colours are not the training slides'" in warning
    assert "green -0." in warning


@pytest.mark.usefixtures("model")
def test_a_coarser_slide_gives_a_warning(tmp_path, capsys):
    path = save_tiff(tmp_path / "S1.tif", picture(), um_per_px=2 * UM)
    (warning,) = warnings_of(path, tmp_path, capsys)
    assert "2.0 times as coarse" in warning


class Constant(MeanColour):
    """Says of every patch the same but for rounding; BLUE as it is."""

    def predict(self, batch):
        value = np.asarray(super().predict(batch)["expression"])
        return {"expression": value * np.array([1e-9, 2e-9, 1.0], np.float32) + np.array([1.5, 0.2, 0.0], np.float32)}


def test_genes_that_do_not_vary_over_the_slide_give_a_warning_and_flat_maps(model, slide_path, tmp_path, capsys):
    model.run = Constant()
    (warning,) = warnings_of(slide_path, tmp_path, capsys, "--genes=RED,GREEN,BLUE", "--formats=png,h5ad,geojson")
    assert "S1.tif: 2 of 3 genes do not vary over the spots of this slide (RED, GREEN)" in warning
    adata = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
    assert 0 < np.ptp(adata.X[:, 0]) < 1e-6
    assert adata.uns["stjax"]["genes_constant"] == 2
    assert json.loads((tmp_path / "out" / "S1.geojson").read_text())["stjax"]["genes_constant"] == 2


def test_a_map_that_does_not_vary_is_drawn_in_one_colour_and_says_so(model, slide_path, tmp_path, monkeypatch):
    drawn = []
    original = _map.figure
    monkeypatch.setattr(_map, "figure", lambda *arguments: drawn.append(original(*arguments)) or drawn[-1])
    model.run = Constant()
    run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--spot-um=20", "--pitch-um=80", "--genes=RED,BLUE")
    slide, red = drawn[0].axes[:2]
    blue = drawn[1].axes[1]
    assert slide.get_title() == "slide (H&E)"
    assert not slide.collections
    assert red.get_title() == "predicted: does not vary"
    assert blue.get_title() == "predicted"
    values = red.collections[0].get_array()
    assert np.ptp(values) == 0
    assert red.collections[0].norm(values[0]) == pytest.approx(0.5)
    assert np.ptp(blue.collections[0].norm(blue.collections[0].get_array())) > 0.9


def test_a_slide_predicted_by_a_run_that_was_stopped_is_another_than_that_of_the_finished_one(again):
    again.model.run = dataclasses.replace(MeanColour(), progress=Progress(2, 30, False))
    printed = again("--formats=h5ad,png")
    assert "warning: fake is trained for 2 of 30 epochs" in printed
    assert anndata.read_h5ad(again.out / "S1.h5ad").uns["stjax"]["trained"] == "2 of 30 epochs"
    again.model.run = MeanColour()
    with pytest.raises(InputError, match="trained differ"):
        again()


def test_another_stain_gives_a_warning():
    target = stain.Profile(
        "macenko", 250.0, ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)), (1.0, 1.0), (), (), 9, 9, "", "", ""
    )
    brown = dataclasses.replace(target, stains=((0.65, 0.70, 0.29), (0.27, 0.57, 0.78)))  # DAB (Ruifrok 2001)

    class Named:
        path = type("P", (), {"name": "S1.tif"})

    assert domain.check_stain(Named, stain.Normaliser(target, target)) == []
    (warning,) = domain.check_stain(Named, stain.Normaliser(brown, target))
    assert "its eosin is 4" in warning


# ------------------------------------------------------------------------------------------------------- bad input


def refused(*arguments):
    with pytest.raises(InputError) as caught:
        run(*arguments)
    message = " ".join(str(caught.value).split())
    assert len(message) > 20
    return message


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_slide_without_scale_is_refused_and_says_how_to_give_it(suffix, tmp_path):
    path = tmp_path / f"S1.{suffix}"
    Image.fromarray(picture()).save(path)
    message = refused(f"--source={path}", f"--out={tmp_path / 'out'}")
    assert "the scale is not known" in message
    assert "--source-um-per-px" in message
    run(f"--source={path}", f"--out={tmp_path / 'out'}", f"--source-um-per-px={UM}", "--formats=csv")


@pytest.mark.usefixtures("model")
def test_the_users_scale_goes_before_the_files_and_the_contradiction_is_said(slide_path, tmp_path, capsys):
    run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--source-um-per-px=3", "--formats=csv")
    printed = capsys.readouterr().out
    assert "resampled from 3.000 to 1.000 um per px" in printed
    assert "note: S1.tif: 3 um per px is used, as you state it; the file says 1" in printed
    assert "warning: S1.tif: the image has 3 um per px, 6 times coarser than 0.5: no nucleus can be seen" in printed


@pytest.mark.usefixtures("model")
def test_a_scale_that_writers_put_where_they_know_none_is_called_doubtful(slide_path, tmp_path, capsys):
    run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--formats=csv")
    doubt = "note: S1.tif: the scale is doubtful: the image file says exactly 1 um per px"
    assert doubt in capsys.readouterr().out
    run(f"--source={slide_path}", f"--out={tmp_path / 'again'}", "--formats=csv", "--source-um-per-px=1")
    assert "doubtful" not in capsys.readouterr().out


@pytest.mark.usefixtures("model")
def test_an_orientation_tag_is_said_and_a_pattern_or_a_folder_too_high_named(tmp_path, capsys):
    folder = tmp_path / "raw" / "slides"
    folder.mkdir(parents=True)
    options = {"photometric": "rgb", "resolution": (5e3, 5e3), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "S1.tif", picture(), extratags=[(274, 3, 1, 6, True)], **options)
    run(f"--source={folder}", f"--out={tmp_path / 'out'}", "--formats=csv")
    assert "warning: S1.tif: the image file asks viewers to turn it (orientation tag 6)" in capsys.readouterr().out
    said = refused(f"--source={folder}/*.tif", f"--out={tmp_path / 'out'}")
    assert "is a pattern, which nobody expands here; give a slide, or the folder that holds slides" in said
    assert said.endswith(str(folder))
    assert f"give the folder with the slides: {folder}" in refused(f"--source={folder.parent}", f"--out={tmp_path}/o")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-tissue=50"], r"min_tissue is 50, expected a share from 0 to 1"),
        (["--spot-um=0"], r"spot_um is 0\.0, expected a positive number"),
        (["--pitch-um=nan"], r"pitch_um is nan, expected a positive number"),
        (["--dense"], r"fake holds a model of patches \(mean colour\); --dense needs one of tiles"),
        (["--formats=xlsx"], r"format 'xlsx' is not known"),
    ],
)
def test_a_mistake_is_told_by_its_own_name_even_where_results_are(arguments, said, slide_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    slide_path.rename(tmp_path / "slides" / "S1.tif")
    usual = ["--source=slides/S1.tif", "--out=out", "--spot-um=20", "--pitch-um=80", "--formats=csv"]
    run(*usual)
    with pytest.raises(InputError, match=said):
        run(*unless(arguments, *usual))


@pytest.mark.usefixtures("model")
def test_formats_are_known_by_their_endings_too(slide_path, tmp_path):
    run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--formats=.CSV,Parquet")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".parquet", ".json"}


@pytest.mark.usefixtures("model")
def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_predicted(slide_path, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "load", lambda *_, **__: pytest.fail("loaded the model first"))
    (tmp_path / "file").write_text("")
    for out, said in (
        (tmp_path / "file", "is no folder"),
        (tmp_path / "file" / "out", "is no folder"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(InputError, match=said):
            run(f"--source={slide_path}", f"--out={out}")

    def full(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match=r"cannot be written: .*Read-only file system"):
        run(f"--source={slide_path}", f"--out={tmp_path / 'out'}")


def test_a_disk_without_room_is_told_before_the_model_runs(model, slide_path, tmp_path, monkeypatch):
    class Never(MeanColour):
        def predict(self, batch):
            pytest.fail(f"predicted {len(batch['image'])} patches")

    model.run = Never()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 5))
    with pytest.raises(InputError, match="the disk has 0 MB free, results take at least"):
        run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--spot-um=20", "--pitch-um=40")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("form", ["h5ad", "geojson", "csv", "parquet", "png", "svg"])
def test_a_disk_that_is_full_leaves_nothing_half_written(form, slide_path, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)  # the last moment
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        run(f"--source={slide_path}", f"--out={tmp_path / 'out'}", "--spot-um=20", f"--formats={form}")
    assert not list((tmp_path / "out").iterdir())


def test_a_map_alone_is_warned_of_its_slide_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict.SectionWriter, "write_dense", lambda job, *_: job.out)
    path = save_tiff(tmp_path / "S1.tif", picture(), um_per_px=2.5)
    source = open_source(path, layout="auto", sections=(), um_per_px=None, resolve_aliases=False)
    given: dict[str, Any] = {"writers": {}, "columns": np.arange(3), "floor": 0.2, "gene_sets": None}
    job = predict.SectionWriter(MeanColour(), None, tmp_path, predict.Options(tile_px=64), **given)
    job.run(source, "S1")
    assert "warning: S1.tif: the image has 2.5 um per px, 5 times coarser than 0.5" in capsys.readouterr().out


def test_measured_spots_on_another_image_are_refused(tmp_path, capsys):
    source = write_source(tmp_path / "source", sections=("A1",))
    section = her2st.read_section(source, "A1")
    with open_slide(section.image_path) as slide:
        assert "no nucleus can be seen" in about_image(section, slide)[0]
    with Image.open(section.image_path) as image:
        image.resize((100, 100)).save(section.image_path)
    refused = pytest.raises(InputError, match=r"'A1': \d+ of 64 spots lie outside the image .*another resolution of it")
    with open_slide(section.image_path) as slide, refused:
        about_image(section, slide)
    wrong = her2st.read_section(source, "A1", um_per_px=1.0)
    assert any("the spot pitch says 5" in note for note in wrong.notes)
    capsys.readouterr()


@pytest.mark.usefixtures("model")
def test_a_corrupt_pyramid_is_refused_and_leaves_nothing(tmp_path, caplog):
    path = tmp_path / "S1.tif"
    with tifffile.TiffWriter(path) as file:
        options = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib", "resolutionunit": "CENTIMETER"}
        file.write(picture(), subifds=1, resolution=(1e4, 1e4), **options)
        file.write(picture()[::2, ::2], subfiletype=1, resolution=(5e3, 5e3), **options)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    assert "S1.tif: the image cannot be read" in refused(f"--source={path}", f"--out={tmp_path / 'out'}")
    path.write_bytes(content[: len(content) // 2])
    assert "S1.tif: the image cannot be read" in refused(f"--source={path}", f"--out={tmp_path / 'out'}")
    assert not list((tmp_path / "out").iterdir())
    assert not caplog.records  # which would be more lines on standard error


@pytest.mark.usefixtures("model")
def test_one_bad_slide_among_many_does_not_stop_the_others(tmp_path, capsys):
    (tmp_path / "slides").mkdir()
    for name in ("A", "B", "C"):
        save_tiff(tmp_path / "slides" / f"{name}.tif", picture(900, 700))
    bad = tmp_path / "slides" / "B.tif"
    bad.write_bytes(bad.read_bytes()[:5000])
    message = refused(f"--source={tmp_path / 'slides'}", f"--out={tmp_path / 'out'}", "--formats=csv", "--spot-um=20")
    assert message.startswith("1 of 3 were not predicted, the others are done; B: ")
    assert "left out: B: " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["A.csv", "C.csv"]


@pytest.mark.usefixtures("model")
def test_a_slide_without_tissue_is_refused(tmp_path):
    path = save_tiff(tmp_path / "S1.tif", np.full((400, 400, 3), 242, np.uint8))
    assert "no spot on tissue" in refused(f"--source={path}", f"--out={tmp_path / 'out'}")


@pytest.mark.usefixtures("model")
def test_folders_without_slides_and_twins_are_refused(tmp_path, slide_path):
    empty = tmp_path / "notes"
    empty.mkdir()
    (empty / "a.txt").write_text("a")
    assert "nor is it a folder of slides" in refused(f"--source={empty}", f"--out={tmp_path / 'out'}")
    assert "holds no slide" in refused(f"--source={empty}", f"--out={tmp_path / 'out'}", "--layout=slides")
    assert "no such file or folder" in refused(f"--source={tmp_path / 'none'}", f"--out={tmp_path / 'out'}")
    Image.fromarray(picture()).save(slide_path.with_suffix(".png"))
    assert "both be called S1" in refused(f"--source={tmp_path}", f"--out={tmp_path / 'out'}", "--layout=slides")


@pytest.mark.usefixtures("model")
def test_a_slide_too_coarse_for_the_model_is_refused(tmp_path):
    path = save_tiff(tmp_path / "S1.tif", np.full((400, 400, 3), 242, np.uint8), um_per_px=5 * UM)
    message = refused(f"--source={path}", f"--out={tmp_path / 'out'}")
    assert "5.0 times as coarse" in message


@pytest.mark.usefixtures("model")
def test_a_window_larger_than_the_slide_is_refused(tmp_path):
    path = save_tiff(tmp_path / "S1.tif", picture(900, 700), um_per_px=UM / 30)
    message = refused(f"--source={path}", f"--out={tmp_path / 'out'}", "--spot-um=20")
    assert "a window of 960 px does not fit" in message


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--genes=REDD"], "nearest names: RED"),
        (["--formats=h5da"], "did you mean h5ad"),
        (["--formats="], "names nothing to write"),
        (["--shard=3/2"], "--shard is '3/2'"),
        (["--shard=x"], "--shard is 'x'"),
        (["--source-um-per-px=-1"], "--source-um-per-px is -1.0"),
        (["--pitch-um=0"], "pitch_um is 0.0"),
        (["--sections=S2"], "--sections names S2"),
        (["--layout=visum"], "Unknown layout 'visum'"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments, message, slide_path, tmp_path):
    source = slide_path.parent if "layout" in arguments[0] else slide_path
    assert message in refused(f"--source={source}", f"--out={tmp_path / 'out'}", *arguments)


@pytest.mark.usefixtures("model")
def test_an_output_folder_that_is_a_file_is_refused(slide_path, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is no folder" in refused(f"--source={slide_path}", f"--out={tmp_path / 'out'}")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_formats_are_the_modules_of_the_package():
    assert outputs.format_names() == ["csv", "geojson", "h5ad", "parquet", "png", "spatialdata", "svg"]
    assert set(outputs.DEFAULT_FORMATS) <= set(outputs.format_names())


def test_a_format_whose_extra_is_missing_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "geopandas", None)
    monkeypatch.delitem(__import__("sys").modules, "stjax.outputs.spatialdata", raising=False)
    with pytest.raises(InputError, match=r"pip install 'stjax\[interop\]'"):
        outputs.get_formats(["spatialdata"])


def test_a_section_of_another_species_is_warned_of():
    def named(ids):
        return SimpleNamespace(name="S1", genes=GeneTable(np.array(ids), np.array([""] * len(ids))))

    model = SimpleNamespace(fold=SimpleNamespace(panel=SimpleNamespace(species="human")))
    mouse = domain.check_species(model, named(["ENSMUSG00000062312"]))
    assert mouse[0].startswith("section S1 is of mouse by its genes, the model of human")
    assert domain.check_species(model, named(["ENSG00000141736"])) == []
    assert domain.check_species(model, named([])) == []
