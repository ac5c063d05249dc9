"""stjax_fast with a small encoder: features of several fields of view made by training, solved, predicted, exported."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.slide import open_slide
from stjax import api, bench, export, parallel, predict, shifts, train
from stjax.config import built_in
from stjax.data.selection import Selection
from stjax.features.images import SlideWindows
from stjax.features.store import Features
from stjax.inference import embedding
from stjax.trained import load
from tests.end_to_end.test_probe import refused
from tests.small_encoder import NAME

FIELDS = "0.5,1,3"


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory):
    """Raw sections of three patients, and a data set of them without features."""
    folder = tmp_path_factory.mktemp("multiscale")
    source = demo.make_demo(folder / "raw", patients=3, sections_per_patient=1, spots=40)
    build.build(source, folder / "data", patch_size_px=32, min_counts=0, image_format="raw")
    return source, folder / "data"


def settings(demo_data, weights, **changed):
    config = built_in("stjax_fast")
    config.update({"data_dir": str(demo_data[1]), "encoder_weights": str(weights), "eval_batch_size": 16} | changed)
    config.embed.encoder, config.embed.fields, config.embed.source = NAME, FIELDS, str(demo_data[0])
    return config


@pytest.fixture(scope="module")
def run(demo_data, small_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "fast"
    train.train(settings(demo_data, small_encoder), folder)
    return folder


def test_training_made_the_features_of_all_fields(run, demo_data, small_encoder):
    dataset = PatchDataset.open(demo_data[1])
    found = Features.open(dataset, "multiscale")
    assert (found.fields, len(found.parts), sum(found.parts)) == ([0.5, 1, 3], 6, found.width)
    assert found.parts[1] == found.parts[3] == found.parts[5] == 30
    name = dataset.sections[0]["name"]
    table, entry, slide_file = dataset.table(name), dataset.section(name), next(demo_data[0].rglob(f"*{name}*.jpg"))
    embedder = load(run).view.embedder(load(run).fold, "expression_of_features", small_encoder, load(run).mesh)
    with open_slide(slide_file) as slide:
        xy = table.spots.xy[:3]
        options = {"size_px": 32, "px_scale": entry["px_scale"], "transform": None, "fields": (0.5, 1, 3)}
        windows = SlideWindows(slide, xy, **options)
        images = np.stack([[windows.image(spot, window) for window in range(6)] for spot in range(3)])
        corner = np.floor(xy[0] - 48 + 0.5).astype(int)
        wide = slide.read_region(*corner.tolist(), 96, 96).reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    assert windows.own == 4
    rows = [np.concatenate(images[0, pair], axis=1) for pair in ([0, 1], [2, 3])]
    quarters = np.concatenate(rows)  # at twice the size
    halved = quarters.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(images[0, 4] - halved).mean() < 6
    assert np.abs(images[0, 5] - wide).mean() < 12  # bicubic, and half a pixel off
    vectors = np.stack([embedder.vectors(images[:, window]) for window in range(6)])
    third = found.width // 3
    for field, expected in enumerate((vectors[:4].mean(axis=0), vectors[4], vectors[5])):
        kept = found.sections[name][table.record_of_spot[:3], field * third : (field + 1) * third]
        np.testing.assert_allclose(kept, expected, rtol=1e-4, atol=1e-4)


def test_shifts_are_of_every_window_of_the_slide(run, demo_data, small_encoder, tmp_path, monkeypatch):
    asked = ["--what=shift", f"--workdir={run}", f"--out={tmp_path / 'out'}", f"--weights={small_encoder}"]
    with pytest.raises(InputError, match="a data set holds the spots' own alone: give --source, the raw data"):
        bench.main(asked)
    stain = shifts.Shift("stain", "ImageJ H&E 2", np.array(shifts.STAINS["ImageJ H&E 2"]))
    monkeypatch.setattr(shifts, "every", lambda _: [stain, shifts.Shift("scale", "+20 %", 1.2)])
    bench.main([*asked, f"--source={demo_data[0]}"])
    found, evaluated = pd.read_csv(tmp_path / "out/shift.csv"), next(run.glob("evaluation/*/per_gene.csv"))
    expected = pd.read_csv(evaluated)["pcc"].mean()
    assert found["pcc_mean"][0] == pytest.approx(expected, abs=2e-3)
    assert (found["pcc_mean"][1:] - expected).abs().min() > 1e-6


def test_features_of_each_section_have_no_mean_and_unit_deviation(run):
    model = load(run)
    assert model.fold.facts["standardise"] == "section"
    dataset = PatchDataset.open(model.fold.data_dir)
    items = model.view.open(Selection(dataset, model.fold.split.train, model.protocol, train=True), model.fold.panel)
    for name in model.fold.split.train:
        rows = np.flatnonzero(items.section == name)
        vectors = np.stack([items.images[row] for row in rows])
        varies = vectors.std(axis=0) > 0
        np.testing.assert_allclose(vectors.mean(axis=0)[varies], 0, atol=0.2)  # some spots are not used
        np.testing.assert_allclose(vectors.std(axis=0)[varies], 1, atol=0.3)


def test_a_section_stained_otherwise_is_predicted_alike(run):
    """A constant times a feature, and plus another, leaves it as it was once it is standardised over the slide."""
    model, width = api.load(run), load(run).fold.facts["width"]
    vectors = np.random.default_rng(0).normal(size=(30, width)).astype(np.float32)
    expected = model.predict(vectors).expression
    np.testing.assert_allclose(model.predict(3 * vectors + 7).expression, expected, rtol=1e-2, atol=1e-2)
    refused("5 spots, and a model whose features are standardised", model.predict, vectors[:5])


def test_slide_and_export_give_what_features_give(run, demo_data, small_encoder, tmp_path):
    section = load(run).fold.split.test[0]
    by_features = anndata.read_h5ad(run / "predictions" / f"{section}.h5ad")
    predict.predict(run, demo_data[0], tmp_path / "run", sections=[section])
    by_slide = anndata.read_h5ad(tmp_path / "run" / f"{section}.h5ad")
    common = by_slide[by_features.obs_names].X
    assert np.corrcoef(common.ravel(), by_features.X.ravel())[0, 1] > 0.99
    export.export(run, tmp_path / "exported")
    options = [f"--source={demo_data[0]}", f"--sections={section}", "--formats=h5ad", f"--weights={small_encoder}"]
    predict.main([f"--model={tmp_path / 'exported'}", f"--out={tmp_path / 'out'}", *options])
    np.testing.assert_allclose(
        anndata.read_h5ad(tmp_path / "out" / f"{section}.h5ad").X, by_slide.X, rtol=1e-4, atol=1e-4
    )


def test_rank_and_features_are_in_the_results(run):
    metrics = json.loads((run / "evaluation" / "stjax" / "metrics.json").read_text())
    assert np.isfinite(metrics["methods"]["model"]["pcc_mean"])
    kernel = np.asarray(load(run).network().main.kernel[...])
    assert np.linalg.matrix_rank(kernel, tol=1e-5 * np.abs(kernel).max()) == 8


def test_what_does_not_go_together_is_refused_in_one_line(run, demo_data, small_encoder, tmp_path):
    data = PatchDataset.open(demo_data[1])
    config = settings(demo_data, small_encoder, features="others")
    config.embed.source = ""
    refused("give --config.embed.source=RAW", train.train, config, tmp_path / "no_source")
    config.embed.fields = "3,1"
    refused(r"config.embed.fields is '3,1'; expected ascending", train.train, config, tmp_path / "fields")
    ranked = built_in("probe_linear")
    ranked.update({"rank": 3, "features": "multiscale", "data_dir": str(demo_data[1])})
    refused("config.rank is 3, which is for config.fit=closed_form", train.train, ranked, tmp_path / "rank")
    patches = built_in("tiny")
    patches.update({"standardise_features": "section", "data_dir": str(demo_data[1])})
    refused("config.standardise_features is 'section', which is for probes", train.train, patches, tmp_path / "patch")
    plain = embedding.Options(NAME, small_encoder, pooling="moments")
    embedding.embed(data, "plain", plain, mesh=parallel.make_mesh())
    (data.path / "features" / "multiscale").rename(data.path / "features" / "kept")
    try:
        embedding.embed(data, "multiscale", plain, mesh=parallel.make_mesh())
        with pytest.raises(InputError, match=r"width is \d+, of the features that the model was trained on"):
            load(run).view.features(data)
    finally:
        (data.path / "features" / "multiscale").rename(data.path / "features" / "narrow")
        (data.path / "features" / "kept").rename(data.path / "features" / "multiscale")
