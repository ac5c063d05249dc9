"""`stjax.prepare` and `stjax.fit`: what the commands `build` and `train` do, from Python."""

import json
from pathlib import Path

import pandas as pd
import pytest

import stjax
from data_prep import demo
from stjax import config as configs

SETTINGS = {"batch_size": 8, "num_epochs": 1, "model": {"variant": "tiny", "aux": False}, "warmup_steps": 0}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return demo.make_demo(tmp_path_factory.mktemp("raw") / "source", patients=3, sections_per_patient=1, spots=24)


@pytest.fixture(scope="module")
def data(raw, tmp_path_factory):
    return stjax.prepare(raw, tmp_path_factory.mktemp("data") / "set", patch_size_px=32, min_counts=100)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return stjax.fit("tiny", data, workdir=tmp_path_factory.mktemp("runs") / "run", **SETTINGS)


def test_prepare_makes_the_data_set_that_fit_takes(raw, data, capsys):
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest["parameters"]["patch_size_px"] == 32
    assert stjax.prepare(str(raw), str(data), patch_size_px=32, min_counts=100) == data
    assert "already there, nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 64}, r"no option 'patch_size'; did you mean patch_size_px\?"),
        ({"patch_size_px": "64"}, "patch_size_px is '64', expected int"),
        ({"skip_incomplete": 1}, "skip_incomplete is 1, expected bool"),
        ({"patch_size_px": True}, "patch_size_px is True, expected int"),
        ({"source_um_per_px": -1}, r"^source_um_per_px is -1\.0, expected a positive number"),
        ({"um_per_px": 0.0}, r"^um_per_px is 0\.0, expected a positive number"),
        ({"sections": "Z9"}, "Z9"),
        ({"stain": "vahadane"}, "give stain_target SECTION or FILE"),
        ({"ignore_checks": "nonsense"}, "^ignore_checks"),
        ({"workers": 0}, "^workers is 0"),
    ],
)
def test_prepare_names_what_is_wrong_with_an_option(raw, tmp_path, options, message):
    with pytest.raises(stjax.InputError, match=message):
        stjax.prepare(raw, tmp_path / "out", **options)


def test_fit_gives_the_trained_model_with_its_figures(model):
    assert model.trained == "1 of 1 epochs"
    assert model.finished
    figures = model.metrics["methods"]["model"]
    assert model.per_gene.loc[:, "pcc"].median() == pytest.approx(figures["pcc_median"], abs=1e-6)
    assert list(model.per_gene.index) == list(model.genes)
    assert "ridge_colour" in model.metrics["methods"]


def test_fit_again_finds_the_run_and_another_setting_is_refused(model, data, capsys):
    folder = model.model.folder
    again = stjax.fit(configs.built_in("tiny"), data, workdir=folder, **SETTINGS)
    assert "is finished" in capsys.readouterr().out
    assert again.model.model_sha256 == model.model.model_sha256
    pd.testing.assert_frame_equal(again.per_gene, model.per_gene)
    with pytest.raises(stjax.InputError, match="seed was 0, is 1; choose another workdir"):
        stjax.fit("tiny", data, workdir=folder, **SETTINGS, seed=1)


def test_figures_of_another_state_or_of_none_are_refused(model):
    exported = stjax.load(Path(__file__).parent / "data" / "exported")
    with pytest.raises(stjax.InputError, match="is an exported model, without an evaluation"):
        exported.per_gene  # noqa: B018
    path = model.model.folder / "evaluation" / "stjax" / "metrics.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"model_sha256": "0" * 64}))
        with pytest.raises(stjax.InputError, match="of another state of the model; score it again"):
            model.metrics  # noqa: B018
        path.unlink()
        with pytest.raises(stjax.InputError, match="has no evaluation yet"):
            model.metrics  # noqa: B018
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("enet_b9", {}, "enet_b9 does not exist; those that come with stjax are"),
        (3, {}, "the config is a int, expected the name of one"),
        ("tiny", {"num_epoch": 3}, r"no key 'num_epoch'; did you mean 'num_epochs'\?"),
        ("tiny", {"model": {"varient": "b1"}}, r"no key 'model\.varient'; did you mean 'model\.variant'\?"),
        ("tiny", {"num_epochs": "many"}, "num_epochs is 'many', expected int"),
        ("tiny", {"seed": True}, "seed is True, expected int"),
        ("tiny", {"data": "nowhere"}, "nowhere"),
        ("tiny", {"data": "a", "data_dir": "b"}, "given twice"),
    ],
)
def test_fit_names_what_is_wrong_with_a_setting(tmp_path, config, arguments, message):
    with pytest.raises(stjax.InputError, match=message):
        stjax.fit(config, workdir=tmp_path / "run", **arguments)


def test_a_config_without_a_name_needs_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(stjax.InputError, match="give workdir"):
        stjax.fit(configs.built_in("tiny"))
    assert not list(tmp_path.iterdir())


def test_settings_are_taken_as_the_command_line_takes_them():
    config = configs.built_in("tiny")
    found = configs.changed(
        config,
        {"test_sections": ["A", "Study, 2: P1"], "learning_rate": 1, "init_from": Path("w.pth"), "num_epochs": None}
        | {"model.variant": "b1", "demo": {"spots": 30}, "spot_sizes_um": (2, 8)},
    )
    line = ["--config=tiny", '--config.test_sections=A, "Study, 2: P1"', "--config.learning_rate=1"]
    line += ["--config.init_from=w.pth", "--config.model.variant=b1", "--config.demo.spots=30"]
    parsed = configs.parse([*line, "--config.spot_sizes_um=2, 8"], usage="")[0]
    assert found.to_dict() == parsed.to_dict()
    assert configs.names(found.test_sections, ["Study, 2: P1"]) == ("A", "Study, 2: P1")
    assert config.to_dict() == configs.built_in("tiny").to_dict()  # the caller's is left as it is
