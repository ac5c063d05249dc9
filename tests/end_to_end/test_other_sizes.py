"""Models of patches and of sections, trained on bins of one size and asked about others."""

import json

import anndata
import jax
import numpy as np
import pytest

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import evaluate, parallel, predict, train, workdir
from stjax.config import built_in
from stjax.data.selection import Selection
from stjax.inference import grid, prepared
from tests.small_encoder import embed

pytestmark = pytest.mark.usefixtures("tiny_sections")
KINDS = {  # needs, and spots of an item; of a model of patches none
    "patches": ("", 0),
    "whole": ("image+grid", 0),
    "some": ("features+near+grid", 8),
}
EACH = [kind if kind == "some" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
SIZES = ("2", "8", "16")


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "all_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(scope="module")
def slides(tmp_path_factory, small_encoder):
    """Visium HD sections of two patients, raw; their bins of 16 um, and those of all sizes of the one held out."""
    folder = tmp_path_factory.mktemp("sizes")
    demo.make_demo(folder / "raw", layout="visium_hd", patients=2, sections_per_patient=1, spots=1)
    options = {"patch_size_px": 32, "min_counts": 0, "image_format": "raw"}
    build.build(folder / "raw", folder / "trained", bin_um=[16], **options)
    build.build(folder / "raw", folder / "all", sections=[f"B1_0{int(size):02d}um" for size in SIZES], **options)
    for name in ("trained", "all"):
        embed(folder / name, "small", small_encoder)
    return folder


@pytest.fixture(scope="module")
def runs(slides, small_encoder):
    """Makes, once, a run of each of `KINDS` on the bins of 16 um."""

    def run(kind):
        folder, (variant, per_item) = slides / kind, KINDS[kind]
        if not folder.exists():
            config = built_in("tiny")
            if variant:
                del config.model.options["rematerialise"]
                config.model.update({"module": "tiny_sections", "variant": variant})
            config.update({"data_dir": str(slides / "trained"), "protocol": "pixnet", "spots_per_item": per_item})
            config.update({"num_epochs": 2, "batch_size": 4 if per_item or not variant else 1, "eval_batch_size": 4})
            if "features" in variant:
                config.update({"features": "small", "encoder_weights": str(small_encoder)})
            config.model.aux = False
            train.train(config, folder)
        return folder

    return run


@pytest.mark.parametrize("kind", EACH)
def test_bins_of_all_sizes_are_scored_beside_the_nearest_spot_of_the_trained_size(runs, slides, kind, capsys):
    folder = runs(kind)
    assert json.loads((folder / "evaluation" / "pixnet" / "metrics.json").read_text())["sizes_um"] == {}
    result = evaluate.evaluate(folder, evaluate.Options(data_dir=str(slides / "all")))
    assert result["trained_sizes_um"] == [16.0]
    assert set(result["sizes_um"]) == set(SIZES)
    for size, figures in result["sizes_um"].items():
        assert figures["trained_on"] == (size == "16")
        assert ("nearest_spot" in figures["methods"]) == (size != "16")
        assert figures["spots"] == len(PatchDataset.open(slides / "all").table(f"B1_0{int(size):02d}um").spots)
    assert "spots of 2 um (not trained on: the model was on 16 um)" in capsys.readouterr().out
    own = anndata.read_h5ad(folder / "predictions" / "B1_016um.h5ad")
    again = anndata.read_h5ad(next((folder / "evaluation" / "pixnet").glob("*/predictions/B1_016um.h5ad")))
    np.testing.assert_array_equal(again[own.obs_names].X, own.X)


@pytest.mark.parametrize("kind", EACH)
def test_without_spots_of_the_trained_size_the_nearest_are_those_of_a_lattice_of_its_pitch(runs, slides, kind):
    run = workdir.Run.load(runs(kind))
    result = evaluate.evaluate(run.folder, evaluate.Options(data_dir=str(slides / "all"), sections=("B1_008um",)))
    figures = result["sizes_um"]["8"]["methods"]
    assert figures["nearest_spot"]["mse"] != figures["model"]["mse"]
    assert set(result["sizes_um"]) == {"8"}


@pytest.mark.parametrize("kind", EACH[1:])
def test_a_section_of_finer_bins_is_asked_about_on_lattices_of_the_training_pitch(runs, slides, kind):
    run = workdir.Run.load(runs(kind))
    dataset = run.open_dataset(slides / "all")
    chosen = Selection(dataset, ("B1_008um",), run.protocol, train=False)
    items = run.view.open(chosen, run.fold.panel)
    around = items.windows.around
    assert len(around) == 4
    for each in around:
        xy = dataset.table("B1_008um").spots.xy[each.rows] * dataset.section("B1_008um")["um_per_px"]
        moved = xy - 16.0 * each.places
        assert np.ptp(moved, axis=0).max() < 0.1
        assert each.places.max() < max(run.fold.facts["grid_size"])
    (found,) = prepared.predict_sections(run, dataset, ("B1_008um",), sizes_um=(), max_spots=0)
    assert sorted(found.prediction.spots.id) == sorted(dataset.table("B1_008um").spots.id)


@pytest.mark.parametrize("kind", EACH)
def test_finer_bins_are_predicted_from_their_slide_as_from_the_data_set(runs, slides, kind, tmp_path):
    run = workdir.Run.load(runs(kind))
    dataset = run.open_dataset(slides / "all")
    (of_data,) = prepared.predict_sections(run, dataset, ("B1_008um",), sizes_um=(), max_spots=0)
    predict.predict(run.folder, slides / "raw", tmp_path, sections=["B1_008um"])
    found = anndata.read_h5ad(tmp_path / "B1_008um.h5ad")[of_data.prediction.spots.id]
    np.testing.assert_allclose(found.X, of_data.prediction.expression, atol=1e-4)


def test_coarser_spots_are_refused_in_one_line(runs, slides, tmp_path):
    slide = next(path for path in sorted((slides / "raw").rglob("*")) if path.suffix in (".tif", ".jpg", ".png"))
    options = predict.Options(array=grid.PRESETS["visium"])
    with pytest.raises(InputError, match=r"its spots are 100 um apart, .* trained on 16 um") as caught:
        predict.predict(runs("whole"), slide, tmp_path, um_per_px=1.4, options=options)
    assert "\n" not in str(caught.value)
