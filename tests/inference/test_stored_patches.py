"""Samples that are stored as patches, without a slide: predicted from these as they are."""

import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

import stjax
from data_prep import build, demo_hest_bench, readers
from data_prep.errors import InputError
from data_prep.patch_slide import PatchSlide
from stjax import predict, train
from stjax.config import built_in
from stjax.trained import load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A task of a synthetic HEST-Benchmark, and a run on it which held out its last sample."""
    folder = tmp_path_factory.mktemp("stored")
    task = demo_hest_bench.write(folder / "bench", spots=25, size_px=32) / "TINY_VISIUM"
    build.build(task, folder / "data", patch_size_px=32, image_format="raw", min_counts=0)
    config = built_in("tiny")
    config.update(
        {
            "data_dir": str(folder / "data"),
            "num_epochs": 1,
            "batch_size": 8,
            "test_sections": "TINY3",
            "protocol": "hest",
        }
    )
    train.train(config, folder / "run")
    return task, folder / "run"


def test_predictions_are_those_of_the_data_set(run: tuple[Path, Path], tmp_path: Path) -> None:
    task, workdir = run
    asked = [f"--workdir={workdir}", f"--source={task}", "--sections=TINY3", f"--out={tmp_path}"]
    predict.main([*asked, "--formats=h5ad"])
    found, expected = (anndata.read_h5ad(folder / "TINY3.h5ad") for folder in (tmp_path, workdir / "predictions"))
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert np.ptp(np.asarray(expected.X), axis=0).max() > 0
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-4, atol=1e-5)
    by_api = stjax.load(workdir).predict(task)["TINY3"].to_anndata()
    np.testing.assert_allclose(by_api.X, found.X, rtol=1e-6)


def test_the_patch_around_a_place_is_that_of_its_spot(run: tuple[Path, Path]) -> None:
    section = readers.reader("bundle").read_section(run[0], "TINY1")
    with PatchSlide(section) as slide:
        for place in (0, 7, 24):
            named = slide.patch(str(section.spots.id[place]))
            np.testing.assert_array_equal(slide.patch_around(section.spots.xy[place] + 0.4), named)
        with pytest.raises(InputError, match="no patch lies around 3, 3, and there is no slide to cut one from"):
            slide.patch_around(np.array([3.0, 3.0]))


def test_a_patch_that_lies_elsewhere_than_its_spot_is_still_that_spots(run: tuple[Path, Path], tmp_path: Path) -> None:
    task = shutil.copytree(run[0], tmp_path / "TINY_VISIUM")
    with h5py.File(task / "patches/TINY1.h5", "a") as file:
        file["coords"][3] += 40
    section = readers.reader("bundle").read_section(task, "TINY1")
    with PatchSlide(section) as slide:
        for name, xy in zip(section.spots.id, section.spots.xy, strict=True):
            np.testing.assert_array_equal(slide.patch_around(xy), slide.patch(str(name)))


def test_patches_of_another_kind_than_the_model_takes_are_refused(run: tuple[Path, Path], tmp_path: Path) -> None:
    other = demo_hest_bench.write(tmp_path / "bench", spots=25, size_px=48) / "TINY_VISIUM"
    asked = [f"--workdir={run[1]}", "--sections=TINY3", f"--out={tmp_path / 'out'}", "--formats=h5ad"]
    with pytest.raises(InputError, match="the model takes patches of 32 px, and they are not cut anew; give the slide"):
        predict.main([*asked, f"--source={other}"])
    model = load(run[1])
    assert (model.fold.image_size_px, model.fold.um_per_px) == (32, 3.5)  # of a patch: its slide has 0.25 um per px
