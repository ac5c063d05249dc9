import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
import yaml
from flax import nnx
from ml_collections import ConfigDict

from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax import export, manifest, models, protocols, views, workdir
from stjax.export import exported_function
from stjax.inference import exported_program, model_folder
from stjax.models import efficientnet, weight_files, weights
from stjax.models.heads import PatchModel
from stjax.trained import load
from stjax.views.tiles import TileWindows
from tests.conftest import ROOT, command
from tests.inference.test_dense import GENES, make_run
from tests.stjax import make_exported

SIDE = 32


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory, cache):
    """A model folder, made by the command line, and what that printed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    result = command("stjax.export", f"--workdir={trained[0]}", f"--out={folder}", cache=cache)
    return folder, result.stdout


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)


def expression(model, images):
    return np.asarray(model.predict({"image": images})["expression"])[:, 0]


def test_the_folder_predicts_as_the_work_directory(trained, exported, images):
    run, folder = workdir.Run.load(trained[0]), load(exported[0])
    assert isinstance(folder, model_folder.Exported)
    expected = expression(run, images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(expression(folder, images), expected, atol=1e-5)
    np.testing.assert_allclose(
        expression(folder.over_symmetries(), images), expression(run.over_symmetries(), images), atol=1e-5
    )
    assert (folder.model_name, folder.model_sha256, folder.step) == (run.model_name, run.model_sha256, run.step)
    assert folder.protocol == run.protocol
    assert folder.batch_size == run.batch_size
    assert folder.intervals is not None
    assert run.intervals is not None
    assert folder.intervals.to_json() == run.intervals.to_json()
    pd.testing.assert_frame_equal(folder.trust.table, run.trust.table)
    assert folder.over_symmetries().trust is run.over_symmetries().trust is None
    assert folder.over_symmetries().intervals is run.over_symmetries().intervals is None  # errors of means are others


def test_the_folder_says_what_it_is_and_names_nobody(trained, exported):
    run, (folder, printed) = workdir.Run.load(trained[0]), exported
    assert printed.splitlines()[-12:] == [str(path) for path in sorted(folder.iterdir())]
    config = json.loads((folder / "config.json").read_text())
    assert config["platforms"] == ["cpu", "cuda", "tpu"]
    assert config["output"]["shape"] == f"[B, {run.fold.panel.num_main}]"
    genes = pd.read_csv(folder / "genes.csv", float_precision="round_trip")
    np.testing.assert_array_equal(genes["ensembl_id"], run.fold.panel.ensembl_id[: run.fold.panel.num_main])
    np.testing.assert_array_equal(genes["target_std"], run.fold.target_std[: run.fold.panel.num_main])
    fold = load(folder).fold
    assert (fold.data_dir, fold.train_patients, fold.split.train) == ("", (), ())
    for path in (path for path in folder.rglob("*") if path.is_file()):
        for place in (run.fold.data_dir, str(ROOT), "site-packages"):  # whose machine it was
            assert place.encode() not in path.read_bytes(), (path, place)
    card = (folder / "MODEL_CARD.md").read_text()
    scores = json.loads((trained[0] / "evaluation" / "stjax" / "metrics.json").read_text())
    for method in scores["methods"].values():
        assert f"{method['amae']:.3f}" in card
    assert "SYNTHETIC" in card
    assert "Not for diagnosis" in card


def test_the_hub_reads_its_readme_which_may_be_edited(trained, exported, tmp_path):
    text = (exported[0] / "README.md").read_text()
    _, head, rest = text.split("---\n", 2)
    assert rest.strip() == (exported[0] / "MODEL_CARD.md").read_text().strip()
    head = yaml.safe_load(head)
    assert (head["library_name"], head["license"]) == ("stjax", "other")
    scores = json.loads((trained[0] / "evaluation" / "stjax" / "metrics.json").read_text())
    (of,) = head["model-index"][0]["results"]
    assert {each["type"]: each["value"] for each in of["metrics"]}["pcc_mean"] == scores["methods"]["model"]["pcc_mean"]
    assert "SYNTHETIC" in of["dataset"]["name"]
    cards = pytest.importorskip("huggingface_hub", reason="pip install 'stjax[hub]'")
    assert cards.ModelCard(text).data.eval_results[0].metric_type == "pcc_median"
    copy = tmp_path / "copy"
    shutil.copytree(exported[0], copy)
    (copy / "README.md").write_text(text.replace('license: "other"', "license: mit"))
    load(copy)


def test_the_example_needs_nothing_but_jax_and_numpy(trained, exported, images, tmp_path):
    """Run by Python in isolated mode, where every other module of ours and of our dependencies fails to import."""
    np.save(tmp_path / "images.npy", images)
    blocked = "stjax data_prep flax orbax optax pandas anndata scipy.sparse safetensors PIL absl ml_collections grain"
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked.split()!r}))\n"
        f"sys.argv = ['example', {str(exported[0])!r}, 'images.npy', 'out.npy']\n"
        f"runpy.run_path({str(ROOT / 'examples' / 'predict_with_jax_only.py')!r})\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    expected = expression(workdir.Run.load(trained[0]), images)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    "file", ["model.stablehlo", "weights.safetensors", "config.json", "manifest.json", "genes.csv"]
)
def test_a_flipped_bit_is_found_and_its_file_named(exported, tmp_path, file):
    copy = tmp_path / "model"
    shutil.copytree(exported[0], copy)
    damaged = bytearray((copy / file).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (copy / file).write_bytes(bytes(damaged))
    with pytest.raises(InputError, match=rf"model folder .* {file}"):
        load(copy)


def test_a_missing_file_is_found_and_a_file_beside_them_is_not_minded(exported, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(exported[0], copy)
    (copy / "notes.txt").write_text("mine")
    load(copy)
    (copy / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors is missing"):
        load(copy)


def test_what_has_a_manifest_of_its_own_is_not_taken_for_a_model(dataset):
    with pytest.raises(InputError, match="is not a stjax run directory"):
        load(dataset)


def test_another_format_version_is_refused(exported, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(exported[0], copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"version": 99}))
    (copy / "manifest.json").unlink()
    manifest.seal(copy, {})
    with pytest.raises(InputError, match=r"exported by stjax .*this version reads"):
        load(copy)


def test_a_failed_export_leaves_nothing(trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(export.model_card, "card", fail)
    with pytest.raises(OSError, match="disk full"):
        export.export(trained[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_and_places_in_use_are_refused(trained, tmp_path, cache):
    (tmp_path / "file").write_text("")
    for folder, out, message in (
        (tmp_path, tmp_path / "out", "is not a stjax run directory"),
        (trained[0], tmp_path / "file", "is no folder; choose another"),
    ):
        result = command("stjax.export", f"--workdir={folder}", f"--out={out}", cache=cache, check=False)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    with pytest.raises(InputError, match="is not empty"):
        export.export(trained[0], tmp_path)


def test_exported_backbone_is_the_trained_one_and_starts_another(trained, exported):
    folder, _ = exported
    model = workdir.Run.load(trained[0]).network()
    other = efficientnet.build("tiny", rngs=nnx.Rngs(5))
    assert weights.load(other, folder / "backbone.safetensors").source == "torchvision"
    for one, two in zip(*(jax.tree.leaves(nnx.state(part)) for part in (model.backbone, other)), strict=True):
        np.testing.assert_array_equal(one, two)
    found = weight_files.read(folder / "heads.safetensors")
    np.testing.assert_array_equal(found["main.weight"].T, model.main.kernel[...])
    np.testing.assert_array_equal(found["aux.bias"], model.aux.bias[...])


def test_the_network_and_the_orbax_checkpoint_hold_the_trained_weights(trained, exported):
    model, found = workdir.Run.load(trained[0]).network(), load(exported[0]).network()
    assert found.aux is None
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.restore(exported[0].absolute() / "orbax")
    for one, two in ((model.main, found.main), (model.backbone, found.backbone)):
        for a, b in zip(*(jax.tree.leaves(nnx.state(part)) for part in (one, two)), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(stored["params"]["main"]["kernel"], model.main.kernel[...])


def function_of(run, model, *, side, **changes):
    """The exported function of a model, as if the run had trained it, and its weights."""
    run = dataclasses.replace(run, fold=dataclasses.replace(run.fold, image_size_px=side, **changes))
    graphdef, params, statistics = models.split(model)
    state = {"params": params, "statistics": statistics}
    function = exported_function(run, graphdef, state, kind=run.view.kind_of(model))
    return function, dict(zip(model_folder.names(state), jax.tree.leaves(state), strict=True))


@pytest.mark.parametrize("aggregation", ["mean", "sum", "additive"])
def test_the_function_of_a_model_of_tiles_is_its_map(aggregation):
    run = make_run(aggregation)
    function, arrays = function_of(run, run.network(), side=64)
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    expected = run.network().gene_map(views.normalise(tiles, run.fold))
    found = function.call(arrays, tiles)
    assert found.shape == (2, 16, 16, run.fold.panel.num_main + (aggregation == "additive"))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_mean_over_symmetries_is_part_of_the_function_where_the_protocol_asks_for_it():
    run = make_run()
    run = dataclasses.replace(run, protocol=dataclasses.replace(run.protocol, test_symmetries=True))
    function, arrays = function_of(run, run.network(), side=64)
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    found, turned = function.call(arrays, tiles), function.call(arrays, np.swapaxes(tiles, 1, 2)[:, ::-1])
    atol = 1e-5 * np.abs(found).max()
    np.testing.assert_allclose(np.swapaxes(turned[:, ::-1], 1, 2), found, atol=atol)  # whichever way up the tile is
    assert np.abs(found - run.network().gene_map(views.normalise(tiles, run.fold))).max() > 100 * atol


def test_the_folder_of_a_model_of_tiles_predicts_spots_and_gives_its_network(tmp_path):
    run = make_run("additive", variant="efficientnet_tiny")
    spots = [Spots.discs([[20.5, 30.5], [40.5, 33.8]], [9, 12.5]), Spots.discs([[31.5, 31.5]], [20])] * 4
    windows = TileWindows(spots, size_px=64)
    facts = {
        "layout": dataclasses.asdict(windows.layout),
        "pixels_per_spot": 50.0,
        "base_rates": [1.0] * (GENES + 1),
        "sizes_um": [20.0],
    }
    fold = dataclasses.replace(run.fold, image_size_px=64, facts=facts, parameters={"stain": "none"})
    options = {"aggregation": "additive", "width": 16}
    model = {"module": "pixnet", "variant": "efficientnet_tiny", "dtype": "float32", "options": options}
    config = ConfigDict({"model": model, "eval_batch_size": 8, "init_from": ""})
    run = dataclasses.replace(run, fold=fold, config=config)
    export.write(run, tmp_path)
    manifest.seal(tmp_path, {})
    folder = load(tmp_path)
    tiles = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    batch = windows.inputs(tiles, range(8), 8)
    expected, found = (each.over_symmetries().predict(batch) for each in (run, folder))
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5 * np.abs(values).max())
    for one, other in zip(*(jax.tree.leaves(nnx.state(each.network())) for each in (run, folder)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_network_that_this_version_would_build_otherwise_is_refused_where_it_is_needed(exported):
    folder = load(exported[0])
    model = folder.config["model"] | {"variant": "b0"}
    other = dataclasses.replace(folder, config=folder.config | {"model": model})
    with pytest.raises(InputError, match="whose efficientnet b0 is not this version's"):
        other.network()


def test_a_folder_of_the_oldest_jax_still_runs():
    folder = load(make_exported.FOLDER)
    assert folder.config["jax"] == "0.10.0"
    images = np.resize(make_exported.images(), (8, 32, 32, 3))  # a multiple of the devices
    expected = np.load(make_exported.EXPECTED)
    assert expected.std() > 0.1
    np.testing.assert_allclose(expression(folder, images)[:5], expected, atol=1e-5)


def test_a_protocol_travels_with_its_model():
    for name in ("stjax", "brstnet_code", "stnet"):
        protocol = protocols.get_protocol(name)
        values = json.loads(json.dumps(model_folder.protocol_to_json(protocol)))
        assert model_folder.protocol_from_json(values) == protocol


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "variant", "side"),
    [
        ("resnet", "50", 64),
        ("densenet", "121", 64),
        ("inception", "v3", 96),
        ("vit", "b16", 64),
        ("efficientnet", "b0", 64),
        ("efficientnet", "lite0", 64),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_backbone_exports_for_every_platform_and_batch_size(module, variant, side, dtype):
    build = importlib.import_module(f"stjax.models.{module}").build
    rngs = nnx.Rngs(0)
    backbone = build(variant, rngs=rngs, image_size_px=side, dtype=models.DTYPES[dtype])
    run = make_run()
    model = PatchModel(backbone, num_main=run.fold.panel.num_main, num_aux=0, rngs=rngs)
    function, arrays = function_of(run, model, side=side, view="patches")
    assert function.platforms == ("cpu", "cuda", "tpu")
    assert not exported_program.calls_outside(function)  # else it would not be loaded
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.uint8)
    predict = jax.jit(lambda x: model(views.normalise(x, run.fold), train=False, key=None)["main"][:, 0])
    expected = np.asarray(predict(images)) * run.fold.target_std + run.fold.target_mean
    atol = (1e-5 if dtype == "float32" else 0.02) * np.abs(expected).max()
    np.testing.assert_allclose(function.call(arrays, images), expected, atol=atol)
    assert function.call(arrays, images[:1]).shape == (1, run.fold.panel.num_main)


def test_options_of_encoders_are_refused_of_models_without(trained, tmp_path):
    for says, options in (
        ("without an encoder in front; leave out --head-only", {"head_only": True}),
        ("without an encoder; leave out --weights", {"weights": tmp_path / "weights.pth"}),
    ):
        with pytest.raises(InputError, match=says) as caught:
            export.export(trained[0], tmp_path / "out", **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
